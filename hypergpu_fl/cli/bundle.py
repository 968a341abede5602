"""The app that is submitted, with the user's own modules in it, so that simulated and deployed nodes can import them.

A module is bundled if it lies in the working directory, or on the path outside the Python installation. The modules
beside it that it imports are bundled too. Installed packages are not; they must be installed on every node.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shutil
import site
import sys
import sysconfig
import tempfile
import tomllib
import warnings
import zipfile
from collections.abc import Iterator
from importlib import metadata
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from hypergpu_fl.config import Training
from hypergpu_fl.errors import TaskError, UsageError
from strategies.spelling import nearest

LARGEST_BYTES: Final = 4 << 20  # of the user's modules; Flower accepts 10 MB, and our own packages need some of that
MOST_FILES: Final = 2000
SUFFIXES: Final = (".py", ".toml", ".yaml", ".yml", ".json")
OURS: Final = ("hypergpu_fl", "strategies")
STRAY: Final = ("example",)  # nvidia-ml-py leaves it among the installed modules; nothing imports it
_NO_APP: Final = ("__pycache__", "node_modules")
NOT_TAKEN: Final = ("build", "eggs", "lib", "lib64", "parts", "env", "venv", "ENV")  # Flower skips these at the root


@contextlib.contextmanager
def app_with_task(app: Path, training: Training) -> Iterator[Path]:
    """A copy of the app to submit, which holds what Flower bundles of it, and the modules which ``training`` names.

    Flower is not given ``app`` itself: it looks at each file there, of which a clone's virtual environment has 50,000.

    Raises
    ------
    TaskError
        If a module cannot be found, does not define the name, or is too large to be bundled.
    """
    found = _named_by(training)
    with tempfile.TemporaryDirectory(prefix="hypergpu-app-") as folder:
        _unpack(app, Path(folder))
        if found:
            _take_everything(Path(folder) / "pyproject.toml")
            _take(found, Path(folder))
        yield Path(folder)


@contextlib.contextmanager
def own_code(training: Training) -> Iterator[Path]:
    """Folder of the modules which ``training`` names, and of nothing else that lies beside them.

    Raises
    ------
    TaskError
        See `app_with_task`.
    """
    with tempfile.TemporaryDirectory(prefix="hypergpu-task-") as folder:
        _take(_named_by(training), Path(folder))
        try:
            yield Path(folder)
        except TaskError as error:  # which names files of the copy
            raise TaskError(error.cause.replace(f"{folder}{os.sep}", ""), error.remedy) from error


def _named_by(training: Training) -> dict[str, Path]:
    references = [name for name in (training.task, training.model_architecture) if ":" in name]
    return own_modules(references, search_path())


def search_path() -> list[Path]:
    """The working directory, and the folders of the path outside the Python installation."""
    installed = _installed() | {str(Path(sys.executable).parent)}
    folders = dict.fromkeys(Path(entry).resolve() for entry in [os.getcwd(), *sys.path])
    return [
        folder for folder in folders if folder.is_dir() and not any(folder.is_relative_to(place) for place in installed)
    ]


def _installed() -> set[str]:
    """Folders of Python's own modules and of libraries."""
    named = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return named | {*site.getsitepackages(), site.getusersitepackages()}


def own_modules(references: list[str], path: list[Path]) -> dict[str, Path]:
    """The user's own modules that ``"pkg.module:name"`` references name, and the modules beside them that they import.

    Returns
    -------
    dict
        Top-level name -> file or folder.

    Raises
    ------
    TaskError
        See `app_with_task`.
    """
    found: dict[str, Path] = {}
    for reference in references:
        module, _, name = reference.partition(":")
        top = module.partition(".")[0]
        place = _located(top, path)
        if top in OURS or (place is None and _is_installed(top)):
            continue
        if place is None:
            where = ", ".join(str(folder) for folder in path)
            near = nearest(top, [file.stem for folder in path[:1] for file in folder.glob("*.py")])
            raise TaskError(
                f"{reference!r} cannot be found: there is no {top}.py and no folder {top}/ in {where}",
                f"did you mean {near}{module.removeprefix(top).removesuffix('.py')}:{name}?"
                if near
                else "run in the folder that holds it, or install it here and on every node",
            )
        _check_defined(place, module, name, reference)
        waiting = [(top, place)]
        while waiting:
            top, place = waiting.pop()
            if top in found:
                continue
            _check_free(top, place)
            found[top] = place
            for imported in sorted(_imports(place)):
                beside = _located(imported, [place.parent])
                if beside is not None and not (imported in OURS and _is_clone(place.parent)):
                    waiting.append((imported, beside))
    return found


def _check_free(top: str, place: Path) -> None:
    """Refuse a module by whose name another is known: libraries would import the wrong one."""
    if whose := _known_from(top):
        raise TaskError(
            f"{place} is called as a module of {whose}'s own, one of which would hide the other", "rename it"
        )


def _known_from(top: str) -> str:
    """Who has a module of this name that is needed here: HyperGPU, Python, a library that we require, or nobody."""
    if top in OURS or top in sys.stdlib_module_names:
        return "HyperGPU" if top in OURS else "Python"
    installed = None if top in STRAY else PathFinder.find_spec(top, sorted(_installed()))
    if installed is None or installed.origin is None:  # a folder without code, such as a library's docs/, hides nothing
        return ""
    required = {_spelt(line) for line in metadata.requires("hypergpu") or () if "extra ==" not in line}
    return next((name for name in metadata.packages_distributions().get(top, ()) if _spelt(name) in required), "")


def _spelt(requirement: str) -> str:
    """The distribution's name in a requirement, in the one spelling of all that mean the same."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


def _is_clone(folder: Path) -> bool:
    return all((folder / name / "__init__.py").is_file() for name in OURS)


def _located(top: str, path: list[Path]) -> Path | None:
    for folder in path:
        if (folder / top / "__init__.py").is_file():
            return folder / top
        if (folder / f"{top}.py").is_file():
            return folder / f"{top}.py"
    # As in Python's own import, a folder without __init__.py comes after everything that is installed.
    folders = [] if _is_installed(top) else path
    return next((folder / top for folder in folders if any((folder / top).glob("*.py"))), None)


def _is_installed(top: str) -> bool:
    try:
        return find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _files(place: Path) -> list[Path]:
    """Files of a module that are bundled; a package's tests and data are not."""
    if place.is_file():
        return [place]
    files: list[Path] = []
    seen = 0
    for folder, below, names in os.walk(place):
        below[:] = sorted(name for name in below if name[0] != "." and name != "__pycache__")
        files += [
            Path(folder, name)
            for name in sorted(names)
            if name.endswith(SUFFIXES)
            and name[0] != "."
            and not (name.startswith("test_") or name.endswith("_test.py"))
        ]
        seen += len(names)
        if max(len(files), seen / 10) > MOST_FILES:
            raise TaskError(f"{place} holds more than {MOST_FILES} files", "name a package that holds the task alone")
    return files


def _tree(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes(), str(file))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise TaskError(f"{file}{f':{line}' if line else ''}: {error}", "correct that line") from None
    except (RecursionError, MemoryError) as error:  # Python could not import it either
        raise TaskError(f"{file}: {error or 'nested too deeply'}", "shorten its longest expressions") from None


def _imports(place: Path) -> set[str]:
    """Top-level names of the modules that a file or package imports."""
    names = set()
    for file in _files(place):
        if file.suffix == ".py":
            for node in ast.walk(_tree(file)):
                if isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names.add(node.module.partition(".")[0])
    return names


def _check_defined(place: Path, module: str, name: str, reference: str) -> None:
    """Refuse a name that the module does not define, as far as its source shows."""
    inner = module.split(".")[1:]
    stem = place.with_suffix("").joinpath(*inner)
    file = next((f for f in (stem / "__init__.py", stem.with_suffix(".py")) if f.is_file()), stem.with_suffix(".py"))
    if not file.is_file():
        meant = _module_meant(module, file)
        raise TaskError(
            f"{reference!r} cannot be found: there is no {file}",
            f"did you mean {meant}:{name}?" if meant else "correct the module's name",
        )
    tree = _tree(file)
    bound: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            bound.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            bound |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    if name not in bound and not bound & {"*", "__getattr__"}:
        near = nearest(name, bound)
        raise TaskError(
            f"{reference!r}: {file.name} defines no {name!r}",
            f"did you mean {module}:{near}?" if near else "name a class or function of that module",
        )


def _module_meant(module: str, missing: Path) -> str:
    """The module that was meant by one of which the file is missing: a file's name without its end, or a like name."""
    if missing.stem == "py" and missing.parent.with_suffix(".py").is_file():
        return module.removesuffix(".py")
    near = nearest(missing.stem, [file.stem for file in missing.parent.glob("*.py")])
    return module.removesuffix(missing.stem) + near if near else ""


def _unpack(app: Path, folder: Path) -> None:
    """Copy into ``folder`` what Flower would bundle of the app."""
    from strategies.flower_internals import build_fab_from_files

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pathspec, as Flower calls it
        try:
            bundle = zipfile.ZipFile(io.BytesIO(build_fab_from_files(app_files(app))[0]))
        except ValueError as error:
            raise UsageError(f"{app} is no Flower app: {error}", "name another with --app") from error
    with bundle:
        bundle.extractall(folder, [name for name in bundle.namelist() if not name.startswith(".info/")])


def app_files(app: Path) -> dict[str, Path]:
    """Files that may be the app's, by their paths in it: no links, no hidden folders, no virtual environments."""
    found: dict[str, Path] = {}
    for folder, below, names in os.walk(app):
        here = Path(folder)
        below[:] = [name for name in below if name[0] != "." and name not in _NO_APP and not _is_venv(here / name)]
        files = [here / name for name in names]
        found |= {file.relative_to(app).as_posix(): file for file in files if not file.is_symlink()}
    return found


def _is_venv(folder: Path) -> bool:
    return os.path.exists(folder / "pyvenv.cfg")  # false, not an error, in a folder that is closed to this user


def _take(found: dict[str, Path], folder: Path) -> None:
    """Copy the user's own modules into ``folder``."""
    total = 0
    for top, place in found.items():
        if top in NOT_TAKEN or (folder / place.name).exists():
            raise TaskError(f"a module of one's own cannot be called {top!r}: the bundle has another", "rename it")
        for file in _files(place):
            total += file.stat().st_size
            if total > LARGEST_BYTES:
                raise TaskError(
                    f"{', '.join(str(each) for each in found.values())} come to more than {LARGEST_BYTES >> 20} MB",
                    "keep data outside the task's package, and read them from training.data_root",
                )
            target = folder / place.name / file.relative_to(place) if place.is_dir() else folder / place.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def _take_everything(pyproject: Path) -> None:
    """Let the bundle hold all files of the copy."""
    import tomli_w

    project = tomllib.loads(pyproject.read_text(encoding="utf-8-sig"))
    project["tool"]["flwr"]["app"].pop("fab-include", None)
    pyproject.write_text(tomli_w.dumps(project), encoding="utf-8")
