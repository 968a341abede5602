"""The blob format in plain numpy, written from the format's description alone: slow, and an oracle.

It shares no code with the package. Only sizes of Zstandard frames may differ between builds of that library, so
comparisons use the same installed library on both sides.
"""

from __future__ import annotations

import math
import struct

import numpy as np
import xxhash
import zstandard

CODES = {"fp32": 1, "fp16": 2, "bf16": 3, "int8": 4, "int4": 5, "top16": 6, "top32": 7, "top64": 8, "top128": 9}
CODES["top8"] = 11
CODES["raw"] = 10


HUFFMAN = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST, window_log=20, hash_log=6, chain_log=6, search_log=1, min_match=7, target_length=0
)


def bf16(value: float) -> int:
    bits = int(np.float32(value).view(np.uint32))
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


def widen(bits: int) -> np.float32:
    return np.uint32(bits << 16).view(np.float32)


def frame(content: bytes, compress: bool = True) -> bytes:
    if not content:
        return b""
    packed = zstandard.ZstdCompressor(compression_params=HUFFMAN).compress(content) if compress else content
    payload = packed if len(packed) < len(content) else content
    return struct.pack("<I", len(payload)) + payload


def as_bytes(content: bytes, compress: bool = True) -> bytes:
    return b"".join(frame(content[i : i + 2**20], compress) for i in range(0, len(content), 2**20))


def words(values: np.ndarray, compress: bool = True) -> bytes:
    width, out = values.itemsize, b""
    for i in range(0, values.size, 2**18):
        content = values[i : i + 2**18].tobytes()
        planes = [content[b::width] for b in range(width)]
        out += b"".join(frame(plane, compress and plane is planes[-1]) for plane in planes)
    return out


def bits(flags: list[bool]) -> bytes:
    return np.packbits(np.array(flags, dtype=bool), bitorder="little").tobytes()


def encode_words(p: np.ndarray, level: str) -> tuple[bytes, np.ndarray]:
    if level in ("raw", "fp32"):
        return words(p, compress=level == "fp32"), p
    if level == "fp16":
        half = np.clip(p, -65504, 65504).astype(np.float16)
        return words(half.view(np.uint16)), half.astype(np.float32)
    half = np.array([bf16(v) for v in p], dtype=np.uint32).astype(np.uint16)
    return words(half), (half.astype(np.uint32) << 16).view(np.float32)


def encode_integers(p: np.ndarray, n_bits: int, block: int) -> tuple[bytes, np.ndarray]:
    largest = np.float32(2 ** (n_bits - 1) - 1)
    scales, codes, q = [], [], np.zeros_like(p)
    for i in range(0, p.size, block):
        part = p[i : i + block]
        scales.append(bf16(np.abs(part).max() / largest))
        s = widen(scales[-1])
        code = np.clip(np.rint(part / s), -largest, largest) if s else np.zeros_like(part)
        codes += [int(c) for c in code]
        q[i : i + block] = code * s
    if n_bits == 8:
        content = np.array(codes, dtype=np.int8).tobytes()
    else:
        codes += [0] * (len(codes) % 2)
        content = bytes((a & 15) | (b & 15) << 4 for a, b in zip(codes[::2], codes[1::2], strict=True))
    return words(np.array(scales, dtype=np.uint16)) + as_bytes(content), q


def encode_topk(p: np.ndarray, share: int, chunk: int = 8192) -> tuple[bytes, np.ndarray]:
    low, high, signs, marks, gaps, q = [], [], [], [], bytearray(), np.zeros_like(p)
    for start in range(0, p.size, chunk):
        part = p[start : start + chunk]
        k = math.ceil(part.size * (chunk // share) / chunk)
        index = sorted(np.argsort(-np.abs(part), kind="stable")[:k].tolist())
        top = int(np.abs(part).max().view(np.int32))
        scale = 2.0 ** (40 - (max(top >> 23, 1) - 127))
        whole = [int(abs(float(part[i])) * scale) for i in index]
        split = following = sum(whole) // k
        for _ in range(2):
            split = following
            above, below = [w for w in whole if w > split], [w for w in whole if w <= split]
            if not above:
                above = below
                break
            following = (sum(below) // len(below) + sum(above) // len(above)) // 2
        means = [min(sum(g) / len(g), 15 * min(g) / 8) for g in (below, above)]
        means[0] *= means[0] * 2**14 >= split
        pair = bf16(means[0] / scale), bf16(means[1] / scale)
        low.append(pair[0])
        high.append(pair[1])
        previous = -1
        for i, w in zip(index, whole, strict=True):
            gap, previous = i - previous - 1, i
            gaps += bytes([255] * (gap // 255) + [gap % 255])
            signs.append(bool(part[i] < 0))
            marks.append(w > split)
            q[start + i] = (-1 if part[i] < 0 else 1) * widen(pair[w > split])
    body = words(np.array(low + high, dtype=np.uint16))
    body += as_bytes(bits(signs), compress=False) + as_bytes(bits(marks))
    return body + struct.pack("<I", len(gaps)) + as_bytes(bytes(gaps)), q


def encode_main(p: np.ndarray, level: str) -> tuple[bytes, np.ndarray]:
    if level.startswith("top"):
        return encode_topk(p, int(level[3:]))
    if level.startswith("int"):
        return encode_integers(p, int(level[3:]), 256 if level == "int8" else 128)
    return encode_words(p, level)


def encode(level: str, p: np.ndarray, is_statistic: np.ndarray, buffers: bytes, model: bytes, base: int) -> tuple:
    """Blob of p, and the values it decodes to."""
    q = np.zeros_like(p)
    main, q[~is_statistic] = encode_main(p[~is_statistic], level)
    stats, q[is_statistic] = encode_words(p[is_statistic], "fp32" if level in ("raw", "fp32") else "fp16")
    body = main + stats + as_bytes(buffers)
    header = struct.pack("<4sBBH16sq", b"HGPU", 1, CODES[level], 0, model[:16], base)
    return header + struct.pack("<I", xxhash.xxh3_64_intdigest(header + body) % 2**32) + body, q
