"""The settings file of a development system on one machine: four services and the sandbox provider."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from meshctl.processes import free_ports
from meshctl.settings import SERVICES

# What each channel is told to do, and what the provider's account for it does.
CHANNELS: dict[str, dict[str, Any]] = {
    "sandbox_card": {"operations": ["CHARGE", "REFUND", "AUTHORIZE", "CAPTURE", "VOID"]},
    "sandbox_card_b": {"operations": ["CHARGE", "REFUND", "AUTHORIZE", "CAPTURE", "VOID"]},
    "sandbox_bank": {"operations": ["PAYOUT"]},
    "sandbox_wallet": {"operations": ["CHARGE", "REFUND"], "amount_may_differ": True},
}
ACCOUNTS: dict[str, dict[str, Any]] = {"sandbox_wallet": {"customer_confirms": True}}
# On a developer's machine nobody waits 15 seconds for the first question.
LADDER_S = [2.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0]
# The first card channel's provider is in maintenance for these tokens: what another channel is for.
RULES = [{"behaviour": "maintenance", "account": "sandbox_card_live", "token_prefix": "tok_ok_elsewhere"}]
SHARDS = ("s0", "s1")
MODES = ("live", "shadow")
HOST = "127.0.0.1"

# Tried first, so that an address in a terminal's history goes on working.
_PREFERRED_PORTS = {
    "trade_core": 7101,
    "pay_core": 7102,
    "channel_gateway": 7103,
    "recon": 7104,
    "sandbox": 7110,
    "notifications": 7113,
    "trade_core_metrics": 7201,
    "pay_core_metrics": 7202,
    "channel_gateway_metrics": 7203,
    "recon_metrics": 7204,
}

# (service, shard, mode) -> the SQLAlchemy async URL of the database
DatabaseUrl = Callable[[str, str, str], str]


class Ports(msgspec.Struct, frozen=True):
    """Who listens where on 127.0.0.1."""

    by_name: dict[str, int]

    @classmethod
    def choose(cls, *, preferred: bool) -> Ports:
        """Free ones; the usual ones where ``preferred`` and free."""
        wishes = [port if preferred else 0 for port in _PREFERRED_PORTS.values()]
        return cls(dict(zip(_PREFERRED_PORTS, free_ports(wishes), strict=True)))

    def address(self, name: str) -> str:
        """host:port."""
        return f"{HOST}:{self.by_name[name]}"


def configuration(database_url: DatabaseUrl, bus: dict[str, Any], ports: Ports, book: Path) -> dict[str, Any]:
    """The settings as TOML has them, with fresh secrets. ``bus`` is the table [bus]; ``book`` the provider's file."""
    config: dict[str, Any] = {
        "environment": "development",
        "log_level": "info",
        "bus": bus,
        "addresses": {service: ports.address(service) for service in SERVICES},
    }
    for service in SERVICES:
        config[service] = {
            "listen": ports.address(service),
            "metrics_listen": ports.address(f"{service}_metrics"),
            # Two shards give it two transactions at once already; more lanes would only make the batches smaller.
            "executor": {"lanes": 1},
            "shards": {shard: {mode: database_url(service, shard, mode) for mode in MODES} for shard in SHARDS},
        }
    accounts = {(channel, mode): _account(channel, mode, ports) for channel in CHANNELS for mode in MODES}
    config["channel_gateway"] |= {
        "notification_listen": ports.address("notifications"),
        "channels": {
            channel: _provider_account(accounts[channel, "live"], ports)
            | {"statement_format": "csv", "query_ladder_s": LADDER_S}
            | declared
            | {"shadow": _provider_account(accounts[channel, "shadow"], ports)}
            for channel, declared in CHANNELS.items()
        },
    }
    config["recon"]["statements"] = {"channels": {channel: _statements() for channel in CHANNELS}}
    config["sandbox"] = {
        "host": HOST,
        "port": ports.by_name["sandbox"],
        "book_path": str(book),
        "admin_key": secrets.token_urlsafe(24),
        "fault_rules": RULES,
        "accounts": {f"{channel}_{mode}": account for (channel, mode), account in accounts.items()},
    }
    return config


def write_configuration(path: Path, config: dict[str, Any]) -> None:
    """Writes the file, readable by its owner only: it holds secrets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(tomli_w.dumps(config))


def _account(channel: str, mode: str, ports: Ports) -> dict[str, Any]:
    return {
        "livemode": mode == "live",
        "merchant": f"{channel}_{mode}",
        "api_key": secrets.token_urlsafe(24),
        "notification_url": f"http://{ports.address('notifications')}/notifications/{channel}",
        "notification_key_id": "k1",
        "notification_key": secrets.token_urlsafe(24),
    } | ACCOUNTS.get(channel, {})


def _statements() -> dict[str, Any]:
    """What the provider's statements look like, in any of its formats (see channel_gateway/sandbox)."""
    columns = ("line_id", "date", "amount", "currency", "reference", "provider_reference")
    movements = ("CHARGE", "CAPTURE", "REFUND", "PAYOUT")
    return {
        "format": "CSV",
        "references": "ANSWERS",
        "csv": {
            "columns": {"kind": "type"} | {column: column for column in columns},
            "kinds": dict.fromkeys(movements, "MOVEMENT") | {"FEE": "FEE", "OPENING": "OPENING", "CLOSING": "CLOSING"},
        },
        "mt940": {"details": "SLASH", "provider_reference_parts": ["PREF"], "bank_reference": "LINE"},
    }


def _provider_account(account: dict[str, Any], ports: Ports) -> dict[str, Any]:
    """The same account, as the gateway is told of it."""
    return {
        "base_url": f"http://{ports.address('sandbox')}",
        "merchant_id": account["merchant"],
        "api_key": {"value": account["api_key"]},
        "notification_keys": {account["notification_key_id"]: {"value": account["notification_key"]}},
    }
