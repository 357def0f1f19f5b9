"""Settings: one TOML file, environment overrides, and a clear refusal of whatever is not understood.

A key that no model names, in the file or in a ``PAYMESH_`` variable, is a ConfigurationError: a misspelt limit must
not silently fall back to its default.
"""

from __future__ import annotations

import json
import os
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from paykit.errors import ConfigurationError

PREFIX = "PAYMESH_"
DELIMITER = "__"

Address = Annotated[str, StringConstraints(pattern=r"^\S+:\d{1,5}$")]  # host:port; port 0 picks a free one
Url = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9+.-]*://\S*$")]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]


class Section(BaseModel):
    """The base of every part of the settings: immutable, and nothing unknown in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardSettings(Section):
    """One shard: SQLAlchemy async URLs of its live and its shadow database."""

    live: Url
    shadow: Url | None = None


class ExecutorSettings(Section):
    """The bounds of the batch executor of one shard, and of its connection pools."""

    max_batch: Count = 128  # commands in one transaction
    lanes: Annotated[int, Field(ge=1, le=64)] = 2  # transactions under way at once
    max_queue: Count = 4096  # commands waiting; beyond it RESOURCE_EXHAUSTED
    max_wait_s: Seconds = 5.0  # a command waiting longer is given up before it begins
    max_retries: Count = 8  # runs of one batch before ABORTED
    retry_delay_s: Seconds = 0.005  # before the first retry; doubles, with jitter
    lock_timeout_s: Annotated[int, Field(ge=1, le=3600)] = 5  # innodb_lock_wait_timeout, SQLite busy_timeout
    statement_timeout_s: Seconds = 10.0
    write_pool_size: Annotated[int, Field(ge=1, le=1000)] = 6  # lanes, housekeeping and settling unknown commits
    read_pool_size: Annotated[int, Field(ge=1, le=1000)] = 8  # reads that decide nothing
    snapshot_pool_size: Annotated[int, Field(ge=1, le=1000)] = 4  # consistent reads of several tables
    pool_timeout_s: Seconds = 5.0
    pool_recycle_s: Seconds = 1800.0


class BusSettings(Section):
    """What carries events: ``url`` (nats://…) for NATS JetStream, ``path`` (a folder) for the embedded bus."""

    kind: Literal["embedded", "nats"] = "embedded"
    url: Url | None = None
    path: Path | None = None
    # Events that NATS carries as one message. 1 while processes run that cannot take several.
    bundle_max: Annotated[int, Field(ge=1, le=64)] = 64

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        if self.kind == "nats" and self.url is None:
            raise ValueError("kind nats needs url")
        return self


class TlsSettings(Section):
    """PEM files for mutual TLS. The peer's certificate must be signed by ``ca_file``."""

    cert_file: Path
    key_file: Path
    ca_file: Path


class RelaySettings(Section):
    """How committed outbox rows are delivered."""

    max_in_flight: Count = 512  # messages handed over and not yet acknowledged
    max_queue: Count = 8192  # rows waiting in memory; the sweeper finds what does not fit
    sweep_interval_s: Seconds = 5.0
    sweep_age_s: Seconds = 10.0  # rows older than this were left by a crash
    sweep_limit: Count = 1000  # rows of one sweep of one shard
    ack_grace_s: Seconds = 120.0  # acknowledged rows are kept longer than the bus takes to sync to disk
    retry_delay_s: Seconds = 0.1  # before the first retry of a transient error; doubles, with jitter
    retry_delay_max_s: Seconds = 30.0
    call_timeout_s: Seconds = 10.0


class TimerSettings(Section):
    """How rows whose due time has passed are found and fired."""

    interval_s: Seconds = 1.0
    limit: Count = 1000  # rows of one kind of one shard at a time
    max_concurrent: Count = 128  # of one kind of one shard: fills transactions, and others wait for two at most


class ServiceSettings(Section):
    """What every service has. A service adds its own in ``<service>/settings.py``."""

    listen: Address
    metrics_listen: Address | None = None
    epoch: Annotated[int, Field(ge=1)] = 1  # of the shard map
    shards: Annotated[dict[str, ShardSettings], Field(min_length=1, max_length=1024)]
    executor: ExecutorSettings = ExecutorSettings()
    relay: RelaySettings = RelaySettings()
    timers: TimerSettings = TimerSettings()
    drain_grace_s: Seconds = 15.0  # calls in flight are given this long when the process stops


class CommonSettings(Section):
    """What all services share. ``addresses`` maps a service's name to the host:port others call it by."""

    environment: Literal["development", "production"] = "development"
    bus: BusSettings = BusSettings()
    tls: TlsSettings | None = None
    addresses: dict[str, Address] = {}
    log_level: Literal["debug", "info", "warning", "error"] = "info"


ModelT = TypeVar("ModelT", bound=BaseModel)


def load(model: type[ModelT], path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> ModelT:
    """Reads ``path`` (TOML), applies ``PAYMESH_A__B=value`` from ``environ`` over ``a.b``, and checks the whole.

    A value for a table or a list is JSON. ``environ`` is ``os.environ`` where left out. ConfigurationError names the
    file or the variable, and the key by its dotted path.
    """
    data = _read(path)
    sources: dict[tuple[str, ...], str] = {}
    for name, value in sorted((os.environ if environ is None else environ).items()):
        if name.startswith(PREFIX):
            keys = tuple(name.removeprefix(PREFIX).lower().split(DELIMITER))
            _override(data, keys, _parse(model, keys, value, name), name)
            sources[keys] = name
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigurationError("; ".join(_explain(item, sources, path, data) for item in error.errors())) from None


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"configuration file {os.fspath(path)}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"configuration file {os.fspath(path)} is not TOML: {error}") from None


def _parse(model: type[BaseModel], keys: tuple[str, ...], value: str, name: str) -> Any:
    """The value as the field at ``keys`` wants it: JSON for tables and lists, else text, which pydantic converts."""
    hint = _hint_at(model, keys)
    if not _is_container(hint):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ConfigurationError(f"{name}: {'.'.join(keys)} takes a JSON table or list") from None


def _hint_at(hint: Any, keys: tuple[str, ...]) -> Any:
    """The type of what stands at ``keys`` under ``hint``; Any where the model knows no such key.

    Of several kinds of table the first that knows the key says it: what they share means the same in all.
    """
    hint = _bare(hint)
    if not keys:
        return hint
    if _is_union(hint):
        found = (_hint_at(alternative, keys) for alternative in typing.get_args(hint))
        return next((known for known in found if known is not Any), Any)
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        field = hint.model_fields.get(keys[0])
        return Any if field is None else _hint_at(field.annotation, keys[1:])
    return _hint_at(typing.get_args(hint)[1], keys[1:]) if typing.get_origin(hint) is dict else Any


def _bare(hint: Any) -> Any:
    """Without Annotated and without ``| None``."""
    if typing.get_origin(hint) is Annotated:
        return _bare(typing.get_args(hint)[0])
    if _is_union(hint):
        alternatives = [arg for arg in typing.get_args(hint) if arg is not types.NoneType]
        return _bare(alternatives[0]) if len(alternatives) == 1 else hint
    return hint


def _is_union(hint: Any) -> bool:
    return isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union


def _is_container(hint: Any) -> bool:
    return typing.get_origin(hint) in (dict, list, tuple, set, frozenset) or (
        isinstance(hint, type) and issubclass(hint, BaseModel)
    )


def _override(data: dict[str, Any], keys: tuple[str, ...], value: Any, name: str) -> None:
    table = data
    for depth, key in enumerate(keys[:-1], start=1):
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ConfigurationError(f"{name}: {'.'.join(keys[:depth])} is a value, not a table")
    table[keys[-1]] = value


def _explain(
    item: Any, sources: Mapping[tuple[str, ...], str], path: str | os.PathLike[str], data: dict[str, Any]
) -> str:
    location = tuple(_keys_of(item["loc"], data, is_missing=item["type"] == "missing"))
    source = next((name for keys, name in sources.items() if location[: len(keys)] == keys), None)
    # An unknown table is reported by pydantic at its top, above the variable that made it.
    if source is None and item["type"] == "extra_forbidden":
        source = next((name for keys, name in sources.items() if keys[: len(location)] == location), None)
    message = item["msg"].removeprefix("Value error, ")
    what = {"extra_forbidden": "unknown key", "missing": "missing"}.get(item["type"], message)
    return f"{source or os.fspath(path)}: {'.'.join(location)}: {what}"


def _keys_of(location: tuple[str | int, ...], data: Any, *, is_missing: bool) -> Iterator[str]:
    """The keys in a location: pydantic also puts in which kind of table it took something for."""
    for depth, part in enumerate(location, start=1):
        if isinstance(data, dict) and part in data:
            data = data[str(part)]
        elif isinstance(data, list) and isinstance(part, int):
            data = data[part]
        elif not (is_missing and depth == len(location)):
            continue
        yield str(part)
