"""From the configuration to a task, its first model, and what both are known by."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hypergpu_fl.config import System, Training, runs_root
from hypergpu_fl.errors import TaskError
from hypergpu_fl.task.names import import_object
from hypergpu_fl.task.protocol import Task
from hypergpu_fl.task.source import with_code
from hypergpu_fl.task.user_code import user_code
from strategies.model.layout import Arrays, Layout

if TYPE_CHECKING:
    import torch

FROZEN = "frozen weights"  # their hash, in an identity
CONSTANTS = "constant buffers"
METHODS = ("unit", "identity", "model", "arrays", "load", "examples", "train", "evaluate", "validate")


def load_task(
    training: Training, system: System | None = None, *, cache: Path | None = None, simulated: bool = True
) -> Task:
    """Build the task that the configuration names.

    Parameters
    ----------
    cache : Path, optional
        Where prepared data and partitions are kept; ``<runs root>/.cache`` if not given.
    simulated : bool
        Whether all nodes are on this machine; the built-in task then deals out a folder of images too.

    Raises
    ------
    TaskError
        If the data set, model, partitioner or the user's own task cannot be had.
    """
    if training.task:
        factory = import_object(training.task, "training.task")
        with user_code(f"building training.task = {training.task!r}"):
            task = factory(training)
        if not isinstance(task, Task):
            lacking = ", ".join(name for name in METHODS if not hasattr(task, name))
            raise TaskError(
                f"training.task = {training.task!r} made a {type(task).__name__} without {lacking}",
                "derive it from hypergpu_fl.task.TorchTask, or give it all methods of hypergpu_fl.task.Task",
            )
        if not (isinstance(task.unit, str) and task.unit.strip()):
            raise TaskError(
                f"training.task = {training.task!r} counts in {task.unit!r}, which is no name",
                "let `unit` say what is counted, in the plural, such as 'examples' or 'tokens'",
            )
        return task
    from hypergpu_fl.task.image import ImageTask

    folder = cache or runs_root(system or System(), dict(os.environ)) / ".cache"
    return ImageTask(training, folder, simulated=simulated)


def fresh_model(task: Task, seed: int) -> torch.nn.Module:
    """The task's first model: the same weights in every process, by whichever generator they are drawn.

    Raises
    ------
    TaskError
        If the task cannot make one, or one that cannot be trained here: with lazy, complex or no trainable parameters.
    """
    from torch import nn

    from hypergpu_fl.task.generators import seeded
    from hypergpu_fl.task.state import check_model

    with user_code("making the model"), seeded(seed):
        model = task.model()
    if not isinstance(model, nn.Module):
        raise TaskError(f"model() made a {type(model).__name__}", "return a torch.nn.Module")
    check_model(model)
    return model


def full_identity(task: Task, model: torch.nn.Module) -> dict[str, str]:
    """All that must be the same at server and nodes: what the task names, the model's layout, what never travels."""
    from hypergpu_fl.task.state import arrays_text, constants_text, frozen_hash, layout_text
    from strategies.wire.domains import encodable

    with user_code("asking the task for its identity"):
        identity = task.identity()
        if not isinstance(identity, Mapping):
            raise TaskError(
                f"identity() returned an object of type {type(identity).__name__}",
                'return texts by name, such as {**super().identity(), "tokenizer": "gpt2"}',
            )
        # Names of files that are no UTF-8 hold lone surrogates, which no message can carry.
        named = {encodable(str(name)): encodable(str(value)) for name, value in identity.items()}
    arrays = task.arrays(model)
    found = {**named, "model": layout_text(arrays), "arrays": arrays_text(arrays)}
    if frozen := frozen_hash(model):
        found[FROZEN] = frozen
    if constants := constants_text(model):
        found[CONSTANTS] = constants
    return found


def hello_identity(
    task: Task, model: torch.nn.Module, architecture: str, *, full: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What a node says of its task at its hello: `full_identity`, the kinds and settings of layers, and the code.

    ``full`` is the former, where it is known: a large model's takes seconds.

    The latter two are not compared when a run is resumed, which tells a change of the code and goes on.
    """
    from hypergpu_fl.task.layers import LAYERS, layers_text

    return with_code({**(full or full_identity(task, model)), LAYERS: layers_text(model)}, task, architecture)


def layout_of(arrays: Arrays, model: torch.nn.Module) -> Layout:
    """Layout of what travels of a model, which knows what in it is measured and not trained."""
    from hypergpu_fl.task.state import measured_names

    return Layout.of(arrays, measured=measured_names(model))
