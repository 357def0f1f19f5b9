"""What the processes of a stack have used and done so far, to be taken before and after a load."""

from __future__ import annotations

import time
import urllib.request
from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.pool import NullPool

from bench.children import LoadFailed
from bench.flow import Outcome
from meshctl.layout import SHARDS
from meshctl.settings import SERVICES
from meshctl.stack import MARIADB_SERVERS, Stack

Counts = Mapping[tuple[str, str], float]  # (process, what) -> how many

# Whose CPU time a load uses. The rest is NATS and the load itself.
PARTS: dict[str, Sequence[str]] = {
    "trade_core": ("trade_core",),
    "pay_core": ("pay_core",),
    "databases": MARIADB_SERVERS,
    "gateway and provider": ("channel_gateway", "sandbox"),
    "recon": ("recon",),
}


class Measured(msgspec.Struct, frozen=True):
    """What one run did, and the CPU seconds of each process, the load's among them."""

    outcome: Outcome
    cpu_s: dict[str, float]

    def cpu_ms(self, *processes: str) -> float:
        """CPU milliseconds of some processes for each thing done."""
        return 1000 * sum(self.cpu_s[name] for name in processes) / self.outcome.count

    def shares(self) -> dict[str, float]:
        """CPU milliseconds for each thing done: all, and by what it went to."""
        rest = [name for name in self.cpu_s if not any(name in names for names in PARTS.values())]
        return {
            part: self.cpu_ms(*names) for part, names in ({"all": list(self.cpu_s)} | PARTS | {"rest": rest}).items()
        }


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


def measured(stack: Stack, before_s: Mapping[str, float], outcome: Outcome) -> Measured:
    """What has come of a load since ``before_s`` was taken by ``cpu_s``."""
    after_s = cpu_s(stack)
    used_s = {name: after_s[name] - before_s[name] for name in after_s}
    return Measured(outcome, used_s | {"load": outcome.cpu_s})


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
