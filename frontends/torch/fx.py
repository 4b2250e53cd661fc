"""Reads torch modules through torch.fx; ``README.md`` says how to add a converter."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spikec.extend.frontend import Frontend
from spikec.frontends.torch.call import leaves
from spikec.frontends.torch.check import check_model, dtype_of, example_shapes, shapes_from_layers
from spikec.frontends.torch.instead import exported
from spikec.frontends.torch.layer_results import layer_results
from spikec.frontends.torch.layers import is_spiking
from spikec.frontends.torch.reader import Reader
from spikec.frontends.torch.steps import check_axes, one_step, steps_of, takes_all_steps
from spikec.frontends.torch.trace import trace
from spikec.frontends.torch.traced import Traced, required
from spikec.interpreter.imported import Reference
from spikec.ir.errors import InvalidModelError
from spikec.ir.graph import Graph


class TorchFx(Frontend):
    """``torch.nn.Module`` and ``torch.fx.GraphModule``, in evaluation mode; the module is not changed."""

    takes: ClassVar[str] = "a torch.nn.Module"

    def accepts(self, model: Any) -> bool:
        """True for any module; what it holds is judged by :meth:`load`."""
        return isinstance(model, nn.Module)

    def input_names(self, model: nn.Module) -> list[str]:
        """Names of forward's arguments that have no default value."""
        check_model(model)
        return required(model)

    def batches(self, model: nn.Module, examples: Sequence[Tensor] | None) -> Sequence[Tensor] | None:
        """A spiking model in step_mode "m" takes [T, B, ...]."""
        return one_step(model, examples) if examples is not None and is_spiking(model) else examples

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
        try:
            traced, reader = trace(model, shapes, dtype)
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
        return (reader or Reader(traced, shapes, dtype)).finish(notes)

    def reference(self, model: nn.Module) -> Reference:
        """The module itself, in its own dtype (a spiking one in float64), on its own device, without gradients."""
        if is_spiking(model):
            return steps_of(model)

        def run(xs: Sequence[Tensor]) -> list[Tensor]:
            like = next((p for p in (*model.parameters(), *model.buffers()) if p.is_floating_point()), xs[0])
            with torch.no_grad():
                result = model(*[x.to(like.device, like.dtype) for x in xs])
            return [leaf.cpu() for leaf in leaves(result) if isinstance(leaf, Tensor)]

        return run

    def layer_results(self, model: nn.Module, graph: Graph, xs: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """The results of the innermost modules, by their paths."""
        paths, run = {source.path for source in graph.sources}, self.reference(model)
        return layer_results(model, paths, lambda: run(xs), len(xs[0]) if graph.is_spiking else None)


frontend = TorchFx()
