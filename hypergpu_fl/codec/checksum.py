"""CRC-32 on several threads: at two gigabytes a second it would be the slowest part of decoding.

Checksums of neighbouring pieces combine, because CRC-32 is linear (zlib's ``crc32_combine``):

.. math:: crc(AB) = crc(A) x^{8 |B|} + crc(B)

in polynomials over GF(2) modulo the CRC's own, which are held as 32 bits with the coefficient of 1 in the highest.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from functools import lru_cache, reduce

from hypergpu_fl.codec.threads import ordered_map

Buffer = bytes | bytearray | memoryview
PIECE_BYTES = 1 << 20
GROUPS = 8
_POLYNOMIAL = 0xEDB88320
_ONE, _BYTE = 1 << 31, 1 << 23  # 1 and x**8


def crc32(*parts: Buffer) -> int:
    """``zlib.crc32`` of the parts, one after the other."""
    pieces = [part[i : i + PIECE_BYTES] for part in map(_flat, parts) for i in range(0, len(part), PIECE_BYTES)]
    groups = _grouped(pieces, max(4 * PIECE_BYTES, sum(map(len, pieces)) // GROUPS))
    sums = list(ordered_map(lambda group: reduce(lambda crc, piece: zlib.crc32(piece, crc), group, 0), groups))
    checksum = 0
    for crc, group in zip(sums, groups, strict=True):
        checksum = _times(checksum, _shift(sum(map(len, group)))) ^ crc if checksum else crc
    return checksum


def _flat(part: Buffer) -> memoryview:
    view = memoryview(part)
    return view.cast("B") if view.nbytes else memoryview(b"")  # nothing cannot be cast


def _grouped(pieces: Iterable[memoryview], least_bytes: int) -> list[list[memoryview]]:
    groups: list[list[memoryview]] = []
    room = 0
    for piece in pieces:
        if room <= 0:
            groups.append([])
            room = least_bytes
        groups[-1].append(piece)
        room -= len(piece)
    return groups


def _times(a: int, b: int) -> int:
    """Product of two polynomials."""
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = (a << 1) & 0xFFFFFFFF
        b = (b >> 1) ^ (_POLYNOMIAL if b & 1 else 0)
    return product


@lru_cache(maxsize=256)
def _shift(n_bytes: int) -> int:
    """``x**(8 n)``."""
    power, square = _ONE, _BYTE
    while n_bytes:
        if n_bytes & 1:
            power = _times(power, square)
        square = _times(square, square)
        n_bytes >>= 1
    return power
