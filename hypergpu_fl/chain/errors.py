"""What can go wrong between this process and a chain.

```
ChainError
├── Unavailable       no endpoint answered usefully; try again later, nothing is known
├── Reverted          the contract refused a call; carries its decoded error
├── Underpriced       another transaction with the same nonce is in the way; the fee must rise
├── Misconfigured     chain, contract, key or balance is not what it must be: nothing is sent until it is
└── ForkAlarm         the chain holds another history than ours: commits stop, training does not
```
"""

from __future__ import annotations

from hypergpu_fl.errors import ChainError


class Unavailable(ChainError):
    """No endpoint gave a usable answer. Says nothing about the state of the chain."""


class Reverted(ChainError):
    """A contract refused a call or a transaction.

    Parameters
    ----------
    reason : str
        Decoded custom error with its values, or the node's message.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the contract refuses: {reason}", "see the contract's errors in contracts/src")
        self.reason = reason


class Underpriced(ChainError):
    """The node keeps another transaction with the same nonce, which a higher fee would replace."""


class Misconfigured(ChainError):
    """Chain id, contract code, coordinator or balance is not what it must be."""


class ForkAlarm(ChainError):
    """The chain's finalized history of the session is not ours."""
