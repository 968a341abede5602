"""What a transaction may cost: pure functions over gas and fees, all in integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hypergpu_fl.chain.client import Fees
from hypergpu_fl.chain.errors import Unavailable

GAS_MARGIN_PERCENT: Final = 5
"""Added to the estimate. Monad charges the gas limit, not the gas used, so every round pays for the margin."""

MOST_CALL_GAS: Final = 1_000_000
MOST_CREATION_GAS: Final = 15_000_000
"""Larger estimates are not believed. The longest claim takes `MOST_CALL_GAS`; a creation takes about a tenth of
`MOST_CREATION_GAS`. Otherwise a hostile endpoint could make every round cost Monad's 30 million gas, because the limit
is charged."""

_BUMP_PERCENT: Final = 10  # what geth and anvil ask of a replacement; Monad takes any higher fee


@dataclass(frozen=True, slots=True)
class Bid:
    """Fees of one EIP-1559 transaction, in wei a gas."""

    max_fee: int
    priority_fee: int


def gas_limit(estimate: int, *, creates: bool = False) -> int:
    """Limit to set for an estimate: `GAS_MARGIN_PERCENT` above, rounded down.

    Raises
    ------
    Unavailable
        If the estimate is above `MOST_CALL_GAS`, or above `MOST_CREATION_GAS` for a creation.
    """
    most = MOST_CREATION_GAS if creates else MOST_CALL_GAS
    if estimate > most:
        raise Unavailable(f"the RPC estimates {estimate} gas, more than {most} is not believed", "use another RPC")
    return estimate + estimate * GAS_MARGIN_PERCENT // 100


def first_bid(fees: Fees, cap: int) -> Bid | None:
    """Twice the base fee plus the tip, so that six full blocks cannot price it out; None if `cap` is below the price.

    EIP-1559 lets the base fee rise by 1/8 a block: ``1.125 ** 6 > 2``.
    """
    if fees.base + fees.tip > cap:
        return None
    return Bid(min(2 * fees.base + fees.tip, cap), fees.tip)


def raised_bid(bid: Bid, fees: Fees, cap: int) -> Bid | None:
    """At least 10 % above `bid` in both fees, and at least what is asked now; None if that would pass `cap`."""
    max_fee = max(_raised(bid.max_fee), fees.base + fees.tip)
    priority_fee = max(_raised(bid.priority_fee), fees.tip)
    return Bid(max_fee, priority_fee) if max(max_fee, priority_fee) <= cap else None


def _raised(fee: int) -> int:
    return fee + fee * _BUMP_PERCENT // 100 + 1
