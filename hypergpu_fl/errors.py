"""Every error a user can meet, as one tree.

```
HyperGPUError                   one line of cause, one line of remedy, an exit code
├── UsageError (exit 2)         what the user asked for cannot be
│   ├── ConfigError             configuration refused; lists every fault at once
│   ├── TaskError               unknown model, dataset, partitioner; data missing
│   └── RunNotFound             no such run under the runs directory
├── CodecError                  a blob that must not be decoded
├── NetworkError                a probe or a peer that does not answer
├── LedgerError                 the books are not in order
│   ├── NoBooks                 nothing was written into them yet
│   ├── BooksDamaged            a file of theirs is no database, or lacks what the others have
│   └── VerificationError       recomputation differs; names the first round
├── ChainError                  the chain refused, or is not what was configured
├── CheckpointError             a checkpoint is missing, torn or of another model
├── RunFailed                   a Flower run ended otherwise than completed
│   └── SuperLinkSilent         the SuperLink gives no answer now; the run may be well
├── WorkerFailed                a node's worker process raised or died over a message
└── Interrupted (exit 130)      the user stopped it; says how to go on
```

`strategies` lies below this package and raises its own errors; see `strategies.errors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

REMEDY: Final = "remedy: "


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: a line of cause with the offending value, and a line with the next step."""

    cause: str
    remedy: str


def first_line(error: BaseException) -> str:
    """First line of what an error says, or its kind if it says nothing, as a ``TimeoutError`` may."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class HyperGPUError(Exception):
    """Base of all errors shown to a user.

    Parameters
    ----------
    cause : str
        What is wrong, with the offending value.
    remedy : str
        The next step for the user.
    """

    exit_code = 1

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy
        if remedy:
            self.add_note(f"{REMEDY}{remedy}")  # in tracebacks too, which is all that a remote process hands over

    @property
    def faults(self) -> Sequence[Fault]:
        """What is wrong, one entry a fault; more than one only where all are found at once."""
        return (Fault(self.cause, self.remedy),)


class UsageError(HyperGPUError):
    """What the user asked for cannot be done."""

    exit_code = 2


class ConfigError(UsageError):
    """Configuration refused, with every fault that was found.

    Parameters
    ----------
    faults : Sequence[Fault]
        At least one; ``cause`` and ``remedy`` are those of the first.
    """

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(faults[0].cause, faults[0].remedy)
        self._faults = tuple(faults)

    @property
    def faults(self) -> Sequence[Fault]:
        """Every fault, in the order of the configuration's fields."""
        return self._faults


class TaskError(UsageError):
    """A model, dataset or partitioner that cannot be had."""


class RunNotFound(UsageError):
    """No such run."""


class CodecError(HyperGPUError):
    """A blob that must not be decoded."""


class NetworkError(HyperGPUError):
    """A probe or a peer that does not answer."""


class LedgerError(HyperGPUError):
    """The books are not in order."""


class NoBooks(LedgerError):
    """A run has opened no books yet."""


class BooksDamaged(LedgerError):
    """A file of the books is no database any more, or lacks what the files beside it have."""


class VerificationError(LedgerError):
    """Recomputation of the ledger differs from what is recorded."""


class ChainError(HyperGPUError):
    """The chain refused, or is not what was configured."""


class CheckpointError(HyperGPUError):
    """A checkpoint is missing, torn or belongs to another model."""


class RunFailed(HyperGPUError):
    """A Flower run ended otherwise than completed."""


class ServerDied(RunFailed):
    """The process that keeps a run's books ended without a word, and without its report."""


class SuperLinkSilent(RunFailed):
    """The SuperLink gives no answer now; the run may be well."""


class WorkerFailed(HyperGPUError):
    """A node's worker process raised or died over a message."""


class Interrupted(HyperGPUError):
    """The user stopped it; nothing is left running."""

    exit_code = 130
