"""Reads ONNX models, opset 7 and up; ``README.md`` says how to add a converter."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from spikec.extend.call import Signal
from spikec.extend.frontend import Frontend
from spikec.frontends.onnx.model import input_specs, is_proto, layer_results, open_model, reference, resolve_shapes
from spikec.frontends.onnx.reader import Reader
from spikec.interpreter.imported import Reference
from spikec.ir.graph import Graph
from spikec.ir.ops import Input

#: batch sizes that a model is read for where it fixes none: whatever differs between them depends on the batch
_BATCHES = (5, 7)


class Onnx(Frontend):
    """``onnx.ModelProto``, or a path to one; the first axis of every input is the batch, even one of a fixed size."""

    takes: ClassVar[str] = "an onnx.ModelProto or a path ending in .onnx"

    def accepts(self, model: Any) -> bool:
        """A ModelProto, or a Path with ONNX's suffix."""
        return is_proto(model) or (isinstance(model, Path) and model.suffix == ".onnx")

    def input_names(self, model: Any) -> list[str]:
        """Names of the graph's inputs that have no initializer."""
        return [spec.name for spec in input_specs(open_model(model, weights=False))]

    def load(self, model: Any, examples: Sequence[Tensor] | None) -> Graph:
        """The model as a graph; examples are needed where it leaves another axis than the batch open.

        Raises:
            UnsupportedOpError: with every node that has no converter, and inputs that are no floats.
            TypeMismatchError: a node does not take what it is given.
            InvalidModelError: the file cannot be read, its opset is below 7, or the shape of an input is not known.
            MissingDependencyError: onnx is not installed.
        """
        proto = open_model(model)
        specs = input_specs(proto)
        shapes, fixed = resolve_shapes(specs, examples)
        graph = Graph(proto.graph.name or "onnx")
        inputs = {
            spec.name: Signal(graph.add(Input(shape, spec.dtype), name=spec.name))
            for spec, shape in zip(specs, shapes, strict=True)
        }
        Reader(proto, graph, inputs, _BATCHES if fixed is None else (fixed,)).run()
        return graph

    def reference(self, model: Any) -> Reference | None:
        """The model itself in onnxruntime, where that is installed, or in onnx's reference evaluator."""
        return reference(model)

    def layer_results(self, model: Any, graph: Graph, xs: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """The first result of each node that the graph stands for, by the node's name."""
        return layer_results(model, {source.node: source.path for source in graph.sources}, xs)


frontend = Onnx()
