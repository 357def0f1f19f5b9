"""``meshctl check`` passes what is right, finds each kind of wrong and nothing else, and says so to an operator."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import pytest_asyncio
import tomli_w

from channel_gateway.sandbox.server import Provider
from meshctl import check
from meshctl.check import Report, audit
from meshctl.invariants import INVARIANTS, partition
from meshctl.settings import SERVICES, MeshSettings
from paykit.clock import ManualClock, SystemClock
from paykit.errors import ConfigurationError
from tests.conftest import MakeDatabases
from tests.meshctl.invariants import (
    channel_plants,
    core_plants,
    money_plants,
    record_plants,
    repair_plants,
    statement_plants,
)
from tests.meshctl.invariants.filling import begin, contradict, fill
from tests.meshctl.invariants.plants import TRADE, Plant
from tests.meshctl.invariants.small_world import SmallWorld, settings_in

PLANTS = (
    *money_plants.LEDGER,
    *money_plants.PROVIDER,
    *channel_plants.CHANNELS,
    *core_plants.KEEPING,
    *core_plants.BOOKS,
    *core_plants.COUNTED,
    *core_plants.PAYMENTS,
    *core_plants.ORDERS,
    *record_plants.STATES,
    *record_plants.LIVENESS,
    *record_plants.ANSWERS,
    *record_plants.MESSAGES,
    *record_plants.PLACEMENT,
    *record_plants.AUDIT,
    *repair_plants.REPAIRS,
    *statement_plants.STATEMENTS,
)


class Stored(NamedTuple):
    """A system in files that nobody has open."""

    folder: Path
    settings: MeshSettings
    now_ms: int

    def copied(self, folder: Path) -> Stored:
        """Another one, the same, in ``folder``."""
        shutil.copytree(self.folder, folder)
        moved = _moved(self.settings.model_dump(), str(self.folder), str(folder))
        return Stored(folder, MeshSettings.model_validate(moved), self.now_ms)

    async def audit(self, *, settled: bool = True, later_ms: int = 0) -> Report:
        """What check finds, ``later_ms`` after the last order."""
        return await audit(self.settings, settled=settled, clock=ManualClock(self.now_ms + later_ms))


def _moved(value: Any, before: str, after: str) -> Any:
    """Settings with one folder in place of another, in every URL and path."""
    if isinstance(value, dict):
        return {key: _moved(item, before, after) for key, item in value.items()}
    if isinstance(value, str | Path):
        return type(value)(str(value).replace(before, after))
    return value


@pytest_asyncio.fixture(scope="session")
async def systems(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Stored]]:
    """``at rest``: everything has ended. ``at work``: a charge is not answered. ``explained``: a break names it."""
    folder = tmp_path_factory.mktemp("systems")
    (folder / "at_work").mkdir()
    world = SmallWorld(settings_in(folder / "at_work"))
    found = {}
    async with world:
        await fill(world)
    found["at rest"] = Stored(folder / "at_work", world.settings, world.clock.now_ms()).copied(folder / "at_rest")
    world = SmallWorld(world.settings)
    world.clock.advance(60_000)
    async with world:
        await begin(world)
    found["at work"] = Stored(folder / "at_work", world.settings, world.clock.now_ms())
    found["explained"] = found["at work"].copied(folder / "explained")
    world = SmallWorld(found["explained"].settings)
    world.clock.advance(120_000)
    async with world:
        await contradict(world)
    yield found


async def test_a_system_at_rest_is_clean_and_every_invariant_has_counted_something(systems: dict[str, Stored]) -> None:
    report = await systems["at rest"].audit()
    assert [(line.id, line.found) for line in report.lines if line.violation_count] == []
    assert report.is_clean
    assert [line.id for line in report.lines if not line.counted] == ["4d", "6f"]  # nothing unknown, no dead letter


async def test_a_system_at_work_is_clean_until_the_stated_time_is_over(systems: dict[str, Stored]) -> None:
    report = await systems["at work"].audit(settled=False)
    assert [(line.id, line.found) for line in report.lines if line.violation_count] == []
    assert (await systems["at work"].audit(settled=True)).violated == {"4a", "4b", "4c"}


async def test_an_open_break_explains_what_has_not_ended(systems: dict[str, Stored]) -> None:
    report = await systems["explained"].audit(settled=True, later_ms=120_000)
    assert [(line.id, line.found) for line in report.lines if line.violation_count] == []


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name.replace(" ", "_"))
async def test_a_planted_violation_is_found_and_nothing_else(
    plant: Plant, systems: dict[str, Stored], tmp_path: Path
) -> None:
    system = systems["at work" if plant.at_work else "at rest"].copied(tmp_path / "system")
    plant.into(system.folder)
    is_settled = not plant.at_work and not plant.later_ms
    report = await system.audit(settled=is_settled, later_ms=plant.later_ms)
    assert report.violated == plant.breaks, [(line.id, line.found) for line in report.lines if line.found]
    assert all(line.found for line in report.lines if line.id in plant.breaks)


async def test_a_configured_secret_is_found_wherever_it_stands(systems: dict[str, Stored], tmp_path: Path) -> None:
    system = systems["at rest"].copied(tmp_path / "system")
    assert system.settings.sandbox is not None
    secret = system.settings.sandbox.accounts["sandbox_card_live"].api_key.get_secret_value()
    connection = sqlite3.connect(system.folder / TRADE)
    connection.execute("UPDATE outbox SET body = ?", (b"\x0a" + secret.encode(),))
    connection.commit()
    connection.close()
    report = await system.audit()
    assert report.violated == {"8d"}
    assert secret not in repr(report)


def test_every_invariant_has_a_planted_violation() -> None:
    planted = set().union(*(plant.breaks for plant in PLANTS)) | {"8d"}  # a secret is not known beforehand
    assert planted == {invariant.id for invariant in INVARIANTS}


def test_invariants_have_ids_of_their_own() -> None:
    ids = [invariant.id for invariant in INVARIANTS]
    assert sorted(set(ids)) == ids


async def test_range_by_range_tells_the_same_as_all_at_once(
    systems: dict[str, Stored], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = await systems["at rest"].audit()
    monkeypatch.setattr(partition, "ROWS_PER_RANGE", 1)
    monkeypatch.setattr(partition, "MEMORY_BYTES", 1)  # to disk at once
    parted = await systems["at rest"].audit()
    assert [(line.id, line.counted, line.found) for line in parted.lines] == [
        (line.id, line.counted, line.found) for line in whole.lines
    ]


async def test_the_provider_is_asked_where_it_runs(systems: dict[str, Stored], tmp_path: Path) -> None:
    system = systems["at rest"].copied(tmp_path / "system")
    sandbox = system.settings.sandbox
    assert sandbox is not None
    provider = Provider(sandbox.model_copy(update={"port": 0}), SystemClock())
    await provider.start()
    try:
        port = int(provider.url.rpartition(":")[2])
        asked = sandbox.model_copy(update={"port": port, "book_path": tmp_path / "nothing"})
        report = await audit(
            system.settings.model_copy(update={"sandbox": asked}), settled=True, clock=ManualClock(system.now_ms)
        )
    finally:
        await provider.stop()
    assert report.is_clean
    assert {line.id: line.counted for line in report.lines}["2b"] == 22


async def test_a_provider_that_neither_runs_nor_left_a_book_is_an_error(systems: dict[str, Stored]) -> None:
    settings = systems["at rest"].settings
    assert settings.sandbox is not None
    gone = settings.sandbox.model_copy(update={"book_path": Path("nowhere/book.sqlite")})
    with pytest.raises(ConfigurationError, match=r"the provider's book at \S+ cannot be read"):
        await audit(settings.model_copy(update={"sandbox": gone}))


async def test_without_a_sandbox_what_needs_its_book_is_named_as_skipped(systems: dict[str, Stored]) -> None:
    system = systems["at rest"]
    report = await audit(
        system.settings.model_copy(update={"sandbox": None}), settled=True, clock=ManualClock(system.now_ms)
    )
    assert report.is_clean
    assert {line.id for line in report.lines if line.skipped} == {"1h", "2a", "2b", "2c", "2f", "2h", "2j", "7e"}


async def test_a_database_that_is_not_there_is_an_error_and_is_not_made(
    systems: dict[str, Stored], tmp_path: Path
) -> None:
    system = systems["at rest"].copied(tmp_path / "system")
    missing = system.folder / TRADE
    missing.unlink()
    with pytest.raises(ConfigurationError, match=rf"{TRADE} does not exist"):
        await system.audit()
    assert not missing.exists()


def test_the_operator_reads_a_line_per_invariant_and_the_exit_code(
    systems: dict[str, Stored], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    system = systems["at rest"].copied(tmp_path / "system")
    config = tmp_path / "paymesh.toml"
    config.write_text(tomli_w.dumps(_plain(system.settings)))
    # By the machine's clock what is unpaid or held in the small world should have ended long ago.
    assert check.run(config, settled=True) == 1
    shown = capsys.readouterr().out.splitlines()
    assert "ok   1b  balance equals sum of entries                       27 accounts" in shown
    failed = [line for line in shown if line.startswith("FAIL")]
    assert [line.split()[1] for line in failed] == ["4a", "4b"]
    assert shown[shown.index(failed[0]) + 1].strip().startswith("trd_")
    assert shown[-1].startswith(f"2 of {len(INVARIANTS)} invariants do not hold: ")
    assert check.run(config, settled=True, stated_time_s=10 * 365 * 86_400.0) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("all hold: ")


def _plain(settings: MeshSettings) -> dict[str, Any]:
    """As the file has them: secrets in clear, no empty values."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if item is not None}
        if isinstance(value, msgspec.Struct):
            return plain(msgspec.to_builtins(value))
        if isinstance(value, list | tuple | set | frozenset):
            return sorted(plain(item) for item in value) if isinstance(value, set | frozenset) else [*map(plain, value)]
        if hasattr(value, "get_secret_value"):
            return value.get_secret_value()
        if isinstance(value, msgspec.Struct):
            return plain(msgspec.structs.asdict(value))
        return value if isinstance(value, bool | int | float) else str(value)

    content: dict[str, Any] = plain(settings.model_dump())
    return content


@pytest.mark.mariadb
async def test_databases_on_mariadb_are_read_alike(make_databases: MakeDatabases, tmp_path: Path) -> None:
    names = [(service, shard, mode) for service in SERVICES for shard in ("s0", "s1") for mode in ("live", "shadow")]
    urls = dict(zip(names, make_databases(len(names)), strict=True))
    world = SmallWorld(settings_in(tmp_path, lambda service, shard, mode: urls[service, shard, mode]))
    async with world:
        await fill(world)
        report = await audit(world.settings, settled=True, clock=world.clock)  # while the services have it open
    assert [(line.id, line.found) for line in report.lines if line.violation_count] == []
    assert report.databases == len(names)
