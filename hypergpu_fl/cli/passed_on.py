"""Options that a command passes on to one of Flower's programs: the files that they name must be there."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hypergpu_fl.errors import UsageError
from hypergpu_fl.files import path_meant

_OF_A_FILE: Final = re.compile(r"--(\S+-)?(certificates|certfile|keyfile|private-key|secret-file|entities|config)")
_KEYSTORE: Final = re.compile(r"(?:^|\s)keystore=(?:\"([^\"]*)\"|'([^']*)'|(\S+))")


def require_files(words: Sequence[str]) -> None:
    """Check the files that ``words`` name, and the keystore in ``--node-config``, before Flower looks for them.

    Raises
    ------
    UsageError
        If one is not there.
    """
    for i, word in enumerate(words):
        option, equals, value = word.partition("=")
        value = value if equals else "".join(words[i + 1 : i + 2])
        if option == "--node-config":
            keystore = _KEYSTORE.search(value)
            option, value = "keystore in --node-config", next(filter(None, keystore.groups()), "") if keystore else ""
        elif not _OF_A_FILE.fullmatch(option):
            continue
        path = Path(value).expanduser()
        if value and not os.path.exists(path):  # Path.exists() raises for a name that is too long
            raise UsageError(f"{option}: there is no {value}", path_meant(path) or "name a file that is there")
