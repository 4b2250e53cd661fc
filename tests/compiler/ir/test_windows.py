"""Windows compose, add up and split as torch's convolutions do."""

import numpy as np
import pytest
import torch

from spikec.ir.affine import BlockedError
from spikec.ir.ops import Conv
from spikec.ir.windows import Windows, as_map


def conv(rng, inputs, outputs, **options):
    return Conv(rng.normal(size=(outputs, inputs // options.get("groups", 1), *options.pop("kernel"))), **options)


def applied(windows, x, size):
    """Run windows [O, I, h, w] over maps [B, I, H, W], one result after the other."""
    result = torch.zeros(len(x), len(windows.weight), *size, dtype=x.dtype)
    for y, row in np.ndindex(*windows.kernel):
        for i, j in np.ndindex(*size):
            cell = [s * at + f + k for s, at, f, k in
                    zip(windows.stride, (i, j), windows.first, (y, row), strict=True)]  # fmt: skip
            if all(0 <= c < n for c, n in zip(cell, x.shape[2:], strict=True)):
                result[:, :, i, j] += x[:, :, cell[0], cell[1]] @ torch.tensor(windows.weight[:, :, y, row]).T
    return result


GEOMETRIES = {
    "padded": {"kernel": (3, 2), "padding": (1, 1)},
    "strided": {"kernel": (2, 3), "stride": (2, 1), "padding": ((0, 1), (1, 1))},
    "dilated": {"kernel": (2, 2), "dilation": (2, 1), "groups": 2},
}


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_windows_of_a_convolution_are_that_convolution(geometry):
    rng = np.random.default_rng(0)
    op = conv(rng, 2, 4, **dict(GEOMETRIES[geometry]))
    x = torch.tensor(rng.normal(size=(2, 2, 6, 7)))
    wanted = op.eval(x)
    torch.testing.assert_close(applied(Windows.of(op), x, wanted.shape[2:]), wanted)


def test_one_behind_another_is_both():
    rng = np.random.default_rng(1)
    first = conv(rng, 2, 3, kernel=(2, 2), stride=(2, 2))
    second = conv(rng, 3, 2, kernel=(3, 3), padding=(1, 1), stride=(1, 2))
    x = torch.tensor(rng.normal(size=(2, 2, 8, 6)))
    between = first.eval(x)
    wanted = second.eval(between)
    both = Windows.of(second).behind(Windows.of(first), (8, 6), (4, 3), tuple(wanted.shape[2:]))
    torch.testing.assert_close(applied(both, x, wanted.shape[2:]), wanted)


@pytest.mark.parametrize(
    "options",
    [{"kernel": (3, 1), "padding": (1, 0)}, {"kernel": (2, 1), "stride": (2, 1)}],
    ids=["reaches back over the border", "leaves a cell over"],
)
def test_zeros_that_the_first_would_not_give_are_no_convolution(options):
    rng = np.random.default_rng(2)
    first, second = conv(rng, 1, 1, **options), conv(rng, 1, 1, kernel=(3, 1), padding=(1, 0))
    x = torch.tensor(rng.normal(size=(1, 1, 5, 2)))
    between = first.eval(x)
    sizes = tuple(x.shape[2:]), tuple(between.shape[2:]), tuple(second.eval(between).shape[2:])
    with pytest.raises(BlockedError, match="pads with zeros"):
        Windows.of(second).behind(Windows.of(first), *sizes)


@pytest.mark.parametrize(
    ("options", "middle", "stride", "signals"),
    [
        ({"kernel": (3, 3), "padding": (1, 1)}, (6, 8), (1, 1), 1),
        ({"kernel": (1, 1), "stride": (2, 2)}, (3, 4), (2, 2), 1),
        ({"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)}, (3, 4), (2, 2), 4),
        ({"kernel": (3, 3), "stride": (4, 2), "padding": (1, 1)}, (3, 8), (2, 1), 2),
        ({"kernel": (3, 2)}, (5, 7), (1, 1), 6),
    ],
    ids=["as it is", "every other cell", "by phases", "half way", "cell by cell"],
)
def test_parts_by_way_of_signals_add_up(options, middle, stride, signals):
    rng = np.random.default_rng(3)
    op = conv(rng, 2, 3, **options)
    x = torch.tensor(rng.normal(size=(2, 2, 6, 8)))
    wanted = op.eval(x)
    size = tuple(wanted.shape[2:])
    parts = Windows.of(op).split((6, 8), middle, size, stride)
    assert len(parts) == signals
    carried = {cell: applied(Windows.picking(2, cell, stride), x, middle) for cell in parts}
    found = sum(applied(part, carried[cell], size) for cell, part in parts.items())
    torch.testing.assert_close(found, wanted)


def test_what_cannot_be_split_or_added_says_why():
    rng = np.random.default_rng(4)
    every = Windows.of(conv(rng, 1, 1, kernel=(3, 3)))
    second = Windows.of(conv(rng, 1, 1, kernel=(1, 1), stride=(2, 2)))
    with pytest.raises(BlockedError, match="a stride of 2"):
        every.split((6, 6), (3, 3), (4, 4), (2, 2))
    with pytest.raises(BlockedError, match="a layer of 2"):
        every.split((6, 6), (2, 2), (4, 4), (1, 1))
    with pytest.raises(BlockedError, match="apart in different ways"):
        every.plus(second)
    with pytest.raises(BlockedError, match="no maps"):
        as_map((1, 2, 3, 4))
