"""Settings that are understood are taken; anything else is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from paykit.errors import ConfigurationError
from paykit.settings import BusSettings, CommonSettings, Section, ServiceSettings, ShardSettings, load


class Whole(Section):
    pay: ServiceSettings
    common: CommonSettings = CommonSettings()


class Circle(Section):
    kind: Literal["circle"]
    tags: tuple[str, ...] = ()


class Square(Section):
    kind: Literal["square"]
    tags: tuple[str, ...] = ()
    side: int
    corners: dict[str, int] = Field(default_factory=dict)


class Shapes(Section):
    shapes: dict[str, Annotated[Circle | Square, Field(discriminator="kind")]]


FILE = """
[pay]
listen = "127.0.0.1:7001"
epoch = 3
[pay.shards.a]
live = "sqlite+aiosqlite:////data/a.db"
shadow = "sqlite+aiosqlite:////data/a-shadow.db"
[pay.executor]
max_batch = 64
[common.addresses]
recon = "recon:7004"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "paymesh.toml"
    path.write_text(FILE)
    return path


def test_the_file_is_read_and_what_it_leaves_out_has_its_default(file: Path) -> None:
    settings = load(Whole, file, {})
    assert settings.pay.listen == "127.0.0.1:7001"
    assert settings.pay.epoch == 3
    assert settings.pay.shards["a"].shadow == "sqlite+aiosqlite:////data/a-shadow.db"
    assert (settings.pay.executor.max_batch, settings.pay.executor.max_queue) == (64, 4096)
    assert settings.common.bus.kind == "embedded"


def test_a_variable_overrides_the_file_at_any_depth(file: Path) -> None:
    environ = {
        "PAYMESH_PAY__LISTEN": "[::1]:9000",
        "PAYMESH_PAY__EXECUTOR__LANES": "4",
        "PAYMESH_PAY__EXECUTOR__MAX_WAIT_S": "0.25",
        "PAYMESH_PAY__SHARDS__A__LIVE": "mysql+aiomysql://db/a",
        "PAYMESH_PAY__SHARDS__B__LIVE": "mysql+aiomysql://db/b",
        "PAYMESH_COMMON__ADDRESSES": '{"pay_core": "pay:7001"}',
        "PAYMESH_COMMON__TLS__CERT_FILE": "/c.pem",
        "PAYMESH_COMMON__TLS__KEY_FILE": "/k.pem",
        "PAYMESH_COMMON__TLS__CA_FILE": "/ca.pem",
        "HOME": "/root",
        "PAYMESHX": "another program's",
    }
    settings = load(Whole, file, environ)
    assert settings.pay.listen == "[::1]:9000"
    assert (settings.pay.executor.lanes, settings.pay.executor.max_wait_s) == (4, 0.25)
    assert settings.pay.executor.max_batch == 64
    assert settings.pay.shards == {
        "a": ShardSettings(live="mysql+aiomysql://db/a", shadow="sqlite+aiosqlite:////data/a-shadow.db"),
        "b": ShardSettings(live="mysql+aiomysql://db/b"),
    }
    assert settings.common.addresses == {"pay_core": "pay:7001"}
    assert settings.common.tls is not None
    assert settings.common.tls.ca_file == Path("/ca.pem")


def test_the_process_environment_is_read_where_none_is_given(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYMESH_COMMON__LOG_LEVEL", "debug")
    assert load(Whole, file).common.log_level == "debug"


@pytest.mark.parametrize(
    ("line", "key", "what"),
    [
        ('[pay.executer]\nlanes = 2\n[common]\nlog_level = "info"', "pay.executer", "unknown key"),
        ("[recon]\nx = 1", "recon", "unknown key"),
        ("[pay.executor]\nlanes = 0", "pay.executor.lanes", "greater than or equal to 1"),
        ('[pay.executor]\nmax_wait_s = "soon"', "pay.executor.max_wait_s", "valid number"),
        ('[common.bus]\nkind = "kafka"', "common.bus.kind", "'embedded' or 'nats'"),
        ('[common.bus]\nkind = "nats"', "common.bus", "kind nats needs url"),
        ('[common.addresses]\nrecon = "nowhere"', "common.addresses.recon", "match"),
    ],
)
def test_a_wrong_key_or_value_is_refused_with_the_file_and_its_path(
    tmp_path: Path, line: str, key: str, what: str
) -> None:
    path = tmp_path / "paymesh.toml"
    head = '[pay]\nlisten = "127.0.0.1:0"\n[pay.shards.a]\nlive = "sqlite+aiosqlite:///a"\n'
    path.write_text(head + line)
    with pytest.raises(ConfigurationError) as caught:
        load(Whole, path, {})
    assert f"{path}: {key}: " in str(caught.value)
    assert what in str(caught.value)


def test_a_key_left_out_is_refused_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "paymesh.toml"
    path.write_text('[pay]\nlisten = "127.0.0.1:0"\n')
    with pytest.raises(ConfigurationError, match=r"pay\.shards: missing"):
        load(Whole, path, {})


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("PAYMESH_PAY__LISTN", "127.0.0.1:1", "pay.listn: unknown key"),
        ("PAYMESH_NOTHING", "1", "nothing: unknown key"),
        ("PAYMESH_NOTHING__AT__ALL", "1", "nothing: unknown key"),
        ("PAYMESH_PAY__EPOCH", "three", "pay.epoch: "),
        ("PAYMESH_PAY__LISTEN__PORT", "1", "pay.listen is a value, not a table"),
        ("PAYMESH_COMMON__ADDRESSES", "recon:1", "common.addresses takes a JSON table or list"),
        ("PAYMESH_COMMON__BUS", "[]", "common.bus: "),
    ],
)
def test_a_wrong_variable_is_refused_by_its_name_and_path(file: Path, name: str, value: str, key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(Whole, file, {name: value})
    assert f"{name}: {key}" in str(caught.value)


def test_tables_of_several_kinds_are_overridden_and_explained_by_their_keys_alone(tmp_path: Path) -> None:
    path = tmp_path / "shapes.toml"
    path.write_text('[shapes.a]\nkind = "square"\nside = 2\n')
    environ = {"PAYMESH_SHAPES__A__TAGS": '["x"]', "PAYMESH_SHAPES__A__CORNERS": '{"b": 1}'}
    square = Square(kind="square", tags=("x",), side=2, corners={"b": 1})
    assert load(Shapes, path, environ).shapes == {"a": square}
    for name, value, message in (
        ("SIDE", "long", "PAYMESH_SHAPES__A__SIDE: shapes.a.side: "),
        ("COLOUR", "red", "PAYMESH_SHAPES__A__COLOUR: shapes.a.colour: unknown key"),
        ("CORNERS", "1, 2", "PAYMESH_SHAPES__A__CORNERS: shapes.a.corners takes a JSON table or list"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            load(Shapes, path, {f"PAYMESH_SHAPES__A__{name}": value})
    path.write_text('[shapes.a]\nkind = "square"\n')
    with pytest.raises(ConfigurationError, match=r"shapes\.a\.side: missing"):
        load(Shapes, path, {})


def test_a_refusal_does_not_repeat_the_value(file: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(Whole, file, {"PAYMESH_PAY__SHARDS__A__LIVE": "root:hunter2@db"})
    assert "hunter2" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml: No such file"):
        load(Whole, tmp_path / "none.toml", {})


def test_a_file_that_is_not_toml_is_named_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[pay\n")
    with pytest.raises(ConfigurationError, match=r"bad\.toml is not TOML: .*line 1"):
        load(Whole, path, {})


def test_settings_do_not_change_once_loaded(file: Path) -> None:
    settings = load(Whole, file, {})
    with pytest.raises(ValidationError):
        settings.pay.listen = "0.0.0.0:1"


def test_an_embedded_bus_needs_nothing() -> None:
    assert BusSettings().url is None
