"""Converters of what gives samples another shape or order, takes them apart, puts them together, pads and resizes.

Where a result holds numbers of the operand, or only its shape matters, onnx itself is asked what the node does.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from spikec.extend.composites import affine, along, expanded, permuted, reshaped, selected
from spikec.frontends.onnx.call import INDEPENDENT, Call, Constant, Row, Signal, converter
from spikec.frontends.onnx.evaluate import FIRST_RESIZE
from spikec.frontends.onnx.model import library
from spikec.frontends.onnx.moved import reshaped as reshaped_whole
from spikec.frontends.torch.moved import moved
from spikec.ir.errors import UnsupportedOpError
from spikec.ir.ops import Pad, Upsample
from spikec.ir.types import Array, on_axis

# ------------------------------------------------------------------------ shape


@converter("Shape", "Size")
def _shape(call: Call, x: Any, **start_and_end: int) -> Constant:
    return call.computed(x)[0]


@converter("Flatten", "Reshape", "Squeeze", "Unsqueeze")
def _reshape(call: Call, x: Any, shape_or_axes: Any = None, **attributes: Any) -> Any:
    try:
        return reshaped(call, x, call.result_shape(x))
    except UnsupportedOpError as error:
        if all(each.ndim == 1 for each in call.computed(x)[0].values):
            return Row(x, call.located(error))
        return reshaped_whole(call, moved(call, x, call.located(error)), call.computed(x))


@converter("Expand")
def _expand(call: Call, x: Any, shape: Any) -> Any:
    return expanded(call, x, call.result_shape(x))


@converter("Tile")
def _tile(call: Call, x: Any, repeats: Any) -> Any:
    call.check_memory(8 * math.prod((*call.shape(x), *repeats)))
    return torch.tile(x, repeats)


# ------------------------------------------------------------------------ order


@converter("Transpose")
def _transpose(call: Call, x: Any, perm: list[int] | None = None) -> Any:
    order = range(len(call.shape(x)) + 1)[::-1] if perm is None else perm
    return torch.permute(x, [call.position(x, axis) for axis in order])


# A channel's number is (depth, cell of the block) in mode CRD, as in torch, and (cell, depth) in DCR.


@converter("DepthToSpace")
def _depth_to_space(call: Call, x: Any, blocksize: int, mode: str = "DCR") -> Any:
    _check_block(call, x, blocksize, mode, call.shape(x)[:1], blocksize**2)
    return F.pixel_shuffle(x if mode == "CRD" else _regrouped(call, x, blocksize**2), blocksize)


@converter("SpaceToDepth")
def _space_to_depth(call: Call, x: Any, blocksize: int, mode: str = "DCR") -> Any:
    _check_block(call, x, blocksize, mode, call.shape(x)[1:], blocksize)
    cells = F.pixel_unshuffle(x, blocksize)
    return cells if mode == "CRD" else _regrouped(call, cells, call.shape(x)[0])


def _regrouped(call: Call, x: Any, groups: int) -> Any:
    """Channels that were counted group by group, counted across the groups."""
    channels, height, width = call.shape(x)
    parts = torch.reshape(x, (-1, groups, channels // groups, height, width))
    return torch.reshape(torch.transpose(parts, 1, 2), (-1, channels, height, width))


def _check_block(call: Call, x: Any, blocksize: int, mode: str, sizes: Sequence[int], divisor: int) -> None:
    call.expect_rank(x, 3)
    if blocksize < 1 or any(size % divisor for size in sizes):
        call.refuse(f"its blocksize {blocksize} does not divide {call.shown(x)}")
    if mode not in ("CRD", "DCR"):
        call.refuse(f"its mode {mode!r} is neither CRD nor DCR")


# ------------------------------------------------------------------------ parts


@converter("Concat")
def _concat(call: Call, *xs: Any, axis: int) -> Any:
    signal = next(x for x in xs if isinstance(x, Signal))
    parts: list[Any] = [x if isinstance(x, Signal) else _for_each_sample(call, x, signal) for x in xs]
    return torch.cat(parts, call.axis(signal, axis) + 1)


def _for_each_sample(call: Call, value: Any, signal: Any) -> torch.Tensor:
    """A constant with all axes of a signal, that of the batch being 1; torch's own converter refuses others."""
    rank = (value.values[0] if isinstance(value, Constant) else value).ndim
    array = call.beside(value, signal)
    return torch.from_numpy(array[None] if rank > len(call.shape(signal)) else array)


@converter("Slice", "Split")
def _pick(call: Call, x: Any, *numbers: Any, **attributes: Any) -> Any:
    """Some cells of each axis; which ones, onnx says of tensors that hold the number of each cell along an axis."""
    rank = len(call.shape(x)) + 1
    numbered = [call.computed(x, lambda shape, axis=axis: _numbers(shape, axis)) for axis in range(rank)]
    return tuple(_picked(call, x, results, f"output{i}") for i, results in enumerate(zip(*numbered, strict=True)))


def _numbers(shape: Sequence[int], axis: int) -> Array:
    return np.broadcast_to(on_axis(np.arange(shape[axis]), len(shape), axis), shape)


def _picked(call: Call, x: Any, numbered: Sequence[Constant], part: str) -> Any:
    """The cells of one output, where ``numbered`` holds their numbers along each axis, for each batch size."""
    for axis, constant in enumerate(numbered):
        if not all(each.size for each in constant.values):
            call.refuse(f"{call.source.kind} leaves nothing", "leave it out, and what its result is joined to")
        found = [np.moveaxis(each, axis, -1)[(0,) * (each.ndim - 1)] for each in constant.values]
        wanted = map(np.arange, call.batches) if axis == 0 else [found[0]] * len(found)
        if not all(map(np.array_equal, found, wanted)):
            what = "it works along the batch axis" if axis == 0 else "it takes other cells for another batch size"
            call.refuse(what, INDEPENDENT)
        if axis > 0:
            x = selected(call, x, axis - 1, found[0], part=f"{part}axis{axis}")
    return x


@converter("Gather")
def _gather(call: Call, x: Any, indices: Any, axis: int = 0) -> Any:
    if isinstance(x, Row):
        return _strided(call, x, indices)
    index, inside = np.asarray(indices), call.axis(x, axis)
    shape = call.shape(x)
    if not index.size or (np.abs(index + 0.5) > shape[inside]).any():
        size = shape[inside]
        call.refuse(
            f"its indices reach out of {size} cells, or there are none",
            f"indices are 0 to {size - 1}, or -{size} to -1",
        )
    picked = selected(call, x, inside, np.ravel(index) % shape[inside], part="select")
    return reshaped(call, picked, (*shape[:inside], *index.shape, *shape[inside + 1 :]), part="shape")


def _strided(call: Call, row: Row, indices: Any) -> Any:
    """What torch.onnx makes of ``as_strided``: cells of the row of a whole batch, for each sample from its own part."""
    count = math.prod(call.shape(row.signal))
    given = indices.values if isinstance(indices, Constant) else [np.asarray(indices)] * len(call.batches)
    shape = given[0].shape[1:]
    if [each.shape for each in given] != [(batch, *shape) for batch in call.batches]:
        raise row.error
    cells = [each.reshape(len(each), math.prod(shape)) - count * np.arange(len(each))[:, None] for each in given]
    wanted = cells[0][0]
    inside = wanted.size and ((wanted >= 0) & (wanted < count)).all()
    if not inside or not all((each == wanted).all() for each in cells):
        raise row.error
    flat = reshaped(call, row.signal, (count,), part="flat")
    return reshaped(call, selected(call, flat, 0, wanted, part="select"), shape, part="shape")


#: what torch calls the ways of padding with the map's own cells
_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@converter("Pad")
def _pad(call: Call, x: Any, pads: Any, value: Any = 0.0, axes: Any = None, mode: str = "constant") -> Any:
    rank = len(call.shape(x)) + 1
    pairs = [(0, 0)] * rank
    places = [call.position(x, axis) for axis in (range(rank) if axes is None else axes)]
    if len(pads) != 2 * len(places):
        call.refuse(f"it has {len(pads)} pads for {len(places)} axes, and there must be two for each")
    for axis, before, after in zip(places, pads[: len(places)], pads[len(places) :], strict=True):
        pairs[axis] = (before, after)
    padded = [axis for axis, pair in enumerate(pairs) if any(pair)]
    if not padded:
        return x
    if padded[0] == 0:
        call.refuse("it pads the batch axis", INDEPENDENT)
    if mode != "constant":
        in_space = padded[0] > 1 and rank <= 5  # torch pads a map so, not its channels
        return call.add(Pad(pairs[2:], _MODES[mode]), x) if in_space else _pick(call, x)
    if not math.isfinite(value):
        call.refuse(f"padding with {float(value)} is not supported", "a MaxPool takes its own padding")
    # zeros around x - value are the value around x
    x = call.add(Pad(pairs[padded[0] :]), affine(call, x, 1, -float(value), part="below"), part="pad")
    return affine(call, x, 1, float(value), part="above")


@converter("Upsample")
def _upsample(call: Call, x: Any, scales: Any, mode: str = "nearest") -> Any:
    return _resized(call, x, dict(enumerate(np.asarray(scales, np.float64))), {}, {"mode": mode, **FIRST_RESIZE})


@converter("Resize")
def _resize(call: Call, x: Any, *inputs: Any, axes: Sequence[int] | None = None, **options: Any) -> Any:
    """Inputs are the scales before opset 11, and (region, scales, sizes) since, of which one is left out."""
    shape = call.shape(x)
    places = [call.position(x, axis) for axis in (range(len(shape) + 1) if axes is None else axes)]
    if call.opset < 11:
        inputs, options = (None, *inputs), options | FIRST_RESIZE
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
    if not all(0 < scale < math.inf for scale in scales.values()):
        call.refuse(f"its scales {[float(scale) for scale in scales.values()]} are not positive numbers")
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
    call.check_memory(8 * len(rows) * new)
    start, end = options.get("roi", {}).get(axis + 1, (0.0, 1.0))
    feeds = {"roi": np.array([0.0, start, 1.0, end])}
    if new == int(np.floor(scale * rows.shape[1])):
        feeds["scales"] = np.array([1, scale])
    else:
        feeds["sizes"] = np.array([len(rows), new])
    names = ["x", *(name if name in feeds else "" for name in ("roi", "scales", "sizes"))]
    kept = {key: each for key, each in options.items() if key != "roi"}
    node = library().helper.make_node("Resize", names, ["y"], **kept)
    return call.evaluated(node, {"": max(call.opset, 11)}, {**feeds, "x": rows.astype(np.float64)}, "", None)[0]
