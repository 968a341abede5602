"""Why a blob was refused.

```
CodecError                  hypergpu_fl.errors
├── Truncated               the blob ends before its content does
├── Corrupt                 checksum differs: damaged on the way
├── UnknownFormat           not a codec blob, or a version or level this build does not know
├── WrongModel              made for another architecture
├── Malformed               a field holds a value no encoder writes
├── NotFinite               values the codec cannot represent (NaN, Inf, beyond 2**120)
├── ViewMissing             a change against a model version that the node does not hold
└── ResidualRefused         a residual or view that cannot be kept on the disk
```
"""

from __future__ import annotations

from hypergpu_fl.errors import CodecError


class Truncated(CodecError):
    """The blob ends before its content does."""


class Corrupt(CodecError):
    """The checksum differs."""


class UnknownFormat(CodecError):
    """Not a codec blob, or one of a version or level that this build does not know."""


class WrongModel(CodecError):
    """The blob belongs to another architecture."""


class Malformed(CodecError):
    """A field holds a value that no encoder writes."""


class NotFinite(CodecError):
    """The values to encode hold NaN, Inf or a magnitude of 2**120 and more."""


class ViewMissing(CodecError):
    """The blob is a change against a model version that is not held here."""


class ResidualRefused(CodecError):
    """A residual or view that cannot be kept: there is no room, or the disk refuses."""
