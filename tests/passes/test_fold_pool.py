"""fold-pool is exact: the composed graph computes what the chain did."""

import attrs
import numpy as np
import pytest
import torch

from build import Builder, source
from spikec import Context, run
from spikec.extend.loader import pass_named
from spikec.ir.ops import (
    IF,
    AdaptiveAvgPool,
    AvgPool,
    Conv,
    Flatten,
    Identity,
    Input,
    Linear,
    Pad,
    Reshape,
    SumPool,
)
from spikec.ir.stages import FINAL
from spikec.ir.types import channel_scale
from spikec.ir.verify import verify


class Rated(Builder):
    """A graph whose input is a rate; affine ops are folded for their operand's scale, which differs by channel."""

    def __init__(self, *shape, seed=0):
        super().__init__(*shape, seed=seed)
        self.graph.set_op("x", Input(shape, "float64", rate=True, origin=source("x")))
        channels = shape[0]
        diagonal = self.rng.uniform(0.5, 2.0, channels)
        ones = (1,) * (len(shape) - 1)
        scaled = Conv(
            diagonal.reshape(-1, 1, *ones), stride=ones, padding=(0,) * len(ones), dilation=ones, groups=channels,
            out_scale=1 / diagonal,
        )  # fmt: skip
        self.y = self.add(scaled, self.x, name="scaled")

    def conv(self, x, out, name, **options):
        options = {"kernel": (3, 2), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "stride": (1, 1)} | options
        channels = self.graph.type(x).shape[0] // options.get("groups", 1)
        weight = self.rng.normal(size=(out, channels, *options.pop("kernel")))
        op = Conv(weight, self.rng.normal(size=out), **options)
        kind = self.graph.type(x)
        op = attrs.evolve(op, in_scale=channel_scale(kind, 0, "conv"), out_scale=self.rng.uniform(0.5, 2, out))
        return self.add(op, x, name=name)

    def linear(self, x, out, name):
        kind = self.graph.type(x)
        weight = self.rng.normal(size=(out, kind.shape[-1]))
        scale = np.broadcast_to(kind.scale, kind.shape).reshape(-1)
        return self.add(Linear(weight, self.rng.normal(size=out), in_scale=scale), x, name=name)


def check(graph, changes=None, affine=False):
    after = graph.copy()
    context = Context(graph)
    count = pass_named("fold-pool", affine=affine).run(after, context)
    verify(after, FINAL, graph.sources)
    assert count == changes if changes is not None else count > 0
    x = torch.rand(3, *graph.type("x").shape, dtype=torch.float64) - 0.3
    before, found = run(graph, x), run(after, x)
    assert before.shape == found.shape
    assert float((before - found).abs().max()) <= 1e-12 * float(before.abs().max())
    for name in graph.outputs:
        assert after.type(name).encoding == graph.type(name).encoding
    return after, context


def kinds(graph):
    return [graph[name].kind for name in graph]


ANY_POOL = [
    SumPool((2, 3), (2, 3), ((0, 0), (0, 0))),
    SumPool((3, 2), (1, 2), ((1, 0), (0, 1))),
    AvgPool((2, 2), (2, 2), (0, 0)),
    AvgPool((3, 2), (2, 2), (1, 1), count_include_pad=False),
    AvgPool((2, 3), (2, 2), (0, 0), ceil_mode=True),
    AdaptiveAvgPool((3, 4)),
    Pad(((1, 2), (0, 1)), "reflect"),
    Pad(((-1, 2), (0, 1))),
]


@pytest.mark.parametrize("op", ANY_POOL, ids=str)
def test_anything_linear_goes_into_the_linear_behind_a_flatten(op):
    b = Rated(2, 7, 6)
    pooled = b.add(op, b.y, name="pool")
    flat = b.add(Flatten(), pooled, name="flatten")
    graph = b.done(b.linear(flat, 5, "fc"))
    after, _ = check(graph, 2)
    assert kinds(after) == ["input", "conv", "flatten", "linear", "output"]
    assert {s.node for s in after["fc"].origin} == {"fc", "pool", "flatten"}
    assert after["fc"].origin[0].node == "fc"


def test_a_chain_goes_at_once_and_leading_reshapes_stay():
    b = Rated(2, 8, 6)
    x = b.add(Reshape((2, 6, 8)), b.y, name="reshape")
    x = b.add(SumPool((2, 2), (2, 2), ((0, 0), (0, 0))), x, name="pool1")
    x = b.add(SumPool((1, 2), (1, 2), ((0, 0), (0, 0))), x, name="pool2")
    graph = b.done(b.linear(b.add(Flatten(), x, name="flatten"), 3, "fc"))
    after, _ = check(graph, 3)
    assert kinds(after) == ["input", "conv", "reshape", "flatten", "linear", "output"]


INTO_CONV = [
    ({}, {}),
    ({"kernel": (2, 1), "stride": (2, 1)}, {"stride": (1, 2)}),
    ({"kernel": (3, 2), "stride": (1, 1)}, {"dilation": (2, 1)}),
    ({"kernel": (1, 2), "stride": (2, 3)}, {"padding": ((1, 1), (0, 0))}),
    ({}, {"padding": ((1, 2), (2, 1)), "stride": (2, 1), "dilation": (1, 2)}),
    ({"padding": ((1, 1), (0, 2))}, {}),
    ({"padding": ((1, 1), (1, 1))}, {"padding": ((1, 1), (1, 1))}),
    ({}, {"groups": 2}),
]


@pytest.mark.parametrize(("pool", "conv"), INTO_CONV)
def test_a_pool_goes_into_the_conv_behind_it(pool, conv):
    pool = {"kernel": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0))} | pool
    b = Rated(4, 12, 10)
    x = b.add(SumPool(**pool), b.y, name="pool")
    after, context = check(b.done(b.conv(x, 6, "conv", **conv)), 1)
    assert kinds(after) == ["input", "conv", "conv", "output"]
    assert not context.notes


def test_an_average_and_a_padding_go_into_the_conv_behind_them():
    b = Rated(3, 8, 6)
    x = b.add(AvgPool((2, 3), (2, 3), (0, 0)), b.y, name="pool")
    x = b.add(Pad(((1, 0), (2, 1))), x, name="pad")
    check(b.done(b.conv(x, 4, "conv")), 2)


@pytest.mark.parametrize(
    ("shape", "pool", "conv"),
    [
        ((2, 9, 8), {}, {"padding": ((1, 1), (0, 0))}),
        ((2, 9, 8), {"kernel": (3, 3), "stride": (2, 2)}, {"padding": ((1, 0), (0, 0))}),
    ],
    ids=["the last row is left out", "windows overlap"],
)
def test_a_pool_stays_where_padding_would_reach_real_cells(shape, pool, conv):
    pool = {"kernel": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0))} | pool
    b = Rated(*shape)
    x = b.add(SumPool(**pool), b.x, name="pool")
    b.graph.remove("scaled")
    _, context = check_notes(b.done(b.conv(x, 3, "conv", **conv)))
    assert [note.node for note in context.notes] == ["pool"]
    assert "padding would reach" in context.notes[0].reason


def test_a_pool_stays_where_its_windows_differ_or_somebody_else_uses_it():
    b = Rated(2, 7, 6)
    ragged = b.add(AvgPool((2, 2), (2, 2), (0, 0), ceil_mode=True), b.y, name="ragged")
    uneven = b.add(AvgPool((2, 2), (1, 1), (1, 1), count_include_pad=False), b.y, name="uneven")
    shared = b.add(SumPool((2, 2), (2, 2), ((0, 0), (0, 0))), b.y, name="shared")
    outputs = [b.conv(x, 3, f"conv_{x}") for x in (ragged, uneven, shared)]
    _, context = check_notes(b.done(*outputs, b.add(Flatten(), shared, name="flat")))
    reasons = {note.node: note.reason for note in context.notes}
    assert "ceil_mode" in reasons["ragged"]
    assert "divisors" in reasons["uneven"]
    assert "no Linear or Conv takes its result alone" in reasons["shared"]


def check_notes(graph):
    after, context = graph.copy(), Context(graph)
    assert pass_named("fold-pool").run(after, context) == 0
    assert after.same_as(graph)
    return after, context


@pytest.mark.parametrize("kind", [SumPool, AvgPool])
def test_a_pool_in_front_of_a_neuron_goes_into_the_conv_before_it(kind):
    b = Rated(4, 12, 11)
    conv = b.conv(b.y, 6, "conv", stride=(1, 2), dilation=(2, 1), padding=((1, 0), (0, 2)), groups=2)
    zero = (0, 0) if kind is AvgPool else ((0, 0), (0, 0))
    graph = b.done(b.add(kind((3, 2), (2, 2), zero), conv, name="pool"))
    after, _ = check(graph, 1)
    assert kinds(after) == ["input", "conv", "conv", "output"]
    assert after["pool"].origin[0].node == "conv"


def test_a_padded_pool_behind_a_conv_stays():
    b = Rated(2, 6, 6)
    conv = b.conv(b.y, 3, "conv")
    graph = b.done(b.add(SumPool((2, 2), (2, 2), ((1, 0), (0, 0))), conv, name="pool"))
    _, context = check_notes(graph)
    assert "padded pool" in context.notes[0].reason


def test_affine_ops_compose_when_asked():
    b = Rated(4, 5, 6)
    mixed = b.conv(b.y, 6, "mix", kernel=(1, 1), groups=2)
    conv = b.conv(mixed, 4, "conv", kernel=(2, 3))
    hidden = b.linear(b.add(Flatten(), conv, name="flatten"), 7, "fc1")
    graph = b.done(b.linear(hidden, 3, "fc2"))
    check(graph, 0)
    after, _ = check(graph, affine=True)
    assert kinds(after) == ["input", "flatten", "linear", "output"]


@pytest.mark.parametrize(("first", "second"), [(4, 2), (2, 4), (1, 2), (4, 1)])
def test_a_one_by_one_conv_composes_with_any_groups(first, second):
    b = Rated(4, 5, 6)
    mixed = b.conv(b.y, 8, "mix", kernel=(1, 1), groups=first)
    conv = b.conv(mixed, 8, "conv", groups=second)
    graph = b.done(b.add(IF(np.ones((1, 1, 1))), conv, name="if"))
    after = graph.copy()
    assert pass_named("fold-pool", affine=True).run(after, Context(graph)) >= 1
    verify(after, FINAL, graph.sources)
    assert "mix" not in after
    x = torch.rand(2, 4, 5, 6, dtype=torch.float64)
    inner = {}
    for one in (graph, after):
        run(one, x, 1, tap=lambda name, value, *_, one=one: inner.setdefault((name, one is after), value))
    torch.testing.assert_close(inner["conv", True], inner["conv", False], rtol=1e-12, atol=1e-12)


def test_a_bias_does_not_go_through_padding():
    b = Rated(2, 5, 6)
    mixed = b.conv(b.y, 3, "mix", kernel=(1, 1))
    graph = b.done(b.conv(mixed, 4, "conv", padding=((1, 1), (0, 0))))
    after, _ = check(graph, affine=True)
    assert "mix" in after
    assert "scaled" not in after


def test_a_linear_over_the_last_axis_takes_no_pool():
    b = Rated(2, 6, 6)
    pooled = b.add(SumPool((2, 2), (2, 2), ((0, 0), (0, 0))), b.add(Identity(), b.y, name="same"), name="pool")
    weight = np.ones((3, 3))
    b.graph.set_op("scaled", attrs.evolve(b.graph["scaled"], out_scale=[1.0], weight=np.ones((2, 1, 1, 1))))
    graph = b.done(b.add(Linear(weight, in_scale=[0.25]), pooled, name="fc"))
    _, context = check_notes(graph)
    assert "last axis" in context.notes[0].reason
