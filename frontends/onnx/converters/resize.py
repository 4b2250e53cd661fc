"""The converters of Resize and Upsample: linear maps, axis by axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from spikec.extend.call import Signal
from spikec.extend.composites import affine, along, permuted, reshaped, selected, unchanged
from spikec.frontends.onnx.call import Call, converter
from spikec.frontends.onnx.model import library
from spikec.frontends.onnx.run import run_node
from spikec.ir.ops import Upsample
from spikec.ir.types import Array, on_axis

#: what Upsample and the first Resize do, which later became options
_FIRST = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


@converter("Upsample")
def _upsample(call: Call) -> Signal:
    scales = np.asarray(call.option("scales", 1), np.float64)
    return _resized(call, dict(enumerate(scales)), {}, _FIRST)


@converter("Resize")
def _resize(call: Call) -> Signal:
    rank = len(call.shape(call.signal())) + 1
    axes = [axis % rank for axis in call.attributes.get("axes", range(rank))]
    if call.opset < 11:
        scales = dict(zip(axes, call.constant(1).astype(np.float64), strict=True))
        return _resized(call, scales, {}, _FIRST)
    if call.has(2) and call.each(2)[0].size:
        return _resized(call, dict(zip(axes, call.constant(2).astype(np.float64), strict=True)), {}, {})
    sizes = [dict(zip(axes, each.tolist(), strict=True)) for each in call.each(3)]
    shape = call.shape(call.signal())
    if (
        any(each.pop(0, batch) != batch for batch, each in zip(call.batches, sizes, strict=True))
        or sizes[0] != sizes[-1]
    ):
        call.refuse("it resizes the batch axis, or by the batch size")
    scales = {axis: size / shape[axis - 1] for axis, size in sizes[0].items()}
    policy = call.attributes.get("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return _resized(call, scales, sizes[0], {})
    common = (min if policy == "not_larger" else max)(scales.values())
    kept = {axis: int(np.floor(common * shape[axis - 1] + 0.5)) for axis in scales}
    return _resized(call, dict.fromkeys(scales, common), kept, {})


def _resized(call: Call, scales: dict[int, float], sizes: dict[int, int], defaults: dict[str, Any]) -> Signal:
    """Resize axes of the tensor by scales, to sizes where they are not ``floor(scale size)``."""
    x = call.signal()
    if scales.pop(0, 1) != 1:
        call.refuse("it resizes the batch axis", "samples of a batch are independent in a compiled network")
    options = {**call.attributes, **defaults}
    shape = call.shape(x)
    todo = []
    for axis, scale in scales.items():
        old = shape[axis - 1]
        new = sizes.get(axis, int(np.floor(scale * old)))
        if (scale, new) != (1, old):
            todo.append((axis - 1, float(scale), old, new))
    if not todo:
        return unchanged(call, x)
    mode = options.get("mode", "nearest")
    crop = options.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    if mode != "nearest" or crop:
        for axis, scale, old, new in todo:
            matrix, outside = _weights(call, axis + 1, scale, old, new, options)
            x = along(call, x, axis, matrix, part=f"axis{axis}")
            x = affine(call, x, 1, on_axis(outside, len(shape), axis), part=f"outside{axis}")
        return x
    cells = {axis: _nearest(scale, old, new, options) for axis, scale, old, new in todo}
    if all(np.array_equal(cells[axis], np.arange(new) * old // new) for axis, _, old, new in todo):
        return _upsampled(call, x, {axis: new for axis, _, _, new in todo})
    for axis, index in cells.items():
        x = selected(call, x, axis, index, part=f"axis{axis}")
    return x


def _upsampled(call: Call, x: Signal, sizes: dict[int, int]) -> Signal:
    """Nearest neighbours along these axes, with another one in front of them."""
    shape = call.shape(x)
    fixed = [axis for axis in range(len(shape)) if axis not in sizes]
    if not fixed:
        new = [sizes[axis] for axis in range(len(shape))]
        row = reshaped(call, x, (1, *shape), part="row")
        return reshaped(call, call.add(Upsample(new), row, part="space"), new)
    order = [*fixed[:1], *(axis for axis in range(len(shape)) if axis != fixed[0])]
    first = permuted(call, x, order, part="first")
    space = Upsample([sizes.get(axis, shape[axis]) for axis in order[1:]])
    if order == sorted(order):
        return call.add(space, first)
    return permuted(call, call.add(space, first, part="space"), np.argsort(order).tolist())


_ROUND: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _nearest(scale: float, old: int, new: int, options: dict[str, Any]) -> Array:
    """The cell that each new one is a copy of, by the formulas of ONNX's Resize."""
    i = np.arange(new, dtype=np.float64)
    whole = scale * old
    x = {
        "half_pixel": (i + 0.5) / scale - 0.5,
        "half_pixel_symmetric": old / 2 * (1 - new / whole) + (i + 0.5) / scale - 0.5,
        "pytorch_half_pixel": (i + 0.5) / scale - 0.5 if new > 1 else np.zeros(1),
        "align_corners": i * (old - 1) / (whole - 1) if whole != 1 else np.zeros(new),
        "asymmetric": i / scale,
        "tf_half_pixel_for_nn": (i + 0.5) / scale,
    }[options.get("coordinate_transformation_mode", "half_pixel")]
    return np.clip(_ROUND[options.get("nearest_mode", "round_prefer_floor")](x), 0, old - 1).astype(np.int64)


def _weights(call: Call, axis: int, scale: float, old: int, new: int, options: dict[str, Any]) -> tuple[Array, Array]:
    """(the weights [new, old] by which new cells mix old ones, what they are of zeros): what onnx itself makes."""
    kept = {key: each for key, each in options.items() if key not in ("axes", "keep_aspect_ratio_policy", "scales")}
    feeds = {"roi": _region(call, axis)}
    if new == int(np.floor(scale * old)):
        feeds["scales"] = np.array([1, scale])
    else:
        feeds["sizes"] = np.array([old + 1, new])
    names = ["x", *(name if name in feeds else "" for name in ("roi", "scales", "sizes"))]
    node = library().helper.make_node("Resize", names, ["y"], **kept)
    (found,) = run_node(node, {"": max(call.opset, 11)}, {**feeds, "x": np.eye(old + 1, old)})
    return np.asarray(found[:old] - found[old]).T, np.asarray(found[old])


def _region(call: Call, axis: int) -> Array:
    """``roi`` for a batch axis and one axis of the tensor."""
    if not call.has(1) or call.opset < 11 or not call.constant(1).size:
        return np.array([0.0, 0.0, 1.0, 1.0])
    starts, ends = call.constant(1).reshape(2, -1)
    axes = list(call.attributes.get("axes", range(len(starts))))
    slot = axes.index(axis) if axis in axes else axes.index(axis - len(call.shape(call.signal())) - 1)
    return np.array([0.0, starts[slot], 1.0, ends[slot]])
