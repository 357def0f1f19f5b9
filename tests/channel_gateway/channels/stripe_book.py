"""The book: what each account has at Stripe, and the rules by which it changes. No HTTP in here."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from typing import Any

DAY_S = 86_400


class ApiError(Exception):
    """An error as Stripe answers it: HTTP status and the fields of ``error``."""

    def __init__(self, status: int, type_: str, **fields: Any) -> None:
        super().__init__(type_)
        self.status = status
        self.error = {"type": type_, "message": "What went wrong, in words for people.", **fields}


def invalid(**fields: Any) -> ApiError:
    """A request that cannot be carried out as it is."""
    return ApiError(400, "invalid_request_error", **fields)


def missing(kind: str, param: str = "id") -> ApiError:
    """An object that does not exist in the account and mode of the key."""
    return ApiError(404, "invalid_request_error", code="resource_missing", param=param, message=f"No such {kind}")


# What a payment method named like Stripe's own test ones does: (code, decline code)
DECLINES = {
    "pm_card_chargeDeclined": ("card_declined", "generic_decline"),
    "pm_card_chargeDeclinedInsufficientFunds": ("card_declined", "insufficient_funds"),
    "pm_card_chargeDeclinedExpiredCard": ("expired_card", None),
    "pm_card_authenticationRequired": ("authentication_required", "authentication_required"),
}


class Account:
    """One account in one mode. ``emit`` is told of each event: its type and the object as it then is."""

    def __init__(self, livemode: bool, now_s: Callable[[], int], emit: Callable[[str, dict[str, Any]], None]) -> None:
        self.livemode = livemode
        self._now_s = now_s
        self._emit = emit
        self.objects: dict[str, dict[str, dict[str, Any]]] = {
            name: {} for name in ("payment_intents", "charges", "refunds", "payouts", "balance_transactions")
        }
        self._numbers = itertools.count(1)
        self.balance = 10**9

    def all(self, name: str) -> list[dict[str, Any]]:
        """The objects of a kind, newest first, as lists have them."""
        return list(reversed(self.objects[name].values()))

    def get(self, name: str, id_: str) -> dict[str, Any]:
        """One object; ApiError where there is none."""
        found = self.objects[name].get(id_)
        if found is None:
            raise missing(name)
        return found

    def _new(self, name: str, prefix: str, **fields: Any) -> dict[str, Any]:
        id_ = f"{prefix}_{next(self._numbers):06d}{secrets.token_hex(8)}"
        made = {"id": id_, "created": self._now_s(), **fields}
        self.objects[name][id_] = made
        return made

    def create_intent(self, params: dict[str, Any], *, holds: str = "") -> dict[str, Any]:
        """Creates and confirms. ``holds``: a status it stays in instead of going through."""
        amount = int(params["amount"])
        if amount < 50:
            raise invalid(code="amount_too_small", param="amount")
        payment_method = params["payment_method"].split("__")[0]
        if not payment_method.startswith("pm_"):
            raise missing("payment_method", "payment_method")
        intent = self._new(
            "payment_intents",
            "pi",
            object="payment_intent",
            livemode=self.livemode,
            amount=amount,
            amount_capturable=0,
            amount_received=0,
            currency=params["currency"],
            capture_method=params.get("capture_method", "automatic_async"),
            client_secret=f"pi_secret_{secrets.token_hex(8)}",
            customer=params.get("customer"),
            description=params.get("description"),
            metadata=dict(params.get("metadata", {})),
            payment_method=params["payment_method"],
            payment_method_options=params.get("payment_method_options", {}),
            transfer_group=params.get("transfer_group"),
            latest_charge=None,
            last_payment_error=None,
            cancellation_reason=None,
            canceled_at=None,
            next_action=None,
            status="requires_confirmation",
        )
        if payment_method in DECLINES:
            self._decline(intent, *DECLINES[payment_method])
        intent["status"] = holds or intent["status"]
        if not holds:
            self.go_through(intent)
        return intent

    def _decline(self, intent: dict[str, Any], code: str, decline_code: str | None) -> None:
        why = {"code": code, "decline_code": decline_code, "message": "Your card was declined."}
        intent["last_payment_error"] = {"type": "card_error", **why}
        intent["status"] = "requires_payment_method"
        self._emit("payment_intent.payment_failed", intent)
        raise ApiError(402, "card_error", **why, payment_intent=dict(intent))

    def go_through(self, intent: dict[str, Any]) -> None:
        """The issuer says yes: money is taken, or reserved."""
        charge = self._new(
            "charges",
            "ch",
            object="charge",
            livemode=self.livemode,
            amount=intent["amount"],
            amount_captured=0,
            amount_refunded=0,
            captured=False,
            currency=intent["currency"],
            metadata=dict(intent["metadata"]),  # as it is now: what is added to the intent later is not added here
            payment_intent=intent["id"],
            billing_details={"name": "Jenny Rosen", "email": "jenny@example.com"},
            balance_transaction=None,
        )
        intent["latest_charge"] = charge["id"]
        if intent["capture_method"] == "manual":
            intent["status"], intent["amount_capturable"] = "requires_capture", intent["amount"]
            self._emit("payment_intent.amount_capturable_updated", intent)
            return
        intent["status"], intent["amount_received"] = "succeeded", intent["amount"]
        charge["captured"], charge["amount_captured"] = True, intent["amount"]
        self._move("charge", charge, intent["amount"])
        self._emit("payment_intent.succeeded", intent)

    def capture(self, intent: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        """Takes what is reserved, or a part of it."""
        if intent["status"] != "requires_capture":
            raise self._unexpected_state(intent)
        amount = int(params.get("amount_to_capture", intent["amount_capturable"]))
        if amount > intent["amount_capturable"]:
            raise invalid(code="amount_too_large", param="amount_to_capture", payment_intent=dict(intent))
        is_final = str(params.get("final_capture", "true")).lower() == "true"
        options = intent["payment_method_options"].get("card", {})
        if not is_final and options.get("request_multicapture") != "if_available":
            raise invalid(param="final_capture", payment_intent=dict(intent))
        charge = self.objects["charges"][intent["latest_charge"]]
        intent["metadata"] |= params.get("metadata", {})
        intent["amount_received"] += amount
        intent["amount_capturable"] = 0 if is_final else intent["amount_capturable"] - amount
        charge["captured"], charge["amount_captured"] = True, intent["amount_received"]
        self._move("charge", charge, amount)
        if intent["amount_capturable"] == 0:
            intent["status"] = "succeeded"
            self._emit("payment_intent.succeeded", intent)
        else:
            self._emit("payment_intent.amount_capturable_updated", intent)
        return intent

    def cancel(self, intent: dict[str, Any], reason: str | None) -> dict[str, Any]:
        """Gives up what is not done."""
        if intent["status"] in ("succeeded", "canceled", "processing"):
            raise self._unexpected_state(intent)
        intent.update(status="canceled", amount_capturable=0, cancellation_reason=reason, canceled_at=self._now_s())
        self._emit("payment_intent.canceled", intent)
        return intent

    def expire(self, intent: dict[str, Any]) -> None:
        """What Stripe does with an authorisation after a week."""
        self.cancel(intent, "automatic")

    @staticmethod
    def _unexpected_state(intent: dict[str, Any]) -> ApiError:
        return invalid(code="payment_intent_unexpected_state", payment_intent=dict(intent))

    def refund(self, params: dict[str, Any], *, failure: str = "") -> dict[str, Any]:
        """Gives back what a payment intent brought, or a part of it. ``failure``: why the bank does not take it."""
        intent = self.objects["payment_intents"].get(params["payment_intent"])
        if intent is None:
            raise missing("payment_intent", "payment_intent")
        if not intent["amount_received"]:
            raise invalid(message="This PaymentIntent does not have a successful charge to refund.")
        charge = self.objects["charges"][intent["latest_charge"]]
        left = charge["amount_captured"] - charge["amount_refunded"]
        amount = int(params.get("amount", left))
        if not left:
            raise invalid(code="charge_already_refunded", message="Charge has already been refunded.")
        if amount > left:
            raise invalid(param="amount", message="Refund amount is greater than unrefunded amount on charge")
        refund = self._new(
            "refunds",
            "re",
            object="refund",
            amount=amount,
            currency=intent["currency"],
            charge=charge["id"],
            payment_intent=intent["id"],
            metadata=dict(params.get("metadata", {})),
            status="failed" if failure else "succeeded",
            failure_reason=failure or None,
        )
        if not failure:
            charge["amount_refunded"] += amount
            self._move("refund", refund, -amount)
        self._emit("refund.failed" if failure else "refund.created", refund)
        return refund

    def pay_out(self, params: dict[str, Any], *, status: str = "paid") -> dict[str, Any]:
        """Sends money from the balance to an external account."""
        amount = int(params["amount"])
        if amount > self.balance:
            raise invalid(code="balance_insufficient")
        payout = self._new(
            "payouts",
            "po",
            object="payout",
            livemode=self.livemode,
            amount=amount,
            currency=params["currency"],
            destination=params.get("destination"),
            description=params.get("description"),
            metadata=dict(params.get("metadata", {})),
            status=status,
            failure_code=None,
        )
        self._move("payout", payout, -amount)
        if status == "paid":
            self._emit("payout.paid", payout)
        return payout

    def settle_payout(self, payout: dict[str, Any], status: str, failure_code: str | None = None) -> None:
        """What the bank says later."""
        payout.update(status=status, failure_code=failure_code)
        if status == "failed":
            self._move("payout_failure", payout, payout["amount"])
        self._emit(f"payout.{status}", payout)

    def _move(self, type_: str, source: dict[str, Any], amount: int) -> None:
        """A balance transaction. A charge costs 1.4 % and 25."""
        fee = amount * 14 // 1000 + 25 if type_ == "charge" else 0
        transaction = self._new(
            "balance_transactions",
            "txn",
            object="balance_transaction",
            type=type_,
            reporting_category=type_,
            amount=amount,
            fee=fee,
            net=amount - fee,
            currency=source["currency"],
            exchange_rate=None,
            available_on=self._now_s() + 2 * DAY_S,
            status="pending",
            source=source["id"],
        )
        self.balance += amount - fee
        if "balance_transaction" in source:
            source["balance_transaction"] = transaction["id"]
