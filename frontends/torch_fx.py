"""Reads torch modules through torch.fx; ``README.md`` says how to add a converter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from spikec.errors import InvalidModelError
from spikec.frontend import Frontend, Reference
from spikec.frontends.torch_export_instead import exported
from spikec.frontends.torch_fx_call import BATCH, Call, Signal, as_array, leaves, methods, rules, takes_batch
from spikec.frontends.torch_fx_check import check_model, dtype_of, example_shapes, shapes_from_layers
from spikec.frontends.torch_fx_trace import Known, Traced, required, trace
from spikec.frontends.torch_fx_walk import Walk, read
from spikec.graph import Graph

__all__ = ["BATCH", "Call", "Signal", "TorchFx", "as_array", "frontend", "methods", "rules", "takes_batch"]


class TorchFx(Frontend):
    """``torch.nn.Module`` and ``torch.fx.GraphModule``, in evaluation mode; the module is not changed."""

    name: ClassVar[str] = "torch_fx"
    takes: ClassVar[str] = "a torch.nn.Module"

    def accepts(self, model: Any) -> bool:
        """True for any module; what it holds is judged by :meth:`load`."""
        return isinstance(model, nn.Module)

    def input_names(self, model: nn.Module) -> list[str]:
        """Names of forward's arguments that have no default value."""
        check_model(model)
        return required(model)

    def load(self, model: nn.Module, examples: Sequence[Tensor] | None) -> Graph:
        """The module as a graph; an argument of forward that has a default value keeps it.

        Where symbolic tracing fails, torch.export reads the module with the example.

        Raises:
            UnsupportedOpError: with every call that has no converter.
            TypeMismatchError: a layer does not take what it is given.
            InvalidModelError: hooks, NaN, training mode, control flow on data, or an input of unknown shape.
        """
        check_model(model)
        dtype = dtype_of((*model.parameters(), *model.buffers()), examples)
        shapes = None if examples is None else example_shapes(required(model), examples)
        try:
            traced = trace(model, None if shapes is None else _known(shapes, dtype))
        except InvalidModelError as error:
            traced = exported(model, shapes, error)
        if shapes is None:
            shapes = shapes_from_layers(traced)
        return read(traced, shapes, dtype)

    def reference(self, model: nn.Module) -> Reference:
        """The module itself, in its own dtype and on its own device, without gradients."""

        def run(xs: Sequence[Tensor]) -> list[Tensor]:
            like = next((p for p in (*model.parameters(), *model.buffers()) if p.is_floating_point()), xs[0])
            with torch.no_grad():
                result = model(*[x.to(like.device, like.dtype) for x in xs])
            return [leaf.cpu() for leaf in leaves(result) if isinstance(leaf, Tensor)]

        return run


def _known(shapes: Sequence[tuple[int, ...]], dtype: str) -> Known:
    """Answers what forward asks about sizes while it is traced, from a graph that is then thrown away."""
    walks: list[Walk] = []

    def known(traced: Traced, node: fx.Node) -> Any:
        if not walks:
            walks.append(Walk(traced, shapes, dtype))
        return walks[0].known(node)

    return known


frontend = TorchFx()
