"""A user's own linear op is one class: what folds through it follows from its meaning, with no other line anywhere."""

from typing import ClassVar

import attrs
import numpy as np
import pytest
import torch

from build import Builder, source
from spikec import Context, run
from spikec.extend.loader import pass_named
from spikec.interpreter.contract import check_exact
from spikec.interpreter.probe import probe
from spikec.ir.op import Movement, Op, Role, tensor
from spikec.ir.ops import (
    IF,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Flatten,
    Input,
    Linear,
    Permute,
    Rescale,
    SumPool,
    Weighted,
)
from spikec.ir.ops.weighted import pointwise
from spikec.ir.stages import FINAL, IMPORTED
from spikec.ir.verify import verify

POOL = SumPool((2, 2), (2, 2), ((0, 0), (0, 0)))
CHANNELS = np.array([0.5, 2.0, 3.0, 0.25]).reshape(4, 1, 1)
PAIRS = np.array([0.5, 0.5, 3.0, 3.0]).reshape(4, 1, 1)


@attrs.frozen(eq=False)
class Flip(Movement):
    """The last axis backwards."""

    kind: ClassVar[str] = "flip"

    def eval(self, *xs):
        return xs[0].flip(-1)


@attrs.frozen(eq=False)
class Edges(Op):
    """``y_i = near x_i - far x_i+1`` along the last axis."""

    kind: ClassVar[str] = "edges"
    role: ClassVar[Role] = Role.LINEAR
    near: float = 0.75
    far: float = 0.25

    def eval(self, *xs):
        return self.near * xs[0][..., :-1] - self.far * xs[0][..., 1:]

    def as_convolution(self, operand):
        channels = operand.shape[0]
        kernel = np.tile(np.array([self.near, -self.far]).reshape(1, 1, 1, 2), (channels, 1, 1, 1))
        conv = Conv(kernel, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=channels)
        scale = operand.scale.reshape(-1)
        return attrs.evolve(conv, in_scale=scale, out_scale=scale)


@attrs.frozen(eq=False)
class Mix(Op):
    """Each pair of channels becomes one, by fixed weights."""

    kind: ClassVar[str] = "mix"
    role: ClassVar[Role] = Role.LINEAR

    def eval(self, *xs):
        weights = tensor(np.array([0.25, 0.5]), xs[0])
        return weights[0] * xs[0][:, ::2] + weights[1] * xs[0][:, 1::2]


@attrs.frozen(eq=False)
class Weigh(Op):
    """``y = a + 2 b``, two operands of one scale."""

    kind: ClassVar[str] = "weigh"
    role: ClassVar[Role] = Role.LINEAR
    arity: ClassVar[int | None] = 2

    def eval(self, *xs):
        return xs[0] + 2 * xs[1]


@attrs.frozen(eq=False)
class Detached(Mix):
    """A meaning that torch cannot differentiate."""

    def eval(self, *xs):
        return super().eval(xs[0].detach())


OPS = [Flip(), Edges(), Mix(), Weigh()]


def done(before, name, stage=IMPORTED, **options):
    """The graph behind a pass, held to the one before it, and the pass's notes."""
    after, context = before.copy(), Context(before)
    assert pass_named(name, **options).run(after, context) > 0
    verify(after, stage, before.sources)
    return after, [note.reason for note in context.notes]


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.kind)
def test_a_norm_behind_it_folds_into_the_weights_before_it(op):
    b = Builder(4, 6, 8)
    convs = [b.conv(b.x, 4, f"conv{i}", (3, 3), (1, 1)) for i in range(op.arity)]
    before = b.done(b.relu(b.batchnorm(b.add(op, *convs, name="op"), "bn"), "relu"))
    after, notes = done(before, "fold-batchnorm")
    assert not notes
    assert not after.match(BatchNorm)
    assert len(after.match(Weighted)) == len(convs)
    check_exact(before, after, probe(before, None, 0))


@pytest.mark.parametrize(("op", "gain"), [(Flip(), -CHANNELS), (Edges(), CHANNELS), (Mix(), PAIRS)])
def test_a_norm_in_front_of_it_folds_into_the_weights_behind_it(op, gain):
    b = Builder(4, 6, 8)
    norm = BatchNorm(gain.reshape(-1), np.array([1.0, -2, 3, 4]), np.ones(4), np.ones(4))
    normed = b.add(norm, b.relu(b.x, "relu"), name="bn")
    before = b.done(b.conv(b.add(op, normed, name="op"), 3, "conv", (3, 3), (0, 0)))
    after, notes = done(before, "fold-batchnorm")
    assert not notes
    assert not after.match(BatchNorm)
    assert len(after.match(Weighted)) == 1
    check_exact(before, after, probe(before, None, 0))


@pytest.mark.parametrize("behind", [False, True])
def test_a_norm_that_it_does_not_let_through_stays_and_the_note_names_it(behind):
    b = Builder(4, 6, 8)
    if behind:
        before = b.done(b.relu(b.batchnorm(b.add(Detached(), b.conv(b.x, 4, "conv"), name="op"), "bn"), "relu"))
    else:
        normed = b.batchnorm(b.relu(b.x, "relu"), "bn")
        before = b.done(b.conv(b.add(Mix(), normed, name="op"), 3, "conv", (3, 3), (0, 0)))
    after, notes = done(before, "fold-batchnorm")
    assert "%op (mix) is no affine op over the same channels" in notes[0]
    check_exact(before, after, probe(before, None, 0))


def rated(*shape):
    b = Builder(*shape)
    b.graph.set_op("x", Input(shape, "float64", rate=True, origin=source("x")))
    return b


def pointwise_conv(b, x):
    """A 1x1 convolution that is folded for its operand's scale."""
    signal = b.graph.type(x)
    weight = b.rng.normal(size=(3, signal.shape[0]))
    return b.add(pointwise(weight, None, 3, in_scale=signal.scale.reshape(-1)), x, name="conv")


def spikes(before, after):
    x = torch.rand(3, *before.type(before.inputs[0]).shape, dtype=torch.float64)
    steps = 9 if before.is_spiking else None
    torch.testing.assert_close(run(after, x, steps), run(before, x, steps), rtol=1e-9, atol=1e-9)
    assert not after.match(Rescale)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.kind)
def test_a_cast_behind_it_folds_into_the_weights_before_it(op):
    b = rated(4, 6, 8)
    mixed = b.add(op, *(b.conv(b.x, 4, f"conv{i}", (3, 3), (1, 1)) for i in range(op.arity)), name="op")
    channels = b.graph.type(mixed).shape[0]
    cast = b.graph.add(Rescale(CHANNELS[:channels]), mixed, name="cast")
    before = b.done(b.add(IF(np.ones((1, 1, 1))), cast, name="if"))
    after, notes = done(before, "fold-rescale", FINAL)
    assert not notes
    assert len(after.match(Weighted)) == op.arity
    spikes(before, after)


@pytest.mark.parametrize(("op", "factor"), [(Flip(), CHANNELS), (Edges(), CHANNELS), (Mix(), PAIRS)])
def test_a_cast_in_front_of_it_folds_into_the_weights_behind_it(op, factor):
    b = rated(4, 6, 8)
    neuron = b.add(IF(np.full((1, 1, 1), 0.3) / factor), b.graph.add(Rescale(1 / factor), b.x, name="in"), name="if")
    moved = b.add(op, b.graph.add(Rescale(factor), neuron, name="out"), name="op")
    before = b.done(pointwise_conv(b, moved))
    after, notes = done(before, "fold-rescale", FINAL)
    assert not notes
    assert len(after.match(Weighted)) == 1
    spikes(before, after)


def test_an_affine_op_that_two_ways_lead_to_takes_the_cast_of_both():
    b = rated(4, 6, 8)
    neuron = b.add(IF(np.full((1, 1, 1), 0.3) / CHANNELS), b.graph.add(Rescale(1 / CHANNELS), b.x), name="if")
    fork = b.add(Flip(), b.graph.add(Rescale(CHANNELS), neuron), name="fork")
    cat = b.add(Concat(), b.add(Flip(), fork, name="left"), fork, name="cat")
    before = b.done(pointwise_conv(b, cat))
    after, notes = done(before, "fold-rescale", FINAL)
    assert not notes
    assert len(after.match(Weighted)) == 1
    spikes(before, after)


@pytest.mark.parametrize("op", [Flip(), Edges(), Mix()], ids=lambda op: op.kind)
def test_it_folds_with_a_pool_into_the_matrix_behind_them(op):
    b = rated(4, 6, 8)
    flat = b.add(Flatten(), b.add(op, b.add(POOL, b.x, name="pool"), name="op"), name="flat")
    signal = b.graph.type(flat)
    linear = Linear(b.rng.normal(size=(3, *signal.shape)), in_scale=signal.scale)
    before = b.done(b.add(linear, flat, name="fc"))
    after, _ = done(before, "fold-pool", FINAL)
    assert [after[name].kind for name in after] == ["input", "flatten", "linear", "output"]
    spikes(before, after)


def test_it_folds_with_a_pool_into_the_convolution_behind_them_if_it_says_that_it_is_one():
    b = Builder(4, 6, 8)
    pooled = b.add(AvgPool((2, 2), (2, 2), (0, 0)), b.x, name="pool")
    before = b.done(b.conv(b.add(Edges(), pooled, name="op"), 3, "conv", (2, 2), (0, 0)))
    after, _ = done(before, "fold-pool")
    assert [after[name].kind for name in after] == ["input", "conv", "output"]
    check_exact(before, after, probe(before, None, 0))


@attrs.frozen(eq=False)
class Halve(Op):
    """``y = x / 2``, so it works element by element."""

    kind: ClassVar[str] = "halve"
    role: ClassVar[Role] = Role.LINEAR
    elementwise: ClassVar[bool] = True

    def eval(self, *xs):
        return xs[0] / 2


def test_concats_and_permutes_move_through_one_that_works_element_by_element():
    b = rated(4, 6, 8)
    cat = b.add(Concat(), b.x, b.x, name="cat")
    before = b.done(b.conv(b.add(Halve(), cat, name="half"), 3, "conv", (1, 1), (0, 0)))
    after, _ = done(before, "lower-concat", FINAL)
    assert [after[name].kind for name in after] == ["input", "halve", "halve", "conv", "conv", "add", "output"]
    spikes(before, after)
    b = Builder(4, 6, 8)
    there = b.add(Halve(), b.add(Permute((1, 2, 0)), b.x, name="there"), name="half")
    before = b.done(b.add(Permute((2, 0, 1)), there, name="back"))
    after, _ = done(before, "cancel-permutes")
    assert [after[name].kind for name in after] == ["input", "halve", "output"]
