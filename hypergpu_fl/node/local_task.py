"""The task that this process keeps between messages, made once per run together with its model."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from numpy.typing import NDArray

from hypergpu_fl.config import Config
from hypergpu_fl.task import Task, fresh_model, hello_identity, load_task
from strategies.model.layout import Layout, Vector

if TYPE_CHECKING:
    import torch

KEPT_TASKS: Final = 4  # per process; a node needs one, a benchmark several
KEPT_VALUES: Final = 1 << 24  # of the first weights; those of a larger model are made again when needed

UNUSED_S: Final = 30 * 86400.0  # after which the folder of another run is removed

_kept: OrderedDict[str, LocalTask] = OrderedDict()


@dataclass
class LocalTask:
    """A task with its one model, which every order overwrites.

    Attributes
    ----------
    layout : Layout
        Of what travels.
    buffers : dict
        The fresh model's integer and boolean arrays.
    identity : dict
        What server and node compare.
    """

    task: Task
    seed: int
    architecture: str
    layout: Layout = field(init=False)
    buffers: dict[str, NDArray[Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.model: torch.nn.Module = fresh_model(self.task, self.seed)
        arrays = self.task.arrays(self.model)
        self.layout = Layout.of(arrays)
        self.buffers = self.layout.buffers(arrays)
        self._first_P = self.layout.flatten(arrays) if self.layout.size <= KEPT_VALUES else None

    @cached_property
    def identity(self) -> dict[str, str]:
        """See `hypergpu_fl.task.hello_identity`."""
        return hello_identity(self.task, self.model, self.architecture)

    def first_weights(self) -> Vector:
        """The fresh model as a vector."""
        if self._first_P is not None:
            return self._first_P.copy()
        return self.layout.flatten(self.task.arrays(fresh_model(self.task, self.seed)))


def local_task(config: Config) -> LocalTask:
    """The task of this configuration, made when it is first asked for.

    Raises
    ------
    TaskError
        If it cannot be made here.
    """
    key = config.model_dump_json(include={"training", "system", "network"})
    if key not in _kept:
        _kept[key] = LocalTask(
            load_task(config.training, config.system, simulated=config.network.enable_simulation),
            config.training.seed,
            config.training.model_architecture,
        )
    _kept.move_to_end(key)
    while len(_kept) > KEPT_TASKS:
        _kept.popitem(last=False)
    return _kept[key]


def task_folder(root: Path, session: bytes, partition: int, *, now_s: float) -> Path:
    """The folder that a task keeps between the rounds of a run, which is known by its books' session.

    Removes folders that other runs no longer use.
    """
    folder = root / "task" / f"{session.hex()[:16]}-{partition}"
    if not folder.is_dir():
        folder.mkdir(parents=True)
        for other in folder.parent.iterdir():
            with contextlib.suppress(OSError):  # another process may be removing it, too; it costs but room
                if now_s - other.stat().st_mtime > UNUSED_S:
                    shutil.rmtree(other)
    os.utime(folder, (now_s, now_s))
    return folder
