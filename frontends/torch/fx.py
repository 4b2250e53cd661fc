"""Reads torch modules through torch.fx, or torch.export where that fails; ``README.md`` says how to add a converter."""

import contextlib
import inspect
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.export import Dim

from spikec.extend.frontend import Frontend
from spikec.frontends.torch.call import tensors
from spikec.frontends.torch.check import (
    check_model,
    dtype_of,
    example_shapes,
    refuse_all,
    scripted,
    shapes_from_layers,
    template,
)
from spikec.frontends.torch.layers import is_spiking
from spikec.frontends.torch.program import Program, program
from spikec.frontends.torch.reader import Reader
from spikec.frontends.torch.shadow import Content, shadow
from spikec.frontends.torch.steps import check_axes, one_step, steps_of, takes_all_steps
from spikec.frontends.torch.trace import TRACING, trace
from spikec.frontends.torch.traced import Traced, required, untraceable
from spikec.interpreter.imported import Reference
from spikec.ir.errors import Hint, InvalidModelError, Option, ignoring_others
from spikec.ir.graph import Graph

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
    xs = _batch(model, shapes)
    batches: tuple[Any, ...] = tuple({0: Dim("batch")} for _ in xs)
    first = next(iter(inspect.signature(model.forward).parameters.values()))
    try:
        with TRACING, _quiet(), torch.inference_mode(False), torch.no_grad():
            dynamic = (batches,) if first.kind is first.VAR_POSITIONAL else batches
            result = torch.export.export(shadow(model), xs, dynamic_shapes=dynamic, strict=False)
    except Exception as failure:
        frames = traceback.extract_tb(failure.__traceback__)[1:]
        found = untraceable(failure, "", frames)
        located = found.location != "forward" and not problem.location.endswith(found.location.split("(")[-1])
        located = located and not any(scripted(model))  # of which the first problem tells
        raise InvalidModelError(found if located else problem) from failure
    return program(result)


def _batch(model: nn.Module, shapes: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
    """Random inputs of a few samples."""
    like = next((p for p in (*model.parameters(), *model.buffers()) if p.is_floating_point()), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand((_BATCH, *shape), generator=generator).to(like.device, like.dtype) for shape in shapes)


def _refuse_memory(model: nn.Module, shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuse a module whose forward gives another result the second time, as it does where it keeps a state."""
    own, xs = shadow(model), _batch(model, shapes)
    results = []
    try:
        with torch.no_grad():
            for _ in range(2):
                results.append([y.double() for y in tensors(own(*[x.clone() for x in xs]))])
    except Exception:  # whatever forward does with inputs of which it knows more
        return
    pairs = list(zip(*results, strict=True))
    if not all(a.shape == b.shape and torch.allclose(a, b, 1e-3, 1e-6, equal_nan=True) for a, b in pairs):
        raise InvalidModelError(
            "forward gives another result when it is called again: it keeps something from call to call",
            location=type(model).__name__,
            hint="a compiled network has no such state: take it out of forward",
        )


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
        with ignoring_others():
            yield
    finally:
        logging.disable(before)


class TorchFx(Frontend):
    """``torch.nn.Module`` and ``torch.fx.GraphModule``, in evaluation mode; the module is not changed."""

    takes = "a torch.nn.Module"

    def accepts(self, model: Any) -> bool:
        """True for any module; what it holds is judged by :meth:`load`."""
        return isinstance(model, nn.Module)

    def advice(self, model: Any) -> str:
        """What users take for a module: its parameters, its class, its layers, or a function."""
        if isinstance(model, Mapping) and tensors(dict(model)):
            return "it holds parameters only: build the module, call its load_state_dict(...) with them, and give that"
        if isinstance(model, type) and issubclass(model, nn.Module):
            return f"give an instance of the class: {model.__name__}(...)"
        if isinstance(model, (list, tuple)) and model and all(isinstance(each, nn.Module) for each in model):
            return "make one module of them: nn.Sequential(*layers)"
        if isinstance(model, Path) and model.suffix in (".pt", ".pth", ".ckpt", ".bin"):
            return "build the module, call its load_state_dict(torch.load(path)), and give that"
        return "call it in the forward of an nn.Module" if inspect.isroutine(model) else ""

    def input_names(self, model: nn.Module) -> list[str]:
        """Names of forward's arguments that have no default value."""
        check_model(model)
        return required(model)

    def batches(self, model: nn.Module, examples: Sequence[Tensor] | None) -> Sequence[Tensor] | None:
        """A spiking model in step_mode "m" takes [T, B, ...]."""
        return one_step(model, examples) if examples is not None and is_spiking(model) else examples

    @torch.inference_mode(False)
    def load(self, model: nn.Module, examples: Sequence[Tensor] | None) -> Graph:
        """The module as a graph; an argument of forward that has a default value keeps it.

        Where symbolic tracing fails, torch.export reads the module with the example.

        Raises:
            UnsupportedOpError: with every call that has no converter.
            TypeMismatchError: a layer does not take what it is given.
            InvalidModelError: hooks, NaN, training mode, control flow on data, or an input of unknown shape.
        """
        check_model(model)
        spiking = is_spiking(model)
        all_steps = spiking and takes_all_steps(model)
        dtype = dtype_of((*model.parameters(), *model.buffers()), examples)
        shapes = None if examples is None else example_shapes(required(model), examples)
        notes: list[str] = []
        reader: Reader | None = None
        traced: Traced
        own = shadow(model)
        before = Content(own)
        try:
            refuse_all(scripted(model))
            traced, reader = trace(model, own, shapes, dtype)
        except InvalidModelError as error:
            if spiking:  # its neurons are known as layers, not by what they do to their states
                raise
            traced = exported(model, shapes, error)
            why = error.problems[0]
            notes = [f"read through torch.export, because symbolic tracing fails at {why.location}: {why.message}"]
        if shapes is None:
            shapes = shapes_from_layers(traced)
        if all_steps:
            check_axes(traced)
        graph = (reader or Reader(traced, shapes, dtype)).finish(notes)
        if not spiking and (notes or before.has_changed()):  # torch.export puts back what forward assigns
            _refuse_memory(model, shapes)
        return graph

    def reference(self, model: nn.Module) -> Reference:
        """The module itself, in its own dtype (a spiking one in float64), on its own device, without gradients."""
        if is_spiking(model):
            return steps_of(model)

        def run(xs: Sequence[Tensor]) -> list[Tensor]:
            like = next((p for p in (*model.parameters(), *model.buffers()) if p.is_floating_point()), xs[0])
            with torch.no_grad():
                result = model(*[x.to(like.device, like.dtype, copy=True) for x in xs])
            return [tensor.cpu() for tensor in tensors(result)]

        return run

    def layer_results(self, model: nn.Module, graph: Graph, xs: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """The results of the innermost modules, by their paths: by these a converter that is wrong is found.

        A layer that is called more than once (by a spiking model: in a step), or gives no single tensor, is left out.
        """
        paths, hooked = {source.path for source in graph.sources}, shadow(model)
        seen: dict[str, list[Any]] = {}

        def hook(path: str) -> Callable[..., None]:
            # a copy, because a layer that follows may write over the result
            return lambda _, __, result: seen.setdefault(path, []).append(
                result.detach().clone().cpu() if isinstance(result, Tensor) else None
            )

        for path, each in hooked.named_modules():
            if path in paths and not any(each.children()):
                each.register_forward_hook(hook(path))
        self.reference(hooked)(xs)
        known = {path: found for path, found in seen.items() if all(isinstance(each, Tensor) for each in found)}
        results = {path: found[0] for path, found in known.items() if len(found) == 1}
        if graph.is_spiking:
            results |= {path: torch.stack(found) for path, found in known.items() if len(found) == len(xs[0])}
        return results


frontend = TorchFx()
