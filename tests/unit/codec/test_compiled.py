"""Machine code must survive the process, wherever the app was unpacked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hypergpu_fl.codec import compiled


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, to whom nothing is read-only."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(os, "access", lambda path, mode: "temporary" in str(path))


def test_numba_chooses_where_it_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    assert compiled.cache_folder(tmp_path, tmp_path, tmp_path) is None
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) == tmp_path)
    assert compiled.cache_folder(Path("/package"), tmp_path / "not" / "yet", Path("/")) is None


@pytest.mark.usefixtures("read_only")
def test_a_read_only_image_caches_in_a_private_folder(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    folder = compiled.cache_folder(Path("/package"), Path("/home/nobody"), temporary)
    assert folder is not None and folder.stat().st_mode & 0o777 == 0o700
    assert compiled.cache_folder(Path("/package"), Path("/home/nobody"), temporary) == folder


@pytest.mark.usefixtures("read_only")
def test_a_cache_others_can_write_to_is_not_trusted(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    folder = temporary / f"hypergpu-numba-{os.getuid()}"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(PermissionError):
        compiled.cache_folder(Path("/package"), Path("/home/nobody"), temporary)
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(PermissionError):
        compiled.cache_folder(Path("/package"), Path("/home/nobody"), temporary)


@pytest.mark.usefixtures("read_only")
def test_without_any_place_nothing_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "cache_folder", lambda *a: (_ for _ in ()).throw(PermissionError("no")))
    assert compiled.choose_cache() is False
    monkeypatch.setattr(compiled, "cache_folder", lambda *a: tmp_path)
    monkeypatch.setattr(compiled.numba.config, "CACHE_DIR", "")
    assert compiled.choose_cache() is True and str(tmp_path) == compiled.numba.config.CACHE_DIR
