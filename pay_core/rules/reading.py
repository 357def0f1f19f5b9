"""From the text of a rules file to a RuleSet: every section read and checked, every problem with its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from pay_core.ledger import OWNED_KINDS, AccountKind, is_internal
from pay_core.rules import routes
from pay_core.rules.amounts import PPM, Price, Rounding, Tier, TierMode
from pay_core.rules.document import Section, parse
from pay_core.rules.expression import Expression
from pay_core.rules.model import (
    POINTS,
    TOOLS,
    Bearer,
    Fallback,
    Limit,
    LimitPer,
    ReversalFallback,
    ReversalPolicy,
)
from pay_core.rules.rule_set import FallbackRule, FeeRule, LimitRule, PointsRate, RouteRule, RuleSet, ToolRule
from pay_core.rules.scope import Scope, fallback_scope, payment_scope, route_scope, split_scope
from pay_core.rules.sharing import SplitPart, SplitRule
from paykit.money import AMOUNT_MINOR_MAX, is_currency

VERSION_MAX = 2**31 - 1  # of the column that it is stamped into
RULES_MAX = 500  # of each section: all of them may be asked for one payment
COUNT_MAX = 10**9
ATTEMPTS_MAX = 100
PAUSE_S_MAX = 7 * 86_400
POINTS_MAX = 10**6  # of either side of the rate: with the largest amount it stays inside 80 bits

_KEYS = ("version", "points", "tools", "routes", "limits", "fees", "splits", "refunds", "reversals")
_FEE_KEYS = ("name", "when", "borne_by", "fixed_minor", "rate_ppm", "tiers", "tier_mode", "min_minor", "max_minor")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_CHANNEL = re.compile(r"[a-z][a-z0-9_]{0,31}")
_OWNER = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_NAME_IS = "a name of lower-case letters, digits, _ and -, at most 64 long"


def load(
    text: str, source: str, *, known_channels: frozenset[str] | None = None, known_tools: frozenset[str] = TOOLS
) -> RuleSet:
    """The rules of a file's text; ``source`` is what problems call the file.

    RulesInvalid, with all that is wrong, where anything is. A channel that is not among ``known_channels`` is wrong;
    None leaves channels unchecked.
    """
    problems, top = parse(text, source, _KEYS)
    reader = _Reader(top, known_channels, known_tools)
    refunds = top.section("refunds", ("return_fees", "fallback"))
    rules = RuleSet(
        version=top.integer("version", 1, VERSION_MAX),
        version_place=top.place_of("version"),
        text=text,
        source=source,
        tools=reader.tools(),
        routes=reader.routes(),
        limits=reader.limits(),
        fees=reader.fees(),
        splits=reader.splits(),
        points=reader.points(),
        return_fees=reader.return_fees(refunds),
        fallbacks=reader.fallbacks(refunds),
        reversal=_reversal(top),
    )
    problems.raise_any()
    return rules


class _Reader:
    """Reads the sections. What it returns is only good where no problem was noted."""

    def __init__(self, top: Section, known_channels: frozenset[str] | None, known_tools: frozenset[str]) -> None:
        self._top, self._known_channels, self._known_tools = top, known_channels, known_tools
        self._scope = payment_scope(known_tools)

    def points(self) -> PointsRate | None:
        """What points are worth, and in which currencies they pay."""
        section = self._top.section("points", ("rate", "currencies"))
        if section is None:
            return None
        rate = section.section("rate", ("points", "amount_minor"))
        if rate is None:
            section.missing("rate")
            return None
        currencies = section.texts("currencies", _judge_currency) if "currencies" in section else []
        return PointsRate(
            rate.integer("points", 1, POINTS_MAX),
            rate.integer("amount_minor", 1, POINTS_MAX),
            frozenset(currencies),
        )

    def tools(self) -> tuple[ToolRule, ...]:
        """Which tools are allowed, in which order."""
        if "tools" not in self._top:
            self._top.missing("tools", "no payment would be allowed")
        rules = []
        for name, section in self._named("tools", ("name", "when", "allow")):
            allow = section.texts("allow", self._judge_tool)
            if POINTS in allow and "points" not in self._top:
                section.problem("points are allowed, but nothing says what they are worth: see the key points", "allow")
            rules.append(ToolRule(name, self._when(section, self._scope), tuple(allow)))
        return tuple(rules)

    def routes(self) -> tuple[RouteRule, ...]:
        """Which channels carry what."""
        scope = route_scope(self._known_tools)
        rules = []
        for name, section in self._named("routes", routes.KEYS):
            route = routes.read_route(section, self._judge_channel)
            rules.append(RouteRule(name, self._when(section, scope), route))
        return tuple(rules)

    def limits(self) -> tuple[LimitRule, ...]:
        """How much is allowed at once, and in a day."""
        rules = []
        for name, section in self._named("limits", ("name", "when", "per", "max_amount_minor", "max_count")):
            per = section.choice("per", LimitPer)
            amount_minor = section.optional_integer("max_amount_minor", 0, AMOUNT_MINOR_MAX * 1000)
            count = section.optional_integer("max_count", 0, COUNT_MAX)
            if amount_minor is None and count is None:
                section.problem("limits nothing: name max_amount_minor, max_count or both")
            if section.is_sound and per is LimitPer.PAYMENT and count is not None:
                section.problem("one payment is always one: a count needs per: day", "max_count")
            limit = Limit(name, per, amount_minor, count)
            rules.append(LimitRule(self._when(section, self._scope), limit))
        return tuple(rules)

    def fees(self) -> tuple[FeeRule, ...]:
        """Which fees are due."""
        return tuple(
            FeeRule(name, _price(section), section.choice("borne_by", Bearer), self._when(section, self._scope))
            for name, section in self._named("fees", (*_FEE_KEYS, "rounding"))
        )

    def splits(self) -> tuple[SplitRule, ...]:
        """Whose share is shared with whom."""
        scope = split_scope(self._known_tools)
        rules = []
        for name, section in self._named("splits", ("name", "when", "shares", "rounding")):
            parts = tuple(
                _part(share)
                for share in section.sections("shares", ("owner_id", "account_kind", "rate_ppm", "fixed_minor"))
            )
            rounding = section.choice("rounding", Rounding, Rounding.DOWN)
            if section.is_sound:
                _check_parts(section, parts)
            when = self._when(section, scope)
            rules.append(SplitRule(name, when, parts, rounding))
        return tuple(rules)

    def return_fees(self, refunds: Section | None) -> Expression:
        """Whether payee-borne fees come back with a refund."""
        make = self._maker("refunds.return_fees", self._scope)
        return make("false") if refunds is None else refunds.compiled("return_fees", make, default="false")

    def fallbacks(self, refunds: Section | None) -> tuple[FallbackRule, ...]:
        """Where refunded money goes that its route refuses."""
        scope = fallback_scope(self._known_tools)
        found = () if refunds is None else refunds.sections("fallback", ("when", "to"))
        return tuple(FallbackRule(self._when(section, scope), section.choice("to", Fallback)) for section in found)

    def _named(self, key: str, keys: tuple[str, ...]) -> Iterator[tuple[str, Section]]:
        names: set[str] = set()
        for i, section in enumerate(self._top.sections(key, keys)):
            if i == RULES_MAX:
                self._top.problem(f"has more than {RULES_MAX} rules", key)
                return
            name = section.text("name", _NAME, _NAME_IS)
            if name and name in names:
                section.problem(f"another of the {key} is called {name}", "name")
            names.add(name)
            yield name, section

    def _when(self, section: Section, scope: Scope) -> Expression:
        return section.compiled("when", self._maker(section.path_of("when"), scope))

    def _maker(self, path: str, scope: Scope) -> Callable[[str], Expression]:
        return lambda source: Expression(source, path, scope)

    def _judge_tool(self, name: str) -> str:
        return "" if name in self._known_tools else f"is no tool: known are {', '.join(sorted(self._known_tools))}"

    def _judge_channel(self, name: str) -> str:
        if self._known_channels is None:
            return "" if _CHANNEL.fullmatch(name) else "is no name of a channel: lower-case letters, digits and _"
        known = ", ".join(sorted(self._known_channels))
        return "" if name in self._known_channels else f"is no channel: known are {known}"


def _judge_currency(code: str) -> str:
    return "" if is_currency(code) else "is no active ISO 4217 currency"


def _price(section: Section) -> Price:
    rounding = section.choice("rounding", Rounding, Rounding.HALF_EVEN)
    min_minor = section.integer("min_minor", 0, AMOUNT_MINOR_MAX, default=0)
    max_minor = section.optional_integer("max_minor", 0, AMOUNT_MINOR_MAX)
    if section.is_sound and max_minor is not None and min_minor > max_minor:
        section.problem(f"is more than max_minor, {max_minor}", "min_minor")
    rate_ppm = section.integer("rate_ppm", 0, PPM, default=0)
    fixed_minor = section.integer("fixed_minor", 0, AMOUNT_MINOR_MAX, default=0)
    tiers: tuple[Tier, ...] = (Tier(None, rate_ppm, fixed_minor),)
    mode = TierMode.WHOLE
    if "tiers" in section:
        mode = section.choice("tier_mode", TierMode)
        tiers = _tiers(section)
        if "rate_ppm" in section or "fixed_minor" in section:
            section.problem("stand beside rate_ppm or fixed_minor: a price has the one or the other", "tiers")
    elif "tier_mode" in section:
        section.problem("there are no tiers", "tier_mode")
    if section.is_sound and not any(tier.rate_ppm or tier.fixed_minor for tier in tiers):
        section.problem("costs nothing: name fixed_minor, rate_ppm or tiers")
    return Price(tiers, mode, min_minor, max_minor, rounding)


def _tiers(section: Section) -> tuple[Tier, ...]:
    sections = list(section.sections("tiers", ("up_to_minor", "rate_ppm", "fixed_minor")))
    tiers = tuple(
        Tier(
            tier.optional_integer("up_to_minor", 1, AMOUNT_MINOR_MAX),
            tier.integer("rate_ppm", 0, PPM, default=0),
            tier.integer("fixed_minor", 0, AMOUNT_MINOR_MAX, default=0),
        )
        for tier in sections
    )
    if not section.is_sound:
        return tiers
    if not tiers or tiers[-1].up_to_minor is not None:
        section.problem("the last tier must be open, without up_to_minor, so that every amount has one", "tiers")
    below = 0
    for tier, where in zip(tiers[:-1], sections, strict=False):
        if tier.up_to_minor is None:
            where.problem("up_to_minor is missing: only the last tier is open")
        elif tier.up_to_minor <= below:
            where.problem(f"must be more than the tier's before, {below}", "up_to_minor")
        else:
            below = tier.up_to_minor
    return tiers


def _part(share: Section) -> SplitPart:
    owner_id = share.text("owner_id", _OWNER, "an owner: letters, digits and . _ : -, at most 64")
    if is_internal(owner_id):
        share.problem("is the platform itself: take a fee instead", "owner_id")
    kind = share.choice("account_kind", AccountKind)
    if kind not in OWNED_KINDS:
        share.problem(f"must be one of {', '.join(OWNED_KINDS)}", "account_kind")
    rate_ppm = share.optional_integer("rate_ppm", 1, PPM)
    fixed_minor = share.optional_integer("fixed_minor", 1, AMOUNT_MINOR_MAX)
    if (rate_ppm is None) == (fixed_minor is None):
        share.problem("needs one of rate_ppm and fixed_minor")
    return SplitPart(owner_id, kind, rate_ppm or 0, fixed_minor or 0)


def _check_parts(section: Section, parts: tuple[SplitPart, ...]) -> None:
    rate_ppm = sum(part.rate_ppm for part in parts)
    fixed_minor = sum(part.fixed_minor for part in parts)
    owners = [(part.owner_id, part.account_kind) for part in parts]
    if not parts:
        section.missing("shares", "name one at least")
    elif len(set(owners)) < len(owners):
        section.problem("names an account twice: add its shares up", "shares")
    elif rate_ppm > PPM:
        section.problem(f"add up to {rate_ppm:,} parts per million: more than there is", "shares")
    elif rate_ppm == PPM and fixed_minor:
        section.problem("leave nothing for a fixed share: the rates take the whole already", "shares")
    elif fixed_minor > AMOUNT_MINOR_MAX:
        section.problem(f"add up to {fixed_minor:,}: more than any payment has", "shares")


def _reversal(top: Section) -> ReversalPolicy:
    standard = ReversalPolicy()
    section = top.section("reversals", ReversalPolicy._fields)
    if section is None:
        return standard
    policy = ReversalPolicy(
        section.integer("attempts_max", 1, ATTEMPTS_MAX, standard.attempts_max),
        section.integer("first_pause_s", 1, PAUSE_S_MAX, standard.first_pause_s),
        section.integer("max_pause_s", 1, PAUSE_S_MAX, standard.max_pause_s),
        section.choice("fallback", ReversalFallback, standard.fallback),
    )
    if section.is_sound and policy.first_pause_s > policy.max_pause_s:
        section.problem(f"is more than max_pause_s, {policy.max_pause_s}", "first_pause_s")
    return policy
