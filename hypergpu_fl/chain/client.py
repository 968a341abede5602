"""What HyperGPU asks of an EVM chain: one Protocol for an HTTP endpoint and for the EVM inside the process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Tag = Literal["latest", "finalized"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a transaction was included, and how it ended."""

    succeeded: bool
    block: int
    gas_used: int


@dataclass(frozen=True, slots=True)
class Fees:
    """Current price of gas, in wei: the block's base fee and the tip that the chain suggests."""

    base: int
    tip: int


class Client(Protocol):
    """Access to one chain.

    Every method raises `Unavailable` when no endpoint gives a usable answer; `call` and `estimate_gas` raise
    `Reverted` when the contract refuses. Addresses are EIP-55 strings.
    """

    def chain_id(self) -> int:
        """Return the chain's id (EIP-155)."""
        ...

    def block_number(self, tag: Tag) -> int:
        """Return the height of the newest, or newest finalized, block."""
        ...

    def code(self, address: str) -> bytes:
        """Return the code at an address; empty if there is none."""
        ...

    def balance(self, address: str) -> int:
        """Return the balance in wei."""
        ...

    def nonce(self, address: str) -> int:
        """Return the number of transactions included so far from an address."""
        ...

    def fees(self) -> Fees:
        """Return the current price of gas."""
        ...

    def call(self, to: str, data: bytes, tag: Tag = "latest") -> bytes:
        """Run a call without a transaction."""
        ...

    def estimate_gas(self, sender: str, to: str | None, data: bytes, value: int) -> int:
        """Return the gas that a transaction would use now."""
        ...

    def send_raw(self, raw: bytes) -> None:
        """Broadcast signed bytes; it is a success, too, if the node knows them already.

        Raises
        ------
        Underpriced
            If the node holds a transaction with the same nonce and the fee is too low to replace it.
        """
        ...

    def receipt(self, tx_hash: bytes) -> Receipt | None:
        """Receipt of a transaction; None while it is not included, or not known."""
        ...

    def rotate(self) -> None:
        """Ask another endpoint first from now on, if there is one."""
        ...
