"""Files that others may read or write at the same moment: locks, whole replacements, folders of one user."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from strategies.durable import sync
from strategies.spelling import nearest

_LOOKED_S: Final = 0.05  # `is_held` has a lock for less than this time
_LOOK_S: Final = 0.2  # between two looks at a lock


@contextlib.contextmanager
def exclusive(file: Path, refusal: Exception, *, within_s: float = 0.0) -> Iterator[None]:
    """Hold an exclusive lock on ``file``, created if missing; the kernel releases it when the process dies.

    Raises
    ------
    Exception
        ``refusal``, if another process still holds it after ``within_s``, or has removed it meanwhile.
    """
    descriptor = os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        within_s = max(within_s, _LOOKED_S)
        until_s = time.monotonic() + within_s
        while not _locked(descriptor):
            if time.monotonic() >= until_s:
                raise refusal
            time.sleep(min(_LOOK_S, within_s))
        if not _is_at(descriptor, file):  # who held it has removed it, as `run --replace` does, and begins anew
            raise refusal
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _is_at(descriptor: int, file: Path) -> bool:
    """Whether the open file is still the one of this path."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    return False


def is_held(file: Path) -> bool:
    """Whether a process holds `exclusive` on ``file``."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)  # else a file system without locks
    finally:
        os.close(descriptor)
    return False


def write_whole(file: Path, content: str | bytes | memoryview, *, mode: int = 0o666, synced: bool = True) -> None:
    """Replace ``file``: a reader sees the old content or the new, and after a power cut one of the two is there.

    ``mode``, less the umask, says who may read it. Without ``synced`` a power cut may leave an empty file; use that for
    content that checks itself and is written while a round waits.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with replacing(file, synced=synced) as draft, open(os.open(draft, flags, mode), "wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(file: Path, *, draft: Path | None = None, synced: bool = False) -> Iterator[Path]:
    """Yield a path beside ``file`` to write to. It replaces the file if the block succeeds, and is removed if not.

    A reader sees the old content or the new. A power cut may leave an empty file, unless content and name are to be
    ``synced``: then the new file is there once the block has ended, whatever happens. ``draft`` is the path beside it;
    one of a fixed name is overwritten by the next process, should this one be killed.
    """
    draft = draft or file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        yield draft
        if synced:
            sync(draft)
        draft.replace(file)
        if synced:
            sync(file.parent)
    finally:
        draft.unlink(missing_ok=True)


def private_folder(path: Path) -> Path:
    """Create ``path`` and its parents so that only this user may enter it; an existing folder stays as it is."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def path_meant(path: Path) -> str:
    """``"did you mean 'x'?"`` for a path that is not there, with a like name where it was looked for, or nothing.

    Any one name of the path may be mistyped.
    """
    for there in path.parents:
        with contextlib.suppress(OSError):  # a folder that cannot be listed suggests nothing
            if there.is_dir():
                name, *below = path.relative_to(there).parts
                near = nearest(name, sorted(os.listdir(there)))
                meant = there.joinpath(near or name, *below)
                return f"did you mean {str(meant)!r}?" if meant != path and meant.exists() else ""
    return ""
