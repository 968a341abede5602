"""Machine code must survive the process, and serve every copy of the app."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from psutil import Process, wait_procs

from hypergpu_fl.codec.kernels import CACHES, compiled
from hypergpu_fl.codec.kernels.compiled import cache_folder, digest_of

REPOSITORY = Path(__file__).resolve().parents[3]
LOAD = """
from hypergpu_fl.codec.kernels.byte_kernels import split2
print(split2.__wrapped__.__code__.co_filename, sum(split2.stats.cache_hits.values()))
"""


def test_the_users_caches_come_first(tmp_path: Path) -> None:
    caches = tmp_path / "home" / ".cache"
    folder = cache_folder({"HOME": str(caches.parent)}, tmp_path)
    assert folder == caches / "hypergpu" and folder.stat().st_mode & 0o777 == 0o700
    assert cache_folder({"HOME": "/home/other", "XDG_CACHE_HOME": str(caches)}, tmp_path) == folder
    assert cache_folder({CACHES: str(caches), "XDG_CACHE_HOME": "/a/runs/cache"}, tmp_path) == folder


def test_a_read_only_home_or_none_leaves_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = tmp_path / f"hypergpu-cache-{os.getuid()}"
    assert cache_folder({}, tmp_path) == private
    home = tmp_path / "home"
    # tests may run as root, to whom nothing is read-only
    monkeypatch.setattr(os, "access", lambda path, mode: home not in Path(path).parents)
    assert cache_folder({"HOME": str(home)}, tmp_path) == private


def test_a_cache_others_can_write_to_is_not_trusted(tmp_path: Path) -> None:
    nowhere = {"HOME": str(tmp_path / "file" / "home")}
    (tmp_path / "file").touch()
    folder = tmp_path / f"hypergpu-cache-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    assert cache_folder(nowhere, tmp_path) is None
    folder.rmdir()
    folder.symlink_to(tmp_path)
    assert cache_folder(nowhere, tmp_path) is None


def test_another_copy_of_the_app_finds_what_one_has_compiled(tmp_path: Path) -> None:
    environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def load(copy: str) -> list[str]:
        app = tmp_path / copy
        for part in ("hypergpu_fl", "strategies"):
            shutil.copytree(REPOSITORY / part, app / part, ignore=shutil.ignore_patterns("__pycache__", "bench", "cli"))
        done = subprocess.run(
            [sys.executable, "-c", LOAD], cwd=app, env=environ, capture_output=True, text=True, check=True
        )
        source, hits = done.stdout.split()
        assert Path(source).is_relative_to(app)
        return [hits, *sorted(path.name for path in (tmp_path / "cache").rglob("*.nbc"))]

    (cold, *made), (warm, *found) = load("first"), load("second")
    assert (cold, warm) == ("0", "1") and made == found


def test_a_changed_source_is_compiled_anew(tmp_path: Path) -> None:
    for source in (REPOSITORY / "hypergpu_fl" / "codec" / "kernels").glob("*.py"):
        shutil.copy(source, tmp_path)
    before = digest_of(tmp_path)
    (tmp_path / "other.py").touch()
    assert digest_of(tmp_path) == before
    with (tmp_path / "float_conversions.py").open("a") as source:
        source.write("# changed\n")
    assert digest_of(tmp_path) != before


def test_numbas_own_choice_is_left_to_others() -> None:
    assert not compiled.numba.config.CACHE_LOCATOR_CLASSES


def test_a_process_of_its_own_makes_the_kernels_ready_and_ends_with_its_parent(tmp_path: Path) -> None:
    environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    code = "from hypergpu_fl.codec.kernels import ready; print(ready.start().pid, flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], env=environ, **pipes) as parent:
        assert parent.stdout is not None
        compiler = Process(int(parent.stdout.readline()))
        ends_s = time.monotonic() + 60
        while not list(tmp_path.rglob("*.nbi")) and time.monotonic() < ends_s:
            time.sleep(0.1)
        assert list(tmp_path.rglob("*.nbi"))
        parent.kill()
    wait_procs([compiler], timeout=5)
    assert not compiler.is_running()
