"""The sizes of windows over 1 to 3 spatial axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

#: what is padded (before, after) each spatial axis
Pairs = tuple[tuple[int, int], ...]


def pairs(padding: Any) -> Pairs:
    """Turn ``(1, 2)`` or ``((1, 1), (2, 2))`` into pairs (before, after), one for each spatial axis."""
    return tuple(
        (int(p[0]), int(p[1])) if isinstance(p, (tuple, list)) or np.ndim(p) else (int(p), int(p)) for p in padding
    )


def pad_list(padding: Pairs) -> list[int]:
    """List pairs as torch's ``pad`` takes them: the last axis first."""
    return [size for pair in reversed(padding) for size in pair]


def window_counts(
    sizes: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], padding: Pairs, dilation: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Count the windows along each spatial axis; None for what torch refuses, or takes in a way of its own."""
    if not len(sizes) == len(kernel) == len(stride) == len(padding) == len(dilation):
        return None
    if min((*sizes, *kernel, *stride, *dilation), default=0) < 1 or min(map(min, padding), default=0) < 0:
        return None
    axes = zip(sizes, kernel, stride, padding, dilation, strict=True)
    counts = tuple((size + sum(pads) - d * (k - 1) - 1) // s + 1 for size, k, s, pads, d in axes)
    return counts if min(counts) > 0 else None


def for_axes(name: str, count: int) -> Callable[..., Tensor]:
    """Find torch's function of that name for 1 to 3 spatial axes: ``for_axes("conv", 2)`` is ``conv2d``."""
    function: Callable[..., Tensor] = getattr(F, f"{name}{count}d")
    return function
