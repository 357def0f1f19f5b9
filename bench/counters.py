"""What the processes of a stack have used and done so far, to be taken before and after a load."""

from __future__ import annotations

import time
import urllib.request
from collections import defaultdict
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.pool import NullPool

from bench.children import LoadFailed
from meshctl.layout import SHARDS
from meshctl.settings import SERVICES
from meshctl.stack import MARIADB_SERVERS, Stack

Counts = Mapping[tuple[str, str], float]  # (process, what) -> how many

_METRICS = {
    "paymesh_store_batch_size_sum": "commands",
    "paymesh_store_batch_size_count": "transactions",
    "paymesh_store_retries_total": "transactions run again",
    "paymesh_bus_published_total": "events published",
    "paymesh_bus_delivered_total": "events taken",
    "paymesh_outbox_calls_total": "durable calls",
    "paymesh_timers_fired_total": "timers fired",
}
SETTLE_POLLS_MAX = 240
POLL_S = 0.5
QUIET_POLLS = 4
_STATUS = {
    "Questions": "statements",
    "Com_commit": "commits",
    "Innodb_data_fsyncs": "syncs to disk",
    "Handler_write": "rows written",
    "Handler_update": "rows updated",
}


def cpu_s(stack: Stack) -> dict[str, float]:
    """The CPU seconds, user and system, of each process."""
    used = {}
    for name, record in stack.running().items():
        process = record.process()
        if process is None:
            raise LoadFailed(f"{name} has ended")
        times = process.cpu_times()
        used[name] = times.user + times.system
    return used


def work(stack: Stack) -> Counts:
    """What the services say in their metrics, and the MariaDB servers in their status."""
    settings = stack.settings
    counts: defaultdict[tuple[str, str], float] = defaultdict(float)
    for name in SERVICES:
        page = f"http://{settings.service(name).metrics_listen}/metrics"
        with urllib.request.urlopen(page, timeout=10) as response:
            families = text_string_to_metric_families(response.read().decode())
        for sample in (sample for family in families for sample in family.samples):
            if sample.name in _METRICS:
                counts[name, _METRICS[sample.name]] += sample.value
    for server, shard in zip(MARIADB_SERVERS, SHARDS, strict=True):
        url = make_url(settings.service(SERVICES[0]).shards[shard].live).set(drivername="mysql+pymysql")
        with create_engine(url, poolclass=NullPool).connect() as connection:
            for variable, value in connection.execute(text("SHOW GLOBAL STATUS")):
                if variable in _STATUS:
                    counts[server, _STATUS[variable]] += float(value)
    return counts


def since(before: Counts, after: Counts) -> dict[tuple[str, str], float]:
    """What was done between the two."""
    return {key: count - before.get(key, 0) for key, count in after.items()}


def settle(stack: Stack) -> None:
    """Returns when the services have carried out no command for two seconds; LoadFailed where they never rest."""
    quiet, before = 0, -1.0
    for _ in range(SETTLE_POLLS_MAX):
        now = sum(count for (_, what), count in work(stack).items() if what == "commands")
        quiet = quiet + 1 if now == before else 0
        if quiet >= QUIET_POLLS:
            return
        before = now
        time.sleep(POLL_S)
    raise LoadFailed("the stack does not come to rest")
