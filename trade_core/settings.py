"""The settings of trade_core."""

from __future__ import annotations

from paykit.settings import Count, Seconds, ServiceSettings


class TradeCoreSettings(ServiceSettings):
    """What trade_core adds to every service's settings."""

    ask_after_s: Seconds = 5.0  # silence after which pay_core is asked how a payment went; doubles each time
    ask_after_max_s: Seconds = 60.0
    result_wait_max_s: Seconds = 2.0  # how long a payment by balance is waited for within the call
    deadline_margin_s: Seconds = 0.1  # what is kept of a call's deadline to answer in
    tree_wait_max_s: Seconds = 5.0  # how long a whole order's parts in other services are waited for
    watch_max_s: Seconds = 600.0  # a watch without a deadline ends after this
    watch_reread_s: Seconds = 1.0  # how often a watched trade is read where nothing was heard of it
    max_watchers: Count = 10_000  # calls waiting for or watching a trade, in one process
    compensation_callers: tuple[str, ...] = ("recon",)  # common names, as shell patterns, that may have repairs done
