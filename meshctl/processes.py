"""Child processes that may outlive the command that started them, and that only the right command ends.

A process is remembered as its pid together with the time it was created, so that a pid the system has given to
another program since is never taken for ours.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event

import msgspec
import psutil

from paykit.errors import ConfigurationError

POLL_INTERVAL_S = 0.02
LOG_TAIL_BYTES = 2000

_PORTS = range(10_000, 32_000)
# Debian keeps servers outside an ordinary user's PATH.
_SERVER_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_pause = Event()
_children: dict[int, psutil.Popen] = {}  # those this process started: it must reap them


class ProcessFailed(Exception):
    """A process ended, or did not become ready in time; the message carries the end of its log."""


class ProcessRecord(msgspec.Struct, frozen=True):
    """A running process, as a state file remembers it. ``created_s`` is its creation time, Unix seconds."""

    name: str
    pid: int
    created_s: float

    def process(self) -> psutil.Process | None:
        """The process, or None where it is gone or its pid belongs to another one now."""
        child = _children.get(self.pid)
        if child is not None and child.poll() is not None:
            del _children[self.pid]
            return None
        try:
            process = psutil.Process(self.pid)
            # The clock of some kernels is read back with a jitter of a tick or two.
            if abs(process.create_time() - self.created_s) > 1 or process.status() == psutil.STATUS_ZOMBIE:
                return None
        except psutil.NoSuchProcess:
            return None
        return process

    def stop(self, grace_s: float) -> bool:
        """Asks it to end (SIGTERM) and kills it after ``grace_s`` seconds. Whether it ended by itself."""
        process = self.process()
        if process is None:
            return True
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
        try:
            process.wait(grace_s)
        except psutil.TimeoutExpired:
            self.kill()
            return False
        self._forget()
        return True

    def kill(self) -> None:
        """Ends it at once (SIGKILL) and waits until it is gone."""
        process = self.process()
        if process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
        process.wait(10)
        self._forget()

    def _forget(self) -> None:
        child = _children.pop(self.pid, None)
        if child is not None:
            child.poll()  # it was waited for by its pid: now it knows too


def find_program(*names: str) -> str | None:
    """The path of the first of ``names`` that is installed, in PATH or where systems keep servers; None for none."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SERVER_DIRECTORIES])
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def require_program(package: str, *names: str) -> str:
    """The path of the first of ``names`` that is installed; ConfigurationError naming ``package`` (Debian) if none."""
    found = find_program(*names)
    if found is None:
        raise ConfigurationError(f"{' or '.join(names)} is not installed: it is in the Debian package {package}")
    return found


def free_port(preferred: int = 0) -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now: ``preferred`` if it is one."""
    return free_ports([preferred])[0]


def free_ports(preferred: Sequence[int]) -> list[int]:
    """A different TCP port of 127.0.0.1 for each of ``preferred``: that one if nobody listens on it, else any.

    They lie below those that systems give to outgoing connections, so that a server finds its port free again when
    it is started again.
    """
    with contextlib.ExitStack() as stack:
        ports = []
        for wish in preferred:
            for port in (*([wish] if wish else []), *random.sample(_PORTS, 100)):
                probe = stack.enter_context(socket.socket())
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
                ports.append(port)
                break
            else:
                raise ConfigurationError(f"no free TCP port between {_PORTS[0]} and {_PORTS[-1]}")
        return ports


def start_process(
    name: str,
    command: Sequence[str],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    tied: bool = False,
) -> ProcessRecord:
    """Starts ``command`` in a session of its own, its output appended to ``log``.

    ``tied`` lets the system end it when the process that started it dies, however that dies (Linux).
    """
    setpriv = shutil.which("setpriv") if tied else None
    if setpriv is not None:
        command = [setpriv, "--pdeathsig", "TERM", *command]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = psutil.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    _children[process.pid] = process
    return ProcessRecord(name=name, pid=process.pid, created_s=process.create_time())


def wait_until(ready: Callable[[], bool], record: ProcessRecord, log: Path, timeout_s: float) -> None:
    """Asks ``ready`` until it says yes; ProcessFailed when the process ends first or ``timeout_s`` pass."""
    polls_max = int(timeout_s / POLL_INTERVAL_S)
    for _ in range(polls_max):
        if record.process() is None:
            raise ProcessFailed(f"{record.name} ended while starting; {log} says:\n{log_tail(log)}")
        if ready():
            return
        _pause.wait(POLL_INTERVAL_S)
    raise ProcessFailed(f"{record.name} is not ready after {timeout_s:g} s; {log} says:\n{log_tail(log)}")


def log_tail(log: Path) -> str:
    """The last lines of a log; empty where there is none."""
    try:
        data = log.read_bytes()
    except FileNotFoundError:
        return ""
    return data[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
