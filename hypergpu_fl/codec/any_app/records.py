"""Blobs and arrays in Flower's records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message
from numpy.typing import NDArray

from hypergpu_fl.codec.errors import Malformed
from strategies import wire

CODEC_RECORD = "codec"  # ConfigRecord with wire.ROUND, wire.ACK and wire.CODEC, beside the app's own
REMEDY = "use the codec on both sides"


def to_record(arrays: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    """Flower record of numpy arrays."""
    return ArrayRecord({name: Array(np.asarray(array, order="C")) for name, array in arrays.items()})


def from_record(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Numpy arrays of a Flower record."""
    return {name: array.numpy() for name, array in record.items()}


def blob_record(blob: bytes) -> ArrayRecord:
    """Record of one uint8 array: each further array would cost an npy header."""
    return to_record({wire.BLOB: np.frombuffer(blob, dtype=np.uint8)})


def blob_of(record: ArrayRecord) -> memoryview:
    """Inverse of `blob_record`.

    Raises
    ------
    Malformed
        If the record holds anything but one flat uint8 array of that name.
    """
    if list(record) != [wire.BLOB]:
        raise Malformed(f"expected the one array {wire.BLOB!r}, got {list(record)[:5]}", REMEDY)
    try:
        return wire.row_of_bytes(record[wire.BLOB])
    except ValueError as error:
        raise Malformed(f"array {wire.BLOB!r} is {error}", REMEDY) from error


def the_record(message: Message) -> tuple[str, ArrayRecord]:
    """Key and value of the message's one ArrayRecord."""
    found = list(message.content.array_records.items())
    if len(found) != 1:
        raise Malformed(f"message has {len(found)} array records, expected one", "send the model in one record")
    return found[0]
