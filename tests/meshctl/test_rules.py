"""``meshctl rules check`` as the person who writes rules meets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ROOT / "pay_core" / "rules" / "default.yaml"


def _check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "meshctl", "rules", "check", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_valid_file_is_ok_with_what_it_has() -> None:
    done = _check(str(DEFAULT))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{DEFAULT}: ok, version 2: 1 tools, 4 routes, 2 limits, 0 fees, 0 splits\n"


def test_every_problem_is_printed_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    broken = DEFAULT.read_text().replace("version: 2", "version: one")
    file.write_text(broken.replace("'CARD'\", channels", "'KARD'\", channels"))
    done = _check(str(file))
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [
        f"{file}:2:10 version: must be a whole number, 1 to 2,147,483,647",
        f"{file}:19:25 routes[1].when: instrument is never 'KARD': it is one of BANK_ACCOUNT, CARD, WALLET",
    ]


def test_channels_are_checked_where_they_are_named() -> None:
    done = _check(str(DEFAULT), "--channel", "sandbox_card", "--channel", "sandbox_bank")
    assert done.returncode == 1
    assert "routes[3].channels[0]: sandbox_wallet is no channel: known are sandbox_bank, sandbox_card" in done.stdout


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = _check(str(tmp_path / "none.yaml"))
    assert done.returncode == 1
    assert done.stdout == f"{tmp_path}/none.yaml:1:1: cannot be read: No such file or directory\n"
