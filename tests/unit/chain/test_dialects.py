"""What Geth, Nethermind, Besu, Erigon, Reth, Parity and Monad say, and what it means to a sender."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from rpc import ScriptedNode, scripted

from hypergpu_fl.chain.client import Fees
from hypergpu_fl.chain.dialects import Meaning, meaning
from hypergpu_fl.chain.errors import Misconfigured, Reverted, Unavailable, Underpriced
from hypergpu_fl.chain.http import HttpChain

K, U, F, R = Meaning.KNOWN, Meaning.UNDERPRICED, Meaning.NO_FUNDS, Meaning.REVERTED
B, M, X, N = Meaning.BUSY, Meaning.NO_METHOD, Meaning.OTHER, Meaning.NO_FEE_MARKET

SAID = [
    # Geth
    (-32000, "already known", K),
    (-32000, "nonce too low: next nonce 5, tx nonce 4", K),
    (-32000, "replacement transaction underpriced", U),
    (-32000, "max fee per gas less than block base fee: address 0x.., maxFeePerGas: 1, baseFee: 2", U),
    (-32000, "insufficient funds for gas * price + value: balance 0, tx cost 1", F),
    (-32000, "transaction type not supported", N),
    (-32601, "the method eth_maxPriorityFeePerGas does not exist/is not available", M),
    (3, "execution reverted: LedgerWrongRound", R),
    # Nethermind
    (-32010, "AlreadyKnown", K),
    (-32010, "OldNonce, Current nonce: 5, nonce of rejected tx: 4", K),
    (-32010, "OwnNonceAlreadyUsed", K),
    (-32010, "FeeTooLow, MaxFeePerGas too low. MaxFeePerGas: 1, BaseFee: 2", U),
    (-32010, "FeeTooLowToCompete", U),
    (-32010, "ReplacementNotAllowed", U),
    (-32010, "InsufficientFunds, Account balance: 0, cumulative cost: 21000", F),
    (-32015, "VM execution error.", R),
    (-32000, "transaction underpriced", U),
    (-32000, "NonceGap, Future nonce. Expected nonce: 5", X),
    (-32000, "Syncing", B),
    (-32016, "eth_call request was canceled due to enabled timeout.", B),
    (-32017, "", B),
    # Besu
    (-32000, "Known transaction", K),
    (-32001, "Nonce too low", K),
    (-32000, "Replacement transaction underpriced", U),
    (-32009, "Gas price below configured minimum gas price", U),
    (-32009, "Gas price below current base fee", U),
    (-32004, "Upfront cost exceeds account balance", F),
    (-32000, "Execution reverted", R),
    (-32601, "Method not found", M),
    (-32604, "Method not enabled", M),
    (-32604, "", M),
    (-32604, "The method eth_sendTransaction is not supported. Use eth_sendRawTransaction to send a signed one.", M),
    (-32602, "Invalid transaction type", N),
    (-32008, "Initial sync is still in progress", B),
    (-32002, "Transaction pool not enabled. (Either txpool explicitly disabled, or node not yet in sync).", B),
    (-32603, "Timeout expired", B),
    (-32005, "Transaction gas limit exceeds block gas limit", X),
    (-32007, "Sender account not authorized to send transactions", X),
    (-32002, "Invalid signature", X),
    (-32006, "Nonce too high", X),
    # Erigon
    (-32000, "INTERNAL_ERROR: existing tx with same hash", K),
    (-32000, "could not replace existing tx", U),
    (-32000, "fee too low", U),
    (-32000, "underpriced", U),
    # Monad
    (-32603, "Transaction nonce too low", K),
    (-32603, "An existing transaction had higher priority", K),
    (-32603, "Transaction fee too low", U),
    (-32603, "Signer had insufficient balance", F),
    (-32603, "Transaction pool is full", B),
    (-32603, "Transaction pool is not ready", B),
    # Reth and Parity
    (-32003, "insufficient gas price to replace existing transaction", U),
    (-32003, "transaction feeCap 7 below chain minimum", U),
    (-32010, "Transaction nonce is too low. Try incrementing the nonce.", K),
    (-32010, "Transaction with the same hash was already imported.", K),
    # QuickNode, Alchemy, Infura and others that lease nodes out
    (-32007, "50/second request limit reached - reduce calls per second or upgrade your account", B),
    (-32012, "credits limited to 6000/sec", B),
    (429, "The requests per second (RPS) of your requests are higher than your plan allows.", B),
    (-32000, "Your app has exceeded its compute units per second capacity.", B),
    (-32000, "Monthly capacity limit exceeded. Visit the billing settings to upgrade.", B),
    (-32001, "You've reached the usage limit for your current plan.", B),
    (-32005, "project ID request rate exceeded", B),
    (-32016, "over rate limit", B),
    (-32000, "Sender doesn't have enough funds to send tx.", F),
    (-32000, "tx already in mempool", K),
    # not what they resemble
    (3, "execution reverted: too many requests", R),
    (-32000, "unknown transaction", X),
    (-32005, "daily request count exceeded, request rate limited", B),
    (429, "", B),
    (-32602, "invalid sender", X),
]


@pytest.mark.parametrize(("code", "message", "expected"), SAID)
def test_a_nodes_words_are_understood(code: int, message: str, expected: Meaning) -> None:
    assert meaning({"code": code, "message": message}) is expected


@pytest.mark.parametrize(
    "error", [{}, {"code": "3"}, {"code": True}, {"message": None}, {"message": ["revert"] * 10**5}]
)
def test_an_error_of_any_shape_has_a_meaning(error: dict[str, Any]) -> None:
    assert isinstance(meaning(error), Meaning)


@pytest.fixture
def node() -> Iterator[ScriptedNode]:
    with scripted() as node:
        yield node


@pytest.mark.parametrize(
    ("block", "tip", "price", "fees"),
    [
        ({"baseFeePerGas": "0x64"}, "0x5", "0x78", Fees(100, 5)),
        ({"baseFeePerGas": "0x64"}, None, "0x78", Fees(100, 20)),
        ({"baseFeePerGas": "0x64"}, None, "0x32", Fees(100, 0)),
        ({}, None, "0x32", Fees(0, 50)),
        ({}, "0x5", None, Fees(0, 5)),
        ({"baseFeePerGas": None}, None, "0x0", Fees(0, 0)),
        ({"baseFeePerGas": "0x0"}, "0x0", None, Fees(0, 0)),
    ],
)
def test_fees_are_had_from_whatever_a_node_offers(
    block: dict[str, Any], tip: str | None, price: str | None, fees: Fees, node: ScriptedNode
) -> None:
    node.answers["eth_getBlockByNumber"] = {"result": {"number": "0x1", **block}}
    if tip is not None:
        node.answers["eth_maxPriorityFeePerGas"] = {"result": tip}
    if price is not None:
        node.answers["eth_gasPrice"] = {"result": price}
    assert HttpChain([node.url]).fees() == fees


def test_a_node_that_names_no_price_at_all_is_unavailable(node: ScriptedNode) -> None:
    node.answers["eth_getBlockByNumber"] = {"result": {"number": "0x1"}}
    with pytest.raises(Unavailable, match="refuses eth_gasPrice"):
        HttpChain([node.url]).fees()


@pytest.mark.parametrize(
    ("message", "raised"),
    [
        ("AlreadyKnown", None),
        ("Known transaction", None),
        ("An existing transaction had higher priority", None),
        ("FeeTooLowToCompete", Underpriced),
        ("could not replace existing tx", Underpriced),
        ("Upfront cost exceeds account balance", Misconfigured),
        ("Signer had insufficient balance", Misconfigured),
        ("Unsupported transaction type", Misconfigured),
    ],
)
def test_a_broadcast_ends_alike_at_every_node(message: str, raised: type[Exception] | None, node: ScriptedNode) -> None:
    node.answers["eth_sendRawTransaction"] = {"error": {"code": -32000, "message": message}}
    if raised is None:
        HttpChain([node.url]).send_raw(b"\1")
        return
    with pytest.raises(raised):
        HttpChain([node.url]).send_raw(b"\1")


@pytest.mark.parametrize(
    "error",
    [
        {"code": -32015, "message": "VM execution error.", "data": "Reverted 0x1f2a2005"},
        {"code": -32000, "message": "Execution reverted", "data": "0x1f2a2005"},
        {"code": 3, "message": "execution reverted", "data": {"data": "0x1f2a2005"}},
        {"code": -32015, "message": "VM execution error.", "data": "Bad instruction 0xfe"},
        {"code": 3, "message": "execution reverted"},
    ],
)
def test_a_revert_is_one_whatever_it_is_called(error: dict[str, Any], node: ScriptedNode) -> None:
    node.answers["eth_call"] = {"error": error}
    with pytest.raises(Reverted):
        HttpChain([node.url]).call("0x" + "1" * 40, b"")
