"""Rules: which tools, routes, limits, fees and splits a payment has, decided by expressions in a versioned file."""

from __future__ import annotations

from pay_core.rules.book import RuleBook
from pay_core.rules.model import (
    Bearer,
    Collect,
    Decision,
    Fallback,
    Fee,
    FundingFact,
    Limit,
    LimitPer,
    PayeeFact,
    PaymentFacts,
    Place,
    Problem,
    RefundPolicy,
    ReversalFallback,
    ReversalPolicy,
    Route,
    RouteCandidate,
    RouteStrategy,
    RulesInvalid,
    Share,
    ShareKind,
)
from pay_core.rules.reading import load
from pay_core.rules.rule_set import RuleSet

__all__ = [
    "Bearer",
    "Collect",
    "Decision",
    "Fallback",
    "Fee",
    "FundingFact",
    "Limit",
    "LimitPer",
    "PayeeFact",
    "PaymentFacts",
    "Place",
    "Problem",
    "RefundPolicy",
    "ReversalFallback",
    "ReversalPolicy",
    "Route",
    "RouteCandidate",
    "RouteStrategy",
    "RuleBook",
    "RuleSet",
    "RulesInvalid",
    "Share",
    "ShareKind",
    "load",
]
