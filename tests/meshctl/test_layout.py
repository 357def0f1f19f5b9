"""The settings file that a development system is given."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from meshctl.layout import CHANNELS, MODES, SHARDS, Ports, configuration, write_configuration
from meshctl.settings import SERVICES, MeshSettings, load_mesh
from paykit.errors import ConfigurationError


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "paymesh.toml"
    content = configuration(
        lambda service, shard, mode: f"sqlite+aiosqlite:///{tmp_path}/{service}_{shard}_{mode}.db",
        {"kind": "embedded", "path": str(tmp_path / "bus")},
        Ports.choose(preferred=False),
        tmp_path / "book.sqlite",
    )
    write_configuration(path, content)
    return path


def _listeners(settings: MeshSettings) -> list[str]:
    assert settings.channel_gateway is not None
    assert settings.sandbox is not None
    services = settings.services().values()
    return [
        *(service.listen for service in services),
        *(service.metrics_listen or "" for service in services),
        settings.channel_gateway.notification_listen,
        f"{settings.sandbox.host}:{settings.sandbox.port}",
    ]


def test_it_holds_all_services_each_with_its_own_databases_and_addresses(config: Path) -> None:
    settings = load_mesh(config)
    assert set(settings.services()) == set(SERVICES)
    databases = [
        url
        for service in settings.services().values()
        for shard in service.shards.values()
        for url in (shard.live, shard.shadow)
    ]
    assert len(set(databases)) == len(SERVICES) * len(SHARDS) * len(MODES)
    assert len(set(_listeners(settings))) == 2 * len(SERVICES) + 2
    assert settings.addresses == {name: service.listen for name, service in settings.services().items()}


def test_the_gateway_and_the_provider_agree_on_every_account(config: Path) -> None:
    settings = load_mesh(config)
    assert settings.channel_gateway is not None
    assert settings.sandbox is not None
    assert set(settings.channel_gateway.channels) == set(CHANNELS)
    for name, channel in settings.channel_gateway.channels.items():
        assert channel.shadow is not None
        for mode, account in (("live", channel), ("shadow", channel.shadow)):
            theirs = settings.sandbox.accounts[f"{name}_{mode}"]
            assert account.api_key.read() == theirs.api_key.get_secret_value()
            assert account.notification_keys[theirs.notification_key_id].read() == (
                theirs.notification_key.get_secret_value()
            )
            assert theirs.livemode is (mode == "live")


def test_only_the_wallet_waits_for_its_customers_who_may_pay_another_amount(config: Path) -> None:
    settings = load_mesh(config)
    assert settings.channel_gateway is not None
    assert settings.sandbox is not None
    differing = {name for name, channel in settings.channel_gateway.channels.items() if channel.amount_may_differ}
    waiting = {name for name, account in settings.sandbox.accounts.items() if account.customer_confirms}
    assert differing == {"sandbox_wallet"}
    assert waiting == {"sandbox_wallet_live", "sandbox_wallet_shadow"}


def test_no_two_accounts_share_a_secret(config: Path) -> None:
    sandbox = load_mesh(config).sandbox
    assert sandbox is not None
    keys = [sandbox.admin_key.get_secret_value()]
    for account in sandbox.accounts.values():
        keys += [account.api_key.get_secret_value(), account.notification_key.get_secret_value()]
    assert len(set(keys)) == 1 + 2 * len(CHANNELS) * len(MODES)


def test_only_its_owner_can_read_it(config: Path) -> None:
    assert stat.S_IMODE(config.stat().st_mode) == 0o600


def test_a_section_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "paymesh.toml"
    path.write_text('log_level = "info"\n')
    settings = load_mesh(path)
    assert settings.services() == {}
    with pytest.raises(ConfigurationError, match=r"no section \[recon\]"):
        settings.service("recon")
    with pytest.raises(ConfigurationError, match="unknown service ledger"):
        settings.service("ledger")
