"""Orders on the full stack against a provider that does everything wrong, and JetStream's store lost in the middle.

What must hold at the end: every order has ended, or an open break is about it; the provider's book, the ledger and
recon agree to the cent per channel and currency, but for what open breaks account for; at most one charge stands for
each payment; and every invariant of the checker.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from channel_gateway.sandbox.behaviour import BEHAVIOURS
from channel_gateway.sandbox.client import Deed, read_deeds, script
from meshctl import check
from meshctl.layout import CHANNELS
from meshctl.settings import SERVICES, MeshSettings
from meshctl.stack import Stack
from paykit.errors import MeshError
from paykit.rpc.channels import Channels
from tests.adversary import agreement, misdeeds
from tests.adversary.customers import ImpatientClient
from tests.adversary.reported import reported
from tests.adversary.statement_imports import Imported, Importer
from tests.adversary.waits import waits
from tests.faults import drain
from tests.faults.client import Unanswered
from tests.faults.in_thread import InThread, in_one_thread
from tests.faults.orders import Plan, carry_out, plans, top_ups
from tests.faults.outages import STORE_LOST
from tests.faults.waits import short_waits

IN_FLIGHT_MAX = 400
CONNECT_TIMEOUT_S = 20.0
DRAIN_TIMEOUT_S = 300.0
READINGS_MAX = 20
WINDOW_MS = 3_000  # of maintenance, and of the storm
_VERY_LATE = frozenset(name for name, behaviour in BEHAVIOURS.items() if behaviour.appears == "very_late")
_PER_PURCHASE = 1.15  # orders: a tenth as many peer transfers, a twentieth as many cash-outs


class Summary(msgspec.Struct):
    """What a run did and found. ``problems`` are empty, and the report clean, where all held."""

    orders: int
    seed: int
    deeds: Counter[str] = msgspec.field(default_factory=Counter)
    retries: Counter[str] = msgspec.field(default_factory=Counter)
    refusals: Counter[str] = msgspec.field(default_factory=Counter)
    left: int = 0
    states: Counter[str] = msgspec.field(default_factory=Counter)
    store_lost_s: float = 0.0
    load_s: float = 0.0
    drain_s: float = 0.0
    took_s: float = 0.0
    problems: list[str] = msgspec.field(default_factory=list)
    imported: Imported = msgspec.field(default_factory=Imported)
    verdict: agreement.Verdict = msgspec.field(default_factory=agreement.Verdict)
    report: check.Report | None = None

    @property
    def holds(self) -> bool:
        """Whether all that must hold does."""
        return self.report is not None and self.report.is_clean and not self.all_problems

    @property
    def all_problems(self) -> list[str]:
        """What did not hold, but for the invariants."""
        return [*self.problems, *self.imported.problems, *self.verdict.problems]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is made of. ``loses_store``: JetStream's store is deleted when half of the orders are made."""

    orders: int
    seed: int = 1
    loses_store: bool = True


async def run(options: Options, directory: Path, say: Callable[[str], None] = lambda _line: None) -> Summary:
    """A run on a stack of its own."""
    summary, started_s = Summary(options.orders, options.seed), time.monotonic()
    with short_waits(waits(options.seed, list(CHANNELS))), in_one_thread(directory) as in_thread:
        try:
            await in_thread(Stack.up)
            say("the stack is up")
            settings = in_thread.stack.settings
            channels = Channels(settings.addresses)
            try:
                for service in SERVICES:
                    await channels.wait_ready(service, CONNECT_TIMEOUT_S)
                client = ImpatientClient(channels)
                load = _Load(options, client, in_thread, Provider(settings), summary, say)
                await load.carry_out()
                async with asyncio.TaskGroup() as group:
                    closing = group.create_task(client.close_left())
                    await _settle(settings, summary, say)
                    closing.cancel()
                summary.imported = await Importer(settings, channels, directory, say).all()
                await _drain(settings, summary, say)
                report, books = await _read(settings, channels)
            finally:
                await channels.close()
            summary.states = Counter(trade.state for trade in books.trades)
            summary.verdict = agreement.judge(books)
            agreement.compare_report(report, summary.verdict)
            summary.report = await check.audit(settings, settled=True)
        finally:
            await in_thread(Stack.down)
    summary.took_s = time.monotonic() - started_s
    return summary


class Provider:
    """The provider's side door."""

    def __init__(self, settings: MeshSettings) -> None:
        assert settings.sandbox is not None
        self._url = f"http://{settings.sandbox.host}:{settings.sandbox.port}"
        self._key = settings.sandbox.admin_key.get_secret_value()

    async def misbehave(self) -> None:
        """Puts all rates in force."""
        await script(self._url, self._key, "faults", {"rules": misdeeds.rules()})
        await script(self._url, self._key, "statement-script", {"rates": misdeeds.STATEMENT_RATES})

    async def begin(self, window: Callable[[int, int], dict[str, object]]) -> None:
        """Begins a window of WINDOW_MS."""
        now_ms = time.time_ns() // 1_000_000
        await script(self._url, self._key, "windows", {"windows": [window(now_ms, WINDOW_MS)]})

    async def deeds(self) -> list[Deed]:
        """All that it did."""
        return [deed async for deed in read_deeds(self._url, self._key)]


class _Load:
    """The orders of one run, a bounded number at a time, and what happens to the stack in between."""

    def __init__(
        self,
        options: Options,
        client: ImpatientClient,
        in_thread: InThread,
        provider: Provider,
        summary: Summary,
        say: Callable[[str], None],
    ) -> None:
        self._options = options
        self._client = client
        self._in_thread = in_thread
        self._provider = provider
        self._summary = summary
        self._say = say
        # A small run has its happenings in its middle too.
        self._room = asyncio.Semaphore(min(IN_FLIGHT_MAX, max(8, options.orders // 5)))
        self._done = 0

    async def carry_out(self) -> None:
        """Tops balances up while the provider behaves, then makes all orders, each followed as far as patience goes."""
        orders, dice = self._options.orders, random.Random(self._options.seed)
        started_s = time.monotonic()
        funding = top_ups(self._client, max(8, orders // 12))
        async with asyncio.TaskGroup() as group:
            await self._make(group, funding)
        await self._provider.misbehave()
        buyers = [plan.buyer_id for plan in funding]
        wanted = plans(self._client, round(orders / _PER_PURCHASE), buyers, dice, misdeeds.TOKENS)
        async with asyncio.TaskGroup() as group:
            for number, happening in enumerate((self._maintenance, self._lose_store, self._storm, None)):
                await self._make(group, wanted[number * len(wanted) // 4 : (number + 1) * len(wanted) // 4])
                if happening is not None:
                    await happening()
        self._summary.load_s = time.monotonic() - started_s
        self._summary.orders = len(funding) + len(wanted)
        self._summary.left = len(self._client.left)
        self._summary.retries, self._summary.refusals = self._client.retries, self._client.refusals

    async def _make(self, group: asyncio.TaskGroup, orders: Sequence[Plan]) -> None:
        for plan in orders:
            await self._room.acquire()
            group.create_task(self._order(plan))

    async def _order(self, plan: Plan) -> None:
        try:
            await carry_out(self._client, plan)
        except (MeshError, Unanswered) as error:
            self._summary.problems.append(f"order of {plan.buyer_id}: {type(error).__name__}: {error}")
        finally:
            self._room.release()
            self._done += 1

    async def _maintenance(self) -> None:
        self._say(f"{self._done:,} orders made; maintenance")
        await self._provider.begin(misdeeds.maintenance)

    async def _storm(self) -> None:
        self._say(f"{self._done:,} orders made; a storm of errors")
        await self._provider.begin(misdeeds.storm)

    async def _lose_store(self) -> None:
        if self._options.loses_store:
            self._say(f"{self._done:,} orders made; nats goes, and its store with it")
            started_s = time.monotonic()
            for step in STORE_LOST.steps:
                await self._in_thread(step)
            self._summary.store_lost_s = time.monotonic() - started_s


async def _read(
    settings: MeshSettings, channels: Channels
) -> tuple[Mapping[agreement.Key, Counter[str]], agreement.Books]:
    """The report, and the rows that it is made of. A stray charge that a break is about may be given back meanwhile:
    both are read again until nothing came between."""
    before = await reported(channels)
    books = await agreement.read(settings)
    report = await reported(channels)
    for _ in range(READINGS_MAX):
        if report == before:
            break
        before, books = report, await agreement.read(settings)
        report = await reported(channels)
    return report, books


async def _settle(settings: MeshSettings, summary: Summary, say: Callable[[str], None]) -> None:
    """Waits until the provider has done all that it is going to do, and everything has come of it."""
    started_s = time.monotonic()
    deeds = await Provider(settings).deeds()
    summary.deeds = Counter(deed.behaviour for deed in deeds)
    late_ms = max((deed.at_ms for deed in deeds if deed.behaviour in _VERY_LATE), default=0) + misdeeds.VERY_LATE_MS
    left_s = late_ms / 1000 - time.time()
    if left_s > 0:
        say(f"orders are still to appear at the provider, in {left_s:.0f} s")
        await asyncio.sleep(left_s)
    await _drain(settings, summary, say)
    summary.drain_s = time.monotonic() - started_s


async def _drain(settings: MeshSettings, summary: Summary, say: Callable[[str], None]) -> None:
    try:
        took_s = await drain.drain(settings, DRAIN_TIMEOUT_S, but_in_breaks=True, and_asked_again=True)
    except drain.StillUnderWay as error:
        say(f"still under way {error}")
        summary.problems.append(f"still under way {error}")
    else:
        say(f"nothing is under way after {took_s:.1f} s, but what is in open breaks")
