"""The secret that proves to a SuperNode or SuperLink that its SuperExec is not another user of the machine."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

from hypergpu_fl.errors import UsageError

OPTION: Final = "--superexec-auth-secret-file"  # of flower-supernode, flower-superlink and flower-superexec


def shared_secret(arguments: Sequence[str]) -> tuple[bytes, list[str]]:
    """The secret to share with a SuperExec, and the arguments that make Flower ask for it.

    It is the one that ``arguments`` name, else a new one at every start. Without a secret, every user of this machine
    could take runs and messages, and the model in them.

    Raises
    ------
    UsageError
        As `given_secret`.
    """
    given = given_secret(arguments)
    return (given, []) if given is not None else (secrets.token_bytes(32), [OPTION, "made at this start"])


def given_secret(arguments: Sequence[str]) -> bytes | None:
    """The secret in the file that these arguments name, or None.

    Raises
    ------
    UsageError
        If the file cannot be read, or is empty.
    """
    from strategies.flower_internals import load_superexec_auth_secret

    file = None
    for i, word in enumerate(arguments):
        option, equals, value = word.partition("=")
        if option == OPTION:
            file = value if equals else "".join(arguments[i + 1 : i + 2])
    try:
        return load_superexec_auth_secret(file)
    except ValueError as error:
        raise UsageError(str(error), f"give {OPTION} a file that this user can read, or leave it out") from None
