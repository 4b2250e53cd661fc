"""What users name on the command line: models, targets, shapes, arrays, and exported files to run."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import math
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from spikec.ir.errors import CalibrationError, CompileError, InvalidModelError
from spikec.ir.files import file_to_write
from spikec.ir.origin import is_user_file

if TYPE_CHECKING:
    from torch import Tensor

    from spikec.ir.types import Array
    from spikec.pipeline.pipeline import Pipeline

#: how many samples an example input has; they are random, so that checks have something to compare
_EXAMPLES = 8
#: how many numbers one of them may have, which is half a gigabyte
_LARGEST = 2**27


def model(value: str) -> Any:
    """Return what ``FILE.py:NAME``, ``PACKAGE.MODULE:NAME`` or the path of a file that a frontend reads stands for.

    Raises:
        click.BadParameter: there is no such file, module or name.
        InvalidModelError: the user's code fails.
    """
    place, colon, name = value.rpartition(":")
    if not colon or os.path.exists(value):
        if not os.path.isfile(value):
            forms = "a torch model is FILE.py:NAME or PACKAGE.MODULE:NAME"
            raise click.BadParameter(f"there is no file {value!r} ({forms})")
        if Path(value).suffix == ".py":
            raise click.BadParameter(f"say which model of the file: {value}:NAME")
        return Path(value)
    found: Any = _module(place)
    for part in name.split("."):
        if not hasattr(found, part):
            raise click.BadParameter(f"{place} has no {name!r}")
        found = getattr(found, part)
    if not (inspect.isroutine(found) or inspect.isclass(found)):
        return found
    try:
        return found()
    except (Exception, SystemExit) as error:
        raise _users_error(error, f"{value} must be callable without arguments, and calling it fails") from error


def _module(place: str) -> ModuleType:
    """Import ``FILE.py`` or ``PACKAGE.MODULE``; its folder, or the current one, is searched as when python runs it.

    Raises:
        click.BadParameter: there is no such file or module.
        InvalidModelError: importing it fails.
    """
    path = Path(place).resolve() if place.endswith(".py") else None
    if path is not None and not path.is_file():
        raise click.BadParameter(f"there is no file {place!r}")
    folder = str(path.parent if path else Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        spec = importlib.util.spec_from_file_location(path.stem, path) if path else importlib.util.find_spec(place)
    except (ImportError, ValueError):  # its package is missing, or the name is none
        spec = None
    except (Exception, SystemExit) as error:
        raise _users_error(error, f"importing the package of {place} fails") from error
    if spec is None:
        raise click.BadParameter(f"there is no module {place!r}")
    try:
        if path is None:
            return importlib.import_module(place)
        assert spec.loader is not None
        # known by name while it runs, so that its classes can be pickled, as torch.save does
        module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except (Exception, SystemExit) as error:
        raise _users_error(error, f"importing {place} fails") from error


def _users_error(error: BaseException, what: str) -> InvalidModelError:
    """Return an error about an exception out of the user's code, with the last line of the user's that it came by."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((each for each in reversed(frames) if is_user_file(each.filename)), frames[-1])
    return InvalidModelError(
        f"{what}: {type(error).__name__}: {error}",
        location=f"{Path(frame.filename).name}:{frame.lineno}",
        hint="mend that line, or name another model",
    )


def target(value: str) -> str:
    """Return the name of a target, ours or a plugin's.

    Raises:
        click.BadParameter: there is no such target.
    """
    from spikec.extend import loader

    known = loader.backends()
    if value not in known:
        raise click.BadParameter(str(loader.no_such("target", value, known)))
    return value


def passes(value: str) -> Pipeline:
    """Return the passes in a text, as :meth:`spikec.Pipeline.parse` reads it."""
    from spikec.pipeline.pipeline import Pipeline

    return Pipeline.parse(value)


def new_file(value: str) -> Path:
    """Return the path of a file to write, in a folder that exists.

    Raises:
        click.BadParameter: the folder does not exist, or the path is a folder itself.
    """
    try:
        file_to_write(value)
    except CompileError as error:
        raise click.BadParameter(error.problems[0].message) from None
    return Path(value)


def option(value: str) -> tuple[str, Any]:
    """Return name and value of ``NAME=VALUE``; for the value see :func:`literal`."""
    name, equals, text = value.partition("=")
    if not equals or not name.isidentifier():
        raise click.BadParameter(f"{value!r} is not NAME=VALUE")
    return name, literal(text)


def literal(text: str) -> Any:
    """Return a number, True or False as Python writes it, or else the text as it is; the compiler checks it."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # as its documentation lists them
        return text


def shape(value: str) -> tuple[int, ...]:
    """Return the sizes in ``1,28,28``, all positive."""
    try:
        sizes = tuple(int(size) for size in value.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise click.BadParameter(f"{value!r} is no shape; give sizes without the batch, such as 1,28,28")
    if math.prod(sizes) > _LARGEST:
        raise click.BadParameter(f"a sample of shape {value} has more than {_LARGEST:,} numbers; give a smaller one")
    return sizes


def read_arrays(path: Path, names: Sequence[str]) -> list[Tensor]:
    """Return the arrays of an ``.npz`` by these names, [N, ...] each; a single one may also be called ``x``.

    Raises:
        CalibrationError: it is no .npz, an array is missing or is no input, or their lengths differ.
    """
    from spikec.interpreter.inputs import as_input

    arrays = _arrays(path)
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
        raise CalibrationError(
            f"the arrays in {path} hold different numbers of samples ({lengths})", hint="give as many of each"
        )
    return found


def read_labels(path: Path) -> Array | None:
    """Return the class numbers in an ``.npz``, which are called ``labels``; None if there are none."""
    return _arrays(path).get("labels")


def _arrays(path: Path) -> dict[str, Array]:
    from spikec.ir.untrusted import read_npz

    return read_npz(path, CalibrationError, "is no .npz of arrays", "write it with numpy.savez")


def batches(arrays: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """Return arrays [N, ...] in batches, as calibration takes them."""
    import torch

    from spikec.calibration.source import TENSOR_BATCH

    return list(zip(*(torch.split(array, TENSOR_BATCH) for array in arrays), strict=True))


def random_inputs(shapes: Sequence[tuple[int, ...]], seed: int = 0) -> tuple[Tensor, ...] | None:
    """Return a few random samples in [0, 1) of each shape; None for no shape."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(_EXAMPLES, *shape, generator=generator) for shape in shapes) or None


def reading(options: dict[str, Any]) -> dict[str, Any]:
    """Return those of a target's and a frontend's options that are about how a model is read."""
    from spikec.reading import reading_options

    known = reading_options()
    return {name: value for name, value in options.items() if name in known}


def network(
    model: Any, data: Path, options: dict[str, Any], *, time_major: bool = False
) -> tuple[Any, list[Tensor], Any]:
    """Read a model and the inputs for it.

    Args:
        model: as :func:`model` returns it.
        data: an ``.npz``.
        options: on how the model is read.
        time_major: the inputs are [T, B, ...].

    Returns:
        The graph, or a network of netx, which runs itself; a tensor for each input; and the model as it was opened.
    """
    from spikec.reading import find_frontend, is_netx

    frontend, opened = find_frontend(model, options)
    xs = read_arrays(data, frontend.input_names(opened))
    if is_netx(opened):
        return opened, xs, opened
    examples = tuple(x[0] if time_major else x[:_EXAMPLES] for x in xs)
    return frontend.load(opened, frontend.batches(opened, examples)), xs, opened


def labelled(xs: Sequence[Tensor], labels: Array) -> list[tuple[Tensor, Array]]:
    """Return batches (x, labels) of a single input.

    Raises:
        CalibrationError: there are several inputs, or another number of labels.
    """
    if len(xs) != 1:
        raise CalibrationError(f"the model has {len(xs)} inputs", hint="accuracy is measured of models with one")
    if len(labels) != len(xs[0]):
        raise CalibrationError(f"{len(labels)} labels for {len(xs[0])} samples", hint="give one class number a sample")
    parts = batches([xs[0]])
    ends = np.cumsum([len(x) for (x,) in parts])[:-1]
    return [(x, some) for (x,), some in zip(parts, np.split(labels, ends), strict=True)]


def simulate(network: Any, xs: Sequence[Tensor], timesteps: int | None) -> dict[str, Tensor]:
    """Run a network some samples at a time: a graph by the reference interpreter, one of netx by its integers.

    Args:
        network: a spiking graph, or a network of netx.
        xs: a tensor for each input, [B, ...] and constant over time, or [T, B, ...].
        timesteps: the number of steps T; None for inputs [T, B, ...].

    Returns:
        For each output, by name, its average over the steps [B, ...], in ANN units.

    Raises:
        InvalidModelError: the network does not spike, or the inputs do not fit.
    """
    import torch

    from spikec.calibration.source import TENSOR_BATCH
    from spikec.interpreter.results import outputs
    from spikec.ir.progress import track
    from spikec.reading import is_netx

    parts = list(zip(*(torch.split(x, TENSOR_BATCH, int(timesteps is None)) for x in xs), strict=True))
    if is_netx(network):
        if len(xs) != 1:
            raise InvalidModelError(f"the network has one input, got {len(xs)}", hint="give one array, called x")
        found = [torch.as_tensor(network.run(x, timesteps)) for (x,) in track(parts, "batches")]
        return {"y": torch.cat(found)}
    if not network.is_spiking:
        raise InvalidModelError(f"{network.name} does not spike", hint="compile it first: spikec compile")
    dtypes = [getattr(torch, network.type(name).dtype) for name in network.inputs]
    cast = ([x.to(dtype) for x, dtype in zip(part, dtypes, strict=True)] for part in parts)
    answers = [outputs(network, some, timesteps) for some in track(cast, "batches", len(parts))]
    return {name: torch.cat(each) for name, each in zip(network.outputs, zip(*answers, strict=True), strict=True)}
