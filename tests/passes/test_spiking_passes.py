"""Passes from ReLU to a final graph: thresholds, neurons, and scales that leave no scaler behind."""

import re

import attrs
import numpy as np
import pytest
import torch

import build
import spikec
from spikec import (
    CalibrationError,
    Compiler,
    InvalidModelError,
    Movement,
    Normalization,
    SpikecWarning,
    UnsupportedOpError,
    run,
)
from spikec.extend.loader import pass_named
from spikec.extend.passbase import Context
from spikec.interpreter.contract import check_exact, check_rate
from spikec.interpreter.probe import probe
from spikec.ir.op import Role
from spikec.ir.ops import IF, Add, AvgPool, Concat, Flatten, Input, Linear, Output, Pad, Relu, Rescale, SumPool
from spikec.ir.stages import FINAL, SPIKING
from spikec.ir.verify import verify


def compiled(graph, calibration, thresholds="any", before=(), **options):
    target = build.GraphTarget(thresholds=thresholds, before=before)
    return Compiler(target, calibration=calibration, verify="each", **options).run(graph)


def error(compilation, graph, x, timesteps):
    """Mean absolute error of the rates, relative to the ANN's spread."""
    ann = run(graph, x)
    snn = run(compilation.graph, x, timesteps).mean(0) * torch.tensor(compilation.output_scale)
    return float((snn - ann).abs().mean() / (ann - ann.mean(0)).abs().mean())


# ---------------------------------------------------------------- normalize


def scales(graph, calibration, normalization):
    c = compiled(graph, calibration, normalization=normalization)
    normalized = next(s.graph for s in c.stages if s.name == "normalize")
    return {node.name: node.op.scale for node in normalized.match(Relu)}, c


def test_scales_are_the_statistics_that_torch_gives():
    torch.manual_seed(0)
    x = torch.rand(200, 6, dtype=torch.float64) * 3 - 1
    g = build.mlp()
    values = {}
    run(g, x, tap=lambda name, value, *_: values.__setitem__(name, value))
    hidden = values["relu1"].numpy()
    assert scales(g, x, "max")[0]["relu1"].tolist() == [pytest.approx(hidden.max(), rel=1e-6)]
    np.testing.assert_allclose(scales(g, x, 0.25)[0]["relu1"], hidden.max() / 4, rtol=1e-6)
    np.testing.assert_allclose(scales(g, x, "90%")[0]["relu1"], np.percentile(hidden, 90), rtol=0.01)
    per_channel = scales(g, x, Normalization(method="max"))[0]["relu1"]
    silent = hidden.max(0) == 0
    assert silent.any()
    np.testing.assert_allclose(per_channel, np.where(silent, hidden.max(), hidden.max(0)), rtol=1e-6)


def one_relu(weight, bias, cap=None):
    g = build.Builder(len(weight[0])).graph
    h = g.add(Relu(cap, origin=build.source("act")), g.add(Linear(np.array(weight), np.array(bias)), "x"), name="act")
    g.add(Output(), g.add(Linear(np.ones((1, len(weight)))), h))
    return g


def test_a_clip_bounds_the_scale():
    x = torch.rand(50, 2, dtype=torch.float64) * 100
    found, _ = scales(one_relu([[1.0, 0], [0, 0.01]], [0.0, 0.0], cap=6.0), x, Normalization(method="max"))
    assert found["act"][0] == 6
    assert 0.9 < found["act"][1] < 1


def test_rare_channels_take_their_maximum_silent_ones_the_layer():
    """Channel 1 fires on one sample in 1,000, channel 2 never, channel 3 is far below the others."""
    x = torch.rand(1000, 2, dtype=torch.float64)
    x[:, 1] = 0
    x[7, 1] = 0.5
    g = one_relu([[1.0, 0], [0, 1.0], [0, 0], [1e-7, 0]], [0.0, 0, -1, 0])
    found = scales(g, x, Normalization(percentile=99.0))[0]["act"]
    layer = np.percentile(np.concatenate([x[:, 0], x[:, 1], np.zeros(2000)]), 99.0)
    assert found[1] == pytest.approx(0.5)
    assert found[2] == pytest.approx(layer, rel=0.01)
    assert found[3] == pytest.approx(1e-3 * layer, rel=0.01)


@pytest.mark.parametrize(("cap", "scale"), [(None, 1), (6.0, 1), (0.25, 0.25)])
def test_a_silent_layer_takes_one_or_its_clip_if_that_is_less_and_warns(cap, scale):
    with pytest.warns(SpikecWarning, match="%act is silent"):
        c = Compiler(build.GraphTarget(), calibration=torch.rand(20, 1), verify="off").run(
            one_relu([[1.0]], [-5.0], cap)
        )
    assert next(s.graph for s in c.stages if s.name == "normalize")["act"].scale.tolist() == [scale]


def test_without_data_the_bound_of_the_weights_is_never_exceeded():
    g = build.residual()
    with pytest.warns(SpikecWarning, match="weights alone"):
        c = Compiler(build.GraphTarget()).run(g)
    bound = next(s.graph for s in c.stages if s.name == "normalize")
    x = torch.rand(500, 2, 8, 6, dtype=torch.float64)
    seen = {}
    run(bound, x, tap=lambda name, value, *_: seen.__setitem__(name, value))
    for node in bound.match(Relu):
        assert (seen[node.name].numpy() <= node.op.scale).all()


def test_a_statistic_without_data_is_refused():
    with pytest.raises(CalibrationError, match="no calibration data"):
        Compiler(build.GraphTarget(), normalization="99.9%").run(build.mlp())


def test_thresholds_from_the_weights_alone_that_float32_cannot_hold_ask_for_data():
    """Bounds grow by a factor of 41 with each of 25 layers, values do not: the last layer's weight takes the bounds."""
    model = torch.nn.Sequential()
    for _ in range(25):
        layer = torch.nn.Linear(8, 8)
        layer.weight = torch.nn.Parameter(torch.eye(8) + torch.tensor([10.0, -10.0]).repeat(8, 4))
        model.extend([layer, torch.nn.ReLU()])
    model.append(torch.nn.Linear(8, 2))
    with (
        pytest.warns(SpikecWarning, match="weights alone"),
        pytest.raises(InvalidModelError, match="its weight reaches .*, and float32 ends at 3.4e") as refused,
    ):
        spikec.compile(model.eval(), "nir", example_input=torch.rand(1, 8))
    assert refused.value.location == "50"
    assert refused.value.hint == "thresholds from the weights alone are that large: pass calibration="


def test_values_that_overflow_are_located():
    x = torch.tensor([[1e300], [2e300], [3e300]], dtype=torch.float64)
    with pytest.raises(InvalidModelError, match="not finite") as caught:
        Compiler(build.GraphTarget(), calibration=x, verify="off").run(one_relu([[1e300]], [0.0]))
    assert caught.value.location == "act"


class Transpose(Movement):
    """Two axes of the sample change places."""

    kind = "transpose"

    def eval(self, *xs):
        return xs[0].transpose(1, 2)


def test_the_channel_axis_is_followed_through_what_moves_it():
    b = build.Builder(3, 4)
    x = b.add(Transpose(), b.linear(b.x, 5, "fc"), name="turn")
    g = b.done(b.relu(x, "relu"))
    found, _ = scales(g, torch.rand(50, 3, 4, dtype=torch.float64), None)
    assert found["relu"].shape == (5, 1)


def test_a_concat_in_space_of_scaled_neurons():
    """Casts multiply and divide by the same scale; the rounding that is left must not look like a scale."""
    b = build.Builder(2, 4, 6)
    parts = [b.relu(b.conv(b.x, 5, f"conv{i}"), f"relu{i}") for i in range(2)]
    g = b.done(b.conv(b.add(Concat(1), *parts, name="cat"), 2, "out"))
    c = compiled(g, torch.rand(40, 2, 4, 6, dtype=torch.float64))
    assert error(c, g, torch.rand(20, 2, 4, 6, dtype=torch.float64), 512) < 0.05


# ------------------------------------------------------------------ neurons


def test_every_neuron_keeps_the_rate_contract():
    c = compiled(build.residual(), torch.rand(60, 2, 8, 6))
    for node in c.graph.match(IF):
        check_rate(c.graph, node.name)
        assert float(np.max(node.op.v_init / node.op.v_threshold)) == 0.5


@pytest.mark.parametrize("make", [build.mlp, build.residual])
@pytest.mark.parametrize("thresholds", ["any", "uniform"])
@pytest.mark.parametrize("before", [(), ("lower-concat",)])
def test_the_network_converges_and_holds_no_scaler(make, thresholds, before):
    torch.manual_seed(1)
    g = make()
    shape = g.type("x").shape
    data = torch.rand(200, *shape, dtype=torch.float64)
    c = compiled(g, data, thresholds, before, normalization="max")
    errors = [error(c, g, data[:50], t) for t in (8, 64, 512)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02
    assert not c.graph.with_role(Role.CAST)
    assert not c.graph.with_role(Role.NORM)
    if thresholds == "uniform":
        assert all(node.op.v_threshold.size == 1 for node in c.graph.match(IF))
    if before:
        assert not c.graph.match(Concat)


# -------------------------------------------------------------- fold-rescale


class Spiking(build.Builder):
    """A spiking graph with casts, built by hand."""

    def __init__(self, *shape):
        super().__init__(*shape)
        self.graph.set_op("x", Input(shape, "float64", rate=True, origin=build.source("x")))

    def scale(self, x, factor, name):
        rank = len(self.graph.type(x).shape)
        factor = np.asarray(factor, dtype=float).reshape(-1, *[1] * (rank - 1))
        return self.graph.add(Rescale(factor), x, name=name)

    def neuron(self, x, name, scale):
        """A neuron in front of and behind casts, as relu-to-if makes it."""
        rank = len(self.graph.type(x).shape)
        x = self.scale(x, 1 / np.asarray(scale), f"{name}_in")
        return self.scale(self.add(IF(np.ones((1,) * rank)), x, name=name), scale, f"{name}_out")


def folded(graph, **options):
    verify(graph, SPIKING, graph.sources)
    after, context = graph.copy(), Context(graph)
    pass_named("fold-rescale", **options).run(after, context)
    verify(after, FINAL, graph.sources)
    check_exact(graph, after, probe(graph, None, 0))
    return after, context


def kinds(graph):
    return [graph[name].kind for name in graph]


def test_casts_around_an_affine_op_are_its_scales():
    b = Spiking(3)
    h = b.neuron(b.linear(b.x, 3, "fc1"), "n1", [0.5, 1.0, 2.0])
    before = b.done(b.linear(h, 2, "fc2"))
    after, _ = folded(before)
    assert kinds(after) == ["input", "linear", "if", "linear", "output"]
    s = np.array([0.5, 1.0, 2.0])
    np.testing.assert_allclose(after["fc1"].weight, before["fc1"].weight / s[:, None])
    np.testing.assert_allclose(after["fc1"].bias, before["fc1"].bias / s)
    np.testing.assert_allclose(after["fc2"].weight, before["fc2"].weight * s)


def test_a_net_that_ends_in_a_neuron_gets_an_output_scale():
    b = Spiking(3)
    g = b.done(b.neuron(b.linear(b.x, 3, "fc"), "n", [0.5, 1.0, 2.0]))
    after, _ = folded(g)
    assert kinds(after) == ["input", "linear", "if", "output"]
    assert after.type("output").scale.tolist() == [0.5, 1, 2]


def test_a_net_that_ends_in_a_pool():
    b = Spiking(2, 4, 4)
    pool = b.add(SumPool((2, 2), (2, 2), (0, 0)), b.neuron(b.conv(b.x, 3, "conv"), "n", [1.0, 2, 3]), name="pool")
    after, _ = folded(b.done(b.scale(pool, 0.25, "mean")))
    assert kinds(after) == ["input", "conv", "if", "sumpool", "output"]
    assert after.type("output").scale.reshape(-1).tolist() == [0.25, 0.5, 0.75]


def skip(scale_in, scale_out, linear_skip=False):
    b = Spiking(3, 4, 5)
    n1 = b.neuron(b.conv(b.x, 3, "conv1"), "n1", scale_in)
    other = b.conv(n1, 3, "proj", (1, 1), (0, 0)) if linear_skip else n1
    total = b.add(Add(), b.conv(n1, 3, "conv2"), other, name="add")
    n2 = b.neuron(total, "n2", scale_out)
    flat = b.add(Flatten(), n2, name="flat")
    return b.done(b.linear(flat, 4, "fc"))


def test_an_identity_skip_goes_into_the_next_threshold():
    after, _ = folded(skip([0.5, 1, 2], [1.0, 3, 5]))
    assert "conv" not in [after[x].kind for x in after.operands("n2")]
    np.testing.assert_allclose(after["n2"].v_threshold.reshape(-1), [2.0, 3, 2.5])


def test_an_identity_skip_becomes_a_1x1_conv_where_thresholds_are_uniform():
    after, context = folded(skip([0.5, 1, 2], [1.0, 3, 5]), thresholds="uniform")
    assert after["n2_in"].kind == "conv"
    assert after["n2_in"].groups == 3
    assert "the target takes one" in context.notes[0].reason


def test_uniform_scales_need_no_1x1_conv():
    after, context = folded(skip([2.0], [3.0]), thresholds="uniform")
    assert "n2_in" not in after
    assert not context.notes
    assert after["n2"].v_threshold.reshape(-1).tolist() == [1.5]


def test_a_projected_skip_folds_into_both_branches():
    after, _ = folded(skip([0.5, 1, 2], [1.0, 3, 5], linear_skip=True), thresholds="uniform")
    assert after["n2"].v_threshold.reshape(-1).tolist() == [1]
    assert [after[x].kind for x in after.operands("add")] == ["conv", "conv"]


def test_a_signal_added_to_itself():
    b = Spiking(3)
    n = b.neuron(b.linear(b.x, 3, "fc1"), "n1", [0.5, 1, 2])
    g = b.done(b.linear(b.add(Add(), n, n, name="twice"), 2, "fc2"))
    after, _ = folded(g)
    assert not after.match(Rescale)


def test_concat_of_two_scales():
    b = Spiking(2, 4, 4)
    n1 = b.neuron(b.conv(b.x, 3, "a"), "n1", [1.0, 2, 3])
    n2 = b.neuron(b.conv(b.x, 2, "b"), "n2", [0.5, 7])
    cat = b.add(Concat(), n1, n2, name="cat")
    pool = b.add(AvgPool((2, 2), (2, 2), (0, 0)), cat, name="pool")
    after, context = folded(b.done(b.conv(pool, 2, "c")))
    assert not context.notes
    assert after.type("cat").scale.reshape(-1).tolist() == [1, 2, 3, 0.5, 7]


def test_a_cast_lifts_through_pool_flatten_and_concat():
    b = Spiking(2, 4, 4)
    cat = b.add(Concat(), b.conv(b.x, 3, "a"), b.conv(b.x, 2, "b"), name="cat")
    pool = b.add(AvgPool((2, 2), (2, 2), (0, 0)), cat, name="pool")
    n = b.neuron(pool, "n", [1.0, 2, 3, 4, 5])
    after, context = folded(b.done(b.linear(b.add(Flatten(), n, name="flat"), 3, "fc")))
    assert not context.notes
    assert after["a"].out_scale.tolist() == [1, 2, 3]
    assert after["b"].out_scale.tolist() == [4, 5]


def test_a_cast_before_padding_and_behind_a_shared_conv():
    b = Spiking(2, 4, 4)
    conv = b.conv(b.x, 3, "conv")
    n = b.neuron(conv, "n", [1.0, 2, 3])
    pad = b.add(Pad(((1, 1), (2, 0)), "reflect"), n, name="pad")
    g = b.done(b.conv(pad, 2, "c1"), b.conv(conv, 2, "c2"))
    after, _ = folded(g)
    assert "n_in" not in after
    np.testing.assert_allclose(after["n"].v_threshold.reshape(-1), [1.0, 2, 3])


def test_a_scale_per_pixel_that_nothing_takes_is_refused():
    b = Spiking(1, 2, 2)
    per_pixel = np.arange(1.0, 5).reshape(1, 2, 2)
    ones = np.ones((1, 1, 1))
    x = b.graph.add(Rescale(per_pixel), b.add(IF(ones), b.x, name="n1"), name="r1")
    x = b.graph.add(Rescale(1 / per_pixel), b.add(IF(ones), x, name="n2"), name="r2")
    g = b.done(b.linear(b.add(Flatten(), x, name="flat"), 2, "fc"))
    assert folded(g)[0]["n2"].v_threshold.shape == (1, 2, 2)
    with pytest.raises(UnsupportedOpError, match="varies within a channel") as caught:
        folded(g, thresholds="uniform")
    assert caught.value.location == "n1"


# --------------------------------------------------------- pools and concat


@pytest.mark.parametrize(
    ("pool", "sums"),
    [
        (AvgPool((2, 3), (2, 1), (0, 0)), True),
        (AvgPool((2, 2), (2, 2), (1, 1)), True),
        (AvgPool((2, 2), (2, 2), (1, 1), count_include_pad=False), False),
        (AvgPool((3, 3), (2, 2), (0, 0), ceil_mode=True), False),
        (AvgPool((2, 3), (2, 3), (0, 0), ceil_mode=True), True),
    ],
)
def test_average_becomes_sum_where_every_window_has_one_divisor(pool, sums):
    b = Spiking(3, 4, 6)
    g = b.done(b.conv(b.add(pool, b.neuron(b.conv(b.x, 3, "a"), "n", [1.0, 2, 3]), name="pool"), 2, "b"))
    after, context = g.copy(), Context(g)
    pass_named("avgpool-to-sumpool").run(after, context)
    verify(after, SPIKING, g.sources)
    check_exact(g, after, probe(g, None, 0))
    assert isinstance(after["pool"], SumPool) == sums
    assert bool(context.notes) != sums


def test_lower_concat_reaches_through_everything_channelwise():
    b = Spiking(2, 4, 4)
    parts = [b.neuron(b.conv(b.x, c, f"c{c}"), f"n{c}", np.arange(1.0, c + 1)) for c in (2, 3)]
    cat = b.add(Concat(), *parts, name="cat")
    more = b.add(Concat(), cat, parts[0], name="more")
    cast = b.scale(b.scale(more, np.arange(1.0, 8), "cast"), 1 / np.arange(1.0, 8), "back")
    n = b.neuron(cast, "n", np.arange(1.0, 8))
    pool = b.scale(b.add(SumPool((2, 2), (2, 2), (0, 0)), n, name="pool"), 0.25, "mean")
    g = b.done(b.linear(b.add(Flatten(), pool, name="flat"), 3, "fc"), b.conv(cat, 2, "conv"), more)
    after, context = g.copy(), Context(g)
    pass_named("lower-concat").run(after, context)
    verify(after, SPIKING, g.sources)
    check_exact(g, after, probe(g, None, 0))
    assert not after.match(Concat)


def test_a_concat_that_a_sum_takes_twice():
    b = Spiking(2, 4, 4)
    cat = b.add(Concat(), b.conv(b.x, 2, "a"), b.conv(b.x, 1, "b"), name="cat")
    g = b.done(b.add(Add(), cat, cat, name="twice"))
    after, context = g.copy(), Context(g)
    assert pass_named("lower-concat").run(after, context) == 1
    verify(after, SPIKING, g.sources)
    check_exact(g, after, probe(g, None, 0))


def test_concat_along_another_axis_stays_and_is_noted():
    b = Spiking(2, 4, 4)
    cat = b.add(Concat(1), b.x, b.x, name="cat")
    g = b.done(b.conv(cat, 2, "conv"))
    context = Context(g)
    assert pass_named("lower-concat").run(g, context) == 0
    assert "not along the channels" in context.notes[0].reason


def test_parameters_are_rounded_to_the_models_dtype():
    b = build.Builder(6, dtype="float32")
    g = b.done(b.linear(b.relu(b.linear(b.x, 4, "fc1"), "relu"), 3, "fc2"))
    c = compiled(g, torch.rand(30, 6))
    assert c.graph["fc1"].weight.dtype == np.float32
    assert c.graph["relu"].v_threshold.dtype == np.float32
    assert c.graph["fc2"].in_scale.dtype == np.float64


@pytest.mark.parametrize(
    ("scale", "reason"),
    [
        (np.ones(3), "its scale has shape (3,), its sample (5,)"),
        (np.ones((5, 1)), "its scale has shape (5, 1)"),
        (np.array(1.0), "its scale has shape ()"),
        (np.array([1, 1, 1, 1, 0.0]), "its scale is 0..1, and a threshold must be positive"),
        (np.array([-2.0]), "its scale is -2, and a threshold must be positive"),
        (np.array([np.nan]), "NaN"),
    ],
)
def test_scales_of_a_users_pass_are_refused_with_the_layer(scale, reason):
    @attrs.frozen
    class Own(spikec.Pass):
        name = "own"
        contract = "approximate"

        def run(self, graph, context):
            (relu,) = graph.match(Relu)
            graph.set_op(relu.name, attrs.evolve(relu.op, scale=scale))
            return 1

    net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2)).eval()
    order = spikec.Pipeline.default("spikingjelly").insert_after("normalize", Own())
    with pytest.raises(spikec.CompileError, match=re.escape(reason)) as caught:
        spikec.compile(net, "spikingjelly", calibration=torch.rand(16, 4), pipeline=order)
    assert caught.value.location == "1"
