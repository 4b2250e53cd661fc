"""Runs single ONNX nodes and whole models, by the rules of their own opset, and nodes within a budget.

The evaluator is onnx's reference implementation. It has one implementation for most operators, that of the newest
opset; where an older one means something else, that is put right here.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch

from spikec.frontends.onnx.model import DOMAINS, library, single
from spikec.ir.errors import Hint, Option, UnsupportedOpError, ignoring_others
from spikec.ir.types import Array

#: operators whose result is another one at every run
RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli")
#: what Upsample and the first Resize do, which later became options
FIRST_RESIZE = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
#: by operator: the opset before which it was so, and the attributes that say today what it did
_FORMER: dict[str, tuple[float, Mapping[str, Any]]] = {
    "Upsample": (math.inf, FIRST_RESIZE),
    "Resize": (11, FIRST_RESIZE),
    "RoiAlign": (16, {"coordinate_transformation_mode": "output_half_pixel"}),
}
#: operators that took all axes from the given one on as one before opset 13
_FLATTENING = ("Softmax", "LogSoftmax", "Hardmax")
#: operators whose older implementations are wrong or missing, while what a model says of them means what it means today
_AS_TODAY = ("BatchNormalization", "DequantizeLinear")
#: the ways of GridSample by their names before opset 20
_RENAMED = {b"bilinear": b"linear", b"bicubic": b"cubic"}
#: operators that may make more numbers than they take
_GROWING = (
    "AffineGrid BlackmanWindow CenterCropPad Col2Im ConstantOfShape ConvTranspose DFT Einsum Expand EyeLike GridSample "
    "HammingWindow HannWindow ImageDecoder MaxUnpool MelWeightMatrix OneHot Pad Range Resize RoiAlign STFT Tile "
    "Upsample"
)
#: numbers of an input that may say how large a result is
_SIZES = 4096
#: runs of nodes, those in loops as often as they run, each of which takes about 0.2 ms
_RUNS = 10_000


@attrs.define
class Budget:
    """What may still be computed for one model: it is shared by all its nodes.

    Attributes:
        allowed: bytes of memory.
        spent: those that results take which are kept.
        runs: how often nodes were run, and the bodies of loops.
    """

    allowed: int
    spent: int = 0
    runs: int = 0

    def check(self, count: int) -> None:
        """Raise an UnsupportedOpError if that many bytes cannot be had; who converts the node adds where it stands."""
        if self.spent + count > self.allowed:
            raise UnsupportedOpError(
                f"its result takes {count:,} bytes, more than what is computed from such a file may take",
                hint=Hint("if you trust it, allow them: ", Option("max_bytes", self.spent + count)),
            )

    def step(self) -> None:
        """Count a run of a node or of a loop's body.

        Raises:
            UnsupportedOpError: there were too many.
        """
        self.runs += 1
        if self.runs > _RUNS:
            raise UnsupportedOpError(
                f"it takes more than {_RUNS:,} steps to compute beforehand", hint="make its result an initializer"
            )


def run_node(
    node: Any, opsets: Mapping[str, int], feeds: Mapping[str, Array], budget: Budget | None = None
) -> list[Array]:
    """The results of one node, by the reference implementation that onnx carries; half becomes float32.

    Raises:
        UnsupportedOpError: they, or what is computed on the way, are more than the budget has.
    """
    helper = library().helper
    graph = helper.make_graph([node], "node", [], [helper.make_empty_tensor_value_info(name) for name in node.output])
    graph.input.extend(_declared(name, value) for name, value in feeds.items())
    with ignoring_others(), np.errstate(all="ignore"):
        if budget is not None:
            budget.runs -= 2  # the node itself is free
        found = _evaluator(budget)(graph, opsets={"": 1, **opsets}).run(None, dict(feeds))
    return [single(each) for each in found]


def _evaluator(budget: Budget | None) -> Callable[..., Any]:
    """The class of evaluators that keep to a budget, also in loops and functions."""
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.ops import load_op

    class Evaluator(ReferenceEvaluator):
        def run(self, *args: Any, **kwargs: Any) -> Any:
            if budget is not None:
                budget.step()
            return super().run(*args, **kwargs)

        def _load_impl(self, node: Any, input_types: Any = None) -> Callable[..., Any]:
            own = in_todays_terms(node, self.opsets[""])
            if own.op_type in _AS_TODAY and not own.domain:
                kind = load_op("", own.op_type)
            else:
                kind = super()._load_impl(own, input_types)

            def load(_: Any, parameters: Any) -> Any:
                op = kind(own, parameters)
                run = _as_formerly(node, self.opsets[""], op)
                op.run = run if budget is None else functools.partial(_within, budget, node, self.opsets, run)
                return op

            return load

    return Evaluator


def in_todays_terms(node: Any, opset: int) -> Any:
    """A node with what has changed since its opset stated: defaults, and names; the node itself where nothing has."""
    defs, helper = library().defs, library().helper
    if node.domain not in DOMAINS or not defs.has(node.op_type, opset):
        return node
    end, former = _FORMER.get(node.op_type, (0, {}))
    stated = {each.name for each in node.attribute}
    missing = [helper.make_attribute(name, value) for name, value in former.items() if opset < end]
    then, now = (defs.get_schema(node.op_type, each).attributes for each in (opset, defs.onnx_opset_version()))
    changed = [name for name, each in then.items() if name in now and each.default_value != now[name].default_value]
    missing += [then[name].default_value for name in changed]
    missing = [each for each in missing if each.name not in stated]
    if not (missing or node.domain or node.op_type in ("GridSample", "BatchNormalization")):
        return node
    own = library().NodeProto()
    own.CopyFrom(node)
    own.domain, own.op_type = "", "Resize" if node.op_type == "Upsample" else node.op_type
    own.attribute.extend(missing)
    for each in own.attribute if node.op_type == "GridSample" else ():
        each.s = _RENAMED.get(each.s, each.s)
    if node.op_type == "BatchNormalization" and opset < 14 and sum(map(bool, node.output)) > 1:
        own.attribute.append(helper.make_attribute("training_mode", 1))
    return own


def _as_formerly(node: Any, opset: int, op: Any) -> Callable[..., Any]:
    """How an operator of today is run to do what the node says, whose inputs or axes are those of another opset."""
    run: Callable[..., Any] = op.run
    if node.op_type == "Upsample" and opset < 9:
        scales = np.array(op.scales)
        del op.scales
        op.attributes_names_.remove("scales")
        return lambda x: run(x, None, scales)
    if node.op_type == "Upsample" or (node.op_type == "Resize" and opset < 11):
        return lambda x, scales: run(x, None, scales)
    if node.op_type in _FLATTENING and opset < 13 and node.domain in DOMAINS:
        axis, op.axis = op.axis, -1
        return lambda x: (run(x.reshape(math.prod(x.shape[:axis]), -1))[0].reshape(x.shape),)
    return run


def _within(
    budget: Budget, node: Any, opsets: Mapping[str, int], run: Callable[..., Any], *inputs: Any, **more: Any
) -> Any:
    budget.step()
    budget.check(_result_bytes(node, opsets, inputs))
    return run(*inputs, **more)


def _result_bytes(node: Any, opsets: Mapping[str, int], inputs: Sequence[Any]) -> int:
    """Bytes of a node's results, which onnx says without computing them; where it cannot, those of its inputs.

    Raises:
        UnsupportedOpError: it cannot, and the operator makes more than it takes.
    """
    onnx = library()
    given = dict(zip(node.input, inputs, strict=False))
    arrays = {name: value for name, value in given.items() if name and isinstance(value, np.ndarray)}
    graph = onnx.helper.make_graph([node], "node", [], [onnx.ValueInfoProto(name=name) for name in node.output])
    for name, value in arrays.items():
        if value.size <= _SIZES and value.dtype.kind in "iuf":
            graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        else:
            graph.input.append(_declared(name, value))
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    try:
        found = onnx.shape_inference.infer_shapes(onnx.helper.make_model(graph, opset_imports=imports))
    except Exception:  # the evaluator will say what is wrong with the node
        found = onnx.ModelProto()
    sizes = [_bytes_of(each.type.tensor_type) for each in found.graph.output]
    if sizes and None not in sizes:
        return sum(filter(None, sizes))
    if node.op_type in _GROWING.split() and node.domain in DOMAINS:
        raise UnsupportedOpError("how large its result is cannot be known before it is computed")
    return sum(map(_bytes_in, inputs))


def _declared(name: str, value: Array) -> Any:
    helper = library().helper
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def _bytes_of(tensor: Any) -> int | None:
    """Bytes of a tensor, by its type; None if that does not say its shape."""
    if not tensor.HasField("shape") or not all(axis.HasField("dim_value") for axis in tensor.shape.dim):
        return None
    dtype = np.dtype(library().helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return math.prod((int(axis.dim_value) for axis in tensor.shape.dim), start=int(dtype.itemsize))


def _bytes_in(value: Any) -> int:
    return sum(map(_bytes_in, value)) if isinstance(value, list) else getattr(value, "nbytes", 0)


def evaluator(model: Any, proto: Any) -> Callable[[dict[str, Array]], list[Any]]:
    """What gives outputs for feeds: onnxruntime where it is installed and can, else onnx's own evaluator."""
    try:
        import onnxruntime
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, NotImplemented
    except ModuleNotFoundError:
        return own_evaluator(proto)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        source = str(model) if isinstance(model, Path) else model.SerializeToString()
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except (Fail, InvalidArgument, InvalidGraph, NotImplemented, ValueError):  # newer opsets, no kernel, above 2 GB
        return own_evaluator(proto)
    return lambda feeds: list(session.run(None, feeds))


def own_evaluator(proto: Any) -> Callable[[dict[str, Array]], list[Any]]:
    """What gives outputs for feeds, by onnx's own evaluator."""
    own = _evaluator(None)(proto)
    return lambda feeds: list(own.run(None, feeds))
