"""An EVM inside the process (py-evm through eth-tester): no server, no network, the same history for the same calls.

Every transaction is mined at once into a block of its own, which counts as finalized. Fees are fixed, so that
transaction hashes depend only on what is sent.
"""

from __future__ import annotations

import ast
import threading
from typing import Any, Final

from hypergpu_fl.chain import abi
from hypergpu_fl.chain.client import Fees, Receipt, Tag
from hypergpu_fl.chain.errors import Reverted, Unavailable
from hypergpu_fl.keccak import keccak

CHAIN_ID: Final = 131277322940537
"""Chain id that eth-tester fixes."""

_FEES: Final = Fees(base=10**9, tip=10**9)
_ENDOWMENT: Final = 2**160  # wei: far more than a session's pool, which is a uint96, and all gas


class EmbeddedChain:
    """A fresh chain on which `funded` is the only account with a balance.

    Parameters
    ----------
    funded : str
        EIP-55 address.
    """

    def __init__(self, funded: str) -> None:
        from eth.estimators.gas import binary_gas_search_exact
        from eth_tester import EthereumTester, PyEVMBackend  # two seconds to import

        self._funded = funded
        backend = PyEVMBackend(
            genesis_parameters=PyEVMBackend.generate_genesis_params(overrides={"timestamp": 1_700_000_000}),
            genesis_state={bytes.fromhex(funded[2:]): {"balance": _ENDOWMENT, "nonce": 0, "code": b"", "storage": {}}},
        )
        backend.chain.gas_estimator = binary_gas_search_exact  # the default is up to 21,000 gas too high
        self._tester: Any = EthereumTester(backend=backend)
        self._lock = threading.RLock()

    def chain_id(self) -> int:
        """Return eth-tester's fixed id."""
        return CHAIN_ID

    def block_number(self, tag: Tag) -> int:
        """Return the height; every block is final."""
        with self._lock:
            return int(self._tester.get_block_by_number("latest")["number"])

    def code(self, address: str) -> bytes:
        """Return the code at an address."""
        with self._lock:
            return bytes.fromhex(self._tester.get_code(address)[2:])

    def balance(self, address: str) -> int:
        """Return the balance in wei."""
        with self._lock:
            return int(self._tester.get_balance(address))

    def nonce(self, address: str) -> int:
        """Return the number of transactions sent from an address."""
        with self._lock:
            return int(self._tester.get_nonce(address))

    def fees(self) -> Fees:
        """Return fixed prices above the EVM's base fee."""
        return _FEES

    def call(self, to: str, data: bytes, tag: Tag = "latest") -> bytes:
        """Run a call without a transaction."""
        call = {"from": self._funded, "to": to, "data": "0x" + data.hex()}
        return bytes.fromhex(self._run("call", call)[2:])

    def estimate_gas(self, sender: str, to: str | None, data: bytes, value: int) -> int:
        """Return the gas that a transaction would use now."""
        call = {"from": sender, "data": "0x" + data.hex(), "value": value, **({"to": to} if to else {})}
        return int(self._run("estimate_gas", call))

    def send_raw(self, raw: bytes) -> None:
        """Mine a transaction at once, unless it is mined already."""
        from eth_tester.exceptions import TransactionFailed

        if self.receipt(keccak(raw)) is not None:
            return
        with self._lock:
            try:
                self._tester.send_raw_transaction("0x" + raw.hex())
            except TransactionFailed:
                return  # mined and reverted: the receipt says so
            except Exception as error:  # py-evm's and eth-tester's errors have no common base
                raise Unavailable(f"the embedded EVM refuses a transaction: {error}", "start a new run") from None

    def receipt(self, tx_hash: bytes) -> Receipt | None:
        """Receipt of a mined transaction."""
        from eth_tester.exceptions import TransactionNotFound

        with self._lock:
            try:
                found = self._tester.get_transaction_receipt("0x" + tx_hash.hex())
            except TransactionNotFound:
                return None
        return Receipt(found["status"] == 1, int(found["block_number"]), int(found["gas_used"]))

    def advance(self, seconds: int) -> None:
        """Let time pass on this chain."""
        with self._lock:
            self._tester.time_travel(int(self._tester.get_block_by_number("latest")["timestamp"]) + seconds)

    def rotate(self) -> None:
        """Do nothing: there is one endpoint."""

    def _run(self, method: str, call: dict[str, Any]) -> Any:
        from eth_tester.exceptions import TransactionFailed

        with self._lock:
            try:
                return getattr(self._tester, method)(call)
            except TransactionFailed as error:
                raise Reverted(_reason(error)) from None


def _reason(error: Exception) -> str:
    """Decode revert data; eth-tester hands it over as bytes or as their text, within exceptions."""
    data: object = error
    while isinstance(data, Exception):
        data = data.args[0] if data.args else b""
    if isinstance(data, str) and data.startswith(("b'", 'b"')):
        data = ast.literal_eval(data)
    return abi.decode_error(data) if isinstance(data, bytes) else str(data)
