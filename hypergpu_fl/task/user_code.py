"""Errors in the user's own code: where it happened, what it was, and what usually fixes it."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import hypergpu_fl
from hypergpu_fl.errors import REMEDY, HyperGPUError, TaskError
from hypergpu_fl.files import path_meant

_OURS: Final = str(Path(hypergpu_fl.__file__).parent)
_NOT_THE_USERS: Final = (
    _OURS,
    *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
    "<",  # frozen and generated code
)
_INSTALLED: Final = {"site-packages", "dist-packages"}  # also those of another environment, or of the system
_IMPORTS: Final = str(Path(importlib.__file__).parent)
_LONGEST: Final = 300
_VARIABLES: Final = ("HYPERGPU_", "FLWR_", "RAY_")  # by their first letters
_LEAST_RECURSION: Final = 1000  # libraries raise it; nobody who lowers it knows how deep they go
_UMASK: Final = os.umask(0o077)  # which can only be read by setting it: once, before any code of the user's runs
os.umask(_UMASK)
_UNPACKED_APP: Final = re.compile(r".*/apps/[^/]+\.[0-9a-f]{8}/")  # where Flower unpacks what a run submits

# Messages of torch, in the order of matching, and what usually fixes the error.
_REMEDIES: Final = (
    (
        r"Target -?\d+ is out of bounds|index out of range in self|device-side assert",
        "let the labels lie in 0..N-1, N being the number of logits that the model gives",
    ),
    (r"[Uu]ninitialized|[Ll]azy", "call a lazy model once on a batch inside model(), or name the sizes"),
    (
        r"Expected more than 1 value per channel",
        "BatchNorm cannot train on one example: raise training.batch_size, or use GroupNorm",
    ),
    (
        r"numpy\.object_",
        "give the array one type of number, as with .astype('float32'): text becomes numbers first, and examples of "
        "unlike length a list",
    ),
    (
        r"'(SGD|Adam\w*|RMSprop|\w*Optim\w*)' object is not callable|positional argument: 'closure'",
        "let optimizer() return the step of one that needs no closure, such as torch.optim.SGD(parameters, 0.1).step",
    ),
    (r"Sparse(CPU|CUDA)", "let gradients be dense, as with nn.Embedding(..., sparse=False)"),
    (
        r"found <class 'pandas|DataFrame|'Series'",
        "return numbers: .to_numpy('float32') of the table's columns",
    ),
    (r"Batches of sparse tensors", "write collate(items), which joins sparse examples to a batch, or make them dense"),
    (
        r"each tensor to be equal size|each element in list of batch should be of equal size",
        "write collate(items), which pads the examples of a batch to one length",
    ),
    (
        r"(must have the same|expected .*|expected scalar) (d?type)|expected scalar type|expected target dtype",
        "let inputs be float32 as the model is, with .astype('float32') or .float(), and labels of classes int64",
    ),
    (
        r"'list' object has no attribute",
        "return tensors: from the model its logits alone, from data() a Hugging Face Dataset with_format('torch')",
    ),
    (
        r"(not|got|object) '?(dict|tuple|list|\w*Output)\b|'(dict|tuple|\w*Output)' object",
        "take the tensor out of what the model returns, such as model(x).logits or model(x)[0]",
    ),
    (r"'NoneType' object", "let that method return what it is for; a function without return gives None"),
    (
        r"infer dtype of|invalid data type",
        "return a tensor from loss(), and tensors or numbers by name from metrics()",
    ),
    (r"[Cc]omplex", "use real parameters and losses"),
    (
        r"cannot be multiplied|size of tensor|shape mismatch|[Ss]izes of tensors|expected input|expected .*batch_size",
        "compare the shapes of batch, model and labels; `hypergpu task check` shows the error in seconds",
    ),
    (
        r"grad can be implicitly created only for scalar",
        "return one loss, or one a sample as a tensor of one dimension",
    ),
    (
        r"^FileNotFoundError",
        "name files below training.data_root; relative paths count from the folder where the command was typed",
    ),
    (r"does not require grad", "compute the loss from the model's output, without no_grad(), detach() or item()"),
    (
        r"FileNotFoundError|No such file or directory",
        "name files below self.training.data_root: nodes work in another folder than you, see docs/your-own-data.md",
    ),
    (
        r"OutOfMemoryError",
        "use a smaller model, an optimizer that keeps less, or a device with more memory; what loss() computes "
        "is halved by itself",
    ),
    (r"^(.*: )?MemoryError", "let data() return a Dataset, whose examples are read as they are needed"),
    (r"SystemExit", "raise an error that says what is wrong, rather than end the process"),
)


@contextlib.contextmanager
def user_code(doing: str) -> Iterator[None]:
    """Turn what the user's code raises into a ``TaskError`` with its place and a remedy; errors of ours pass.

    A recursion limit that it leaves too low for whatever else runs in this process is raised again, and refused. Where
    it clears the environment, the variables that we, Flower and Ray go by are put back. So is the umask, which
    the run's own files go by.

    Parameters
    ----------
    doing : str
        What was under way, such as ``"making the model"``.
    """
    before = max(sys.getrecursionlimit(), _LEAST_RECURSION)
    variables = {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}
    try:
        yield
        _keep_recursion(before, doing)
    except HyperGPUError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's code may raise
        _keep_recursion(before, doing)
        raise task_error(error, doing) from error
    finally:
        os.umask(_UMASK)
        for name, value in variables.items():
            os.environ.setdefault(name, value)


def _keep_recursion(limit: int, doing: str) -> None:
    if (found := sys.getrecursionlimit()) < _LEAST_RECURSION:
        sys.setrecursionlimit(limit)
        raise TaskError(
            f"the task has set Python's recursion limit to {found}, too low for torch and Flower (while {doing})",
            f"let sys.setrecursionlimit() be {_LEAST_RECURSION}, Python's own, or more",
        )


def task_error(error: BaseException, doing: str) -> TaskError:
    """``error`` as whoever wrote the task needs to see it."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return lacking(error.name, raised_at(error))
    lines = str(error).strip().splitlines() or [""]
    text = f"{type(error).__name__}: {lines[0]}".rstrip(": ")[:_LONGEST]
    where, shadow = raised_at(error), _shadow(error)
    remedy = f"rename {shadow}: a library imports a module of this name, and finds yours" if shadow else ""
    return TaskError(
        f"{where + ': ' if where else ''}{text} (while {doing})",
        remedy or _noted(error) or _file_meant(error) or _remedy(text, where),
    )


def lacking(module: str, where: str = "") -> TaskError:
    """Error for a library that this machine does not have."""
    name = module.partition(".")[0]
    return TaskError(
        f"{where + ': ' if where else ''}the module `{name}` is not installed here",
        f"`pip install {name}` into the Python that runs this, on every node and on the server",
    )


def raised_at(error: BaseException) -> str:
    """``file:line`` of the innermost frame in the user's own code; empty if there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_near(error.filename)}:{error.lineno}"
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if is_own(frame.filename)]
    return f"{_near(own[-1].filename)}:{own[-1].lineno}" if own else ""


def is_own(file: str) -> bool:
    """Whether the user wrote a file: it is neither ours, nor Python's, nor an installed library's."""
    return not file.startswith(_NOT_THE_USERS) and _INSTALLED.isdisjoint(Path(file).parts)


def _shadow(error: BaseException) -> str:
    """File of the user's that an installed library was importing, which looked for another; nothing if none was."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<", _IMPORTS, _OURS))
    ]
    return next(
        (
            _near(imported.filename)
            for importer, imported in itertools.pairwise(frames)
            if imported.name == "<module>" and is_own(imported.filename) and not is_own(importer.filename)
        ),
        "",
    )


def _noted(error: BaseException) -> str:
    """The remedy that an error carries."""
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith(REMEDY)]
    return notes[-1].removeprefix(REMEDY) if notes else ""


def _file_meant(error: BaseException) -> str:
    missing = error.filename if isinstance(error, FileNotFoundError) else None
    return path_meant(Path(os.fsdecode(missing))) if isinstance(missing, str | bytes) else ""


def _near(file: str) -> str:
    """The path as its author knows it: in the app that was submitted, else from the working directory."""
    if unpacked := _UNPACKED_APP.match(file):
        return file[unpacked.end() :]
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else file


def _remedy(text: str, where: str) -> str:
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, text):
            return remedy
    if not where:
        return "compare what your methods take and return with docs/your-own-task.md"
    return "correct that line; `hypergpu task check` tries a task in seconds"
