"""Log lines carry the business context by themselves, and no secret."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from paykit import logging as mesh_logging
from paykit.context import mint, use

VISA, AMEX = "4111111111111111", "378282246310005"


class Lines(io.StringIO):
    def read_all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """Configured as in production, into memory; what was configured before comes back."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(mesh_logging, "_is_configured", False)
    stream = Lines()
    mesh_logging.configure(is_production=True, level="info", stream=stream)
    # Loggers made elsewhere keep what they cached; in this test each is new.
    structlog.configure(cache_logger_on_first_use=False)
    yield stream
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_is_json_with_its_event_level_and_time(lines: Lines) -> None:
    structlog.get_logger().info("trade_paid", trade_id="trd_1")
    (line,) = lines.read_all()
    assert (line["event"], line["level"], line["trade_id"]) == ("trade_paid", "info", "trd_1")
    assert line["timestamp"].endswith("Z")


def test_the_business_context_stands_in_every_line_served_under_it(lines: Lines) -> None:
    context = mint(1, 1_700_000_000_000, caller="trade_core", request_id="r-1", shadow=True)
    log = structlog.get_logger()
    with use(context):
        log.info("inside")
    log.info("outside")
    inside, outside = lines.read_all()
    assert (inside["biz_id"], inside["request_id"], inside["caller"]) == (context.biz_id, "r-1", "trade_core")
    assert inside["shadow"] is True
    assert "biz_id" not in outside


def test_a_level_below_the_one_configured_is_left_out(lines: Lines) -> None:
    structlog.get_logger().debug("unheard")
    assert lines.read_all() == []


def test_configuring_again_changes_nothing(lines: Lines) -> None:
    other = io.StringIO()
    mesh_logging.configure(is_production=False, level="debug", stream=other)
    structlog.get_logger().info("here")
    assert [line["event"] for line in lines.read_all()] == ["here"]
    assert other.getvalue() == ""


@pytest.mark.parametrize(
    "key",
    [
        *("token", "api_token", "client_secret", "password", "Authorization", "X-Signature", "credentials"),
        *("card_number", "cardNumber", "card", "cvv", "pan", "private_key", "api_key"),
    ],
)
def test_the_value_of_a_key_that_names_a_secret_is_redacted_at_any_depth(lines: Lines, key: str) -> None:
    structlog.get_logger().info("event", **{key: "s3cret"}, nested={"list": [{key: "s3cret"}]})
    assert "s3cret" not in lines.getvalue()
    (line,) = lines.read_all()
    assert line[key] == "[redacted]"


@pytest.mark.parametrize("number", [VISA, AMEX, "4111 1111 1111 1111", "4111-1111-1111-1111"])
def test_a_card_number_is_redacted_wherever_it_stands(lines: Lines, number: str) -> None:
    log = structlog.get_logger()
    log.info(f"paid with {number}", note=f"card {number}.", nested=[{"x": number}], raw=number.encode())
    log.info("number", value=int("".join(filter(str.isdigit, number))))
    assert number not in lines.getvalue()
    assert VISA not in lines.getvalue()
    assert AMEX not in lines.getvalue()
    assert "[redacted]" in lines.read_all()[0]["note"]


def test_ids_times_amounts_and_numbers_that_are_no_cards_stay(lines: Lines) -> None:
    kept = {
        "trade_id": "trd_01234567890123456789012345",
        "channel": "sandbox_card",
        "at_ms": 1_700_000_000_000,
        "amount_minor": 9_223_372_036_854_775_807,
        "reference": "4111111111111112",
        "is_paid": True,
        "ratio": 0.5,
        "nothing": None,
    }
    structlog.get_logger().info("event", **kept)
    (line,) = lines.read_all()
    assert {key: line[key] for key in kept} == kept


def test_a_traceback_is_logged_and_redacted(lines: Lines) -> None:
    try:
        raise ValueError(f"declined {VISA}")
    except ValueError:
        structlog.get_logger().exception("failed")
    (line,) = lines.read_all()
    assert "ValueError: declined [redacted]" in line["exception"]


def test_what_libraries_log_goes_the_same_way(lines: Lines) -> None:
    logging.getLogger("some.library").warning("lost %s", VISA)
    logging.getLogger("some.library").info("chatter")
    assert [(line["event"], line["level"]) for line in lines.read_all()] == [("lost [redacted]", "warning")]


def test_development_lines_are_for_people() -> None:
    logger = structlog.wrap_logger(
        structlog.PrintLogger(stream := io.StringIO()), processors=mesh_logging.processors(is_production=False)
    )
    try:
        raise ValueError("why")
    except ValueError:
        logger.error("failed", exc_info=True, trade_id="trd_1")
    assert "trade_id=trd_1" in stream.getvalue()
    assert "ValueError: why" in stream.getvalue()
