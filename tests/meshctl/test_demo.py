"""``meshctl demo``: exit code 0 only when every scenario and every invariant holds; what it leaves can be looked at."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from meshctl import demo
from meshctl.embedded import EmbeddedMesh, embedded_configuration
from meshctl.scenarios import SCENARIOS, Desk, Scenario
from meshctl.settings import SERVICES, load_mesh
from paykit.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(autouse=True)
def _log_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logging is set up once per process, and this one is not the demo's."""
    monkeypatch.setattr(demo, "log_to_file", lambda _directory: None)


def _meshctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "meshctl", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=150,
    )


def test_the_demo_shows_every_scenario_and_leaves_a_system_that_can_be_traced_and_checked(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    done = _meshctl("demo", "--dir", str(directory))
    assert (done.returncode, done.stderr) == (0, "")
    for number, scenario in enumerate(SCENARIOS, start=1):
        assert f"{number}. {scenario.title}" in done.stdout
    assert "✗" not in done.stdout
    assert "all hold" in done.stdout
    assert f"{len(SCENARIOS)} scenarios" in done.stdout

    references = re.findall(r"sbx_refund_\w+", done.stdout)
    config = str(directory / "paymesh.toml")
    traced = _meshctl("trace", references[-1], "--config", config)
    assert (traced.returncode, traced.stderr) == (0, "")
    assert references[-1] in traced.stdout
    assert "REFUND" in traced.stdout
    assert _meshctl("trace", "no-such-thing", "--config", config).returncode == 1
    checked = _meshctl("check", "--config", config)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_a_scenario_that_does_not_hold_fails_the_demo_and_the_others_still_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def never(desk: Desk) -> None:
        trade = await desk.top_up(desk.name("ann"), 1000)
        desk.expect_state(trade, "CLOSED")

    monkeypatch.setattr(demo, "SCENARIOS", (Scenario("never", "Never", never), SCENARIOS[0]))
    assert demo.run(tmp_path / "demo", None) == 1
    printed = capsys.readouterr().out
    assert "✗ ScenarioFailed: trade trd_" in printed
    assert "1 of 2 scenarios failed, every invariant holds" in printed


def test_a_violated_invariant_fails_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "demo"

    async def steal(desk: Desk) -> None:
        ann = desk.name("ann")
        await desk.top_up(ann, 1000)
        for path in (directory / "data").glob("pay_core_*_live.sqlite"):
            with sqlite3.connect(path) as connection:
                connection.execute("UPDATE account SET balance_minor = 999 WHERE owner_id = ?", (ann,))

    monkeypatch.setattr(demo, "SCENARIOS", (Scenario("steal", "Steal", steal),))
    assert demo.run(directory, None) == 1
    assert "0 of 1 scenarios failed, an invariant does not" in capsys.readouterr().out


def test_a_folder_that_something_else_lives_in_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.odt").write_text("years of work")
    with pytest.raises(ConfigurationError, match=r"thesis\.odt"):
        demo.run(tmp_path, None)
    assert (tmp_path / "thesis.odt").read_text() == "years of work"


def test_a_system_that_does_not_run_is_named_with_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "CONNECT_TIMEOUT_S", 0.2)
    asleep = EmbeddedMesh(tmp_path)
    with pytest.raises(ConfigurationError, match=f"pay_core cannot be reached at {asleep.addresses['pay_core']}"):
        demo.run(tmp_path, asleep.config)


def test_scenarios_have_names_of_their_own() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len({s.title for s in SCENARIOS}) == len(SCENARIOS)


async def test_a_system_goes_on_where_it_stopped(tmp_path: Path) -> None:
    async with EmbeddedMesh(tmp_path) as mesh:
        first = mesh.addresses
        await mesh.settle()
    async with EmbeddedMesh(tmp_path) as mesh:
        assert mesh.addresses == first
        await mesh.settle()


def test_the_embedded_system_has_two_shards_per_service_live_and_shadow(tmp_path: Path) -> None:
    mesh = EmbeddedMesh(tmp_path, embedded_configuration(tmp_path))
    settings = load_mesh(mesh.config)
    assert settings.bus.kind == "embedded"
    for name in SERVICES:
        shards = settings.service(name).shards
        urls = [url for shard in shards.values() for url in (shard.live, shard.shadow)]
        assert len(set(urls)) == 4
        assert all(url is not None and url.startswith("sqlite") for url in urls)
