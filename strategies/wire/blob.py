"""The one array that a message or a reply carries: a row of bytes."""

from __future__ import annotations

import re
from typing import Final

from flwr.app import Array

BLOB: Final = "blob"

# The one header that a row of bytes has, as numpy writes it. Numpy's own reader takes the text there for Python's
# source and fails with whatever its tokenizer raises.
_NPY: Final = re.compile(
    rb"\x93NUMPY\x01\x00(?s:..)\{'descr': '\|u1', 'fortran_order': False, 'shape': \((?P<size>\d{1,18}),\), \} *\n"
)


def row_of_bytes(array: Array) -> memoryview:
    """The values of a one-dimensional uint8 array where they lie: ``Array.numpy`` would copy them twice.

    Raises ``ValueError`` for anything else.
    """
    header = _NPY.match(array.data) if array.stype == "numpy.ndarray" else None
    if header is None or int(header["size"]) != len(array.data) - header.end():
        raise ValueError("not one row of bytes in npy format 1.0")
    return memoryview(array.data)[header.end() :]
