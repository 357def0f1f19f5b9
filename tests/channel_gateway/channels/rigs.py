"""The rigs there are. Every kind in ``CHANNELS`` has one at least."""

from __future__ import annotations

from tests.channel_gateway.channels.rig import Rig
from tests.channel_gateway.channels.sandbox_rig import SandboxRig
from tests.channel_gateway.channels.stripe_rig import StripeRig

RIGS: dict[str, type[Rig]] = {
    "sandbox": SandboxRig,
    "stripe": StripeRig,
}
