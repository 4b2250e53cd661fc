"""Reads ONNX models, opset 7 and up; ``README.md`` says how to add a converter."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from spikec.extend.call import Signal
from spikec.extend.frontend import Frontend
from spikec.frontends.onnx.evaluate import Budget, evaluator
from spikec.frontends.onnx.model import OnnxModel, input_specs, is_proto, library, open_model, resolve_shapes
from spikec.frontends.onnx.reader import Reader, without_dead_nodes
from spikec.interpreter.imported import Reference
from spikec.ir.errors import Hint, InvalidModelError, Option, warn
from spikec.ir.graph import Graph
from spikec.ir.ops import Input

#: batch sizes that a model is read for where it fixes none: whatever differs between them depends on the batch
_BATCHES = (5, 7)


class Onnx(Frontend):
    """``onnx.ModelProto``, or a path to one; the first axis of every input is the batch, even one of a fixed size."""

    takes: ClassVar[str] = "an onnx.ModelProto or a path ending in .onnx"

    def accepts(self, model: Any) -> bool:
        """A ModelProto, or a Path with ONNX's suffix."""
        return isinstance(model, OnnxModel) or is_proto(model) or (isinstance(model, Path) and model.suffix == ".onnx")

    def opened(self, model: Any, max_bytes: int | None = None) -> OnnxModel:
        """The model with its external data.

        Args:
            model: one that ``accepts``.
            max_bytes: what its external data, and what is computed from it, may take in memory; if it is not given,
                half a gigabyte more than its files take.
        """
        return model if isinstance(model, OnnxModel) else open_model(model, max_bytes)

    def input_names(self, model: Any) -> list[str]:
        """Names of the graph's inputs that have no initializer."""
        return [spec.name for spec in input_specs(self.opened(model).proto)]

    def load(self, model: Any, examples: Sequence[Tensor] | None) -> Graph:
        """The model as a graph; examples are needed where it leaves another axis than the batch open.

        Raises:
            UnsupportedOpError: with every node that has no converter, and inputs that are no floats.
            TypeMismatchError: a node does not take what it is given.
            InvalidModelError: the file cannot be read, its opset is below 7, or the shape of an input is not known.
            MissingDependencyError: onnx is not installed.
        """
        opened = self.opened(model)
        proto, budget = opened.proto, Budget(opened.allowed)
        specs = input_specs(proto)
        shapes, fixed = resolve_shapes(specs, examples)
        for spec, shape in zip(specs, shapes, strict=True):
            if (size := math.prod(shape) * np.dtype(spec.dtype).itemsize) > opened.allowed:
                message = f"a sample of input {spec.name} takes {size:,} bytes, more than a model of its size may take"
                hint = Hint("if you trust it, allow them: ", Option("max_bytes", size))
                raise InvalidModelError(message, location=spec.name, hint=hint)
        graph = Graph(proto.graph.name or "onnx")
        inputs = {
            spec.name: Signal(graph.add(Input(shape, spec.dtype), name=spec.name))
            for spec, shape in zip(specs, shapes, strict=True)
        }
        Reader(proto, graph, inputs, _BATCHES if fixed is None else (fixed,), budget).run()
        return graph

    def reference(self, model: Any) -> Reference | None:
        """The model itself in onnxruntime, where that is installed and can, or in onnx's reference evaluator.

        None for a model of half precision, to which an imported graph cannot be held, and, with a warning, for one
        with operators that only a converter of the user's knows.
        """
        opened = self.opened(model)
        proto = without_dead_nodes(opened.proto)
        specs = input_specs(proto)
        half = (library().TensorProto.FLOAT16, library().TensorProto.BFLOAT16)
        inputs = [each.type.tensor_type.elem_type for each in proto.graph.input]
        if any(each in half for each in (*inputs, *(each.data_type for each in proto.graph.initializer))):
            return None
        try:
            run = evaluator(opened.path if proto is opened.proto and opened.path else proto, proto)
        except NotImplementedError as error:  # raised by onnx's own evaluator, the last that is asked
            warn(f"the import is not compared with the model, which nothing here can run: {error}")
            return None
        except Exception as error:  # of another constant or node that nobody uses, say
            raise _unrunnable(error) from error

        def call(xs: Sequence[Tensor]) -> list[Tensor]:
            arrays = [x.numpy().astype(spec.dtype) for x, spec in zip(xs, specs, strict=True)]
            _, fixed = resolve_shapes(specs, xs)
            count = len(arrays[0])
            size = fixed or count
            parts = []
            for start in range(0, count, size):
                rows = np.arange(start, start + size) % count
                try:
                    parts.append(run({spec.name: x[rows] for spec, x in zip(specs, arrays, strict=True)}))
                except Exception as error:  # onnxruntime's and numpy's
                    raise _unrunnable(error) from error
            return [torch.tensor(np.concatenate(column)[:count]) for column in zip(*parts, strict=True)]

        return call

    def layer_results(self, model: Any, graph: Graph, xs: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """The first result of each node that the graph stands for, by the node's name; not of those inside branches."""
        paths = {source.node: source.path for source in graph.sources}
        inside = library().ModelProto()
        inside.CopyFrom(self.opened(model).proto)
        names = [node.output[0] for node in inside.graph.node if node.output and node.output[0] in paths]
        del inside.graph.output[:]
        inside.graph.output.extend(library().ValueInfoProto(name=name) for name in names)
        run = self.reference(inside) if names else None
        return {} if run is None else {paths[name]: found for name, found in zip(names, run(xs), strict=True)}


def _unrunnable(error: Exception) -> InvalidModelError:
    reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return InvalidModelError(f"the ONNX model cannot be run by itself: {reason}", hint="check it: onnx.checker")


frontend = Onnx()
