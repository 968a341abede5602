"""Hellos and replies with one thing wrong in each: blobs of every level of the codec, numbers, names, types, claims.

A `Move` says what a hostile node does with one message. It is four small numbers, so that a failing run is shrunk to
the few moves that matter.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict
from numpy.typing import NDArray

from hypergpu_fl.bench.attacks import HostileNode
from hypergpu_fl.codec import LEVELS, blob_record
from hypergpu_fl.codec.encoder import write_buffers
from hypergpu_fl.codec.format.blob import BODY, CHECKSUM, HEADER, Writer
from hypergpu_fl.codec.format.checksum import checksum
from hypergpu_fl.codec.format.runs import runs_of
from hypergpu_fl.codec.format.words import Word, kept_in
from hypergpu_fl.codec.levels import Integers, TopK, Words
from strategies import wire
from strategies.model.layout import Arrays, Layout

EDGES = [
    *(0.0, -0.0, 5e-324, -5e-324, 1e-300, 1e-7, 0.5, 1.0, 2.0, 1e3, 1e4, 1e6, 1e9, 1e12, 1e18, 1e19, 1e300),
    *(-1.0, -1e-9, -1e9, -1e300, math.inf, -math.inf, math.nan, 1.7976931348623157e308),
    *(0, 1, -1, 2**31 - 1, 2**31, 2**31 + 1, 2**40, 2**40 + 1, 2**53, 2**62, 2**63 - 1, -(2**63)),
]
WORDS: Mapping[Word, list[int]] = {
    Word.FP32: [
        0,
        1,
        0x7FFFFF,
        0x3F800000,
        0x7B800000,
        0x7F7FFFFF,
        0x7F800000,
        0x7FC00000,
        1 << 31,
        0xFF7FFFFF,
        2**32 - 1,
    ],
    Word.FP16: [0, 1, 0x3FF, 0x3C00, 0x7000, 0x7BFF, 0x7C00, 0x7E00, 0x8000, 0xFBFF, 0xFFFF],
    Word.BF16: [0, 1, 0x7F, 0x3F80, 0x5F80, 0x7F7F, 0x7F80, 0x7FC0, 0x8000, 0xFF7F, 0xFFFF],
}
BYTES = [0, 1, 7, 36, 127, 128, 200, 255]
CODES = [0, 1, 2, 3, 5, 99, -1, 2**31 - 1]  # of error replies
LENGTHS = [0, 1, 2**8, 2**16, 2**20, 2**31, 2**32 - 1]
BASES = [0, 1, -1, 2, 200, 2**31, 2**62, 2**63 - 1, -(2**63)]
NUMBERS = sorted(
    {
        *((wire.METRICS, name) for name in wire.reply.DOMAINS),
        *((wire.LINK, name) for name in wire.link.DOMAINS),
        *((record, wire.SAMPLES) for record in (wire.METRICS, wire.TIMING)),
        *((wire.METRICS, name) for name in ("metric.accuracy", "metric.", "metric.\u202e", "accuracy", wire.RTT_S)),
    }
)
HELLOS = sorted(
    {*((wire.HELLO, name) for name in wire.hello.DOMAINS), *((wire.LINK, name) for name in wire.link.DOMAINS)}
)
RECORDS = [
    *(wire.UPDATE, wire.METRICS, wire.LINK, wire.TIMING, wire.CONTRIBUTION, wire.HELLO, wire.DEVICE, wire.IDENTITY),
    *(wire.ENROLMENT, wire.UNFIT, wire.ORDER, wire.hello.INVITATION),
]
TEXTS: list[Any] = [
    *("", "x", "0x" + 40 * "0", "\ud800", "\x1b[2J\n", "x" * 100_000),
    *(b"", b"\0" * 65, b"\xff" * 65, 0, -1, True, math.nan),
]


class Move(NamedTuple):
    """What hostile nodes do with messages: a kind, which value, at which place."""

    kind: int = 0
    value: int = 0
    place: int = 0
    more: int = 0

    @property
    def times(self) -> int:
        """How many messages in a row: a round has up to five hostile nodes, which may agree."""
        return 1 + self.more % 6


@dataclass
class Draft:
    """A blob in the making: values that no encoder would write, put where ``bits``, ``measured`` and ``gaps`` say."""

    level: str
    main: NDArray[np.float32]
    statistics: NDArray[np.float32]
    buffers: dict[str, NDArray[Any]]
    base: int
    bits: Callable[[NDArray[Any]], None] = lambda words: None  # changes the words of the main part, or its scales
    measured: Callable[[NDArray[Any]], None] = lambda words: None  # changes the words of the statistics
    gaps: Callable[[NDArray[Any]], None] = lambda gaps: None

    def blob(self, layout: Layout) -> bytes:
        """The blob, its checksum right."""
        body, level = Writer(), LEVELS[self.level]
        if isinstance(level, Words):
            _words(body, level.word, _as(self.main, level.word), self.bits)
        elif isinstance(level, Integers):
            self._integers(body, level)
        else:
            assert isinstance(level, TopK)
            self._top(body, level)
        _words(body, level.statistics, _as(self.statistics, level.statistics), self.measured)
        write_buffers(body, layout, self.buffers)
        return body.finish(level.code, layout.hash, self.base)

    def _integers(self, body: Writer, level: Integers) -> None:
        count = -(-self.main.size // level.block)
        largest = np.abs(self.main).max(initial=0.0) / level.largest
        _words(body, Word.BF16, _as(np.full(count, largest, np.float32), Word.BF16), self.bits)
        packed = np.frombuffer(self.main.tobytes(), np.uint8)[: -(-self.main.size * level.bits // 8)]
        body.raw_bytes(packed)

    def _top(self, body: Writer, level: TopK) -> None:
        chunks, kept = -(-self.main.size // level.chunk), kept_in(self.main.size, level.chunk, level.k)
        low = np.abs(self.main).max(initial=0.0)
        _words(body, Word.BF16, _as(np.full(2 * chunks, low, np.float32), Word.BF16), self.bits)
        for _ in ("signs", "marks"):
            body.raw_bytes(np.frombuffer(self.main.tobytes(), np.uint8)[: -(-kept // 8)].copy())
        gaps = np.ones(kept, np.uint8)
        self.gaps(gaps)
        body.number(gaps.size)
        body.raw_bytes(gaps)


def _as(values: NDArray[np.float32], word: Word) -> NDArray[Any]:
    if word is Word.FP32:
        return values.view(np.uint32).copy()
    if word is Word.FP16:
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16).copy()
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def _words(body: Writer, word: Word, words: NDArray[Any], change: Callable[[NDArray[Any]], None]) -> None:
    change(words)
    body.words(words.size, word.width, lambda start, stop: words[start:stop])


def _put(values: list[int], move: Move) -> Callable[[NDArray[Any]], None]:
    """Puts an edge value at one place, or at all of them."""

    def change(words: NDArray[Any]) -> None:
        if words.size:
            words[slice(None) if move.more % 3 == 0 else move.place % words.size] = values[move.value % len(values)]

    return change


Blobs = Callable[[Draft, Move, Layout], bytes]


def _scaled(draft: Draft, move: Move, layout: Layout) -> bytes:
    with np.errstate(over="ignore", invalid="ignore"):
        draft.main = draft.main * np.float32([-1, -4, 3, 10, 1e3, 1e-30, 0, 1e20][move.value % 8])
    return draft.blob(layout)


def _bits(draft: Draft, move: Move, layout: Layout) -> bytes:
    level = LEVELS[draft.level]
    draft.bits = _put(WORDS[level.word if isinstance(level, Words) else Word.BF16], move)
    return draft.blob(layout)


def _statistics(draft: Draft, move: Move, layout: Layout) -> bytes:
    draft.measured = _put(WORDS[LEVELS[draft.level].statistics], move)
    return draft.blob(layout)


def _gaps(draft: Draft, move: Move, layout: Layout) -> bytes:
    draft.gaps = _put(BYTES, move)
    return draft.blob(layout)


def _buffers(draft: Draft, move: Move, layout: Layout) -> bytes:
    """One integer or boolean buffer moved, or put to an end of its type."""
    name = sorted(draft.buffers)[move.place % len(draft.buffers)]
    array = draft.buffers[name]
    if array.dtype.kind == "b":
        draft.buffers[name] = ~array
    else:
        ends = np.iinfo(array.dtype)
        moved = [
            ends.min,
            ends.max,
            ends.max - 1,
            ends.max // 2,
            0,
            100,
            *(array + array.dtype.type(1)).reshape(-1)[:1],
        ]
        draft.buffers[name] = np.full_like(array, moved[move.value % len(moved)])
    return draft.blob(layout)


def _base(draft: Draft, move: Move, layout: Layout) -> bytes:
    draft.base = BASES[move.value % len(BASES)] if move.more % 2 else draft.base + move.value % 5 - 2
    return draft.blob(layout)


def _byte(draft: Draft, move: Move, layout: Layout) -> bytes:
    blob = bytearray(draft.blob(layout))
    blob[move.place % len(blob)] ^= 1 + move.value % 255
    return bytes(blob) if move.more % 3 == 0 else _checked(blob)


def _length(draft: Draft, move: Move, layout: Layout) -> bytes:
    blob = bytearray(draft.blob(layout))
    at = BODY + move.place % max(1, len(blob) - BODY - 4)
    struct.pack_into("<I", blob, at, LENGTHS[move.value % len(LENGTHS)])
    return _checked(blob)


def _cut(draft: Draft, move: Move, layout: Layout) -> bytes:
    blob = bytearray(draft.blob(layout))
    if move.more % 2:
        return _checked(blob + bytes(move.place % 70_000))
    cut = blob[: move.place % len(blob)]
    return _checked(cut) if len(cut) >= BODY else bytes(cut)


def _header(draft: Draft, move: Move, layout: Layout) -> bytes:
    blob = bytearray(draft.blob(layout))
    blob[move.place % HEADER.size] = BYTES[move.value % len(BYTES)]
    return _checked(blob)


def _checked(blob: bytearray) -> bytes:
    """The blob with the checksum that fits."""
    CHECKSUM.pack_into(blob, HEADER.size, checksum(blob[: HEADER.size], blob[BODY:]))
    return bytes(blob)


BLOBS: list[Blobs] = [
    *(_scaled, _bits, _statistics, _gaps, _buffers, _base, _byte, _length, _cut, _header, _bits, _statistics),
]


def _number(names: list[tuple[str, str]], content: RecordDict, move: Move) -> None:
    record, name = names[move.place % len(names)]
    known = dict(content.metric_records.get(record) or {})
    value: Any = EDGES[move.value % len(EDGES)]
    content[record] = MetricRecord({**known, name: [float(value)] if move.more % 8 == 0 else value})


def _missing(content: RecordDict, move: Move) -> None:
    for name in sorted(content)[move.place % max(1, len(content)) :][:1]:
        if move.more % 2 and isinstance(found := content[name], MetricRecord | ConfigRecord) and found:
            del found[sorted(found)[move.value % len(found)]]
        else:
            del content[name]


def _other_type(content: RecordDict, move: Move) -> None:
    kinds = [ArrayRecord({"a": Array(np.zeros(1))}), MetricRecord({"a": 1.0}), ConfigRecord({"a": "b"}), MetricRecord()]
    content[RECORDS[move.place % len(RECORDS)]] = kinds[move.value % len(kinds)]


def _text(content: RecordDict, move: Move) -> None:
    name = RECORDS[move.place % len(RECORDS)]
    known = dict(content.config_records.get(name) or {})
    keys = [*sorted(known), wire.ADDRESS, wire.SIGNATURE, wire.CAUSE, wire.PARTITION, "x" * 200, "\x1b[2J"]
    content[name] = ConfigRecord({**known, keys[move.more % len(keys)]: TEXTS[move.value % len(TEXTS)]})


def _odd_array(content: RecordDict, move: Move) -> None:
    record = content.array_records.get(wire.UPDATE)
    if record is None or wire.BLOB not in record:
        return
    array, blob = record[wire.BLOB], np.frombuffer(wire.row_of_bytes(record[wire.BLOB]), np.uint8)
    odd = [
        lambda: {wire.BLOB: array, "other": array},
        lambda: {"other": array},
        lambda: {},
        lambda: {wire.BLOB: Array(blob.astype(np.float32))},
        lambda: {wire.BLOB: Array(blob.reshape(1, -1))},
        lambda: {wire.BLOB: Array(array.dtype, tuple(array.shape), "pickle", array.data)},
        lambda: {
            wire.BLOB: Array(array.dtype, tuple(array.shape), array.stype, array.data[: move.place % len(array.data)])
        },
        lambda: {wire.BLOB: Array("object", (2**40,), array.stype, array.data)},
        lambda: {wire.BLOB: Array(array.dtype, tuple(array.shape), array.stype, array.data.replace(b"|u1", b"|O8"))},
    ]
    content[wire.UPDATE] = ArrayRecord(odd[move.value % len(odd)]())


def _claim(content: RecordDict, move: Move) -> None:
    """The signature, or the address, of a reply or a hello: another byte, another length, another's."""
    name = wire.CONTRIBUTION if wire.CONTRIBUTION in content else wire.ENROLMENT
    record = content.config_records.get(name)
    if not record:
        return
    key = sorted(record)[move.more % len(record)]
    if isinstance(signature := record[key], bytes) and signature:
        broken = bytearray(signature)
        broken[move.place % len(broken)] ^= 1 + move.value % 255
        record[key] = bytes(broken[: 65 - move.value % 2])
    elif isinstance(address := record[key], str):
        record[key] = [address.lower(), address[:-1], "0x" + 40 * "f", ""][move.value % 4]


Record = Callable[[RecordDict, Move], None]
AFTERWARDS: list[Record] = [_missing, _other_type, _text, _odd_array, _claim]  # what no signature covers
ANSWERS = len(BLOBS) + 2 + len(AFTERWARDS) + 2  # the first changes nothing, the last is an error
HELLO_KINDS = 2 + len(AFTERWARDS) + 1


def hostile_reply(
    node: HostileNode, order: wire.Order, content: RecordDict, draft: Draft, move: Move
) -> RecordDict | Error:
    """What comes of an honest reply, of which ``draft`` is the update: signed again as far as that is possible."""
    kind = move.kind % ANSWERS
    if 0 < kind <= len(BLOBS):
        content[wire.UPDATE] = blob_record(BLOBS[kind - 1](draft, move, node.layout))
    elif 0 < kind <= len(BLOBS) + 2:
        _number(NUMBERS, content, move)
    elif kind == ANSWERS - 1:
        return Error(code=CODES[move.value % len(CODES)], reason=_reason(move))
    with suppress(OverflowError, ValueError, KeyError):  # then the honest signature stays, which does not fit
        node.sign(content, order)
    if kind > len(BLOBS) + 2:
        AFTERWARDS[kind - len(BLOBS) - 3](content, move)
    return content


def hostile_hello(
    node: HostileNode, session: bytes, node_id: int, content: RecordDict, move: Move
) -> RecordDict | Error:
    """What comes of an honest hello."""
    kind = move.kind % HELLO_KINDS
    if kind == HELLO_KINDS - 1:
        return Error(code=CODES[move.value % len(CODES)], reason=_reason(move))
    if kind == 1:
        _number(HELLOS, content, move)
    with suppress(OverflowError, KeyError):
        node.sign_hello(content, session, node_id)
    if kind >= 2:
        AFTERWARDS[kind - 2](content, move)
    return content


def _reason(move: Move) -> str:
    return [text for text in TEXTS if isinstance(text, str)][move.place % 6]


def apart(vector_P: NDArray[np.float32], layout: Layout) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The main values and the statistics of a vector."""
    runs = runs_of(layout)
    return tuple(
        np.concatenate([vector_P[start:stop] for start, stop in part] or [vector_P[:0]])
        for part in (runs.main, runs.statistics)
    )


def drafted(level: str, vector_P: NDArray[np.float32], buffers: Arrays, layout: Layout, base: int) -> Draft:
    """A whole draft of this update."""
    main, statistics = apart(vector_P, layout)
    return Draft(level, main, statistics, dict(buffers), base)
