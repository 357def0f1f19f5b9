"""A channel that is only configured, in the running service: orders, notifications and what these are answered with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from channel_gateway.tables import Notification
from paykit.ids import slot_in
from paykit.settings import ShardSettings
from tests.channel_gateway.channels.rig import Does, Inbox
from tests.channel_gateway.channels.wallet import Wallet
from tests.channel_gateway.channels.wallet_rig import WalletRig
from tests.channel_gateway.gateway import Gateway


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[tuple[Gateway, Wallet]]:
    """The gateway, whose channel is the wallet's."""
    inbox = Inbox()
    urls = {mode: f"sqlite+aiosqlite:///{tmp_path}/{mode}.db" for mode in ("live", "shadow")}
    gateway = Gateway(tmp_path, {"s0": ShardSettings(**urls)})
    inbox.url = gateway.notification_url
    rig = WalletRig(tmp_path, inbox)
    await rig.start()
    gateway.configure(**rig.table | {"base_url": rig.wallet.url, "shadow": None})
    await gateway.start()
    yield gateway, rig.wallet
    await gateway.stop()
    await rig.stop()


async def test_a_configured_channel_carries_orders_and_acknowledges_notifications_as_its_provider_wants(
    shop: tuple[Gateway, Wallet],
) -> None:
    gateway, wallet = shop
    order = await gateway.submit(gateway.request("CHARGE", str(Does.NOTIFY_TWICE)))
    event = await gateway.event(order.channel_order_id, "live.channel.order_succeeded")
    assert event.channel_order.provider_reference
    await wallet.idle()
    assert len(wallet.delivered) == 2, "each was acknowledged at its first delivery"
    table = Notification.__table__
    statement = table.select().where(table.c.channel_order_id == order.channel_order_id)
    slot = slot_in(order.channel_order_id)
    stored = await gateway.service.store.fetch(Notification, statement, slot=slot, shadow=False)
    assert [row.body for row in stored] == [wallet.delivered[0].body]


async def test_an_answer_that_is_lost_is_asked_for_and_an_order_unknown_there_stays_unknown(
    shop: tuple[Gateway, Wallet],
) -> None:
    gateway, _ = shop
    charged = await gateway.submit(gateway.request("CHARGE", str(Does.BOOK_AND_ERROR)))
    lost = await gateway.submit(gateway.request("CHARGE", str(Does.HANG)))
    await gateway.event(charged.channel_order_id, "live.channel.order_succeeded")
    await gateway.until(lost.channel_order_id, "UNKNOWN")
