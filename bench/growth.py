"""What a payment costs with little and with much already stored: two pay_core processes on the same servers.

Each has databases of its own, one pair as the payments of the preparation left it, one filled with many times as many.
Runs take turns, and what is compared is CPU time: it does not depend on what else a second had to wait for.
"""

from __future__ import annotations

import os
import random
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from bench import children, counters, payments, transfers
from bench.fill import fill, finish, payments_in
from bench.flow import Outcome
from meshctl.layout import HOST, write_configuration
from meshctl.processes import ProcessRecord, free_ports, start_process, wait_until
from meshctl.servers import create_database
from meshctl.settings import SERVICES, load_mesh
from meshctl.stack import MARIADB_SERVERS, NATS, Stack, is_serving
from paykit.clock import SystemClock
from paykit.rpc import loop
from paykit.settings import ShardSettings
from paykit.store.migrate import migrate

SERVICE = "pay_core"
START_TIMEOUT_S = 60
STOP_GRACE_S = 40


class Place(msgspec.Struct, frozen=True):
    """A pay_core process, its address, and what its databases hold when the runs begin."""

    record: ProcessRecord
    address: str
    payments: int
    megabytes: int


class Cost(msgspec.Struct, frozen=True):
    """One run: CPU milliseconds a payment, by where they went."""

    outcome: Outcome
    pay_core_ms: float
    databases_ms: float
    bus_ms: float

    @property
    def all_ms(self) -> float:
        """Without the load's own."""
        return self.pay_core_ms + self.databases_ms + self.bus_ms


def prepare(stack: Stack, count: int) -> None:
    """Makes ``count`` payments, the first ones recharges, and leaves only pay_core running."""
    pairs = payments.pairs()
    with payments.pay_core(stack) as stub:
        payments.fund(stub)
        chosen = random.choices(pairs, k=count - len(pairs))
        payments.carry_out(stub, [payments.transfer(pair.payer, pair.near, 1) for pair in chosen])
    counters.settle(stack)
    for name in stack.running():
        if name in SERVICES:
            stack.stop(name)


def grow(stack: Stack, copies: int) -> Path:
    """Makes databases beside pay_core's, with ``copies`` more of all its payments; settings for a pay_core on them."""
    settings = stack.settings.service(SERVICE)
    grown = {}
    for shard, urls in settings.shards.items():
        grown[shard] = create_database(urls.live, f"{SERVICE}_{shard}_grown")
    loop.run(migrate(SERVICE, {shard: ShardSettings(live=url) for shard, url in grown.items()}, 1))
    now_ms = SystemClock().now_ms()
    with ThreadPoolExecutor(len(grown)) as pool:
        fills = [
            pool.submit(fill, settings.shards[shard].live, url, copies, now_ms)  # each on a server of its own
            for shard, url in grown.items()
        ]
        for each in fills:
            each.result()
    config = tomllib.loads(stack.config.read_text())
    ports = free_ports([0, 0])
    config[SERVICE] |= {"listen": f"{HOST}:{ports[0]}", "metrics_listen": f"{HOST}:{ports[1]}"}
    config[SERVICE]["shards"] = {shard: {"live": url} for shard, url in grown.items()}
    config["addresses"][SERVICE] = config[SERVICE]["listen"]
    path = stack.directory / "grown.toml"
    write_configuration(path, config)
    return path


def serve(config: Path, log: Path) -> Place:
    """Starts a pay_core with settings of its own, once its databases are at rest."""
    settings = load_mesh(config).service(SERVICE)
    urls = [shard.live for shard in settings.shards.values()]
    megabytes = sum(finish(url) for url in urls) // 2**20
    command = [sys.executable, "-m", "meshctl", "serve", SERVICE, "--config", str(config)]
    environment = os.environ | {"PYTHONPATH": str(children.ROOT)}
    record = start_process(SERVICE, command, log, environment=environment, tied=True)
    wait_until(lambda: is_serving(settings.listen), record, log, START_TIMEOUT_S)
    return Place(record, settings.listen, sum(payments_in(url) for url in urls), megabytes)


def stop(place: Place) -> None:
    """Lets it drain and end."""
    place.record.stop(STOP_GRACE_S)


def measure(stack: Stack, place: Place, seconds: float) -> Cost:
    """Transfers through one of the two, in Batch messages, for ``seconds``."""
    before_s = _cpu_s(stack, place)
    outcome = transfers.measure(place.address, msgspec.structs.replace(transfers.BATCH, seconds=seconds))
    used_s = [after - before for after, before in zip(_cpu_s(stack, place), before_s, strict=True)]
    return Cost(outcome, *(1000 * used / outcome.count for used in used_s))


def _cpu_s(stack: Stack, place: Place) -> tuple[float, float, float]:
    servers = counters.cpu_s(stack)
    process = place.record.process()
    if process is None:
        raise children.LoadFailed("pay_core has ended")
    times = process.cpu_times()
    return times.user + times.system, sum(servers[name] for name in MARIADB_SERVERS), servers[NATS]
