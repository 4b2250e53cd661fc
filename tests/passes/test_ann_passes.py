"""Passes on ANN graphs: before, after, and numbers against torch where torch has the op."""

import attrs
import numpy as np
import pytest
import torch
from torch import nn

import build
import spikec
from spikec import SpikecWarning, UnsupportedOpError, run
from spikec.extend.loader import pass_named
from spikec.extend.passbase import Context
from spikec.interpreter.contract import check_exact
from spikec.interpreter.probe import probe
from spikec.interpreter.results import outputs
from spikec.ir.ledger import Ledger
from spikec.ir.op import Role
from spikec.ir.ops import (
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    Clamp,
    Conv,
    Flatten,
    Head,
    Identity,
    LeakyRelu,
    Linear,
    Maximum,
    Minimum,
    Relu,
    Reshape,
)
from spikec.ir.stages import FOLDED, IMPORTED
from spikec.ir.verify import verify


def apply(name, graph, **options):
    """Run one pass as the manager does; returns the graph after it, the changes and the context."""
    context = Context(graph)
    after = graph.copy()
    changes = pass_named(name, **options).run(after, context)
    assert (changes == 0) == after.same_as(graph)
    verify(after, IMPORTED, graph.sources)
    if changes:
        check_exact(graph, after, probe(graph, None, 0))
    again = after.copy()
    assert pass_named(name, **options).run(again, Context(after)) == 0
    return after, changes, context


def kinds(graph):
    return [graph[name].kind for name in graph]


def test_identities_disappear_with_a_reason():
    b = build.Builder(3)
    g = b.done(b.linear(b.add(Identity(), b.add(Identity(), b.x, name="drop1"), name="drop2"), 4, "fc"))
    after, changes, _ = apply("eliminate-identity", g)
    assert changes == 2
    assert kinds(after) == ["input", "linear", "output"]
    assert {s.node: why for s, why in after.imported.dropped.items()} == {
        "drop1": "does nothing in evaluation mode",
        "drop2": "does nothing in evaluation mode",
    }


def test_reshapes_become_numbers_or_flatten():
    b = build.Builder(2, 3, 4)
    same = b.add(Reshape((2, 3, 4)), b.x, name="same")
    two = b.add(Reshape((6, -1)), same, name="two")
    flat = b.add(Reshape((-1,)), two, name="flat")
    g = b.done(b.linear(b.add(Flatten(), flat, name="again"), 5, "fc"))
    after, changes, _ = apply("infer-types", g)
    assert changes == 4
    assert kinds(after) == ["input", "reshape", "flatten", "linear", "output"]
    assert after["two"].shape == (6, 4)


@pytest.mark.parametrize(("low", "high", "cap"), [(0, None, None), (0, 6.0, 6.0), (0.0, 1.0, 1.0)])
def test_clamps_become_clipped_relus(low, high, cap):
    b = build.Builder(3)
    g = b.done(b.linear(b.add(Clamp(low, high), b.x, name="act"), 4, "fc"))
    after, changes, _ = apply("canonicalize-activations", g)
    assert changes == 1
    assert isinstance(after["act"], Relu)
    assert after["act"].cap == cap


def lowered_alike(op, *shape, operands=1):
    """canonicalize-activations on one op gives the same numbers, with clipped ReLUs alone."""
    b = build.Builder(*shape)
    xs = [b.linear(b.x, shape[-1], f"fc{i}") for i in range(operands)]
    act = b.add(op, *xs, name="act")
    g = b.done(b.linear(act, 4, "out"))
    after, changes, _ = apply("canonicalize-activations", g)
    assert changes == 1
    assert {type(node.op) for node in after.with_role(Role.ACTIVATION)} == {Relu}
    assert after["act"].origin == g["act"].origin
    x = 3 * torch.randn(40, *shape, dtype=torch.float64)
    before = spikec.run(g, x)
    assert float(before.std()) > 0.1
    torch.testing.assert_close(spikec.run(after, x), before, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("low", "high"),
    [(-1, 1), (-0.5, 2), (None, 6), (None, -0.1), (0.1, 0.9), (-0.9, -0.1), (-1, 0), (0.1, None), (-1, None)],
)
@pytest.mark.parametrize("shape", [(3,), (2, 5)])
def test_every_clamp_becomes_clipped_relus_and_sums(low, high, shape):
    lowered_alike(Clamp(low, high), *shape)


@pytest.mark.parametrize("slope", [0.1, -1.0, 1.5])
def test_leaky_relus_become_two_relus(slope):
    lowered_alike(LeakyRelu(np.full((1, 1), slope)), 2, 5)
    lowered_alike(LeakyRelu(np.array([[slope], [0.3]])), 2, 5)
    lowered_alike(LeakyRelu(np.array([slope, 0.3, 0.0])), 3)


@pytest.mark.slow
def test_a_leaky_relu_without_a_leak_is_a_relu_also_behind_a_transposition_for_netx():
    class Swapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(6, 1)

        def forward(self, x):
            return self.head(nn.functional.leaky_relu(x.transpose(1, 2), 0.0).flatten(1))

    torch.manual_seed(0)
    x = torch.randn(16, 2, 3)
    c = spikec.Compiler("netx", calibration=x, timesteps=32).run(Swapped().eval())
    assert not any("sloped" in name for name in c.graph)


@pytest.mark.parametrize("op", [Maximum(), Minimum()])
def test_maxima_become_a_relu_of_the_difference(op):
    lowered_alike(op, 2, 5, operands=2)
    lowered_alike(op, 3, operands=2)


def test_a_slope_that_differs_within_a_channel_is_refused():
    b = build.Builder(2, 5)
    g = b.done(b.add(LeakyRelu(np.linspace(0.1, 0.5, 5).reshape(1, 5)), b.linear(b.x, 5, "fc"), name="act"))
    with pytest.raises(UnsupportedOpError, match="within a channel"):
        apply("canonicalize-activations", g)


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0, -2)])
def test_a_clamp_that_is_constant_is_refused(low, high):
    b = build.Builder(3)
    g = b.done(b.linear(b.add(Clamp(low, high), b.x, name="act"), 4, "fc"))
    with pytest.raises(UnsupportedOpError, match="is constant"):
        apply("canonicalize-activations", g)


def test_an_activation_that_nothing_lowers_is_refused_by_the_next_stage():
    b = build.Builder(3)
    g = b.done(b.linear(b.add(Head("tanh"), b.x, name="act"), 4, "fc"))
    with pytest.raises(UnsupportedOpError, match="tanh has no spiking form"):
        verify(g, FOLDED)


@pytest.mark.parametrize("function", ["softmax", "log_softmax", "softmin", "sigmoid", "log_sigmoid", "tanh"])
def test_a_head_goes_into_the_output_and_changes_nothing(function):
    b = build.Builder(3)
    g = b.done(b.add(Head(function), b.linear(b.x, 4, "fc"), name="act"))
    with pytest.warns(SpikecWarning, match=f"{function} is kept outside"):
        after, changes, context = apply("detach-head", g)
    assert changes == 1
    assert not after.match(Head)
    assert after["output"].heads == (g["act"],)
    assert "outside" in context.notes[0].reason
    x = torch.randn(9, 3, dtype=torch.float64)
    (finished,) = outputs(after, [x], 1)
    assert torch.equal(finished, spikec.run(g, x))
    assert not torch.allclose(spikec.run(after, x), finished)
    (entry,) = [e for e in Ledger.of(g, after) if e.source.node == "act"]
    assert (entry.fate, entry.into) == ("kept", "outside the network, behind %output")


def test_a_head_that_the_network_goes_on_from_stays():
    b = build.Builder(3)
    act = b.add(Head("softmax"), b.linear(b.x, 4, "fc"), name="act")
    g = b.done(act, b.linear(act, 2, "fc2"))
    _, changes, context = apply("detach-head", g)
    assert changes == 0
    assert "inside" in context.notes[0].reason


def test_three_relus_in_a_row_become_one():
    b = build.Builder(3)
    x = b.relu(b.relu(b.relu(b.x, "a", 5.0), "b"), "c", 2.0)
    after, changes, _ = apply("canonicalize-activations", b.done(b.linear(x, 2, "fc")))
    assert changes == 2
    assert [node.op.cap for node in after.match(Relu)] == [2.0]
    assert [s.node for s in after["c"].origin] == ["a", "b", "c"]


def test_a_relu_with_two_users_is_not_joined():
    b = build.Builder(3)
    first = b.relu(b.x, "a")
    g = b.done(b.relu(first, "b"), b.linear(first, 2, "fc"))
    assert apply("canonicalize-activations", g)[1] == 0


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("wanted", range(1, 9))
def test_adaptive_pools_with_even_windows_become_ordinary(size, wanted):
    x = torch.rand(2, 3, size, 7, dtype=torch.float64)
    b = build.Builder(3, size, 7)
    g = b.done(b.add(AdaptiveAvgPool((wanted, None)), b.x, name="pool"))
    after, changes, context = apply("lower-adaptive-pool", g)
    torch.testing.assert_close(run(after, x), nn.AdaptiveAvgPool2d((wanted, None))(x), rtol=0, atol=1e-14)
    assert isinstance(after["pool"], AvgPool) == bool(changes)
    assert bool(changes) != bool(context.notes)
    if size % wanted == 0:
        assert changes == 1


def test_uneven_windows_stay():
    b = build.Builder(3, 5, 7)
    g = b.done(b.add(AdaptiveAvgPool((4, 3)), b.x, name="pool"))
    after, changes, _ = apply("lower-adaptive-pool", g)
    assert (changes, after["pool"].kernel, after["pool"].stride) == (1, (2, 3), (1, 2))
    b = build.Builder(3, 5, 7)
    g = b.done(b.add(AdaptiveAvgPool((3, 3)), b.x, name="pool"))
    _, changes, context = apply("lower-adaptive-pool", g)
    assert changes == 0
    assert "uneven" in context.notes[0].reason


def torch_batchnorm(op, layer):
    """torch's own module with the op's parameters."""
    module = layer(len(op.mean), eps=op.eps).double().eval()
    with torch.no_grad():
        for mine, name in (
            (op.weight, "weight"),
            (op.bias, "bias"),
            (op.mean, "running_mean"),
            (op.var, "running_var"),
        ):
            getattr(module, name).copy_(torch.tensor(mine))
    return module


@pytest.mark.parametrize(
    ("shape", "layer"),
    [((3,), nn.BatchNorm1d), ((3, 5), nn.BatchNorm1d), ((3, 5, 4), nn.BatchNorm2d), ((3, 2, 3, 2), nn.BatchNorm3d)],
)
def test_batchnorm_alone_is_an_affine_op_and_equals_torch(shape, layer):
    b = build.Builder(*shape)
    g = b.done(b.batchnorm(b.x, "bn"))
    after, _, context = apply("fold-batchnorm", g)
    x = torch.randn(4, *shape, dtype=torch.float64)
    torch.testing.assert_close(run(after, x), torch_batchnorm(g["bn"], layer)(x), rtol=0, atol=1e-13)
    assert isinstance(after["bn"], Linear if len(shape) == 1 else Conv)
    assert "affine op of its own" in context.notes[0].reason


def fold_case(where, padding=(0, 0), shift=True, groups=1):
    b = build.Builder(4, 6, 5)
    if where == "behind":
        x = b.batchnorm(b.conv(b.x, 6, "conv", (3, 2), padding, groups), "bn")
    else:
        x = b.conv(b.batchnorm(b.x, "bn"), 6, "conv", (3, 2), padding, groups)
    if not shift:
        op = b.graph["bn"]
        b.graph.set_op("bn", BatchNorm(op.weight, np.zeros(4), np.zeros(4), op.var, origin=op.origin))
    return b.done(x)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("where", ["behind", "before"])
def test_batchnorm_folds_into_a_conv(where, groups):
    after, _, context = apply("fold-batchnorm", fold_case(where, groups=groups))
    assert kinds(after) == ["input", "conv", "output"]
    assert {s.node for s in after["conv"].origin} == {"conv", "bn"}
    assert not context.notes


def test_a_shift_before_a_padded_conv_does_not_fold():
    after, _, context = apply("fold-batchnorm", fold_case("before", padding=(1, 0)))
    assert kinds(after) == ["input", "conv", "conv", "output"]
    assert "pads with zeros" in context.notes[0].reason


def test_a_gain_alone_before_a_padded_conv_folds():
    assert len(apply("fold-batchnorm", fold_case("before", padding=(1, 0), shift=False))[0]) == 3


def test_batchnorm_behind_a_conv_with_other_users_folds_forward():
    b = build.Builder(4, 6, 5)
    conv = b.conv(b.x, 4, "conv", (3, 3), (1, 1))
    bn = b.batchnorm(conv, "bn")
    g = b.done(b.conv(bn, 2, "a", (3, 3), (0, 0)), b.conv(bn, 3, "b", (1, 2), (0, 0)), conv)
    after, _, _ = apply("fold-batchnorm", g)
    assert "bn" not in after
    assert {s.node for s in after["b"].origin} == {"b", "bn"}


def test_batchnorm_around_linear():
    b = build.Builder(5)
    x = b.linear(b.relu(b.batchnorm(b.linear(b.batchnorm(b.x, "bn0"), 4, "fc1"), "bn1"), "relu"), 3, "fc2")
    after, changes, _ = apply("fold-batchnorm", b.done(x))
    assert changes == 2
    assert kinds(after) == ["input", "linear", "relu", "linear", "output"]


def test_the_wrong_gain_is_noticed(monkeypatch):
    """Break the fold on purpose: the contract must go red."""
    monkeypatch.setattr(BatchNorm, "gain", property(lambda self: self.weight / np.sqrt(self.var)), raising=True)
    g = fold_case("behind")
    right = attrs.evolve(g["bn"], eps=0.0)
    assert np.allclose(right.gain, g["bn"].gain)
    after = g.copy()
    pass_named("fold-batchnorm").run(after, Context(g))
    monkeypatch.undo()
    with pytest.raises(Exception, match="exact pass changed"):
        check_exact(g, after, probe(g, None, 0))
