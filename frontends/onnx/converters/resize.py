"""The converters of Resize and Upsample: linear maps, axis by axis."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spikec.extend.composites import affine, along, permuted, reshaped, selected
from spikec.frontends.onnx.call import INDEPENDENT, Call, Constant, Signal, converter
from spikec.frontends.onnx.model import library
from spikec.frontends.onnx.run import run_node
from spikec.ir.ops import Upsample
from spikec.ir.types import Array, on_axis

#: what Upsample and the first Resize do, which later became options
_FIRST = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


@converter("Upsample")
def _upsample(call: Call, x: Any, scales: Any, mode: str = "nearest") -> Any:
    return _resized(call, x, dict(enumerate(np.asarray(scales, np.float64))), {}, {"mode": mode, **_FIRST})


@converter("Resize")
def _resize(call: Call, x: Any, *inputs: Any, axes: Sequence[int] | None = None, **options: Any) -> Any:
    """Inputs are the scales before opset 11, and (region, scales, sizes) since, of which one is left out."""
    shape = call.shape(x)
    places = [axis % (len(shape) + 1) for axis in (range(len(shape) + 1) if axes is None else axes)]
    if call.opset < 11:
        inputs, options = (None, *inputs), options | _FIRST
    region, factors, sizes, *_ = (*inputs, None, None)
    if region is not None and len(region):
        options["roi"] = dict(zip(places, np.asarray(region).reshape(2, -1).T.tolist(), strict=True))
    if factors is not None and len(factors):
        return _resized(call, x, dict(zip(places, np.asarray(factors, np.float64), strict=True)), {}, options)
    given = sizes.values if isinstance(sizes, Constant) else [np.asarray(sizes)] * len(call.batches)
    wanted = [dict(zip(places, each.tolist(), strict=True)) for each in given]
    whole = all(each.pop(0, batch) == batch for batch, each in zip(call.batches, wanted, strict=True))
    if not whole or wanted[0] != wanted[-1]:
        call.refuse("it resizes the batch axis, or by the batch size", INDEPENDENT)
    scales = {axis: size / shape[axis - 1] for axis, size in wanted[0].items()}
    policy = options.pop("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return _resized(call, x, scales, wanted[0], options)
    common = (min if policy == "not_larger" else max)(scales.values())
    kept = {axis: int(np.floor(common * shape[axis - 1] + 0.5)) for axis in scales}
    return _resized(call, x, dict.fromkeys(scales, common), kept, options)


def _resized(call: Call, x: Any, scales: dict[int, float], sizes: Mapping[int, int], options: Mapping[str, Any]) -> Any:
    """Resize axes of the tensor by scales, to sizes where they are not ``floor(scale size)``."""
    if scales.pop(0, 1) != 1:
        call.refuse("it resizes the batch axis", INDEPENDENT)
    shape = call.shape(x)
    todo = []
    for axis, scale in scales.items():
        old = shape[axis - 1]
        new = sizes.get(axis, int(np.floor(scale * old)))
        if (scale, new) != (1, old):
            todo.append((axis - 1, float(scale), old, new))
    if options.get("mode", "nearest") != "nearest" or "tf_crop" in options.get("coordinate_transformation_mode", ""):
        for axis, scale, old, new in todo:
            # a unit matrix gives the weights, a row of zeros what is added to them
            *columns, outside = _run(call, axis, scale, new, options, np.eye(old + 1, old))
            x = along(call, x, axis, np.transpose(np.subtract(columns, outside)), part=f"axis{axis}")
            x = affine(call, x, 1, on_axis(outside, len(shape), axis), part=f"outside{axis}")
        return x
    cells = {
        axis: _run(call, axis, scale, new, options, np.arange(old)[None])[0].astype(int)
        for axis, scale, old, new in todo
    }
    if todo and all(np.array_equal(cells[axis], np.arange(new) * old // new) for axis, _, old, new in todo):
        return _upsampled(call, x, {axis: new for axis, _, _, new in todo})
    for axis, index in cells.items():
        x = selected(call, x, axis, index, part=f"axis{axis}")
    return x


def _upsampled(call: Call, x: Signal, sizes: dict[int, int]) -> Any:
    """Nearest neighbours along these axes, with another one in front of them."""
    shape = call.shape(x)
    fixed = [axis for axis in range(len(shape)) if axis not in sizes]
    if not fixed:  # the op repeats all axes but the first
        row = reshaped(call, x, (1, *shape), part="row")
        new = [sizes[axis] for axis in range(len(shape))]
        return reshaped(call, call.add(Upsample(new), row, part="space"), new, part="shape")
    order = [*fixed[:1], *(axis for axis in range(len(shape)) if axis != fixed[0])]
    first = permuted(call, x, order, part="first")
    space = call.add(Upsample([sizes.get(axis, shape[axis]) for axis in order[1:]]), first, part="space")
    return permuted(call, space, np.argsort(order).tolist(), part="back")


def _run(call: Call, axis: int, scale: float, new: int, options: Mapping[str, Any], rows: Array) -> Array:
    """Rows resized as onnx itself resizes that axis of the sample, to ``new`` cells."""
    start, end = options.get("roi", {}).get(axis + 1, (0.0, 1.0))
    feeds = {"roi": np.array([0.0, start, 1.0, end])}
    if new == int(np.floor(scale * rows.shape[1])):
        feeds["scales"] = np.array([1, scale])
    else:
        feeds["sizes"] = np.array([len(rows), new])
    names = ["x", *(name if name in feeds else "" for name in ("roi", "scales", "sizes"))]
    kept = {key: each for key, each in options.items() if key != "roi"}
    node = library().helper.make_node("Resize", names, ["y"], **kept)
    return run_node(node, {"": max(call.opset, 11)}, {**feeds, "x": rows.astype(np.float64)})[0]
