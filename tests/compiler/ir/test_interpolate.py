"""Interpolate against its equation, written out in numpy."""

import numpy as np
import pytest
import torch

from spikec.ir.affine import BlockedError
from spikec.ir.ops import Interpolate
from spikec.ir.types import Rate, Type


def linear(t):
    return np.maximum(0, 1 - np.abs(t))


def cubic(t, a=-0.75):
    t = np.abs(t)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    return np.where(t <= 1, near, np.where(t < 2, a * (t**3 - 5 * t**2 + 8 * t - 4), 0))


def matrix(kernel, old, new, *, corners=False, factor=None):
    """[new, old]: what each cell of the result takes of each cell of the operand."""
    step = 1 / factor if factor else old / new
    places = np.arange(new) * (old - 1) / (new - 1) if corners else (np.arange(new) + 0.5) * step - 0.5
    if kernel is linear:
        places = np.maximum(places, 0)
    rows = np.zeros((new, old))
    for i, place in enumerate(places):
        for cell in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            rows[i, np.clip(cell, 0, old - 1)] += kernel(place - cell)
    return rows


@pytest.mark.parametrize(
    ("op", "kernel", "options"),
    [
        (Interpolate((9, 12)), linear, {}),
        (Interpolate((4, 3)), linear, {}),
        (Interpolate((9, 12), align_corners=True), linear, {"corners": True}),
        (Interpolate((9, 11), factors=(1.6, 1.6)), linear, {"factor": 1.6}),
        (Interpolate((9, 12), "cubic"), cubic, {}),
        (Interpolate((4, 3), "cubic", align_corners=True), cubic, {"corners": True}),
    ],
    ids=["larger", "smaller", "corners", "factors", "cubic", "cubic, corners"],
)
def test_its_equation(op, kernel, options):
    x = np.random.default_rng(0).normal(size=(3, 6, 7))
    rows, columns = (matrix(kernel, old, new, **options) for old, new in zip((6, 7), op.size, strict=True))
    wanted = np.einsum("ik,jl,ckl->cij", rows, columns, x)
    np.testing.assert_allclose(op.on_arrays(x), wanted, rtol=1e-9, atol=1e-12)


def test_one_and_three_axes():
    x = torch.tensor([[[0.0, 1.0]]])
    assert Interpolate((4,)).eval(x)[0, 0].tolist() == [0, 0.25, 0.75, 1]
    assert Interpolate((1, 1, 4)).eval(x[:, :, None, None])[0, 0, 0, 0].tolist() == [0, 0.25, 0.75, 1]


def test_a_scale_may_differ_between_channels_only():
    op, scale = Interpolate((4, 4)), np.array([1.0, 2, 3]).reshape(3, 1, 1)
    assert op.infer(Type((3, 2, 2), "float32", Rate(scale))).scale.reshape(-1).tolist() == [1, 2, 3]


SMALLER = [
    (Interpolate((4, 3)), (8, 6)),
    (Interpolate((4, 3), factors=(0.5, 0.5)), (9, 7)),
    (Interpolate((3, 3)), (9, 3)),
    (Interpolate((3, 2), "cubic"), (9, 6)),
    (Interpolate((5, 4), align_corners=True), (9, 7)),
    (Interpolate((1, 1)), (6, 5)),
    (Interpolate((4,)), (12,)),
]


@pytest.mark.parametrize(("op", "sizes"), SMALLER)
def test_a_resizing_by_a_whole_number_is_a_convolution(op, sizes):
    x = torch.rand(2, 3, *sizes, dtype=torch.float64)
    conv = op.as_convolution(Type((3, *sizes), "float64", Rate(np.ones((1,) * (1 + len(sizes))))))
    torch.testing.assert_close(conv.eval(x), op.eval(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("op", [Interpolate((16, 12)), Interpolate((4, 4)), Interpolate((4, 3), "cubic")])
def test_other_resizings_are_none(op):
    with pytest.raises(BlockedError, match="in different ways"):
        op.as_convolution(Type((3, 8, 6), "float64", Rate(np.ones((1, 1, 1)))))
