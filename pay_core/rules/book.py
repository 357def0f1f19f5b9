"""The rules in force: read at start, read again when their file changes, replaced only by a valid newer version."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import Path

import structlog

from pay_core.rules.model import TOOLS, Place, Problem, RulesInvalid
from pay_core.rules.reading import load
from pay_core.rules.rule_set import RuleSet
from paykit import telemetry
from paykit.errors import ConfigurationError

VERSIONS_KEPT_MAX = 32
FILE_BYTES_MAX = 1024 * 1024  # no valid file is longer: characters are bounded far below

_DEFAULT = "default.yaml"

_log = structlog.get_logger(__name__)
_reloads = telemetry.counter("rules_reloads_total", "Changes of the rules file by outcome", ["outcome"])
_version = telemetry.gauge("rules_version", "Version of the rules in force")

OnActivated = Callable[[RuleSet], Awaitable[None]]
Signature = tuple[int, int, int]  # modification time in ns, size in bytes, inode


async def _accept(_rules: RuleSet) -> None:
    """What is called before a set becomes active where nobody asked to be."""


class RuleBook:
    """Holds the active rules. Reading it is free; ``start`` and ``stop`` suit ``Service.add_background``.

    ``on_activated`` is awaited before a set becomes active, the first one included (by ``start``); where it raises,
    the set does not become active. It may be set until then. ``load_error`` says why the file as it now is was
    refused, None where it was not.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        known_channels: frozenset[str] | None = None,
        known_tools: frozenset[str] = TOOLS,
        on_activated: OnActivated = _accept,
        interval_s: float = 5.0,
    ) -> None:
        """Reads ``path``, or where it is None the rules of the package; RulesInvalid where they are wrong."""
        self.on_activated = on_activated
        self.load_error: str | None = None
        self._path, self._interval_s = path, interval_s
        self._known_channels, self._known_tools = known_channels, known_tools
        self._signature = None if path is None else _signature(path)
        self._active = self._load(self._read())
        self._versions = {self._active.version: self._active}
        self._lock = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None

    @property
    def active(self) -> RuleSet:
        """The rules in force."""
        return self._active

    def get(self, version: int) -> RuleSet | None:
        """A version that this process has had in force, of the last VERSIONS_KEPT_MAX."""
        return self._versions.get(version)

    async def start(self) -> None:
        """Announces the first set, then watches the file. What ``on_activated`` raises stops the start."""
        await self.on_activated(self._active)
        self._announce(self._active)
        if self._path is not None:
            self._watch = asyncio.create_task(self.watch(self._interval_s), name="rules-watch")

    async def stop(self) -> None:
        """Watches no more."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
            self._watch = None

    async def watch(self, interval_s: float) -> None:
        """Looks at the file every ``interval_s`` seconds, for ever."""
        while True:
            await asyncio.sleep(interval_s)
            await self.reload_if_changed()

    async def reload_if_changed(self) -> bool:
        """Takes over the file where it has changed and is right; whether another version is in force since.

        Anything wrong leaves everything as it is, is logged once with its place, counted, and kept in ``load_error``.
        """
        if self._path is None:
            return False
        async with self._lock:
            try:
                return await self._reload(self._path)
            except RulesInvalid as error:
                self._refuse(str(error))
            except Exception as error:
                # The hook failed: the file may be right, so it is tried again at the next look.
                self._signature = None
                self._refuse(f"{self._path}: cannot be put in force: {error!r}")
            return False

    async def _reload(self, path: Path) -> bool:
        # Remembered before the file is read: a change while it is being read is seen at the next look.
        known, self._signature = self._signature, None
        self._signature = await asyncio.to_thread(_signature, path)
        if self._signature == known:
            return False
        text = await asyncio.to_thread(self._read)
        if text == self._active.text:
            self.load_error = None
            return False
        rules = await asyncio.to_thread(self._load, text)
        if rules.version <= self._active.version:
            message = f"must grow with every change: {self._active.version} is in force"
            raise RulesInvalid([Problem(rules.version_place, message)])
        await self.on_activated(rules)
        self._versions[rules.version] = self._active = rules
        while len(self._versions) > VERSIONS_KEPT_MAX:
            del self._versions[min(self._versions)]
        self.load_error = None
        self._announce(rules)
        return True

    def _announce(self, rules: RuleSet) -> None:
        _reloads.labels("activated").inc()
        _version.set(rules.version)
        _log.info("rules_activated", version=rules.version, source=rules.source, sha256=rules.sha256)

    def _refuse(self, message: str) -> None:
        if message != self.load_error:
            self.load_error = message
            _reloads.labels("refused").inc()
            _log.error("rules_refused", active_version=self._active.version, problems=message)

    def _load(self, text: str) -> RuleSet:
        source = _DEFAULT if self._path is None else str(self._path)
        return load(text, source, known_channels=self._known_channels, known_tools=self._known_tools)

    def _read(self) -> str:
        if self._path is None:
            return default_text()
        return read_rules(self._path)


def default_text() -> str:
    """The rules file that comes with the package."""
    return resources.files("pay_core.rules").joinpath(_DEFAULT).read_text("utf-8")


def read_rules(path: Path) -> str:
    """The text of a rules file; RulesInvalid where it cannot be read as one. It blocks."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror}") from None
    if len(content) > FILE_BYTES_MAX:
        raise _unreadable(path, f"is longer than {FILE_BYTES_MAX:,} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise _unreadable(path, "is not UTF-8 here", line, column) from None


def _unreadable(path: Path, message: str, line: int = 1, column: int = 1) -> ConfigurationError:
    return RulesInvalid([Problem(Place(str(path), line, column), message)])


def _signature(path: Path) -> Signature:
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror}") from None
    return status.st_mtime_ns, status.st_size, status.st_ino
