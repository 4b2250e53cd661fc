"""Converters of what makes maps larger or smaller without weights: resizing and padding."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spikec.extend.composites import sliced
from spikec.frontends.torch.call import Call, Signal, converter
from spikec.frontends.torch.converters.arith import affine
from spikec.frontends.torch.converters.weights import adaptive_avg_pool
from spikec.ir.ops import Identity, Pad, Upsample


@converter(F.interpolate)
def interpolate(
    call: Call,
    input: Signal,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Signal:
    """Nearest neighbours, of which torch itself says which cells they are; ``area`` is an adaptive average pool."""
    call.expect_rank(input, 2, 3, 4)
    space = call.shape(input)[1:]
    index = torch.arange(math.prod(space), dtype=torch.float64).reshape(1, 1, *space)
    options = {"size": size, "scale_factor": scale_factor, "recompute_scale_factor": recompute_scale_factor}
    try:
        cells = F.interpolate(index, mode=mode if mode == "nearest-exact" else "nearest", **options)[0, 0]
    except (RuntimeError, ValueError, TypeError) as error:
        call.refuse(str(error).splitlines()[0])
    if mode == "area":
        return adaptive_avg_pool(call, input, tuple(cells.shape))
    if mode not in ("nearest", "nearest-exact"):
        call.refuse(
            f"mode={mode!r} is not supported: it mixes neighbouring cells by their place",
            'mode="nearest", or a transposed convolution, and retrain',
        )
    return _picked(call, input, index, cells)


def _picked(call: Call, input: Signal, index: Tensor, cells: Tensor) -> Signal:
    """Cells of the map: an upsampling, or slices with a step."""
    old, new = tuple(index.shape[2:]), tuple(cells.shape)
    if new == old:
        return call.add(Identity(), input)
    if all(a <= b for a, b in zip(old, new, strict=True)) and torch.equal(Upsample(new).eval(index)[0, 0], cells):
        return call.add(Upsample(new), input)
    for axis, place in enumerate(np.unravel_index(cells.long().numpy(), old)):
        row = np.moveaxis(place, axis, 0).reshape(new[axis], -1)[:, 0]
        steps = np.diff(row)
        if (steps < 1).any() or (steps != steps[:1]).any():
            call.refuse(
                f"a resize from {old} to {new} picks cells at uneven distances",
                "resize by a whole number, or give size= instead of scale_factor=",
            )
        part = "" if axis == len(new) - 1 else f"axis{axis}"
        step = int(steps[0]) if len(steps) else 1
        input = sliced(call, input, axis + 1, int(row[0]), int(row[-1]) + 1, step, part=part)
    return input


# -------------------------------------------------------------------- padding


@converter(F.pad)
def pad(call: Call, input: Signal, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Signal:
    """Sizes as in torch: last axis first, two numbers each. A value v is ``pad(x - v) + v``."""
    pairs = [(int(a), int(b)) for a, b in zip(pad[::2], pad[1::2], strict=True)][::-1]
    if len(pairs) > len(call.shape(input)):
        call.refuse("it pads the batch axis", "samples of a batch are independent in a compiled network")
    if not value:
        return call.add(Pad(pairs, mode), input)
    if not math.isfinite(value):
        call.refuse(
            f"padding with {value} is not supported", "pad with a finite number; a MaxPool takes its own padding"
        )
    if len(pairs) == len(call.shape(input)) and any(pairs[0]):
        call.refuse(f"padding channels with {value} is not supported", "pad them with zeros")
    below = affine(call, input, np.ones(()), np.asarray(-float(value)), part="below")
    return affine(call, call.add(Pad(pairs, mode), below, part="pad"), np.ones(()), np.asarray(float(value)))
