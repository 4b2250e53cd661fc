"""The netx target: the integer model against the interpreter, the file, and every refusal."""

import functools
import sys

import attrs
import h5py
import numpy as np
import pytest
import torch
from torch import nn

import nets
import spikec
from build import Builder
from spikec import CompileError, InvalidModelError, SpikecWarning, UnsupportedOpError, run
from spikec.backends.netx import NetxNetwork, run_in_lava
from spikec.backends.netx.backend import Netx
from spikec.backends.netx.sim import IntegerLayer, run_layer
from spikec.backends.spikingjelly import IFNode
from spikec.ir.errors import MissingDependencyError
from spikec.ir.ops import IF, Conv, Input, Linear, Output, Reshape, Weighted

T = 32


class SmallCNN(nn.Module):
    """Convolution, batch norm, average pool, twice; biases; a map that is not square."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(2, 5, (3, 2), padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.AvgPool2d(2),
            nn.Conv2d(5, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d((2, 1)),
        )  # fmt: skip
        self.fc = nn.Linear(6 * 2 * 4, 4)

    def forward(self, x):
        return self.fc(self.features(x).flatten(1))


def small_cnn():
    torch.manual_seed(3)
    return nets.randomize(SmallCNN()), torch.rand(12, 2, 8, 7)


@functools.cache
def compiled(name, reset, low=0.0, timesteps=T):
    model, x = small_cnn() if name == "small_cnn" else (nets.build(name), nets.batch(name, 12))
    x = x + low
    found = spikec.Compiler("netx", calibration=x, timesteps=timesteps, reset=reset).run(model)
    return found, x, model(x).detach()


def interpreted(graph, x, steps):
    """Spikes [T, B, ...] by neuron, and the outputs' sum."""
    spikes = {}

    def tap(name, value, *_):
        if isinstance(graph[name], IF):
            spikes.setdefault(name, []).append(value.numpy().astype(bool))

    total = run(graph, x.double(), steps, tap=tap).sum(0).numpy()
    return {name: np.stack(steps) for name, steps in spikes.items()}, total


CASES = [
    ("mlp", "soft"),
    ("mlp", "hard"),
    ("mlp_batchnorm", "soft"),
    ("small_cnn", "soft"),
    ("small_cnn", "hard"),
    ("grouped", "soft"),
    ("grouped", "hard"),
    ("strided", "hard"),
    ("functional", "hard"),
    ("conv1d", "soft"),
    ("conv3d", "soft"),
]


@pytest.mark.slow
@pytest.mark.parametrize("low", [0.0, -0.4], ids=["unsigned", "signed"])
@pytest.mark.parametrize(("name", "reset"), CASES)
def test_spike_for_spike_the_interpreter_on_the_final_graph(name, reset, low, tmp_path):
    found, x, ann = compiled(name, reset, low)
    net = found.artifact
    trace = net.simulate(x, T)
    spikes, total = interpreted(found.graph, x, T)
    hidden = [each for each in spikes if each in trace.spikes]
    assert len(hidden) == len(spikes) - 1 == len(net.layers) - 1
    for each in hidden:
        assert spikes[each].any()
        assert np.array_equal(spikes[each].reshape(trace.spikes[each].shape), trace.spikes[each])
    assert np.array_equal(total, trace.total)
    assert trace.overflows == 0
    y = net.run(x, T)
    assert isinstance(y, torch.Tensor)
    np.testing.assert_allclose(y.numpy(), total / T * found.output_scale, rtol=1e-12)
    assert float((y - ann).abs().max()) < (0.5 if reset == "hard" else 0.1) * float(ann.std())
    spikec.save(net, tmp_path / "x.net")
    again = NetxNetwork.load(tmp_path / "x.net")
    assert torch.equal(again.run(x, T), y)
    for field in ("name", "reset", "constants", "pulses", "input_shape", "output_shape", "timesteps"):
        assert getattr(again, field) == getattr(net, field)


def test_a_convolution_alone_with_hard_reset():
    """There is no neuron that says which reset it is."""
    x = torch.rand(5, 2, 4, 4)
    conv = nn.Conv2d(2, 3, 3)
    net = spikec.compile(conv, "netx", calibration=x, timesteps=T, reset="hard")
    assert [layer.kind for layer in net.layers] == ["conv"]
    assert float((net.run(x) - conv(x).detach()).abs().max()) < 0.1


@pytest.mark.slow
def test_auto_is_soft_for_small_layers_and_hard_up_to_the_last_large_one():
    assert compiled("small_cnn", "auto")[0].artifact.reset == "soft"
    with pytest.warns(spikec.SpikecWarning, match="hard reset in 1 of 3 layers"):
        found, _, _ = compiled("cnn", "auto")
    assert "hard reset in 1 of 3 layers" in str(found.report)
    assert [layer.kind for layer in found.artifact.layers] == ["conv", "dense_rec", "dense_rec", "dense"]


@pytest.mark.slow
def test_a_file_of_both_resets_is_read_back_with_what_is_always_on_and_with_pulses(tmp_path):
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 2, 3, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    model, x = nn.Sequential(*layers).eval(), torch.rand(4, 1, 14, 14)
    nn.init.constant_(model[2].bias, 0.2)
    with pytest.warns(spikec.SpikecWarning, match="hard reset in 1 of 2 layers"):
        net = spikec.compile(model, "netx", calibration=x, timesteps=8, normalization="max", verify="off")
    assert [layer.kind for layer in net.layers] == ["conv", "dense_rec", "dense"]
    assert net.constants
    assert net.pulses
    spikec.save(net, tmp_path / "x.net")
    graph = spikec.load(tmp_path / "x.net")
    trace = net.simulate(x, 8)
    assert all(each.any() for each in trace.spikes.values())
    assert np.array_equal(run(graph, x.double(), 8).sum(0).numpy().reshape(trace.total.shape), trace.total)


@pytest.mark.slow
def test_files_are_the_same_twice_and_hold_what_netx_reads(tmp_path):
    found, _, _ = compiled("small_cnn", "hard")
    for name in ("a.net", "b.net"):
        found.artifact.save(tmp_path / name)
    assert (tmp_path / "a.net").read_bytes() == (tmp_path / "b.net").read_bytes()
    with h5py.File(tmp_path / "a.net") as file:
        layers = [file["layer"][str(i)] for i in range(len(file["layer"]))]
        assert [layer["type"][0].decode() for layer in layers] == ["input", "conv", "conv", "flatten", "dense"]
        assert layers[0]["shape"][()].tolist() == [2, 8, 7]
        assert layers[1]["neuron/iDecay"][()] == 4096
        assert layers[1]["neuron/vDecay"][()] == 0
        assert layers[1]["neuron/vThMant"][()] % 2 == 1
        assert layers[1]["weight"].dtype == np.int32
        assert layers[1]["bias"].shape == (5,)
        assert not file.attrs
        assert not layers[1].attrs


@pytest.mark.slow
def test_soft_reset_is_a_recurrent_weight_and_biases_are_relayed():
    found, _, _ = compiled("mlp", "soft")
    first, second, last = found.artifact.layers
    assert [first.kind, second.kind, last.kind] == ["dense_rec", "dense_rec", "dense"]
    threshold = -np.diagonal(first.weight_rec)[0]
    assert np.array_equal(first.weight_rec, -threshold * np.eye(len(first.weight)))
    assert first.threshold == threshold // 2 - 1
    assert found.artifact.constants >= 1
    assert first.weight.shape == (9 + first.relays, 7 + found.artifact.constants)
    assert last.weight.shape[1] == 8 + second.relays
    assert last.threshold == 2**17 - 1


@pytest.mark.slow
def test_hard_reset_starts_by_pulses_that_are_relayed():
    found, x, _ = compiled("strided", "hard")
    net = found.artifact
    first, second, _ = net.layers
    assert net.input_shape == (2 + net.pulses, 8, 10)
    assert first.weight.shape[:2] == (4 + first.relays, 2 + net.pulses)
    start = first.weight[:4, 2:].sum((1, 2, 3))
    assert (start == found.graph.match(IF)[1].op.v_init.item()).all()
    assert first.relays == -(-int(found.graph.match(IF)[2].op.v_init.item()) // 254)
    assert second.relays == 0
    inputs = net.simulate(x, T).inputs
    assert inputs[0, :, 2:].all()
    assert not inputs[1:, :, 2:].any()


def test_a_net_without_biases_needs_no_relay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False))
    x = torch.rand(8, 5)
    untuned = spikec.Pipeline.default("netx", timesteps=T).without("choose")
    net = spikec.compile(model, "netx", calibration=x, timesteps=T, pipeline=untuned)
    assert net.constants == 0
    assert float((net.run(x) - model(x).detach()).abs().max()) < 0.1


@pytest.mark.slow
def test_a_net_that_ends_in_relu_or_pool_or_map_runs():
    torch.manual_seed(0)
    x = torch.rand(8, 2, 6, 6)
    pooled = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    conv = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))
    for model in (pooled, conv, nn.Sequential(nn.Flatten(), nn.Linear(72, 5), nn.ReLU())):
        for reset in ("soft", "hard"):
            net = spikec.compile(model, "netx", calibration=x, timesteps=64, reset=reset)
            y = model(x).detach()
            assert net.run(x, 64).shape == y.shape
            assert float((net.run(x, 64) - y).abs().max()) < 0.3 * float(y.max() - y.min())


@pytest.mark.slow
def test_run_takes_arrays_and_chunks_give_the_same(monkeypatch):
    found, x, _ = compiled("small_cnn", "hard")
    whole = found.artifact.run(x.numpy())
    assert isinstance(whole, np.ndarray)
    monkeypatch.setattr("spikec.backends.netx.model._CHUNK", 1)
    assert np.array_equal(found.artifact.run(x.numpy(), T), whole)


# ------------------------------------------------------------ arithmetic


def layer(**options):
    defaults = {
        "kind": "dense", "name": "n", "shape": (1,), "weight": [[254]], "threshold": 131071,
        "current_decay": 4096, "voltage_decay": 0,
    }  # fmt: skip
    return IntegerLayer(**{**defaults, **options})


def test_currents_wrap_and_voltages_saturate():
    on = np.ones((20, 1, 40), dtype=bool)
    down = layer(weight=np.full((1, 40), -254), current_decay=0, voltage_decay=4096, threshold=100)
    found = run_layer(down, on)
    wrap = 131072 // (40 * 254)
    assert not found.spikes[:wrap].any()
    assert found.spikes[wrap, 0, 0]
    assert found.overflows == 1
    slow = layer(weight=np.full((1, 40), -254))
    found = run_layer(slow, on)
    assert found.voltage[0, 0] == -131072
    assert found.overflows == 20 - wrap


def test_decays_round_towards_zero():
    on = np.zeros((3, 1, 1), dtype=bool)
    on[0] = True
    for sign in (1, -1):
        found = run_layer(layer(weight=[[sign * 5]], current_decay=1000, voltage_decay=1000), on)
        u1 = 320 * 3096 // 4096
        u2 = u1 * 3096 // 4096
        v1 = 320 * 3096 // 4096 + u1
        v2 = v1 * 3096 // 4096 + u2
        assert found.voltage[0, 0] == (sign * v2) >> 6


def test_conv_is_torch_s_conv_whatever_its_options():
    rng = np.random.default_rng(0)
    weight = rng.integers(-50, 50, (6, 2, 3, 2))
    spikes = rng.random((4, 3, 4, 9, 8)) < 0.4
    options = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}
    wanted = torch.nn.functional.conv2d(
        torch.tensor(spikes.reshape(12, 4, 9, 8)).double(), torch.tensor(weight).double(), **options
    )
    found = run_layer(layer(kind="conv", weight=weight, shape=wanted.shape[1:], **options), spikes)
    total = wanted.reshape(4, 3, *wanted.shape[1:]).sum(0).numpy()
    assert np.array_equal(found.voltage, total)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("padding", [(0, 0), (2, 1)])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("spoilt", [False, True])
def test_a_pool_folded_into_a_conv_is_torch_s_conv(steps, padding, groups, spoilt):
    rng = np.random.default_rng(0)
    weight = rng.integers(-50, 50, (6, 4 // groups, 3, 2)).repeat(2, 2).repeat(3, 3)
    weight[4:, 0] = weight[4:, -1] = 0
    weight[0, 0, 5, 5] += spoilt  # one weight of a block is another than the rest
    spikes = rng.random((steps, 3, 4, 11, 16)) < 0.4
    spikes[1:, :, 1:3] = False  # the last outputs hear none of what is left
    options = {"stride": (2, 3), "padding": padding, "groups": groups}
    wanted = torch.nn.functional.conv2d(
        torch.tensor(spikes.reshape(-1, 4, 11, 16)).double(), torch.tensor(weight).double(), **options
    )
    found = run_layer(layer(kind="conv", weight=weight, shape=wanted.shape[1:], **options), spikes)
    total = wanted.reshape(steps, 3, *wanted.shape[1:]).sum(0).numpy()
    assert np.array_equal(found.voltage, total)


def test_a_full_recurrent_matrix_works_as_a_diagonal_one_does():
    rng = np.random.default_rng(0)
    on = rng.random((30, 2, 4)) < 0.5
    weight = rng.integers(-20, 60, (3, 4))
    soft = layer(weight=weight, shape=(3,), current_decay=0, voltage_decay=4096, threshold=49, kind="dense_rec",
                 weight_rec=-100 * np.eye(3))  # fmt: skip
    full = attrs.evolve(soft, weight_rec=-100 * np.eye(3) + np.array([[0, 4, 0], [0, 0, 0], [0, 0, 0]]))
    one, other = run_layer(soft, on), run_layer(full, on)
    assert np.array_equal(one.spikes[:, :, 1:], other.spikes[:, :, 1:])
    assert not np.array_equal(one.spikes[:, :, 0], other.spikes[:, :, 0])


@pytest.mark.slow
def test_an_overflow_is_reported():
    found, x, _ = compiled("mlp", "soft")
    with pytest.warns(SpikecWarning, match="wrapped or voltages saturated within 20000 steps"):
        found.artifact.run(x, 20000)


# -------------------------------------------------------------- refusals


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message", "location", "hint"),
    [
        ("two_inputs", "2 inputs", "", "torch.split(x, [A, B], 1)"),
        ("two_outputs", "2 outputs", "value", "torch.cat([a.flatten(1), b.flatten(1)], 1)"),
    ],
)
def test_what_is_no_chain_is_refused_where_it_stands(name, message, location, hint):
    x = nets.batch(name, 8)
    data = [x] if isinstance(x, tuple) else x
    problems = spikec.check(nets.build(name), "netx", calibration=data)
    assert message in problems[0].message
    assert problems[0].location.startswith(location)
    assert hint in problems[0].hint
    with pytest.raises(UnsupportedOpError, match=message):
        spikec.compile(nets.build(name), "netx", calibration=data)


class Joined(nn.Module):
    """What the hints say, of a network with two inputs or two outputs."""

    def __init__(self, net, *sizes):
        super().__init__()
        self.net, self.sizes = net, sizes

    def forward(self, x):
        found = self.net(*torch.split(x, self.sizes, 1)) if self.sizes else self.net(x)
        if isinstance(found, dict):
            found = torch.cat([each.flatten(1) for each in found.values()], 1)
        return found


@pytest.mark.slow
@pytest.mark.parametrize("reset", ["soft", "hard"])
@pytest.mark.parametrize(("name", "sizes"), [("two_inputs", (5, 3)), ("two_outputs", ())])
def test_several_inputs_or_outputs_that_are_joined_become_a_file(name, sizes, reset):
    model, x = Joined(nets.build(name), *sizes).eval(), nets.batch(name, 16)
    x = torch.cat(x, 1) if sizes else x
    net = spikec.compile(model, "netx", calibration=x, timesteps=256, reset=reset)
    with torch.no_grad():
        wanted = model(x)
    assert net.run(x).shape == wanted.shape
    assert float((net.run(x) - wanted).abs().mean() / wanted.std()) < (0.02 if reset == "soft" else 0.2)


HARD = {
    "1-d convolutions": (
        lambda: [
            *(nn.Conv1d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv1d(4, 4, 2, dilation=2, groups=2), nn.ReLU()),
            *(nn.Conv1d(4, 2, 4, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)),
        ],
        (2, 20),
        ["conv", "conv", "conv", "dense"],
    ),
    "3-d convolutions": (
        lambda: [
            *(nn.Conv3d(1, 3, 3), nn.ReLU(), nn.Conv3d(3, 2, 2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(250, 3)),
        ],
        (1, 6, 6, 6),
        ["dense", "dense", "dense"],
    ),
    "a transposed convolution": (
        lambda: [nn.ConvTranspose2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(192, 3)],
        (2, 6, 6),
        ["dense", "dense"],
    ),
    "a Linear over the last axis": (
        lambda: [nn.Linear(6, 6), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2)],
        (2, 6, 6),
        ["dense", "dense"],
    ),
    "a pool that leaves cells out": (
        lambda: [nn.Conv2d(2, 3, 2), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(3, 2, 3, padding=1)],
        (2, 6, 6),
        ["conv", "dense"],
    ),
    "a reshape between convolutions": (
        lambda: [nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(2), nn.Conv1d(3, 4, 3), nn.ReLU()],
        (2, 6, 6),
        ["conv", "dense", "dense"],
    ),
}


def ann_of(graph, x):
    """What the ANN gives that a graph of spikes stands for: each neuron is a ReLU of its current over its threshold."""
    values = {}
    for name in graph:
        op, given = graph[name], [values[each] for each in graph.operands(name)]
        if isinstance(op, Input):
            values[name] = x.double()
        elif isinstance(op, IF):
            values[name] = (given[0] / torch.tensor(op.v_threshold)).clamp(min=0)
        elif isinstance(op, Output):
            values[name] = (given[0] * torch.tensor(graph.type(name).scale)).flatten(1)
        else:
            values[name] = op.eval(*given)
    return values[graph.outputs[0]]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::spikec.SpikecWarning", "ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("name", HARD)
def test_what_hard_reset_writes_in_another_form(name):
    """Until weights are rounded, the layers are those of torch, whatever matrices they have become."""
    layers, shape, kinds = HARD[name]
    torch.manual_seed(0)
    model, x = nn.Sequential(*layers()).eval(), torch.rand(16, *shape)
    whole = spikec.Normalization(per_channel=False)
    found = spikec.Compiler("netx", calibration=x, reset="hard", normalization=whole).run(model)
    assert [each.kind for each in found.artifact.layers] == kinds
    trace = found.artifact.simulate(x, 64)
    outputs = spikec.run(found.graph, x, 64)
    assert np.array_equal(trace.total.reshape(16, -1), outputs.sum(0).reshape(16, -1).numpy())
    wanted = model.double()(x.double()).detach().flatten(1)

    def apart(graph):
        return float((ann_of(graph, x) - wanted).abs().max() / wanted.std())

    exact, rounded = (stage.graph for stage in found.stages[-2:])
    assert apart(exact) < 1e-12
    assert apart(rounded) < 0.25
    for node in exact.match(Weighted):
        wrong, weight = exact.copy(), node.op.weight.copy()
        weight.flat[::2] *= 1.01  # of more than one, as some neurons are silent
        wrong.set_op(node.name, attrs.evolve(node.op, weight=weight))
        assert apart(wrong) > 1e-4


@pytest.mark.slow
def test_a_convolution_over_one_axis_may_be_large():
    model = nn.Sequential(nn.Conv1d(4, 64, 9, padding=4), nn.ReLU(), nn.Flatten(), nn.Linear(2560, 4)).eval()
    with pytest.warns(spikec.SpikecWarning, match="1: 2560 neurons are more .* by our loader: reset='soft'"):
        found = spikec.compile(model, "netx", calibration=torch.rand(4, 4, 40), timesteps=8)
    assert [(each.kind, each.shape) for each in found.layers] == [("conv", (64, 1, 40)), ("dense", (4,))]


@pytest.mark.parametrize("layers", [
    lambda: [nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4096, 2)],
    lambda: [nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(4, 40, 3, padding=1), nn.ReLU(), nn.Flatten()],
    lambda: [nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Flatten(1, 2), nn.Linear(6, 99), nn.ReLU(), nn.Flatten()],
])  # fmt: skip
@pytest.mark.slow
def test_hints_do_not_point_at_each_other(layers):
    model = nn.Sequential(*layers()).eval()
    x = torch.rand(4, 1, 8, 16, 8) if isinstance(model[0], nn.Conv3d) else torch.rand(4, 8, 8, 8)
    hints = {}
    for reset in ("hard", "soft"):
        (problem,) = spikec.check(model, "netx", calibration=x, timesteps=T, reset=reset)
        hints[reset] = problem.hint
    assert 'target "spikingjelly"' in hints["soft"]
    assert "reset" not in hints["soft"]
    assert "soft" not in hints["hard"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (lambda: [nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 3), nn.ReLU()], "without a neuron between"),
    ],
    ids=["two convs"],
)
def test_what_hard_reset_refuses_soft_reset_runs(layers, message):
    x, model = torch.rand(8, 2, 6, 6), nn.Sequential(*layers()).eval()
    problems = spikec.check(model, "netx", calibration=x, timesteps=T, reset="hard")
    assert message in problems[0].message
    assert 'reset="soft"' in problems[0].hint
    y, ann = spikec.compile(model, "netx", calibration=x, timesteps=T).run(x), model(x).detach()
    assert float((y - ann).abs().max()) < 0.2 * float(ann.max() - ann.min())


def test_a_reshape_between_convolutions_is_refused():
    b = Builder(2, 2, 6)
    b.graph.set_op("x", attrs.evolve(b.graph["x"], rate=True))
    ones, zero = np.full((1, 1, 1), 2.0), np.zeros(())
    x = b.add(IF(ones / 2), b.x, name="encoder")
    conv = {"kernel": (1, 1), "padding": (0, 0)}
    x = b.add(IF(ones, v_reset=zero, out_scale=ones / 2), b.conv(x, 2, "conv1", **conv), name="if1")
    x = b.conv(b.add(Reshape((2, 6, 2)), x, name="reshape"), 2, "conv2", **conv)
    assert "no reshape" in Netx().check(b.done(x))[0].message


def test_a_neuron_behind_a_neuron_is_refused():
    b = Builder(3)
    b.graph.set_op("x", attrs.evolve(b.graph["x"], rate=True))
    x = b.add(IF(np.ones(1)), b.x, name="encoder")
    x = b.add(IF(np.ones(1)), b.add(IF(np.ones(1)), x, name="if1"), name="if2")
    problems = Netx().check(b.done(x))
    assert ["without a layer" in problem.message for problem in problems] == [True, True, True]


@pytest.mark.slow
def test_a_graph_that_the_passes_did_not_finish_is_refused():
    found, _, _ = compiled("small_cnn", "hard")
    soft, _, _ = compiled("small_cnn", "soft")
    check = Netx().check

    def broken(change, graph=found.graph):
        copy = graph.copy()
        change(copy)
        return check(copy)

    assert not check(found.graph)
    assert not check(soft.graph)
    first = found.graph.match(Conv)[0].name
    last = found.graph.match(Linear)[0].name
    neuron = found.graph.match(IF)[1].name

    def evolve(name, **fields):
        return lambda graph: graph.set_op(name, attrs.evolve(graph[name], **fields))

    def threshold(name, value, **fields):
        def change(graph):
            ratio = 1.0 if graph[name].out_scale is not None else value / graph[name].v_threshold.item()
            graph.set_op(name, attrs.evolve(graph[name], v_threshold=np.full((1, 1, 1), value), **fields))
            user = next(
                node for node in graph.match(Weighted) if list(graph).index(node.name) > list(graph).index(name)
            )
            graph.set_op(user.name, attrs.evolve(user.op, in_scale=user.op.in_scale * ratio))

        return change

    op = found.graph[first]
    assert "even integers" in broken(evolve(first, weight=op.weight + 1))[0].message
    assert "even integers" in broken(evolve(first, weight=op.weight * 2))[0].message
    assert "all zero" in broken(evolve(first, weight=op.weight * 0))[0].message
    assert "biases" in broken(evolve(last, bias=found.graph[last].shift + 0.5))[0].message
    assert "pads both sides" in broken(evolve(first, padding=((0, 2), (1, 1))))[0].message
    assert "one threshold" in broken(threshold(neuron, 3.0))[0].message
    assert 'reset="hard"' in broken(evolve(neuron, v_reset=None))[0].hint  # the first kernel cannot carry constants
    assert "to zero" in broken(evolve(neuron, v_reset=np.full((), 2.0)))[0].message
    assert "no cell" in broken(evolve(neuron, v_init=np.full((1, 1, 1), 2.0)))[0].message
    flat = soft.graph.match(IF)[1].name
    assert "up to 254" in broken(threshold(flat, 256.0), soft.graph)[0].message
    assert "start at 0 or above" in broken(evolve(flat, v_init=np.full((1,), -2.0)), soft.graph)[0].message
    assert not broken(evolve(flat, v_reset=np.zeros(()), v_init=np.zeros(())), soft.graph)
    encoder = found.graph.match(IF)[0].name
    assert "not spikes" in broken(lambda g: g.bypass(encoder))[0].message
    assert "encoder" in broken(evolve(encoder, strict=True))[0].message


@pytest.mark.slow
def test_without_the_encoder_it_is_refused():
    pipeline = spikec.Pipeline.default("netx").without("encode-input")
    with pytest.raises(UnsupportedOpError, match="not spikes"):
        spikec.compile(nets.build("mlp"), "netx", calibration=nets.batch("mlp"), pipeline=pipeline)


def test_an_option_that_is_none_is_refused():
    with pytest.raises(CompileError, match="reset"):
        Netx(reset="half")


@pytest.mark.slow
def test_inputs_that_do_not_fit_are_refused():
    net = compiled("mlp", "soft", timesteps=None)[0].artifact
    with pytest.raises(InvalidModelError, match=r"\[B, 7\]"):
        net.run(torch.rand(3, 6), T)
    with pytest.raises(InvalidModelError, match="NaN"):
        net.run(torch.full((1, 7), float("nan")), T)
    for steps in (None, 0):
        with pytest.raises(CompileError, match="timesteps"):
            net.run(torch.rand(3, 7), steps)


@pytest.mark.slow
def test_files_that_are_none_are_refused(tmp_path):
    path = tmp_path / "x.net"
    net = compiled("mlp", "soft")[0].artifact
    with pytest.raises(InvalidModelError, match="there is no file"):
        NetxNetwork.load(path)
    path.write_text("no")
    with pytest.raises(InvalidModelError, match="not a netx file"):
        NetxNetwork.load(path)
    with pytest.raises(InvalidModelError, match="folder"):
        net.save(tmp_path / "none" / "x.net")

    def broken(change):
        net.save(path)
        with h5py.File(path, "a") as file:
            change(file)
        with pytest.raises(InvalidModelError) as error:
            NetxNetwork.load(path)
        return str(error.value)

    def rename(file):
        file["layer/1/type"][0] = b"pool"

    def put(key, value):
        def change(file):
            del file[key]
            file[key] = value

        return change

    assert "'pool', which netx has not" in broken(rename)
    assert "give a file that spikec.save wrote" in broken(lambda file: file.__delitem__("layer/1/shape"))
    assert "format 9" in broken(put("spikec/format", 9))
    assert "takes up to 254" in broken(put("layer/1/weight", np.full((9, 8), 256)))
    assert "zero only" in broken(put("layer/3/weight", np.zeros((4, 9))))
    assert "not a netx file" in broken(lambda file: file.__delitem__("layer/1/weight"))


@pytest.mark.slow
def test_every_weighted_op_of_the_graph_is_a_layer_of_the_file():
    found, _, _ = compiled("small_cnn", "soft", -0.4)
    assert len(found.artifact.layers) == len(found.graph.match(Weighted)) - 1
    assert found.artifact.encoder.signed


def spiking(*layers):
    return nn.Sequential(*(IFNode(torch.tensor(each)) if isinstance(each, float) else each for each in layers)).eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: spiking(nn.Linear(20, 30), 0.2, nn.Linear(30, 16), 0.1, nn.Linear(16, 4)), (20,)),
        (
            lambda: spiking(
                nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), 1.0, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, 3)
            ),
            (1, 8, 8),
        ),
    ],
)
def test_a_model_that_spikes_already_becomes_a_file(make, shape):
    torch.manual_seed(0)
    net, x, steps = make(), torch.rand(6, *shape), 200
    found = spikec.compile(net, "netx", example_input=x, timesteps=steps, verify="each").run(x, steps)
    total = torch.zeros(())
    with torch.no_grad():
        for _ in range(steps):
            total = total + net(x)
    wanted = total / steps
    found = torch.as_tensor(found)
    assert float((found - wanted).square().mean().sqrt()) < 0.1 * float(wanted.square().mean().sqrt())


@pytest.mark.slow
def test_without_an_interpreter_or_lava_the_runner_says_what_to_install(tmp_path):
    x = nets.batch("mlp", 12)
    net = spikec.compile(nets.build("mlp"), "netx", calibration=x, timesteps=8)
    for python, word in (("python0.1", "python0.1"), (sys.executable, "lava")):
        with pytest.raises(MissingDependencyError) as caught:
            run_in_lava(net, x, python=python)
        assert word in str(caught.value)
        assert "lava-nc==0.10.0" in str(caught.value)


@pytest.mark.slow
def test_what_lava_says_before_it_fails_is_passed_on(tmp_path):
    x = nets.batch("mlp", 12)
    net = spikec.compile(nets.build("mlp"), "netx", calibration=x, timesteps=8)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'a long story' >&2\necho 'there are no processes left' >&2\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(InvalidModelError, match="lava failed: there are no processes left"):
        run_in_lava(net, x, python=str(python))


@pytest.mark.slow
def test_without_the_pass_that_gives_them_another_form_convolutions_of_one_axis_are_refused():
    pipeline = spikec.Pipeline.default(Netx(reset="hard"), normalization="max").without("legalize-netx")
    with pytest.raises(UnsupportedOpError, match="2-d convolutions only, this is 1-d"):
        spikec.compile(nets.build("conv1d"), Netx(reset="hard"), calibration=nets.batch("conv1d"), pipeline=pipeline)


# -------------------------------------------------------------- models with hard reset


def hard_model(*resets):
    torch.manual_seed(1)
    layers, width = [], 8
    for reset in resets:
        start = None if reset is None else torch.tensor(max(reset, 0.25))
        rest = None if reset is None else torch.tensor(reset)
        layers += [nn.Linear(width, 6), IFNode(torch.tensor(1.0), rest, start)]
        width = 6
    return nn.Sequential(*layers, nn.Linear(width, 3)).eval()


def thresholds(model, reset):
    found = spikec.Compiler("netx", example_input=torch.rand(4, 8), timesteps=T, reset=reset).run(model)
    return [each.threshold for each in found.artifact.layers], found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::spikec.SpikecWarning")
@pytest.mark.parametrize("rest", [0.0, 0.2, -0.3])
def test_neurons_that_are_hard_already_keep_their_thresholds(rest):
    x = torch.rand(64, 8)
    (first, *_), found = thresholds(hard_model(rest), "hard")
    for reset in ("auto", "soft"):
        (other, *_), other_found = thresholds(hard_model(rest), reset)
        assert other == first
        assert "keep it" in str(other_found.report)
    # the reset and the weights as they are in the model, in numpy
    model = hard_model(rest)
    weight, bias = (each.detach().double().numpy() for each in (model[0].weight, model[0].bias))
    v, counts = np.full((64, 6), max(rest, 0.25)), 0
    host = np.full((64, 8), 0.5)
    for _ in range(T):
        host += x.double().numpy()
        fired = host >= 1
        host -= fired
        v += fired @ weight.T + bias
        spikes = v >= 1
        v[spikes] = rest
        counts = counts + spikes
    ours = found.artifact.simulate(x, T)
    assert np.abs(next(iter(ours.spikes.values())).sum(0) - counts).mean() < 0.1 * counts.mean()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::spikec.SpikecWarning")
@pytest.mark.parametrize("resets", [(0.0, None), (None, 0.0)])
def test_soft_neurons_stay_soft_beside_hard_ones_which_stay_hard(resets):
    _, found = thresholds(hard_model(*resets), "auto")
    kinds = ["dense_rec" if reset is None else "dense" for reset in resets]
    assert [layer.kind for layer in found.artifact.layers] == [*kinds, "dense"]
    x = torch.rand(16, 8)
    trace = found.artifact.simulate(x, T)
    spikes, total = interpreted(found.graph, x, T)
    for each, seen in trace.spikes.items():
        assert 0 < seen.mean() < 1
        assert np.array_equal(spikes[each], seen)
    assert np.array_equal(total, trace.total)


@pytest.mark.slow
def test_soft_neurons_that_the_user_has_hard_are_said_to_be():
    with pytest.warns(SpikecWarning, match=r"hard reset to zero in 1 layer\(s\), thresholds times 4"):
        thresholds(hard_model(0.0, None), "hard")
