"""Converters of what gives samples another shape or order, takes them apart, puts them together, and pads them.

Where a result holds numbers of the operand, or only its shape matters, onnx itself is asked what the node does.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from spikec.extend.composites import affine, expanded, reshaped, selected
from spikec.frontends.onnx.call import INDEPENDENT, Call, Constant, converter
from spikec.ir.ops import Pad
from spikec.ir.types import Array, on_axis

# ------------------------------------------------------------------------ shape


@converter("Shape", "Size")
def _shape(call: Call, x: Any, **start_and_end: int) -> Constant:
    return call.computed(x)[0]


@converter("Flatten", "Reshape", "Squeeze", "Unsqueeze")
def _reshape(call: Call, x: Any, shape_or_axes: Any = None, **attributes: Any) -> Any:
    return reshaped(call, x, call.result_shape(x))


@converter("Expand")
def _expand(call: Call, x: Any, shape: Any) -> Any:
    return expanded(call, x, call.result_shape(x))


@converter("Tile")
def _tile(call: Call, x: Any, repeats: Any) -> Any:
    return torch.tile(x, repeats)


# ------------------------------------------------------------------------ order


@converter("Transpose")
def _transpose(call: Call, x: Any, perm: list[int] | None = None) -> Any:
    return torch.permute(x, perm or list(range(len(call.shape(x)) + 1))[::-1])


@converter("DepthToSpace")
def _depth_to_space(call: Call, x: Any, blocksize: int, mode: str = "DCR") -> Any:
    """A channel's number is (depth, cell of the block) in mode CRD, as in torch, and (cell, depth) in DCR."""
    if mode == "CRD":
        return F.pixel_shuffle(x, blocksize)
    call.expect_rank(x, 3)
    (channels, height, width), size = call.shape(x), blocksize
    depth = channels // size**2
    cells = torch.permute(torch.reshape(x, (-1, size, size, depth, height, width)), (0, 3, 4, 1, 5, 2))
    return torch.reshape(cells, (-1, depth, height * size, width * size))


@converter("SpaceToDepth")
def _space_to_depth(call: Call, x: Any, blocksize: int, mode: str = "DCR") -> Any:
    if mode == "CRD":
        return F.pixel_unshuffle(x, blocksize)
    call.expect_rank(x, 3)
    (depth, height, width), size = call.shape(x), blocksize
    cells = torch.reshape(x, (-1, depth, height // size, size, width // size, size))
    channels = torch.permute(cells, (0, 3, 5, 1, 2, 4))
    return torch.reshape(channels, (-1, depth * size**2, height // size, width // size))


# ------------------------------------------------------------------------ parts


@converter("Concat")
def _concat(call: Call, *xs: Any, axis: int) -> Any:
    return torch.cat(xs, axis)


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
            call.refuse(f"{call.source.kind} leaves nothing")
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
    index, inside = np.asarray(indices), call.axis(x, axis)
    shape = call.shape(x)
    if not index.size or (np.abs(index + 0.5) > shape[inside]).any():
        call.refuse(f"its indices reach out of {shape[inside]} cells, or there are none")
    picked = selected(call, x, inside, np.ravel(index) % shape[inside], part="select")
    return reshaped(call, picked, (*shape[:inside], *index.shape, *shape[inside + 1 :]), part="shape")


#: what torch calls the ways of padding with the map's own cells
_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@converter("Pad")
def _pad(call: Call, x: Any, pads: Any, value: Any = 0.0, axes: Any = None, mode: str = "constant") -> Any:
    rank = len(call.shape(x)) + 1
    pairs = [(0, 0)] * rank
    sizes = np.reshape(pads, (2, -1)).tolist()
    for axis, before, after in zip(range(rank) if axes is None else axes, *sizes, strict=True):
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
