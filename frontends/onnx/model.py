"""Opens ONNX models: their inputs, constants and attributes.

onnx itself is imported when it is needed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import numpy as np
from torch import Tensor

from spikec.frontends.onnx.checked import check_structure, held_bytes, load_external
from spikec.ir.errors import Hint, InvalidModelError, Option, Problem, UnsupportedOpError
from spikec.ir.packages import needed
from spikec.ir.types import Array
from spikec.ir.untrusted import SPARE, allowed_bytes, too_large

OLDEST = 7
#: names of ONNX's own domain
DOMAINS = ("", "ai.onnx")


def library() -> ModuleType:
    """The onnx package.

    Raises:
        MissingDependencyError: it is not installed.
    """
    found: ModuleType = needed("onnx", "reading ONNX")
    return found


def is_proto(model: Any) -> bool:
    """True for an ``onnx.ModelProto``; onnx need not be installed to say no."""
    return any(cls.__name__ == "ModelProto" and cls.__module__.startswith("onnx") for cls in type(model).__mro__)


@attrs.frozen(eq=False)
class OnnxModel:
    """An opened model.

    Attributes:
        proto: the ``onnx.ModelProto``, with its external data, and with functions of its own written out.
        path: of its file, or None.
        allowed: bytes that what is computed from it may take.
    """

    proto: Any
    path: Path | None
    allowed: int


def open_model(model: Any, max_bytes: int | None = None) -> OnnxModel:
    """Open a model that is a ModelProto, or the path of a file.

    Args:
        model: it.
        max_bytes: that its external data, and what is computed from it, may take; if it is None, half a gigabyte more
            than the files take.

    Raises:
        InvalidModelError: the file is no ONNX model, what the model says of itself cannot be, it refers to what lies
            elsewhere, or its opset is too old.
    """
    onnx = library()
    path = model if isinstance(model, Path) else None
    proto = _parsed(path) if path else model
    if not proto.graph.output or not proto.opset_import:
        raise InvalidModelError("the ONNX model has no output, or states no opset", hint="check it: onnx.checker")
    version = opsets(proto).get("")
    if version is not None and version < OLDEST:
        raise InvalidModelError(
            f"the ONNX model is of opset {version}; {OLDEST} and up are read",
            hint="onnx.version_converter.convert_version(model, 17)",
        )
    size = allowed_bytes(path) if path else SPARE + held_bytes(proto)
    check_structure(proto, max(size, max_bytes or 0))
    size += load_external(proto, path, onnx, max_bytes)
    if proto.functions:
        from onnx.inliner import inline_local_functions

        proto = inline_local_functions(proto)
    return OnnxModel(proto, path, size if max_bytes is None else max_bytes)


def _parsed(path: Path) -> Any:
    if path.stat().st_size > allowed_bytes(path):
        raise too_large(path, path.stat().st_size)
    try:
        return library().load(str(path), load_external_data=False)
    except Exception as error:  # protobuf, checker and file errors have no common base
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = "check it: onnx.checker.check_model(path)"
        raise InvalidModelError(f"{path} cannot be read as ONNX: {reason}", hint=hint) from error


def opsets(proto: Any) -> dict[str, int]:
    """Version by domain; ONNX's own is ``""``, and one that is newer than the onnx package goes by what that knows."""
    found = {"" if each.domain in DOMAINS else each.domain: each.version for each in proto.opset_import}
    return found | {"": min(found[""], library().defs.onnx_opset_version())} if "" in found else found


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
            named = tensor.elem_type in types.DataType.values()
            number = types.DataType.Name(tensor.elem_type).lower() if named else tensor.elem_type
            shown = f"of type {number}" if kind == "tensor_type" else f"a {(kind or 'thing').removesuffix('_type')}"
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
        hint = "state it in graph.input, without an initializer of its name"
        raise InvalidModelError("the ONNX model has no input", hint=hint)
    return found


def resolve_shapes(
    specs: Sequence[InputSpec], examples: Sequence[Tensor] | None
) -> tuple[list[tuple[int, ...]], int | None]:
    """(each input's sample shape, the batch size that the model fixes or None).

    The first axis of every input is the batch, also where the model states its size.

    Raises:
        InvalidModelError: a shape is not known, examples do not fit, or an input has no axis.
    """
    wanted = _as_declared(specs)
    if examples is not None and len(examples) != len(specs):
        names = ", ".join(spec.name for spec in specs)
        message = f"the model has {len(specs)} input(s) ({names}), {len(examples)} example(s) are given"
        raise InvalidModelError(message, hint=wanted)
    given = [None] * len(specs) if examples is None else [tuple(each.shape) for each in examples]
    shapes = [_sample_shape(spec, example, wanted) for spec, example in zip(specs, given, strict=True)]
    fixed = {spec.shape[0] for spec in specs if spec.shape and spec.shape[0] is not None}
    if len(fixed) > 1:
        raise InvalidModelError(
            f"the first axes of the inputs differ: {sorted(fixed)}", hint="the first axis of every input is the batch"
        )
    return shapes, fixed.pop() if fixed else None


def _as_declared(specs: Sequence[InputSpec]) -> Hint:
    """The hint to give examples of the shapes that the model declares."""
    shapes: list[tuple[Any, ...]] = []
    for spec in specs:
        sizes = [f"n{i}" if size is None else size for i, size in enumerate(spec.shape or ())]
        shapes.append(("...",) if spec.shape is None else tuple(sizes[1:]))
    return Hint("give ", Option("example_input", shapes))


def _sample_shape(spec: InputSpec, given: tuple[int, ...] | None, wanted: Hint) -> tuple[int, ...]:
    """Shape of a sample of an input, by its declaration and by the example's shape, where there is one.

    An example of another shape is refused with the hint ``wanted``.
    """
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
            raise InvalidModelError(f"input {spec.name} is {shown}, the example is {list(given)}", hint=wanted)
        return given[1:]
    sizes = tuple(size for size in (declared or ())[1:] if size is not None)
    if declared is None or len(sizes) < len(declared) - 1:
        hint = Hint("give ", Option("example_input"), " with a batch of samples, or calibration data")
        raise InvalidModelError(f"the shape of input {spec.name} is not known: it is {shown}", hint=hint)
    return sizes


def as_array(value: Any) -> Array:
    """A TensorProto as numpy, half and bfloat16 as float32.

    Raises:
        InvalidModelError: its data do not fit its shape and type.
    """
    onnx = library()
    try:
        return single(onnx.numpy_helper.to_array(value))
    except Exception as error:  # whatever numpy makes of data that do not fit their shape and type
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidModelError(f"constant {value.name} cannot be read: {reason}", location=value.name) from error


def single(value: Any) -> Array:
    """Half and bfloat16 as float32."""
    array = np.asarray(value)
    return array.astype(np.float32) if str(array.dtype) in ("float16", "bfloat16") else array


def attributes(node: Any, opset: int) -> dict[str, Any]:
    """A node's attributes by name: text as ``str``, tensors as arrays, graphs as they are.

    Raises:
        InvalidModelError: one is of another type than its operator has, or NaN, or there are too many or few inputs.
    """
    onnx = library()
    kinds = onnx.AttributeProto.AttributeType
    known = None
    if node.domain in DOMAINS and onnx.defs.has(node.op_type, opset):
        schema = onnx.defs.get_schema(node.op_type, opset)
        known = schema.attributes
        least, most = schema.min_input, schema.max_input
        if not least <= len(node.input) <= most or "" in node.input[:1]:
            raise InvalidModelError(f"it has {len(list(filter(None, node.input)))} inputs, it takes {least} to {most}")
    found = {}
    for each in node.attribute:
        if known is not None and each.name not in known:
            raise InvalidModelError(f"{node.op_type} has no attribute {each.name} in opset {opset}")
        wanted = int(known[each.name].type) if known is not None else each.type
        if each.ref_attr_name or each.type != wanted or wanted not in kinds.values()[1:]:
            wish = f"it must be {kinds.Name(wanted)}" if wanted in kinds.values()[1:] else "there is no such type"
            raise InvalidModelError(f"its attribute {each.name} is of type {each.type}, {wish}")
        value = onnx.helper.get_attribute_value(each)
        if np.isnan(value).any() if isinstance(value, float) else each.floats and np.isnan(each.floats).any():
            raise InvalidModelError(f"its attribute {each.name} is NaN")
        found[each.name] = _attribute(value)
    return found


def check_types(node: Any, opset: int, constants: Mapping[int, Array]) -> None:
    """Hold constant inputs, by their slots, to the types that the operator takes there, where the others are floats.

    Raises:
        InvalidModelError: one is of another type.
    """
    onnx = library()
    if node.domain not in DOMAINS or not onnx.defs.has(node.op_type, opset):
        return
    schema = onnx.defs.get_schema(node.op_type, opset)
    allowed = {each.type_param_str: set(each.allowed_type_strs) for each in schema.type_constraints}
    slots = [schema.inputs[min(slot, len(schema.inputs) - 1)].type_str for slot in range(len(node.input))]
    for slot, kind in enumerate(slots):
        if slot not in constants and node.input[slot] and kind in allowed:
            allowed[kind] &= {"tensor(float)", "tensor(double)", "tensor(float16)", "tensor(bfloat16)"}
    for slot, array in constants.items():
        found = onnx.TensorProto.DataType.Name(onnx.helper.np_dtype_to_tensor_dtype(array.dtype)).lower()
        wanted = allowed.get(slots[slot], {slots[slot]})
        if f"tensor({found})" not in wanted:
            shown = ", ".join(sorted(wanted))
            raise InvalidModelError(f"its input {node.input[slot]} is of type {found}, it takes {shown}")


def _attribute(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, library().TensorProto):
        return as_array(value)
    return [_attribute(each) for each in value] if isinstance(value, (list, tuple)) else value
