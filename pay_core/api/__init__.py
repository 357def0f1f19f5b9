"""The gRPC services of pay_core, one file each."""

from pay_core.api.benefits import BenefitApi
from pay_core.api.ledger import LedgerApi
from pay_core.api.pay import PayApi
from pay_core.api.transit import TransitApi

__all__ = ["BenefitApi", "LedgerApi", "PayApi", "TransitApi"]
