"""A rules file is valid as a whole or refused with every problem at its line and column."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pay_core.rules import RulesInvalid, load
from paykit.errors import ConfigurationError
from tests.pay_core.rules.support import HEAD, rules

LINES = HEAD.count("\n")


def problems_of(text: str, **options: frozenset[str]) -> list[str]:
    with pytest.raises(RulesInvalid) as raised:
        load(text, "rules.yaml", **options)
    return str(raised.value).splitlines()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("surprise: 1", "1:1 : unknown key 'surprise': known are version, points, tools"),
        ("routes: 5", "1:9 routes: must be a list"),
        ("routes: [x]", "1:10 routes[0]: must be a mapping with the keys name, when, channels"),
        ("routes: [{when: true, channels: [a]}]", "1:10 routes[0]: name is missing"),
        ("routes: [{name: A, when: true, channels: [a]}]", "1:17 routes[0].name: must be a name of lower-case letters"),
        ("routes: [{name: a, channels: [a]}]", "1:10 routes[0]: when is missing"),
        ("routes: [{name: a, when: 1, channels: [a]}]", "1:26 routes[0].when: must be an expression, as a text"),
        ("routes: [{name: a, when: true, channels: []}]", "1:42 routes[0].channels: must not be empty"),
        ("routes: [{name: a, when: true, channels: [b, b]}]", "1:46 routes[0].channels[1]: b is named twice"),
        ("routes: [{name: a, when: true, channels: [no]}]", "1:43 routes[0].channels[0]: must be a text: put 'no' in"),
        ("routes: [{name: a, when: true, channels: ['B']}]", "1:43 routes[0].channels[0]: B is no name of a channel"),
        (
            "routes: [{name: a, when: true, channels: [{weight: 1}]}]",
            "1:43 routes[0].channels[0]: channel is missing",
        ),
        (
            "routes: [{name: a, when: true, channels: [b, {channel: b}]}]",
            "1:56 routes[0].channels[1].channel: b is named twice",
        ),
        (
            "routes: [{name: a, when: true, channels: [{channel: b, price: 1}]}]",
            "1:56 routes[0].channels[0]: unknown key 'price': known are channel, weight",
        ),
        (
            "routes: [{name: a, when: true, channels: [{channel: b, weight: 2}]}]",
            "1:64 routes[0].channels[0].weight: weighs nothing: the strategy is not WEIGHTED",
        ),
        (
            "routes: [{name: a, when: true, channels: [{channel: b, rate_ppm: -1}]}]",
            "1:66 routes[0].channels[0].rate_ppm: must be 0 to 1,000,000",
        ),
        (
            "routes: [{name: a, when: true, channels: [b], strategy: BEST}]",
            "1:57 routes[0].strategy: must be one of FIRST, LOWEST_COST, BEST_SUCCESS, WEIGHTED",
        ),
        (
            "routes: [{name: a, when: true, channels: [{channel: b, weight: 0}], strategy: WEIGHTED}]",
            "1:42 routes[0].channels: have no weight together",
        ),
        (
            "routes: [{name: a, when: true, channels: [b, c], channels_max: 3}]",
            "1:64 routes[0].channels_max: there are only 2",
        ),
        (
            "routes: [{name: a, when: true, channels: [b, c], channels_max: 2}]",
            "1:64 routes[0].channels_max: no reason would ever lead to another channel",
        ),
        (
            "routes: [{name: a, when: true, channels: [b, c], switch_on: [X]}]",
            "1:61 routes[0].switch_on: no other channel is ever tried: channels_max is 1",
        ),
        (
            "routes: [{name: a, when: true, channels: [b, c], channels_max: 2, switch_on: [x]}]",
            "1:79 routes[0].switch_on[0]: x is no reason",
        ),
        ("limits: [{name: a, when: true, per: day}]", "1:10 limits[0]: limits nothing"),
        ("limits: [{name: a, when: true, per: year, max_count: 1}]", "1:37 limits[0].per: must be one of payment, day"),
        ("limits: [{name: a, when: true, per: payment, max_count: 1}]", "1:57 limits[0].max_count: one payment is"),
        ("limits: [{name: a, when: true, per: day, max_count: 1.5}]", "1:53 limits[0].max_count: must be a whole"),
        ("limits: [{name: a, when: true, per: day, max_count: 010}]", "1:53 limits[0].max_count: must be a whole"),
        ("limits: [{name: a, when: true, per: day, max_count: 1:30}]", "1:53 limits[0].max_count: must be a whole"),
        ("limits: [{name: a, when: true, per: day, max_count: '1'}]", "1:53 limits[0].max_count: must be a whole"),
        ("limits: [{name: a, when: true, per: day, max_count: -1}]", "1:53 limits[0].max_count: must be 0 to"),
        ("fees: [{name: a, when: true, borne_by: PAYER}]", "1:8 fees[0]: costs nothing"),
        (
            "fees: [{name: a, when: true, borne_by: ME, rate_ppm: 1}]",
            "1:40 fees[0].borne_by: must be one of PAYER, PAYEE",
        ),
        (
            "fees: [{name: a, when: true, borne_by: PAYER, rate_ppm: 1000001}]",
            "1:57 fees[0].rate_ppm: must be 0 to 1,000,000",
        ),
        (
            "fees: [{name: a, when: true, borne_by: PAYER, rate_ppm: 1, min_minor: 2, max_minor: 1}]",
            "1:71 fees[0].min_minor: is more than max_minor, 1",
        ),
        (
            "fees: [{name: a, when: true, borne_by: PAYER, rate_ppm: 1, tier_mode: WHOLE}]",
            "1:71 fees[0].tier_mode: there are no tiers",
        ),
        (
            "fees: [{name: a, when: true, borne_by: PAYER, tiers: [{rate_ppm: 1}]}]",
            "1:8 fees[0]: tier_mode is missing: one of WHOLE, MARGINAL",
        ),
        (
            "fees: [{name: a, when: true, borne_by: PAYER, tier_mode: WHOLE, rate_ppm: 1, tiers: [{rate_ppm: 1}]}]",
            "1:85 fees[0].tiers: stand beside rate_ppm or fixed_minor",
        ),
        (
            "fees: [{name: a, when: true, borne_by: PAYER, tier_mode: WHOLE, tiers: [{up_to_minor: 9, rate_ppm: 1}]}]",
            "1:72 fees[0].tiers: the last tier must be open",
        ),
        (
            "fees: [{name: a, when: true, borne_by: PAYER, tier_mode: WHOLE, tiers: [{rate_ppm: 1}, {rate_ppm: 2}]}]",
            "1:73 fees[0].tiers[0]: up_to_minor is missing: only the last tier is open",
        ),
        (
            "fees:\n- name: a\n  when: true\n  borne_by: PAYER\n  tier_mode: WHOLE\n  tiers:\n"
            "  - {up_to_minor: 9, rate_ppm: 1}\n  - {up_to_minor: 9, rate_ppm: 1}\n  - {rate_ppm: 1}",
            "8:19 fees[0].tiers[1].up_to_minor: must be more than the tier's before, 9",
        ),
        ("splits: [{name: a, when: true, shares: []}]", "1:10 splits[0]: shares is missing: name one at least"),
        ("reversals: {first_pause_s: 9, max_pause_s: 8}", "1:28 reversals.first_pause_s: is more than max_pause_s, 8"),
        ("reversals: {fallback: NONE}", "1:23 reversals.fallback: must be one of CASE, BALANCE"),
        ("refunds: {fallback: [{when: true, to: CASE}]}", "1:39 refunds.fallback[0].to: must be one of BALANCE, NONE"),
    ],
)
def test_what_is_wrong_is_named_at_its_place(text: str, expected: str) -> None:
    (problem,) = problems_of(HEAD + text)
    line, rest = expected.split(":", 1)
    assert problem.startswith(f"rules.yaml:{LINES + int(line)}:{rest.replace(' :', ':')}")


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ("{owner_id: a, account_kind: MERCHANT, rate_ppm: 600000}, {owner_id: b, account_kind: USER, rate_ppm: 400001}",
         "shares: add up to 1,000,001 parts per million: more than there is"),
        ("{owner_id: a, account_kind: MERCHANT, rate_ppm: 1000000}, {owner_id: b, account_kind: USER, fixed_minor: 1}",
         "shares: leave nothing for a fixed share"),
        ("{owner_id: a, account_kind: MERCHANT, fixed_minor: 1000000000000000}, {owner_id: b, account_kind: USER, "
         "fixed_minor: 1}", "shares: add up to 1,000,000,000,000,001: more than any payment has"),
        ("{owner_id: a, account_kind: MERCHANT, rate_ppm: 1}, {owner_id: a, account_kind: MERCHANT, rate_ppm: 2}",
         "shares: names an account twice"),
        ("{owner_id: a, account_kind: MERCHANT}", "shares[0]: needs one of rate_ppm and fixed_minor"),
        ("{owner_id: a, account_kind: MERCHANT, rate_ppm: 1, fixed_minor: 1}", "shares[0]: needs one of rate_ppm and"),
        ("{owner_id: internal.5, account_kind: MERCHANT, rate_ppm: 1}", "shares[0].owner_id: is the platform itself"),
        ("{owner_id: a, account_kind: CLEARING, rate_ppm: 1}", "shares[0].account_kind: must be one of USER, MERCHANT"),
    ],
)  # fmt: skip
def test_shares_that_nobody_could_be_paid_are_refused(shares: str, message: str) -> None:
    (problem,) = problems_of(f"{HEAD}splits:\n  - {{name: s, when: 'true', shares: [{shares}]}}")
    assert f" splits[0].{message}" in problem


def test_every_problem_is_told_at_once_and_in_the_order_of_the_file() -> None:
    text = """\
version: 0
fees:
  - {name: a, when: "currency =", borne_by: PAYER, rate_ppm: 1}
  - {name: a, when: "true", borne_by: PAYER, rate_ppm: -1}
tools: [{name: a, when: "true", allow: [gold]}]
"""
    found = problems_of(text)
    assert [line.split(": ", 1)[0] for line in found] == [
        "rules.yaml:1:10 version",
        "rules.yaml:3:21 fees[0].when",
        "rules.yaml:4:12 fees[1].name",
        "rules.yaml:4:56 fees[1].rate_ppm",
        "rules.yaml:5:41 tools[0].allow[0]",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1: is empty"),
        ("[1]", "1:1: must be a mapping with the keys version"),
        ("version: 1\nversion: 2\ntools: []", "2:1 version: stands here twice"),
        ("version: &a 1\ntools: *a", "1:10: anchors and aliases are not allowed"),
        ("version: !!int 1\ntools: []", "1:10: tags are not allowed"),
        ("version: 1\n---\nversion: 2", "2:1: is no valid YAML: but found another document"),
        ("version: [1", "1:12: is no valid YAML"),
        ("version: 1\ntools: [\x00]", "2:9: has the character U+0000"),
        ("version: 1\ntools: " + "[" * 20 + "]" * 20, "2:19: is deeper than 12 levels"),
        ("version: 1\ntools: [" + "1," * 30_000 + "1]", "2:"),
        ("# " + "x" * 300_000, "1:1: is longer than 262,144 characters"),
        ("version: 1", "1:1: tools is missing"),
        ("tools: []", "1:1: version is missing"),
        ("version: 1\n? [a]\n: 1\ntools: []", "2:3: unknown key that is no text"),
    ],
)
def test_what_is_no_such_document_is_refused_with_its_place(text: str, expected: str) -> None:
    assert problems_of(text)[0].startswith(f"rules.yaml:{expected}")


def test_a_channel_nobody_has_is_refused_where_the_channels_are_known() -> None:
    text = HEAD + "routes: [{name: a, when: true, channels: [sandbox_card, other]}]"
    (problem,) = problems_of(text, known_channels=frozenset({"sandbox_card"}))
    assert "routes[0].channels[1]: other is no channel: known are sandbox_card" in problem
    assert load(text, "rules.yaml").version == 1


def test_points_need_a_rate_and_real_currencies() -> None:
    tools = "version: 1\ntools: [{name: a, when: true, allow: [points]}]\n"
    assert "points are allowed, but nothing says what they are worth" in problems_of(tools)[0]
    rate = "points: {rate: {points: 1, amount_minor: 1}, currencies: [EUR, EUX]}"
    assert "points.currencies[1]: EUX is no active ISO 4217 currency" in problems_of(tools + rate)[0]
    assert "points: rate is missing" in problems_of(tools + "points: {currencies: [EUR]}")[0]


def test_a_tool_that_was_added_may_be_allowed() -> None:
    text = "version: 1\ntools: [{name: a, when: \"'gift_card' in tools\", allow: [gift_card]}]"
    assert load(text, "rules.yaml", known_tools=frozenset({"gift_card"})).tools[0].allow == ("gift_card",)
    assert len(problems_of(text)) == 2


def test_whole_numbers_may_be_grouped_by_thousands() -> None:
    limit = rules("limits: [{name: a, when: true, per: day, max_count: 1_000}]").limits[0].limit
    assert limit.max_count == 1000


def test_is_a_configuration_error_like_any_other() -> None:
    assert issubclass(RulesInvalid, ConfigurationError)


def test_the_text_is_known_by_its_digest() -> None:
    assert rules().sha256 == rules().sha256 != rules("fees: []").sha256


@given(st.text(max_size=60))
def test_any_text_is_either_rules_or_refused_with_a_place(text: str) -> None:
    with pytest.raises(RulesInvalid) as raised:
        load(text, "rules.yaml")
    assert raised.value.problems


@given(st.data())
def test_a_damaged_file_is_never_anything_but_refused_or_valid(data: st.DataObject) -> None:
    text = HEAD + "fees: [{name: a, when: \"currency == 'EUR'\", borne_by: PAYER, rate_ppm: 1}]\n"
    at = data.draw(st.integers(0, len(text) - 1))
    damage = data.draw(st.sampled_from(["", "'", '"', "{", "]", ":", "\n", "  ", "&a ", "\t", "0"]))
    with contextlib.suppress(RulesInvalid):
        load(text[:at] + damage + text[at + 1 :], "rules.yaml")
