"""The command line as an operator meets it: help, and one clear line where something is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshctl.layout import Ports, configuration, write_configuration
from meshctl.processes import free_port

ROOT = Path(__file__).resolve().parents[2]


def _meshctl(*arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "meshctl", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "paymesh.toml"
    nobody = free_port()
    content = configuration(
        lambda service, shard, mode: f"mysql+aiomysql://paymesh:secret@127.0.0.1:{nobody}/{service}_{shard}_{mode}",
        {"kind": "embedded", "path": str(tmp_path / "bus")},
        Ports.choose(preferred=False),
        tmp_path / "book.sqlite",
    )
    write_configuration(path, content)
    return path


def test_help_names_every_command() -> None:
    shown = _meshctl("--help")
    assert shown.returncode == 0
    for command in ("demo", "trace", "check", "up", "down", "migrate", "serve", "rules", "recon"):
        assert f" {command} " in shown.stdout


def test_an_unknown_key_of_the_file_stops_the_start_and_is_named(config: Path) -> None:
    config.write_text(config.read_text().replace('log_level = "info"', 'log_level = "info"\nlog_levle = "debug"'))
    done = _meshctl("serve", "recon", "--config", str(config))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"configuration: {config}: log_levle: unknown key\n"


def test_an_unknown_variable_stops_the_start_and_is_named(config: Path) -> None:
    done = _meshctl("serve", "recon", "--config", str(config), PAYMESH_RECON__WINDOW="5")
    assert done.returncode == 2
    assert done.stderr == "configuration: PAYMESH_RECON__WINDOW: recon.window: unknown key\n"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = _meshctl("serve", "recon", "--config", str(tmp_path / "none.toml"))
    assert done.returncode == 2
    assert done.stderr.startswith(f"configuration: configuration file {tmp_path}/none.toml: ")


def test_an_unknown_service_is_named(config: Path) -> None:
    done = _meshctl("serve", "ledger", "--config", str(config))
    assert done.returncode == 2
    assert done.stderr.startswith("configuration: unknown service ledger")


@pytest.mark.parametrize("command", [("serve", "recon"), ("migrate",)])
def test_a_database_that_cannot_be_reached_is_named_without_its_password(
    config: Path, command: tuple[str, ...]
) -> None:
    done = _meshctl(*command, "--config", str(config))
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("configuration: ")
    assert "127.0.0.1:" in last
    assert "secret" not in done.stderr


def test_without_any_settings_file_it_says_how_to_get_one(tmp_path: Path) -> None:
    done = _meshctl("check", cwd=tmp_path)
    assert done.returncode == 2
    assert "--config" in done.stderr


def test_down_where_nothing_runs_is_no_error(tmp_path: Path) -> None:
    done = _meshctl("down", "--dir", str(tmp_path / "stack"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing runs" in done.stdout
    assert not (tmp_path / "stack").exists()
