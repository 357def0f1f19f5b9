"""recon's settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from paykit.settings import Count, Seconds, Section, ServiceSettings
from recon.matching import BreakType
from recon.repair import RepairRules
from recon.rules import Rules, SweepRules
from recon.statements.settings import StatementsSettings

_OWNERS = {
    BreakType.MISSING_FIRST: "payment-operations",
    BreakType.MISSING_SECOND: "payment-operations",
    BreakType.AMOUNT_MISMATCH: "payment-operations",
    BreakType.RESULT_UNKNOWN: "channel-operations",
    BreakType.NOTIFICATION_MISMATCH: "channel-operations",
    BreakType.MISSING_HERE: "channel-operations",
    BreakType.MISSING_THERE: "channel-operations",
    BreakType.CURRENCY_MISMATCH: "channel-operations",
    BreakType.STATUS_MISMATCH: "channel-operations",
    BreakType.DUPLICATE: "channel-operations",
    BreakType.LATE: "channel-operations",
    BreakType.UNEXPLAINED: "channel-operations",
}


class AskSettings(Section):
    """How the service that has kept silent is asked."""

    timeout_s: Seconds = 5.0  # of one question, all its calls together
    delay_s: Seconds = 2.0  # before the second question; doubles with each
    delay_max_s: Seconds = 300.0
    no_answer_age_s: Seconds = 600.0  # unreachable, or not finished, for so long: a break
    age_max_s: Seconds = 86_400.0  # an older break waits for an event or a person; nobody is asked any more
    page_limit: Count = 5  # pages of ledger entries looked through


class RepairSettings(Section):
    """What is repaired by itself, and who may have the rest repaired.

    ``automatic_up_to_minor`` (by currency) holds for repairs that move or post money; ``automatic_by_type`` stands
    before it. Callers are compared by the common names of their certificates: shell patterns.
    """

    automatic_up_to_minor: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    automatic_by_type: dict[BreakType, dict[str, Annotated[int, Field(ge=0)]]] = Field(default_factory=dict)
    delay_s: Seconds = 60.0  # before an automatic one goes out: a late match may still close the break
    answer_s: Seconds = 15.0  # after it was sent: then the service is asked, with doubling pauses
    answer_max_s: Seconds = 600.0
    look_s: Seconds = 60.0  # how often a proposal that waits for a person is compared with its break
    makers: tuple[str, ...] = ("*@*",)
    checkers: tuple[str, ...] = ("*@*",)

    @property
    def timer_interval_s(self) -> float:
        """How far apart looks for repairs that are due may be: a person who approved one waits for it too."""
        return min(self.delay_s, self.answer_s, self.look_s) / 5

    def rules(self) -> RepairRules:
        """As decisions take them."""
        return RepairRules(
            delay_ms=int(self.delay_s * 1000),
            answer_ms=int(self.answer_s * 1000),
            answer_max_ms=int(self.answer_max_s * 1000),
            look_ms=int(self.look_s * 1000),
            up_to_minor=self.automatic_up_to_minor,
            up_to_minor_by_type=self.automatic_by_type,
        )


class SweepSettings(Section):
    """How what the services have is compared with what was heard of it."""

    interval_s: Seconds = 60.0  # between two looks at what ended since the one before
    grace_s: Seconds = 15.0  # what ended later may not be committed yet, or not have been told
    again_s: tuple[Seconds, ...] = (3600.0, 86_400.0)  # the ages at which all of it is compared again
    span_max_s: Seconds = 300.0  # compared at once; a longer time is caught up with in such steps
    begin_back_s: Seconds = 3600.0  # where it begins the first time: so long ago
    timeout_s: Seconds = 20.0  # of one step
    rows_max: Count = 2000  # records of differing slots that are read at once; more are halved by time

    @property
    def timer_interval_s(self) -> float:
        """How far apart looks for a sweep that is due may be: each step of catching up takes one."""
        return self.interval_s / 10

    def rules(self) -> SweepRules:
        """As the sweep takes them."""
        return SweepRules(
            interval_ms=int(self.interval_s * 1000),
            ages_ms=tuple(int(age_s * 1000) for age_s in (self.grace_s, *self.again_s)),
            span_max_ms=int(self.span_max_s * 1000),
            begin_back_ms=int(self.begin_back_s * 1000),
            timeout_s=self.timeout_s,
            rows_max=self.rows_max,
        )


class ReconSettings(ServiceSettings):
    """The section ``[recon]``."""

    window_s: Seconds = 30.0  # how long a side may be silent before it is asked
    expected_s: Seconds = 60.0  # how long nobody may speak of what was sent before it is asked about; doubles with each
    expected_max_s: Seconds = 3600.0
    gather_s: Seconds = 5.0  # how long an event waits for others of its payment, where more are expected
    gather_max: Count = 8192  # events that wait at once
    gather_pause_s: Seconds = 0.5  # what need not wait for events any more waits so long to share a transaction
    sweep: SweepSettings = SweepSettings()
    ask: AskSettings = AskSettings()
    owners: dict[BreakType, str] = Field(
        default_factory=dict
    )  # who looks after breaks of a type, where it is not the default
    repairs: RepairSettings = RepairSettings()
    statements: StatementsSettings = StatementsSettings()
    gauge_interval_s: Seconds = 15.0  # how often the gauges are refreshed

    @property
    def timer_interval_s(self) -> float:
        """How far apart looks for windows that have passed may be: a tenth of the shortest."""
        return min(self.window_s, self.expected_s) / 10

    def rules(self) -> Rules:
        """As decisions take them."""
        return Rules(
            window_ms=int(self.window_s * 1000),
            expected_ms=int(self.expected_s * 1000),
            expected_max_ms=int(self.expected_max_s * 1000),
            ask_delay_ms=int(self.ask.delay_s * 1000),
            ask_delay_max_ms=int(self.ask.delay_max_s * 1000),
            no_answer_age_ms=int(self.ask.no_answer_age_s * 1000),
            ask_age_ms=int(self.ask.age_max_s * 1000),
            owners=_OWNERS | self.owners,
            repairs=self.repairs.rules(),
        )
