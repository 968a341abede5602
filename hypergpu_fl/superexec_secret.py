"""The secret by which a SuperNode or SuperLink knows its SuperExec from other users of the machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hypergpu_fl.errors import UsageError

OPTION: Final = "--superexec-auth-secret-file"  # of flower-supernode, flower-superlink and flower-superexec


def given_secret(arguments: Sequence[str]) -> bytes | None:
    """The secret that these arguments name a file of, or None.

    Raises
    ------
    UsageError
        If the file cannot be read, or is empty.
    """
    from flwr.supercore.auth import load_superexec_auth_secret

    file = None
    for i, word in enumerate(arguments):
        option, equals, value = word.partition("=")
        if option == OPTION:
            file = value if equals else "".join(arguments[i + 1 : i + 2])
    try:
        return load_superexec_auth_secret(file)
    except ValueError as error:
        raise UsageError(str(error), f"give {OPTION} a file that this user can read, or leave it out") from None
