"""Opens ONNX models and runs them: their inputs and constants, single nodes, and whole models as a reference.

onnx itself is imported when it is needed.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.extend.loader import missing_package
from spikec.ir.errors import Hint, InvalidModelError, Option, Problem, UnsupportedOpError, ignoring_others
from spikec.ir.types import Array

OLDEST = 7
#: names of ONNX's own domain
DOMAINS = ("", "ai.onnx")


def library() -> ModuleType:
    """The onnx package.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import onnx
        import onnx.numpy_helper
    except ModuleNotFoundError as error:
        raise missing_package("onnx", "reading ONNX") from error
    return onnx


def is_proto(model: Any) -> bool:
    """True for an ``onnx.ModelProto``; onnx need not be installed to say no."""
    return any(cls.__name__ == "ModelProto" and cls.__module__.startswith("onnx") for cls in type(model).__mro__)


def open_model(model: Any, *, weights: bool = True) -> Any:
    """A ModelProto, with its external data where ``weights`` are wanted, and functions of its own written out.

    Raises:
        InvalidModelError: the file is no ONNX model, or its opset is too old.
    """
    onnx = library()
    if isinstance(model, Path):
        try:
            proto = onnx.load(str(model), load_external_data=weights)
        except Exception as error:  # protobuf, checker and file errors have no common base
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InvalidModelError(f"{model} cannot be read as ONNX: {reason}") from error
    else:
        proto = model
    if not proto.graph.output or not proto.opset_import:
        raise InvalidModelError("the ONNX model has no output, or states no opset", hint="check it: onnx.checker")
    version = opsets(proto).get("")
    if version is not None and version < OLDEST:
        raise InvalidModelError(
            f"the ONNX model is of opset {version}; {OLDEST} and up are read",
            hint="onnx.version_converter.convert_version(model, 17)",
        )
    if proto.functions:
        from onnx.inliner import inline_local_functions

        proto = inline_local_functions(proto)
    return proto


def opsets(proto: Any) -> dict[str, int]:
    """Version by domain; ONNX's own is ``""``."""
    return {"" if each.domain in DOMAINS else each.domain: each.version for each in proto.opset_import}


@attrs.frozen
class InputSpec:
    """An input as the model declares it.

    Attributes:
        shape: None where the rank is not known; an axis is None where it is symbolic.
    """

    name: str
    shape: tuple[int | None, ...] | None
    dtype: str


def input_specs(proto: Any) -> list[InputSpec]:
    """The inputs that are fed: those without an initializer. Half and bfloat16 signals become float32.

    Raises:
        UnsupportedOpError: with every input that is no tensor of floats.
    """
    types = library().TensorProto
    floats = {types.FLOAT: "float32", types.FLOAT16: "float32", types.BFLOAT16: "float32", types.DOUBLE: "float64"}
    constants = {each.name for each in proto.graph.initializer}
    found, problems = [], []
    for each in proto.graph.input:
        kind, tensor = each.type.WhichOneof("value"), each.type.tensor_type
        if each.name in constants:
            continue
        if kind != "tensor_type" or tensor.elem_type not in floats:
            number = types.DataType.Name(tensor.elem_type).lower()
            shown = f"of type {number}" if kind == "tensor_type" else f"a {kind.removesuffix('_type')}"
            hint = "only real signals can be fed to a spiking network: cut the model behind it, and feed floats"
            problems.append(Problem(f"input {each.name} is {shown}", each.name, "input", hint))
            continue
        shape = None
        if tensor.HasField("shape"):
            sizes = (axis.dim_value if axis.HasField("dim_value") else -1 for axis in tensor.shape.dim)
            shape = tuple(None if size < 0 else size for size in sizes)
        found.append(InputSpec(each.name, shape, floats[tensor.elem_type]))
    if problems:
        raise UnsupportedOpError(problems)
    if not found:
        raise InvalidModelError("the ONNX model has no input")
    return found


def resolve_shapes(
    specs: Sequence[InputSpec], examples: Sequence[Tensor] | None
) -> tuple[list[tuple[int, ...]], int | None]:
    """(each input's sample shape, the batch size that the model fixes or None).

    The first axis of every input is the batch, also where the model states its size.

    Raises:
        InvalidModelError: a shape is not known, examples do not fit, or an input has no axis.
    """
    if examples is not None and len(examples) != len(specs):
        names = ", ".join(spec.name for spec in specs)
        raise InvalidModelError(f"the model has {len(specs)} input(s) ({names}), {len(examples)} example(s) are given")
    given = [None] * len(specs) if examples is None else [tuple(each.shape) for each in examples]
    shapes = [_sample_shape(spec, example) for spec, example in zip(specs, given, strict=True)]
    fixed = {spec.shape[0] for spec in specs if spec.shape and spec.shape[0] is not None}
    if len(fixed) > 1:
        raise InvalidModelError(
            f"the first axes of the inputs differ: {sorted(fixed)}", hint="the first axis of every input is the batch"
        )
    return shapes, fixed.pop() if fixed else None


def _sample_shape(spec: InputSpec, given: tuple[int, ...] | None) -> tuple[int, ...]:
    """Shape of a sample of an input, by its declaration and by the example's shape, where there is one."""
    declared = (None,) * len(given) if spec.shape is None and given is not None else spec.shape
    if declared == ():
        message = f"input {spec.name} is a single number, without a batch axis"
        raise InvalidModelError(message, hint="inputs are [B, ...]")
    shown = "of unknown rank"
    if declared is not None:
        shown = f"[{', '.join(['B', *('?' if size is None else str(size) for size in declared[1:])])}]"
    if given is not None and declared is not None:
        alike = zip(declared[1:], given[1:], strict=False)
        if len(given) != len(declared) or any(size not in (None, cells) for size, cells in alike):
            raise InvalidModelError(f"input {spec.name} is {shown}, the example is {list(given)}")
        return given[1:]
    sizes = tuple(size for size in (declared or ())[1:] if size is not None)
    if declared is None or len(sizes) < len(declared) - 1:
        hint = Hint("give ", Option("example_input"), " with a batch of samples, or calibration data")
        raise InvalidModelError(f"the shape of input {spec.name} is not known: it is {shown}", hint=hint)
    return sizes


def as_array(value: Any) -> Array:
    """A TensorProto as numpy, half and bfloat16 as float32.

    Raises:
        InvalidModelError: its data is in a file that was not loaded.
    """
    onnx = library()
    try:
        return single(onnx.numpy_helper.to_array(value))
    except (ValueError, OSError, onnx.checker.ValidationError) as error:
        raise InvalidModelError(
            f"constant {value.name} cannot be read: {str(error).splitlines()[0]}",
            hint="give the path of the .onnx file, beside which its external data lie",
        ) from error


def single(value: Any) -> Array:
    """Half and bfloat16 as float32."""
    array = np.asarray(value)
    return array.astype(np.float32) if str(array.dtype) in ("float16", "bfloat16") else array


def attributes(node: Any) -> dict[str, Any]:
    """A node's attributes by name: text as ``str``, tensors as arrays, graphs as they are."""
    onnx = library()
    return {each.name: _attribute(onnx.helper.get_attribute_value(each)) for each in node.attribute}


def _attribute(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, library().TensorProto):
        return as_array(value)
    return [_attribute(each) for each in value] if isinstance(value, (list, tuple)) else value


#: operators whose result is another one at every run
RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli")


def run_node(node: Any, opsets: Mapping[str, int], feeds: Mapping[str, Array]) -> list[Array]:
    """The results of one node, by the reference implementation that onnx carries; half becomes float32."""
    from onnx.reference import ReferenceEvaluator

    with ignoring_others(), np.errstate(all="ignore"):
        found = ReferenceEvaluator(node, opsets=dict(opsets)).run(None, dict(feeds))
    return [single(each) for each in found]


def evaluator(model: Any, proto: Any) -> Callable[[dict[str, Array]], list[Any]]:
    """What gives outputs for feeds: onnxruntime where it is installed and can, else onnx's own evaluator."""
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
