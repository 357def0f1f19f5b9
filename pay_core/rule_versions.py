"""Every version of the rules that was active is kept, on slot 0: payments name the version they were decided by."""

from __future__ import annotations

from collections.abc import Iterable

from pay_core.rules.rule_set import RuleSet
from pay_core.tables import RuleVersion
from paykit import context as business_context
from paykit.errors import ConfigurationError, FailedPrecondition
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key
from paykit.store.store import Store

RULES_SLOT = 0


class KeepRules(Command[None]):
    """Keeps a version before it becomes active; FailedPrecondition where it was active with another text."""

    def __init__(self, origin: Origin, rules: RuleSet) -> None:
        super().__init__(RULES_SLOT, origin)
        self.rules = rules

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(RuleVersion, str(self.rules.version), "rule_key")

    def decide(self, work: Work) -> None:
        kept = work.get(RuleVersion, str(self.rules.version), "rule_key")
        if kept is None:
            version = RuleVersion(
                id=work.new_id("rul"),
                slot=RULES_SLOT,
                rule_key=str(self.rules.version),
                rules_version=self.rules.version,
                sha256=self.rules.sha256,
                text=self.rules.text,
                created_at_ms=work.now_ms,
            )
            work.insert(version, note=f"version {self.rules.version} {self.rules.sha256}")
        elif kept.sha256 != self.rules.sha256:
            raise FailedPrecondition(
                f"version {self.rules.version} of the rules was active with another text: a change needs a new version",
                reason="RULES_VERSION_REUSED",
                subject=kept.id,
            )


async def keep_rules(store: Store, rules: RuleSet) -> None:
    """Keeps a version on every side of the store; for ``RuleBook.on_activated``.

    ConfigurationError where the version was active with another text.
    """
    for mode in store.modes():
        context = business_context.mint(RULES_SLOT, store.clock.now_ms(), shadow=mode == "shadow", caller="rules")
        try:
            await store.run(KeepRules(Origin.timer(context), rules))
        except FailedPrecondition as error:
            raise ConfigurationError(f"{rules.source}: {error.message}") from error
