"""Convolutions by the cells that they read: they compose, add up, and split by the cells of a stride."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import attrs
import numpy as np
import torch

from spikec.ir.affine import BlockedError
from spikec.ir.ops.weighted import Conv, block_diagonal, spread_kernel
from spikec.ir.types import Array, ints

#: a height and a width, or one number for each of them
Pair = tuple[int, int]


def as_map(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return (channels, height, width) of a sample: a vector is a map of 1 x 1, a line one of height 1.

    Raises:
        BlockedError: the sample has more axes.
    """
    if not 1 <= len(shape) <= 3:
        raise BlockedError(f"gives samples of shape {tuple(shape)}, which are no maps")
    channels, *space = ints(shape)
    height, width = [1] * (2 - len(space)) + space
    return channels, height, width


@attrs.frozen(eq=False)
class Windows:
    """``y[o, i] = sum over c and j of weight[o, c, j] x[c, stride i + first + j]``; x is 0 beyond its map.

    Attributes:
        weight: [O, I, height, width], float64.
        first: the cell that the first column of the kernel reads for the first result, for each axis.
        stride: for each axis.
    """

    weight: Array
    first: Pair = (0, 0)
    stride: Pair = (1, 1)

    @classmethod
    def of(cls, conv: Conv) -> Windows:
        """Read a convolution over one or two axes.

        Raises:
            BlockedError: it has more axes.
        """
        extra = 2 - len(conv.kernel)
        if extra < 0:
            raise BlockedError(f"is a convolution over {len(conv.kernel)} axes")
        weight = spread_kernel(block_diagonal(conv.weight.astype(np.float64), conv.groups), conv.dilation)
        weight = weight.reshape(*weight.shape[:2], *(1,) * extra, *weight.shape[2:])
        first, stride = [0] * extra + [-before for before, _ in conv.padding], [1] * extra + list(conv.stride)
        return cls(weight, (first[0], first[1]), (stride[0], stride[1])).trimmed()

    @classmethod
    def picking(cls, channels: int, first: Pair = (0, 0), stride: Pair = (1, 1)) -> Windows:
        """Make the one that reads cell ``first + stride i`` of every channel."""
        return cls(np.eye(channels)[:, :, None, None], first, stride)

    @property
    def kernel(self) -> Pair:
        """Height and width of the kernel."""
        return self.weight.shape[2], self.weight.shape[3]

    @property
    def last(self) -> Pair:
        """The cell that the last column of the kernel reads for the first result, for each axis."""
        return self.first[0] + self.kernel[0] - 1, self.first[1] + self.kernel[1] - 1

    def trimmed(self) -> Windows:
        """Leave out the rows and columns at the kernel's sides that are zero everywhere."""
        used = [np.flatnonzero(self.weight.any(axis)) for axis in ((0, 1, 3), (0, 1, 2))]
        if not all(len(cells) for cells in used):
            return attrs.evolve(self, weight=self.weight[:, :, :1, :1])
        low, high = ([int(cells[end]) for cells in used] for end in (0, -1))
        weight = self.weight[:, :, low[0] : high[0] + 1, low[1] : high[1] + 1]
        return attrs.evolve(self, weight=weight, first=(self.first[0] + low[0], self.first[1] + low[1]))

    def laid_out(self, first: Pair, kernel: Pair) -> Array:
        """Return the weight [O, I, *kernel] of a kernel that begins elsewhere; what does not fit into it is lost."""
        laid = np.zeros((*self.weight.shape[:2], *kernel))
        ours: list[slice] = []
        theirs: list[slice] = []
        for begin, start, mine, size in zip(first, self.first, self.kernel, kernel, strict=True):
            low, high = max(begin, start), min(begin + size, start + mine)
            ours.append(slice(low - start, max(high, low) - start))
            theirs.append(slice(low - begin, max(high, low) - begin))
        laid[:, :, theirs[0], theirs[1]] = self.weight[:, :, ours[0], ours[1]]
        return laid

    def plus(self, other: Windows) -> Windows:
        """Return the sum of both, of one stride.

        Raises:
            BlockedError: their strides differ.
        """
        if self.stride != other.stride:
            raise BlockedError("adds windows of one signal that are apart in different ways")
        first, kernel = box([self, other])
        return attrs.evolve(self, weight=self.laid_out(first, kernel) + other.laid_out(first, kernel), first=first)

    def behind(self, inner: Windows, size: Pair, between: Pair, result: Pair) -> Windows:
        """Return ``self(inner(x))``.

        Args:
            inner: what makes the signal that this one reads.
            size, between, result: height and width of x, of that signal, and of what this one gives.

        Raises:
            BlockedError: beyond the signal between them, which this one takes for zeros, the inner one would read x.
        """
        for axis in range(2):
            far = self.stride[axis] * (result[axis] - 1) + self.last[axis]
            before = self.first[axis] < 0 and inner.last[axis] >= inner.stride[axis]
            behind = far >= between[axis] and inner.stride[axis] * between[axis] + inner.first[axis] < size[axis]
            if before or behind:
                raise BlockedError("pads with zeros where the layers before it would give something else")
        none, one = [0, 0], [1, 1]
        outer, first = torch.tensor(self.weight), torch.tensor(inner.weight)
        laid = torch.convolution(outer, first, None, list(inner.stride), none, one, True, none, 1)
        starts = [s * a + b for s, a, b in zip(inner.stride, self.first, inner.first, strict=True)]
        strides = [a * b for a, b in zip(inner.stride, self.stride, strict=True)]
        return Windows(laid.numpy(), (starts[0], starts[1]), (strides[0], strides[1])).trimmed()

    def free(self, result: Pair, stride: Pair) -> Windows:
        """Return it with another stride along the axes where it gives one cell only."""
        strides = [new if size == 1 else old for size, old, new in zip(result, self.stride, stride, strict=True)]
        return attrs.evolve(self, stride=(strides[0], strides[1]))

    def split(self, size: Pair, middle: Pair, result: Pair, stride: Pair) -> dict[Pair, Windows]:
        """Go by way of signals of size ``middle`` that each hold the cells ``cell + stride i`` of x.

        A cell of the kernel is ``stride q + r``: r says which signal has it. Where such a signal would not hold all of
        x, the cell itself says it, which takes more signals.

        Args:
            size, middle, result: height and width of x, of those signals, and of what this one gives.
            stride: of those signals.

        Returns:
            for each signal, by its cell, what reads it; their sum is this one.

        Raises:
            BlockedError: there is no such way.
        """
        whole = self.free(result, stride)
        axes = [list(_parts(whole, *each)) for each in zip((0, 1), size, middle, result, stride, strict=True)]
        found: dict[Pair, Windows] = {}
        for (i, y, row), (j, x, column) in itertools.product(*axes):
            cell = whole.weight[:, :, i : i + 1, j : j + 1]
            if cell.any():
                apart = whole.stride[0] // stride[0], whole.stride[1] // stride[1]
                part = Windows(cell, (row, column), apart)
                found[y, x] = found[y, x].plus(part) if (y, x) in found else part
        return found


def _parts(
    whole: Windows, axis: int, size: int, middle: int, result: int, stride: int
) -> Iterator[tuple[int, int, int]]:
    """Yield (place in the kernel, cell that says which signal, cell of that signal that is read first) for one axis."""
    if whole.stride[axis] % stride:
        raise BlockedError(f"reads every {whole.stride[axis]}. cell of a signal that has to pass a stride of {stride}")
    cells = [(i, whole.first[axis] + i) for i in np.flatnonzero(whole.weight.any((0, 1, 3 - axis))).tolist()]
    if all(stride * middle + cell % stride >= size for _, cell in cells):
        yield from ((i, cell % stride, cell // stride) for i, cell in cells)
    elif middle > (result - 1) * whole.stride[axis] // stride:
        yield from ((i, cell, 0) for i, cell in cells)
    else:
        raise BlockedError(f"reads a map of {size} cells that has to pass a layer of {middle}")


def box(windows: Sequence[Windows]) -> tuple[Pair, Pair]:
    """Return the first cell, and the size, of the kernel that holds those of all windows."""
    low = [min(each.first[axis] for each in windows) for axis in range(2)]
    high = [max(each.last[axis] for each in windows) for axis in range(2)]
    return (low[0], low[1]), (high[0] - low[0] + 1, high[1] - low[1] + 1)
