"""What becomes of a module that symbolic tracing cannot follow: torch.export runs its forward with an example."""

import contextlib
import inspect
import logging
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import torch
from torch import nn
from torch.export import Dim

from spikec.frontends.torch.check import template
from spikec.frontends.torch.program import Program, program
from spikec.frontends.torch.trace import untraceable
from spikec.frontends.torch.traced import required
from spikec.ir.errors import Hint, InvalidModelError, Option

#: any size but 0 and 1, which torch takes for special
_BATCH = 3


def exported(model: nn.Module, shapes: Sequence[tuple[int, ...]] | None, error: InvalidModelError) -> Program:
    """The module as a program with an open batch size.

    Args:
        model: symbolic tracing failed on it.
        shapes: of a sample of each input, or None where there is no example.
        error: what symbolic tracing said.

    Raises:
        InvalidModelError: torch.export fails too, or there is no example; with the line in the user's model.
    """
    (problem,) = error.problems
    if shapes is None:
        hint = Hint("pass ", _example(model), " with your data's sizes filled in, or calibration data: ", problem.hint)
        raise InvalidModelError(attrs.evolve(problem, hint=hint)) from error
    like = next((p for p in (*model.parameters(), *model.buffers()) if p.is_floating_point()), torch.zeros(()))
    xs = tuple(torch.zeros(_BATCH, *shape, dtype=like.dtype, device=like.device) for shape in shapes)
    batches: tuple[Any, ...] = tuple({0: Dim("batch")} for _ in xs)
    first = next(iter(inspect.signature(model.forward).parameters.values()))
    try:
        with _quiet(), torch.inference_mode(False), torch.no_grad():
            dynamic = (batches,) if first.kind is first.VAR_POSITIONAL else batches
            result = torch.export.export(model, xs, dynamic_shapes=dynamic, strict=False)
    except Exception as failure:
        frames = traceback.extract_tb(failure.__traceback__)[1:]
        found = untraceable(failure, "", frames)
        located = found.location != "forward" and not problem.location.endswith(found.location.split("(")[-1])
        raise InvalidModelError(found if located else problem) from failure
    return program(result)


def _example(model: nn.Module) -> Option:
    """The example to pass for a model that cannot be traced without one."""
    names = required(model)
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    return Option("example_input", [template(layers[0] if layers and len(names) == 1 else None) for _ in names])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the pages that torch logs about a failure, which becomes an error of ours."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
