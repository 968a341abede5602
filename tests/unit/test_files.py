"""A lock that another holds: waited for as long as one may, and no longer."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from hypergpu_fl.files import exclusive


class Taken(Exception):
    """Somebody else has it."""


def test_a_lock_that_is_given_back_in_time_is_taken(tmp_path: Path) -> None:
    file, given_back = tmp_path / "lock", threading.Event()
    with exclusive(file, Taken()), pytest.raises(Taken), exclusive(file, Taken()):
        pass

    def hold() -> None:
        with exclusive(file, Taken()):
            held.set()
            given_back.wait()

    held = threading.Event()
    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    threading.Timer(0.5, given_back.set).start()
    began_s = time.monotonic()
    with exclusive(file, Taken(), within_s=30.0):
        assert 0.4 < time.monotonic() - began_s < 10.0
    holder.join()


def test_a_lock_that_is_kept_is_refused_after_the_time_and_can_be_had_later(tmp_path: Path) -> None:
    file, began_s = tmp_path / "lock", time.monotonic()
    with exclusive(file, Taken()):
        with pytest.raises(Taken), exclusive(file, Taken(), within_s=0.6):
            pass
        assert 0.6 <= time.monotonic() - began_s < 10.0
    with exclusive(file, Taken()):
        pass
