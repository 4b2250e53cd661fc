"""Affine maps through linear ops, forwards and backwards, held to the ops' own meaning on other numbers."""

from typing import ClassVar

import attrs
import numpy as np
import pytest
import torch

from spikec import TypeMismatchError
from spikec.ir.affine import Affine, BlockedError
from spikec.ir.op import Op, Role
from spikec.ir.ops import (
    IF,
    AdaptiveAvgPool,
    Add,
    AvgPool,
    Concat,
    CountingMaxPool,
    Flatten,
    Interpolate,
    MaxPool,
    Pad,
    Permute,
    Relu,
    Rescale,
    Reshape,
    Slice,
    SumPool,
    Upsample,
)
from spikec.ir.types import Rate, Type

CHANNELS = np.array([0.5, -2.0, 3.0, 1e-3]).reshape(4, 1, 1)
CELLS = np.linspace(1, 3, 4 * 5 * 6).reshape(4, 5, 6)
X = Type((4, 5, 6), "float64")


@attrs.frozen(eq=False)
class Steps(Op):
    """Differences along the last axis, each half as large."""

    kind: ClassVar[str] = "steps"
    role: ClassVar[Role] = Role.LINEAR

    def eval(self, *xs):
        return (xs[0][..., 1:] - 3 * xs[0][..., :-1]) / 2


def applied(affine, x):
    return torch.tensor(affine.gain) * x + torch.tensor(affine.shift)


def agree(op, maps, result):
    """``op(m(x)) = M(op(x))``."""
    generator = torch.Generator().manual_seed(7)
    xs = [torch.randn((3, *X.shape), dtype=torch.float64, generator=generator) for _ in maps]
    found = op.eval(*(applied(m, x) for m, x in zip(maps, xs, strict=True)))
    torch.testing.assert_close(found, applied(result, op.eval(*xs)), rtol=1e-9, atol=1e-12)


ANY = [Flatten(), Flatten(1), Reshape((2, 60)), Permute((2, 0, 1)), Slice(0, 1, 4, 2), Slice(-1, 1), Slice(1, -2)]
CHANNELWISE = [
    AvgPool((2, 3), (2, 3), (0, 0)),
    AvgPool((3, 3), (2, 2), (1, 1), False, False),
    AdaptiveAvgPool((2, 4)),
    Upsample((9, 7)),
    Interpolate((9, 7)),
    Interpolate((4, 7), "cubic", align_corners=True),
    Pad(((1, 2), (0, 1)), "reflect"),
    Pad(((-1, 0), (0, -2))),
    Rescale(np.array([2.0, 3, 4, 5]).reshape(4, 1, 1)),
    Steps(),
]


@pytest.mark.parametrize("op", [*ANY, *CHANNELWISE], ids=str)
def test_maps_of_channels_move_both_ways(op):
    given = Affine(CHANNELS, CHANNELS[::-1].copy())
    moved = op.map_result([given], [X])
    agree(op, [given], moved)
    agree(op, op.map_operands(moved, [X]), moved)


@pytest.mark.parametrize("op", ANY, ids=str)
def test_maps_of_cells_move_with_them(op):
    given = Affine(CELLS, CELLS**2)
    moved = op.map_result([given], [X])
    agree(op, [given], moved)
    agree(op, op.map_operands(moved, [X]), moved)


@pytest.mark.parametrize("op", [Add(), Concat(), Concat(-1)], ids=str)
def test_maps_go_back_to_all_operands(op):
    shape = op.infer(X, X).shape
    wanted = Affine(np.linspace(1, 2, shape[0]).reshape(-1, 1, 1), np.linspace(3, 9, shape[0]).reshape(-1, 1, 1))
    agree(op, op.map_operands(wanted, [X, X]), wanted)
    one = Affine(CHANNELS, np.ones((1, 1, 1)))
    if isinstance(op, Concat):
        agree(op, [one, Affine.scaling(CELLS)], op.map_result([one, Affine.scaling(CELLS)], [X, X]))
    else:
        with pytest.raises(BlockedError, match="no affine op"):
            op.map_result([one, Affine.scaling(CELLS)], [X, X])


def test_a_padded_cell_takes_its_neighbours_gain():
    assert Pad(((1, 1), (0, 2))).map_result([Affine.scaling(CHANNELS)], [X]).gain.tolist() == CHANNELS.tolist()


SHIFT, CELL_GAIN = Affine(np.ones((1, 1, 1)), CHANNELS), Affine.scaling(CELLS)
BLOCKED = [
    (AvgPool((3, 3), (2, 2), (1, 1)), SHIFT, "averages zeros of its padding"),
    (SumPool((3, 3), (2, 2), ((1, 1), (0, 0))), SHIFT, "does not spread a shift evenly"),
    (Pad(((1, 0), (0, 0))), SHIFT, "pads with zeros"),
    (AvgPool((2, 2), (1, 1), (0, 0)), CELL_GAIN, "no affine op over the same channels"),
    (Relu(), SHIFT, "no affine op"),
    (IF(np.ones((1, 1, 1))), Affine.scaling(2 * np.ones((1, 1, 1))), "state in its operand's units"),
    (CountingMaxPool(MaxPool((1, 1), (1, 1), (0, 0), (1, 1))), SHIFT, "state in its operand's units"),
    (CountingMaxPool(MaxPool((1, 1), (1, 1), (0, 0), (1, 1))), CELL_GAIN, "differ within a channel"),
]


@pytest.mark.parametrize(("op", "given", "why"), BLOCKED)
def test_what_cannot_pass_is_blocked_and_says_why(op, given, why):
    with pytest.raises(BlockedError, match=why):
        op.map_result([given], [X])
    back = Affine(np.ones((1, 1, 1)), given.shift)
    if given.shifts and op.role is Role.LINEAR and not isinstance(op, CountingMaxPool):
        with pytest.raises(BlockedError, match=why):
            op.map_operands(back, [X])


def test_an_op_without_a_type_rule_moves_scales_as_gains_or_refuses_them():
    rate = Type(X.shape, "float64", Rate(abs(CHANNELS)))
    assert Steps().infer(X) == Type((4, 5, 5), "float64")
    assert Steps().infer(rate) == Type((4, 5, 5), "float64", Rate(abs(CHANNELS)))
    with pytest.raises(TypeMismatchError, match="mixes numbers of different scales"):
        Steps().infer(Type(X.shape, "float64", Rate(CELLS)))
