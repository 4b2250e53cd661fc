"""Reads programs of torch.export, by the converters that modules are read by."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from spikec.extend.frontend import Frontend
from spikec.frontends.torch.archive import read_program
from spikec.frontends.torch.batch import in_batches
from spikec.frontends.torch.call import tensors
from spikec.frontends.torch.check import dtype_of, example_shapes
from spikec.frontends.torch.program import Program, program
from spikec.frontends.torch.reader import Reader
from spikec.interpreter.imported import Reference
from spikec.ir.errors import Hint, InvalidModelError, Option
from spikec.ir.graph import Graph


class TorchExport(Frontend):
    """``torch.export.ExportedProgram`` of a model in evaluation mode, with a fixed or an open batch size."""

    takes = "a torch.export.ExportedProgram or a path ending in .pt2"

    def accepts(self, model: Any) -> bool:
        """True for any program, decomposed or not, and for files that torch.export.save writes."""
        return isinstance(model, ExportedProgram) or (isinstance(model, Path) and model.suffix == ".pt2")

    def opened(self, model: Any, max_bytes: int | None = None) -> ExportedProgram:
        """Of a path, the program in the file; ``max_bytes`` is what its arrays may take in memory.

        Raises:
            InvalidModelError: the file is damaged, or holds more than a program of aten; see ``archive``.
        """
        return read_program(model, max_bytes) if isinstance(model, Path) else model

    def input_names(self, model: ExportedProgram) -> list[str]:
        """Names of the inputs that are tensors, as the program's graph has them."""
        return program(model).inputs

    @torch.inference_mode(False)
    def load(self, model: ExportedProgram, examples: Sequence[Tensor] | None) -> Graph:
        """The program as a graph; the first axis of all inputs is the batch.

        Raises:
            UnsupportedOpError: with every call that has no converter.
            TypeMismatchError: a layer does not take what it is given.
            InvalidModelError: it was exported in training mode, or the examples are not what it was exported for.
        """
        traced = program(model)
        dtype = dtype_of(traced.parameters.values(), examples or _examples(model))
        return Reader(traced, _shapes(traced, examples), dtype).finish()

    def reference(self, model: ExportedProgram) -> Reference:
        """The program itself, run with the batch size that it was exported for."""
        run = model.module()
        values = {**model.state_dict, **model.constants}
        first = _examples(model)[0].shape[0]

        @torch.no_grad()
        def reference(xs: Sequence[Tensor]) -> list[Tensor]:
            like = next((v for v in tensors(values) if v.is_floating_point()), xs[0])
            args, kwargs = _arguments(model, [x.to(like.device, like.dtype, copy=True) for x in xs])
            return [x.cpu() for x in tensors(run(*args, **kwargs))]

        return in_batches(reference, first if isinstance(first, int) else None)


def _shapes(traced: Program, examples: Sequence[Tensor] | None) -> list[tuple[int, ...]]:
    """The shape of a sample of each input: the program's, with the example's sizes where it leaves some open."""
    known = list(traced.shapes.values())
    if examples is None:
        open_ = [name for name, shape in traced.shapes.items() if None in shape]
        if open_:
            raise InvalidModelError(
                f"the program leaves sizes of the input {', '.join(open_)} open",
                location=traced.name,
                hint=Hint("pass ", Option("example_input"), " with your data's sizes, or calibration data"),
            )
        return [tuple(int(size) for size in shape if size is not None) for shape in known]
    given = example_shapes(traced.inputs, examples)
    for name, wanted, found in zip(traced.inputs, known, given, strict=True):
        if len(wanted) != len(found) or any(a not in (None, b) for a, b in zip(wanted, found, strict=True)):
            shown = ", ".join("any" if size is None else str(size) for size in ("B", *wanted))
            raise InvalidModelError(
                f"the program was exported for {name}: [{shown}], the example is {[*found]} without its batch",
                location=traced.name,
                hint="give what it was exported for, or export it again",
            )
    return given


def _user_inputs(model: ExportedProgram) -> list[Any]:
    """What the program's inputs look like, in order: a tensor without data, or a constant."""
    values = {node.name: node.meta.get("val") for node in model.graph.nodes if node.op == "placeholder"}
    found = [spec.arg for spec in model.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    return [values[arg.name] if not hasattr(arg, "value") else arg.value for arg in found]


def _examples(model: ExportedProgram) -> list[Tensor]:
    return [value for value in _user_inputs(model) if isinstance(value, Tensor)]


def _arguments(model: ExportedProgram, xs: Sequence[Tensor]) -> Any:
    """Positional and named arguments as the program takes them."""
    left = iter(xs)
    flat = [next(left) if isinstance(value, Tensor) else value for value in _user_inputs(model)]
    return pytree.tree_unflatten(flat, model.call_spec.in_spec)


frontend = TorchExport()
