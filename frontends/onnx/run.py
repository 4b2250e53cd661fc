"""Runs ONNX: single nodes on constants, and whole models to hold an imported graph against."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikec.frontends.onnx.model import input_specs, library, open_model, resolve_shapes, single
from spikec.interpreter.imported import Reference
from spikec.ir.types import Array

#: operators whose result is another one at every run
RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli")


def run_node(node: Any, opsets: Mapping[str, int], feeds: Mapping[str, Array]) -> list[Array]:
    """The results of one node, by the reference implementation that onnx carries; half becomes float32."""
    from onnx.reference import ReferenceEvaluator

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = ReferenceEvaluator(node, opsets=dict(opsets)).run(None, dict(feeds))
    return [single(each) for each in found]


def reference(model: Any) -> Reference | None:
    """The model itself, run by onnxruntime where that is installed and can, else by onnx's own evaluator.

    None for a model of half precision, to which an imported graph cannot be held.
    """
    proto = open_model(model)
    specs = input_specs(proto)
    half = (library().TensorProto.FLOAT16, library().TensorProto.BFLOAT16)
    inputs = [each.type.tensor_type.elem_type for each in proto.graph.input]
    if any(each in half for each in (*inputs, *(each.data_type for each in proto.graph.initializer))):
        return None
    run = _evaluator(model if isinstance(model, Path) else proto, proto)

    def call(xs: Sequence[Tensor]) -> list[Tensor]:
        arrays = [x.numpy().astype(spec.dtype) for x, spec in zip(xs, specs, strict=True)]
        _, fixed = resolve_shapes(specs, xs)
        count = len(arrays[0])
        size = fixed or count
        parts = []
        for start in range(0, count, size):
            rows = np.arange(start, start + size) % count
            parts.append(run({spec.name: x[rows] for spec, x in zip(specs, arrays, strict=True)}))
        return [torch.tensor(np.concatenate(column)[:count]) for column in zip(*parts, strict=True)]

    return call


def layer_results(model: Any, paths: Mapping[str, str], xs: Sequence[Tensor]) -> dict[str, Tensor]:
    """What nodes give inside a model that runs as its reference does.

    Args:
        model: the model.
        paths: what to call the result of each node, by the name of its first output; nodes inside branches are skipped.
        xs: inputs [B, ...].
    """
    inside = library().ModelProto()
    inside.CopyFrom(open_model(model))
    names = [node.output[0] for node in inside.graph.node if node.output and node.output[0] in paths]
    del inside.graph.output[:]
    inside.graph.output.extend(library().ValueInfoProto(name=name) for name in names)
    run = reference(inside) if names else None
    return {} if run is None else {paths[name]: found for name, found in zip(names, run(xs), strict=True)}


def _evaluator(model: Any, proto: Any) -> Callable[[dict[str, Array]], list[Any]]:
    """Feeds to outputs."""
    try:
        import onnxruntime
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, NotImplemented
    except ModuleNotFoundError:
        return _own(proto)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        source = str(model) if isinstance(model, Path) else model.SerializeToString()
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except (Fail, InvalidArgument, InvalidGraph, NotImplemented, ValueError):  # newer opsets, no kernel, above 2 GB
        return _own(proto)
    return lambda feeds: list(session.run(None, feeds))


def _own(proto: Any) -> Callable[[dict[str, Array]], list[Any]]:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(proto)
    return lambda feeds: list(evaluator.run(None, feeds))
