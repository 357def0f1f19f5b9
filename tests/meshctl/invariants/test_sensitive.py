"""Card numbers are told from the other numbers that rows are full of; secrets are found by their bytes."""

from __future__ import annotations

import msgspec
import pytest

from meshctl.invariants.sensitive import holds_card_number, holds_secret, secrets_of, text_of
from paykit.context import mint, pack
from paykit.ids import new_id
from paymesh.common.v1.context_pb2 import BusinessContext
from tests.meshctl.invariants.small_world import settings_in

CARDS = (
    "4111111111111111",
    "5555555555554444",
    "378282246310005",
    "6011111111111117",
    "30569309025904",
    "4222222222222",
)


@pytest.mark.parametrize("number", CARDS)
def test_a_card_number_is_found_alone_in_json_and_in_messages(number: str) -> None:
    assert holds_card_number(number.encode())
    assert holds_card_number(f'{{"card":"{number}"}}'.encode())
    assert holds_card_number(f"tok_{number}".encode())
    assert holds_card_number(msgspec.msgpack.encode({"n": number, "m": 5}))
    # What follows a string in a protobuf message may look like a part of it.
    assert holds_card_number(
        BusinessContext(request_id=number, criticality=BusinessContext().criticality).SerializeToString()
    )
    assert holds_card_number(BusinessContext(biz_id=number, traceparent="1" * 50).SerializeToString())


@pytest.mark.parametrize("text", ["4111 1111 1111 1111", "4111-1111-1111-1111", "3782 822463 10005"])
def test_a_card_number_is_found_as_cards_show_it(text: str) -> None:
    assert holds_card_number(f"pay with {text}, please".encode())


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111112",  # wrong check digit
        "1760000000000",  # milliseconds
        "9223372036854775807",  # the largest amount
        "41111111111111111111111",  # longer than any card
        "00-0af7651916cd43dd8448eb211c80319c-4111111111111111-01",  # hexadecimal by chance all of digits
        "sbx_charge_4111111111111111aaaaaaaa",
    ],
)
def test_other_numbers_are_no_cards(text: str) -> None:
    assert not holds_card_number(text.encode())


def test_ids_and_contexts_are_no_cards() -> None:
    for number in range(20_000):
        slot, now_ms = number % 1024, 1_760_000_000_000 + number
        row = (new_id("chn", slot, now_ms), now_ms, pack(mint(slot, now_ms)), None)
        assert not holds_card_number(text_of(row))


def test_every_secret_of_the_settings_is_looked_for(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("settings")
    url = "mysql+aiomysql://paymesh:a%2Fpassword@127.0.0.1:3306/x"
    settings = settings_in(folder, lambda service, shard, mode: url)
    assert settings.sandbox is not None
    secrets = secrets_of(settings)
    accounts = settings.sandbox.accounts.values()
    wanted = {b"a/password", settings.sandbox.admin_key.get_secret_value().encode()}
    wanted |= {account.api_key.get_secret_value().encode() for account in accounts}
    wanted |= {account.notification_key.get_secret_value().encode() for account in accounts}
    assert set(secrets) == wanted
    assert holds_secret(b"\x00" + secrets[0] + b"\x01", secrets)
    assert not holds_secret(b"nothing of the kind", secrets)
