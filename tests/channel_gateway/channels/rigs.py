"""The rigs there are, each with its name in the tests. Every kind in ``CHANNELS`` has one at least.

``giro`` is the kind that docs/channels.md adds by code: it stands in ``CHANNELS`` while its rig runs.
"""

from __future__ import annotations

from tests.channel_gateway.channels.bank_rig import BankRig
from tests.channel_gateway.channels.giro_rig import GiroRig
from tests.channel_gateway.channels.rig import Rig
from tests.channel_gateway.channels.sandbox_rig import SandboxRig
from tests.channel_gateway.channels.stripe_rig import StripeRig
from tests.channel_gateway.channels.wallet_rig import WalletRig

RIGS: dict[str, type[Rig]] = {
    "giro": GiroRig,
    "sandbox": SandboxRig,
    "signed_json_bank": BankRig,
    "signed_json_wallet": WalletRig,
    "stripe": StripeRig,
}
