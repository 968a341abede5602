"""Locks are waited for as long as one may, and no longer; a mistyped path is answered with the one that was meant."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from hypergpu_fl.chain.signer import KeySigner
from hypergpu_fl.errors import HyperGPUError
from hypergpu_fl.files import exclusive, path_meant
from hypergpu_fl.network.traces import links_from_traces
from hypergpu_fl.task.data import load_images


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


def test_a_lock_whose_file_was_removed_while_it_was_waited_for_is_no_lock(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    found: list[str] = []

    def wait() -> None:
        try:
            with exclusive(file, Taken(), within_s=30.0):
                found.append("has it")
        except Taken:
            found.append("refused")

    waiting = threading.Thread(target=wait)
    with exclusive(file, Taken()):
        waiting.start()
        time.sleep(0.5)  # the other one has opened it by then
        file.unlink()
        with exclusive(file, Taken()):  # who removed it begins anew, with a file of its own
            pass
    waiting.join()
    assert found == ["refused"]


def test_a_lock_that_is_kept_is_refused_after_the_time_and_can_be_had_later(tmp_path: Path) -> None:
    file, began_s = tmp_path / "lock", time.monotonic()
    with exclusive(file, Taken()):
        with pytest.raises(Taken), exclusive(file, Taken(), within_s=0.6):
            pass
        assert 0.6 <= time.monotonic() - began_s < 10.0
    with exclusive(file, Taken()):
        pass


def test_a_path_that_is_not_there_is_answered_with_the_one_beside_it_that_was_meant(tmp_path: Path) -> None:
    meant = tmp_path / "my photos" / "train"
    meant.mkdir(parents=True)
    for typed in (tmp_path / "myphotos" / "train", tmp_path / "my photos" / "trian"):
        assert path_meant(typed) == f"did you mean {str(meant)!r}?"
    for other in (tmp_path / "myphotos" / "elsewhere", tmp_path / "zzz", meant):
        assert path_meant(other) == ""


def test_each_path_of_the_configuration_is_answered_so(tmp_path: Path) -> None:
    for name in ("photos", "links.csv", "keystore.json"):
        (tmp_path / name).mkdir()
    for reads in (
        lambda: load_images("folder", str(tmp_path / "fotos"), tmp_path),
        lambda: links_from_traces(tmp_path / "link.csv", None, 1, seed=0),
        lambda: KeySigner.from_keystore(tmp_path / "keystor.json", "word"),
    ):
        with pytest.raises(HyperGPUError) as caught:
            reads()
        assert caught.value.remedy.startswith(f"did you mean '{tmp_path}/")
