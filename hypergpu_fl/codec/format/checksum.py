"""One checksum for what travels or lies on a disk. CRC-32 would take most of the time that decoding a model takes."""

from __future__ import annotations

import xxhash

Buffer = bytes | bytearray | memoryview


def checksum(*parts: Buffer) -> int:
    """Lower 32 bits of XXH3-64 (github.com/Cyan4973/xxHash, 0.8) of the parts, one after the other."""
    digest = xxhash.xxh3_64()
    for part in parts:
        digest.update(part)
    return digest.intdigest() & 0xFFFFFFFF
