"""Batch norms that fold through pools, concats, sums and movements, and why others do not."""

import numpy as np
import pytest
import torch

import build
from spikec import VerificationError
from spikec.extend.loader import pass_named
from spikec.extend.passbase import Context
from spikec.interpreter.contract import check_exact
from spikec.interpreter.probe import probe
from spikec.ir import affine
from spikec.ir.affine import Affine
from spikec.ir.ops import (
    AdaptiveAvgPool,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    ConvTranspose,
    Flatten,
    Pad,
    Permute,
    Reshape,
    Slice,
    Upsample,
    Weighted,
)
from spikec.ir.stages import IMPORTED
from spikec.ir.verify import verify


def folded(before):
    """The graph after the pass, and what the pass noted."""
    after, context = before.copy(), Context(before)
    assert pass_named("fold-batchnorm").run(after, context) == len(before.match(BatchNorm))
    verify(after, IMPORTED, before.sources)
    return after, [note.reason for note in context.notes]


def through(*ops, up=True, users=1):
    """A convolution, the ops, a batch norm; or a batch norm, the ops, a convolution or linear layer."""

    def make():
        b = build.Builder(4, 6, 8)
        x = b.conv(b.x, 4, "conv", (3, 3), (1, 1)) if up else b.batchnorm(b.relu(b.x, "relu"), "bn")
        for i, op in enumerate(ops):
            x = b.add(op, x, name=f"op{i}")
        if up:
            return b.done(b.relu(b.batchnorm(x, "bn"), "end"))
        last = len(b.graph.type(x).shape) == 1
        return b.done(
            *(b.linear(x, 3, f"fc{i}") if last else b.conv(x, 3, f"c{i}", (2, 2), (0, 0)) for i in range(users))
        )

    return make


def cat_up():
    b = build.Builder(4, 6, 8)
    parts = [b.conv(b.x, c, f"conv{c}", (3, 3), (1, 1)) for c in (2, 3)]
    return b.done(b.relu(b.batchnorm(b.add(Concat(), *parts, name="cat"), "bn"), "end"))


def cat_down():
    """Two users of a concat of a norm, a ReLU, and the norm again through a pool."""
    b = build.Builder(4, 6, 8)
    bn = b.batchnorm(b.relu(b.x, "relu"), "bn")
    pooled = b.add(Upsample((6, 8)), b.add(AvgPool((2, 2), (2, 2), (0, 0)), bn, name="pool"), name="up")
    cat = b.add(Concat(), bn, b.relu(b.x, "other"), pooled, name="cat")
    return b.done(b.conv(cat, 2, "a", (1, 1), (0, 0)), b.conv(cat, 3, "b", (3, 3), (0, 0)))


def sum_up():
    b = build.Builder(4, 6, 8)
    parts = [b.conv(b.x, 3, f"conv{i}", (3, 3), (1, 1)) for i in range(2)]
    return b.done(b.relu(b.batchnorm(b.add(Add(), *parts, name="add"), "bn"), "end"))


def transposed_up():
    b = build.Builder(4, 3, 4)
    weight = b.rng.normal(size=(6, 2, 3, 3))
    op = ConvTranspose(weight, b.rng.normal(size=6), stride=(2, 1), padding=((1, 0), (1, 1)), dilation=(1, 1), groups=2)
    return b.done(b.relu(b.batchnorm(b.add(op, b.x, name="up"), "bn"), "end"))


def norm_behind_norm():
    b = build.Builder(4, 6, 8)
    x = b.add(AvgPool((2, 2), (2, 2), (0, 0)), b.batchnorm(b.relu(b.x, "relu"), "bn"), name="pool")
    return b.done(b.conv(b.batchnorm(x, "bn2"), 2, "conv", (3, 3), (0, 0)))


FOLDS = {
    "up a pool": through(AvgPool((2, 2), (2, 2), (0, 0))),
    "up a padded pool that counts no zeros": through(AvgPool((3, 3), (2, 2), (1, 1), False, False)),
    "up a pool in ceil mode": through(AvgPool((4, 3), (4, 3), (0, 0), True)),
    "up an adaptive pool": through(AdaptiveAvgPool((4, 5))),
    "up a slice of rows": through(Slice(1, 1, 5, 2)),
    "up a slice of channels": through(Slice(0, 1, 3)),
    "up a permute": through(Permute((0, 2, 1))),
    "up a permute there and back": through(Permute((1, 0, 2)), Slice(0, 2), Permute((1, 0, 2))),
    "up an upsampling": through(Upsample((12, 17))),
    "up a shuffle": through(Reshape((2, 2, 6, 8)), Permute((1, 0, 2, 3)), Reshape((4, 6, 8))),
    "up a flatten of a pooled map": through(AdaptiveAvgPool((1, 1)), Flatten()),
    "up a reflecting pad": through(Pad(((1, 2), (0, 1)), "reflect")),
    "up a crop": through(Pad(((-1, 0), (0, -2)))),
    "up a concat": cat_up,
    "up a sum": sum_up,
    "up a transposed convolution": transposed_up,
    "down a flatten": through(Flatten(), up=False),
    "down a pool and a flatten, two users": through(AvgPool((2, 2), (2, 2), (0, 0)), Flatten(), up=False, users=2),
    "down a slice of channels": through(Slice(0, 1, 4, 2), up=False),
    "down a shuffle": through(Reshape((2, 2, 6, 8)), Permute((1, 0, 2, 3)), Reshape((4, 6, 8)), up=False, users=3),
    "down an upsampling and a replicating pad": through(Upsample((9, 9)), Pad(((1, 2), (0, 1)), "replicate"), up=False),
    "down a concat": cat_down,
    "down another norm": norm_behind_norm,
}


@pytest.mark.parametrize("name", FOLDS)
def test_batchnorm_folds_through_what_moves_or_averages_numbers(name):
    before = FOLDS[name]()
    after, notes = folded(before)
    assert not notes
    assert not after.match(BatchNorm)
    assert len(after.match(Weighted)) == len(before.match(Weighted))
    check_exact(before, after, probe(before, None, 0))
    assert after.sources == before.sources


@pytest.mark.filterwarnings("error")
def test_a_dead_channel_folds_through_a_pool():
    b = build.Builder(4, 6, 8)
    x = b.add(AvgPool((2, 2), (2, 2), (0, 0)), b.conv(b.x, 4, "conv"), name="pool")
    norm = BatchNorm(np.array([1.0, 0, 2, 0]), np.array([1.0, 2, 0, 0]), np.ones(4), np.ones(4))
    before = b.done(b.relu(b.add(norm, x, name="bn"), "end"))
    after, notes = folded(before)
    assert not notes
    check_exact(before, after, probe(before, None, 0))


BLOCKED = {
    "a padded pool": (through(AvgPool((3, 3), (2, 2), (1, 1))), "averages zeros of its padding"),
    "a zero pad": (through(Pad(((1, 0), (0, 0)))), "pads with zeros"),
    "a zero pad below": (through(Pad(((1, 0), (0, 0))), up=False), "pads with zeros"),
    "a flatten to features": (through(Flatten()), "differ within a channel"),
    "channels that became rows": (through(Permute((1, 0, 2)), up=False), "differ within a channel"),
}


@pytest.mark.parametrize("name", BLOCKED)
def test_where_a_batchnorm_does_not_fold_the_note_says_why(name):
    make, why = BLOCKED[name]
    before = make()
    after, notes = folded(before)
    assert why in notes[0]
    assert isinstance(after["bn"], Weighted)
    check_exact(before, after, probe(before, None, 0))


@pytest.mark.parametrize("name", BLOCKED)
def test_each_block_is_needed(name, monkeypatch):
    """Without them the fold is wrong, and the contract notices."""

    def of_first_place(self, axis=0):
        parts = (np.moveaxis(part, axis, 0) for part in (self.gain, self.shift))
        return tuple(part.reshape(len(part), -1)[:, 0] for part in parts)

    def even(meaning, shapes, uneven):
        return meaning(*(torch.ones((1, *shape), dtype=torch.float64) for shape in shapes))[0].clamp(1, 1)

    monkeypatch.setattr(affine, "_agree", lambda one, other: True)
    monkeypatch.setattr(affine, "_row_sums", even)
    monkeypatch.setattr(Affine, "in_channels", of_first_place)
    before = BLOCKED[name][0]()
    after, _ = folded(before)
    with pytest.raises(VerificationError, match="exact pass changed"):
        check_exact(before, after, probe(before, None, 0))
