"""What users type on the command line, as what the compiler takes: models, shapes, arrays."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from spikec.calibration.data import TENSOR_BATCH
from spikec.interpreter.inputs import as_input
from spikec.ir.errors import CalibrationError, InvalidModelError
from spikec.ir.types import Array

#: samples of an example input; they are random, so that checks have something to compare
_EXAMPLES = 8


def for_shell(text: str) -> str:
    """A message whose hints name options as the shell has them, not as Python does."""
    text = re.sub(r"example_input=\(?((?:torch\.zeros\([^)]*\)(?:, )?)+)\)?", _examples, text)
    text = re.sub(r"(?<!\()\btimesteps=(\d+)", r"--timesteps \1", text)
    text = re.sub(r"\b(calibration|timesteps)=(?!\w)", r"--\1", text)
    return re.sub(r"\b(streams|counters)=True", r"--option \1=True", text)


def _examples(found: re.Match[str]) -> str:
    shapes = re.findall(r"torch\.zeros\(1, ([^)]*)\)", found[1])
    return " ".join(f"--example {shape.replace(' ', '')}" for shape in shapes)


def model(value: str) -> Any:
    """``FILE.py:NAME``, ``PACKAGE.MODULE:NAME`` or the path of a file that a frontend reads.

    Raises:
        click.BadParameter: there is no such file, module or name.
        InvalidModelError: the user's code fails.
    """
    place, colon, name = value.rpartition(":")
    if not colon or Path(value).exists():
        if not Path(value).is_file():
            forms = "a torch model is FILE.py:NAME or PACKAGE.MODULE:NAME"
            raise click.BadParameter(f"there is no file {value!r} ({forms})")
        if Path(value).suffix == ".py":
            raise click.BadParameter(f"say which model of the file: {value}:NAME")
        return Path(value)
    if place.endswith(".py") and not Path(place).is_file():
        raise click.BadParameter(f"there is no file {place!r}")
    if not place.endswith(".py") and not _importable(place):
        raise click.BadParameter(f"there is no module {place!r}")
    found: Any = _imported(place)
    for part in name.split("."):
        if not hasattr(found, part):
            raise click.BadParameter(f"{place} has no {name!r}")
        found = getattr(found, part)
    return _made(found, value) if inspect.isroutine(found) or inspect.isclass(found) else found


def option(value: str) -> tuple[str, Any]:
    """``NAME=VALUE``: a number, True or False as Python writes it, or else a text."""
    name, equals, text = value.partition("=")
    if not equals or not name.isidentifier():
        raise click.BadParameter(f"{value!r} is not NAME=VALUE")
    try:
        return name, ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return name, text


def shape(value: str) -> tuple[int, ...]:
    """``1,28,28``: sizes, all positive."""
    try:
        sizes = tuple(int(size) for size in value.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise click.BadParameter(f"{value!r} is no shape; give sizes without the batch, such as 1,28,28")
    return sizes


def normalization(value: str) -> str | float:
    """``max``, ``99.9%`` or ``0.5``: a float where it is one; what it means is checked by the compiler."""
    try:
        return float(value)
    except ValueError:
        return value


def _importable(name: str) -> bool:
    """Whether a module can be found, from the current folder too."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def _imported(place: str) -> ModuleType:
    try:
        return _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:
        raise _users(error, f"importing {place} fails") from error


def _from_file(path: Path) -> ModuleType:
    """The module in a file, which may import its neighbours, as when python runs it."""
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _made(function: Any, name: str) -> Any:
    try:
        return function()
    except Exception as error:
        raise _users(error, f"{name} must be callable without arguments, and calling it fails") from error


def _users(error: Exception, what: str) -> InvalidModelError:
    """An exception out of the user's code, with the line that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return InvalidModelError(
        f"{what}: {type(error).__name__}: {error}", location=f"{Path(frame.filename).name}:{frame.lineno}"
    )


def read_arrays(path: Path, names: Sequence[str]) -> list[Tensor]:
    """The arrays of an ``.npz`` by these names, [N, ...] each; a single one may also be called ``x``.

    Raises:
        CalibrationError: it is no .npz, an array is missing or is no input, or their lengths differ.
    """
    try:
        arrays = _arrays(path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CalibrationError(f"{path} is no .npz of arrays: {error}", hint="write it with numpy.savez") from None
    if len(names) == 1 and names[0] not in arrays:
        names = ["x"]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise CalibrationError(
            f"{path} has no array {missing[0]!r} (it has: {', '.join(arrays) or 'none'})",
            hint="name the arrays as the model's inputs (the arguments of forward); a single one may be called x",
        )
    found = [as_input(arrays[name], CalibrationError) for name in names]
    if len({len(array) for array in found}) > 1:
        lengths = ", ".join(f"{name}: {len(array)}" for name, array in zip(names, found, strict=True))
        raise CalibrationError(f"the arrays in {path} hold different numbers of samples ({lengths})")
    return found


def read_labels(path: Path) -> Array | None:
    """The class numbers in an ``.npz``: what is called ``labels``, if anything is."""
    return _arrays(path).get("labels")


def _arrays(path: Path) -> dict[str, Array]:
    with path.open("rb") as file:
        loaded = np.load(file)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it holds a single array without a name")
        return {key: loaded[key] for key in loaded.files}


def batches(arrays: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """The arrays in batches, as calibration takes them."""
    return list(zip(*(torch.split(array, TENSOR_BATCH) for array in arrays), strict=True))


def random_inputs(shapes: Sequence[tuple[int, ...]], seed: int = 0) -> tuple[Tensor, ...] | None:
    """A few random samples in [0, 1) of each shape; None for no shape."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(_EXAMPLES, *shape, generator=generator) for shape in shapes) or None
