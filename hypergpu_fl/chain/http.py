"""JSON-RPC over HTTP, to several endpoints in rotation. Answers are not trusted.

web3's own provider is not used here: it retries broadcasts, adds 100,000 gas and waits on speculative blocks. It also
bounds neither the size nor the time of an answer, and does not turn to a second endpoint.
"""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote

import urllib3

from hypergpu_fl.chain import abi
from hypergpu_fl.chain.client import Fees, Receipt, Tag
from hypergpu_fl.chain.dialects import Meaning, meaning, revert_data
from hypergpu_fl.chain.errors import Misconfigured, Reverted, Unavailable, Underpriced
from hypergpu_fl.proxies import proxy_of
from hypergpu_fl.redaction import redact_url

logging.getLogger("urllib3").setLevel(logging.INFO)  # its debug lines show paths, and paths hold API keys

_MAX_ANSWER_BYTES: Final = 4 << 20


class HttpChain:
    """A chain behind one or more JSON-RPC endpoints.

    Parameters
    ----------
    urls : Sequence[str]
        Endpoints; one is used until it fails, then the next.
    chain_id : int
        The chain that every endpoint must serve; 0 accepts any. Each endpoint is asked for its chain when it is turned
        to, and one that serves another chain is skipped like one that is down.
    timeout_s : float
        Longest wait for one answer.
    """

    def __init__(self, urls: Sequence[str], *, chain_id: int = 0, timeout_s: float = 5.0) -> None:
        if not urls:
            raise Misconfigured("no RPC address is given", "set blockchain.rpc_url")
        self._urls = tuple(urls)
        self._current = 0
        self._expected = chain_id
        self._recognised = chain_id == 0
        self.timeout_s = timeout_s
        self._pools: dict[str | None, urllib3.PoolManager] = {}
        self._ids = itertools.count(1)

    def chain_id(self) -> int:
        """``eth_chainId``."""
        return _integer(self._ask("eth_chainId"))

    def block_number(self, tag: Tag) -> int:
        """Return the number of ``eth_getBlockByNumber(tag)``."""
        return _count(self._block(tag).get("number"))

    def newest_block_s(self) -> int:
        """Time of the latest block, in seconds since 1970."""
        return _count(self._block("latest").get("timestamp"))

    def code(self, address: str) -> bytes:
        """``eth_getCode``."""
        return _data(self._ask("eth_getCode", address, "latest"))

    def balance(self, address: str) -> int:
        """``eth_getBalance``."""
        return _integer(self._ask("eth_getBalance", address, "latest"))

    def nonce(self, address: str) -> int:
        """``eth_getTransactionCount`` at ``latest``; ``pending`` means the same on Monad."""
        return _count(self._ask("eth_getTransactionCount", address, "latest"))

    def fees(self) -> Fees:
        """Return base fee of the latest block and ``eth_maxPriorityFeePerGas``.

        A chain without a base fee has a base fee of 0. If the method is missing, the tip is the part of
        ``eth_gasPrice`` above the base fee.
        """
        given = self._block("latest").get("baseFeePerGas")
        base = 0 if given is None else _integer(given)
        try:
            return Fees(base, _integer(self._ask("eth_maxPriorityFeePerGas")))
        except _NoMethod:
            return Fees(base, max(0, _integer(self._ask("eth_gasPrice")) - base))

    def call(self, to: str, data: bytes, tag: Tag = "latest") -> bytes:
        """``eth_call``."""
        return _data(self._ask("eth_call", {"to": to, "data": "0x" + data.hex()}, tag))

    def estimate_gas(self, sender: str, to: str | None, data: bytes, value: int) -> int:
        """``eth_estimateGas``."""
        call = {"from": sender, "data": "0x" + data.hex(), "value": hex(value), **({"to": to} if to else {})}
        return _integer(self._ask("eth_estimateGas", call))

    def send_raw(self, raw: bytes) -> None:
        """``eth_sendRawTransaction``; after "already known" and "nonce too low", the receipt decides."""
        try:
            self._ask("eth_sendRawTransaction", "0x" + raw.hex())
        except _Refused as refused:
            if refused.meaning is Meaning.KNOWN:
                return
            if refused.meaning is Meaning.UNDERPRICED:
                raise Underpriced(refused.cause, refused.remedy) from None
            raise

    def receipt(self, tx_hash: bytes) -> Receipt | None:
        """``eth_getTransactionReceipt``."""
        answer = self._ask("eth_getTransactionReceipt", "0x" + tx_hash.hex())
        if answer is None:
            return None
        if not isinstance(answer, dict) or answer.get("transactionHash") != "0x" + tx_hash.hex():
            raise _garbage("a receipt")
        status, block, used = (_count(answer.get(key)) for key in ("status", "blockNumber", "gasUsed"))
        return Receipt(status == 1, block, used)

    def rotate(self) -> None:
        """Ask the next endpoint from now on."""
        self._current = (self._current + 1) % len(self._urls)
        self._recognised = self._expected == 0

    def _block(self, tag: Tag) -> dict[str, Any]:
        answer = self._ask("eth_getBlockByNumber", tag, False)
        if not isinstance(answer, dict):
            raise _garbage("a block")
        return answer

    def _ask(self, method: str, *params: Any) -> Any:
        """Result of one call, from the first endpoint that gives one."""
        for _ in self._urls[1:]:
            try:
                return self._ask_current(method, params)
            except _Refused:
                raise
            except (Unavailable, _OtherChain):
                self.rotate()
        return self._ask_current(method, params)

    def _ask_current(self, method: str, params: Sequence[Any]) -> Any:
        url = self._urls[self._current]
        if not self._recognised:
            found = _integer(self._ask_one(url, "eth_chainId", ()))
            if found != self._expected:
                raise _OtherChain(
                    f"{redact_url(url)} serves chain {found}, the run is bound to chain {self._expected}",
                    "correct blockchain.rpc_url or blockchain.chain_id",
                )
            self._recognised = True
        return self._ask_one(url, method, params)

    def _ask_one(self, url: str, method: str, params: Sequence[Any]) -> Any:
        number = next(self._ids)
        body = json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        status, content = self._post(url, body.encode())
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or answer.get("id") not in (number, None):
            raise Unavailable(f"{redact_url(url)} answers {method} with HTTP {status} and no JSON-RPC", _NEXT)
        if isinstance(answer.get("error"), dict):
            raise _refusal(url, method, answer["error"])
        if "result" not in answer:
            raise Unavailable(f"{redact_url(url)} answers {method} without a result", _NEXT)
        return answer["result"]

    def _pool(self, url: str) -> urllib3.PoolManager:
        """Connections through the proxy that ``url`` needs, or direct ones."""
        proxy = proxy_of(url)
        if proxy not in self._pools:
            if proxy is None:
                self._pools[proxy] = urllib3.PoolManager(retries=False)
            elif not proxy.lower().startswith(("http://", "https://")):
                raise Misconfigured(
                    f"{redact_url(url)} would be asked through {redact_url(proxy)}, but only HTTP proxies are spoken",
                    "set https_proxy to an http:// proxy, or name the endpoint's host in no_proxy",
                )
            else:
                user = urllib3.util.parse_url(proxy).auth
                headers = urllib3.make_headers(proxy_basic_auth=unquote(user)) if user else None
                self._pools[proxy] = urllib3.ProxyManager(proxy, proxy_headers=headers, retries=False)
        return self._pools[proxy]

    def _post(self, url: str, body: bytes) -> tuple[int, bytes]:
        """Status and content of one answer, bounded in size and in time, however slowly it trickles in."""
        deadline = time.monotonic() + self.timeout_s
        headers = {"Content-Type": "application/json"}
        try:
            response = self._pool(url).request(
                "POST", url, body=body, headers=headers, timeout=self.timeout_s, preload_content=False
            )
            try:
                content = bytearray()
                while part := response.read1(1 << 16):
                    content += part
                    if len(content) > _MAX_ANSWER_BYTES or time.monotonic() > deadline:
                        response.close()
                        raise Unavailable(f"{redact_url(url)} answers too much or too slowly", _NEXT)
            finally:
                response.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise Unavailable(f"{redact_url(url)} does not answer: {type(error).__name__}", _NEXT) from None
        return response.status, bytes(content)


_NEXT: Final = "check the RPC's address and the network; a run goes on, and sends once an endpoint answers"


class _OtherChain(Misconfigured):
    """An endpoint of another chain."""


class _Refused(Unavailable):
    """A JSON-RPC error object that means none of our other errors."""

    def __init__(self, cause: str, meaning: Meaning) -> None:
        super().__init__(cause, _NEXT)
        self.meaning = meaning


class _NoMethod(_Refused):
    """A method that an endpoint does not offer, and that another method can replace."""


def _refusal(url: str, method: str, error: dict[str, Any]) -> Exception:
    message, found = " ".join(str(error.get("message", ""))[:200].split()), meaning(error)
    if found is Meaning.REVERTED:
        data = revert_data(error)
        try:
            return Reverted(abi.decode_error(_data(data)) if data is not None else message)
        except Unavailable:
            return Reverted(message)
    if found is Meaning.NO_FUNDS:
        return Misconfigured("the account cannot pay for a transaction", "send it funds; sending goes on by itself")
    if found is Meaning.NO_FEE_MARKET:
        return Misconfigured("the chain takes no EIP-1559 transactions", "use a chain that does, such as Monad")
    cause = f"{redact_url(url)} refuses {method}: {message}"
    if found is Meaning.NO_METHOD and method == "eth_maxPriorityFeePerGas":
        return _NoMethod(cause, found)
    if found is Meaning.BUSY or method != "eth_sendRawTransaction":  # ask another
        return Unavailable(cause, _NEXT)
    return _Refused(cause, found)


def _garbage(what: str) -> Unavailable:
    return Unavailable(f"the RPC answers with something that is not {what}", _NEXT)


def _integer(value: Any) -> int:
    if not isinstance(value, str) or not value.startswith("0x") or len(value) > 66:
        raise _garbage("a number")
    try:
        return int(value, 16)
    except ValueError:
        raise _garbage("a number") from None


def _count(value: Any) -> int:
    """Return a number that the outbox can store: below 2^63."""
    number = _integer(value)
    if number >= 1 << 63:
        raise _garbage("a number of this kind")
    return number


def _data(value: Any) -> bytes:
    if not isinstance(value, str) or not value.startswith("0x"):
        raise _garbage("data")
    try:
        return bytes.fromhex(value[2:])
    except ValueError:
        raise _garbage("data") from None
