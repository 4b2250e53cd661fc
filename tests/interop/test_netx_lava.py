"""What we write, run by real lava in its own Python: set SPIKEC_LAVA_PYTHON to it (see README.md)."""

import os
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import branched_nets
import nets
import spikec
from leaky_nets import KINDS, ON_MAPS, RECURRENT, dense_net, map_net, residual_net
from npz import loaded
from spikec.backends.netx import NetxNetwork, lava_script, run_in_lava
from spikec.backends.netx.model import Encoder
from spikec.backends.netx.sim import IntegerLayer, run_layers

STOCK = Path(__file__).with_name("lava_stock.py")
MANY = Path(__file__).with_name("lava_many.py")
PYTHON = os.environ.get("SPIKEC_LAVA_PYTHON")
SCRIPT = Path(lava_script.__file__)
T = 32

pytestmark = pytest.mark.skipif(not PYTHON, reason="SPIKEC_LAVA_PYTHON names no Python with lava-nc and lava-dl")


def differences(path, inputs, responses, folder):
    """How many spikes and outputs of real lava on the file are not these."""
    np.savez(folder / "inputs.npz", inputs=inputs)
    command = [PYTHON, str(SCRIPT), str(path), str(folder / "inputs.npz"), str(folder / "outputs.npz")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stdout + found.stderr[-3000:]
    return differing(loaded(folder / "outputs.npz"), responses)


def differing(seen, responses):
    """How many spikes and outputs that lava's script wrote are not these."""
    *hidden, last = responses
    assert len(seen) == len(hidden) + 1
    spikes = sum(int((seen[f"hidden_{i}"] != response.spikes).sum()) for i, response in enumerate(hidden))
    return spikes, int((seen["total"].ravel() != last.voltage.ravel()).sum())


def small_cnn():
    return nets.randomize(
        nn.Sequential(
            nn.Conv2d(2, 5, (3, 2), padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.AvgPool2d(2),
            nn.Conv2d(5, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d((2, 1)),
            nn.Flatten(), nn.Linear(48, 4),
        )
    )  # fmt: skip


@pytest.mark.parametrize("low", [0.0, -0.4], ids=["unsigned", "signed"])
@pytest.mark.parametrize(
    ("name", "reset"),
    [
        ("mlp", "soft"),
        ("mlp", "hard"),
        ("cnn", "soft"),
        ("cnn", "hard"),
        ("grouped", "soft"),
        ("grouped", "hard"),
        ("functional", "hard"),
        ("conv1d", "hard"),
        ("conv3d", "hard"),
    ],
)
def test_lava_runs_our_file_spike_for_spike(name, reset, low, tmp_path):
    model = small_cnn() if name == "cnn" else nets.build(name)
    x = (torch.rand(12, 2, 8, 7) if name == "cnn" else nets.batch(name, 12)) + low
    net = spikec.compile(model, "netx", calibration=x, timesteps=T, reset=reset)
    spikec.save(net, tmp_path / "x.net")
    inputs = net.simulate(x[:3], T).inputs
    responses = run_layers(net.layers, inputs)
    assert all(response.spikes.any() for response in responses[:-1])
    assert differences(tmp_path / "x.net", inputs, responses, tmp_path) == (0, 0)


def equal_in_lava(net, x):
    """Compare everything that lava says of some samples with the simulation."""
    found, trace = run_in_lava(net, x, python=PYTHON), net.simulate(x)
    assert np.array_equal(found.output, trace.output)
    for name, spikes in trace.spikes.items():
        assert np.array_equal(found.spikes[name], spikes)
    assert any(spikes.any() for spikes in trace.spikes.values())


@pytest.mark.parametrize("reset", ["soft", "hard"])
@pytest.mark.parametrize("name", branched_nets.ZOO)
def test_lava_runs_branches_that_became_a_chain(name, reset):
    model, x = branched_nets.build(name, low=-0.5 if name == "from_input" else 0.0)
    equal_in_lava(spikec.compile(model, "netx", calibration=x, timesteps=T, reset=reset, normalization="max"), x[:2])


@pytest.mark.parametrize(
    ("layers", "shape", "kinds"),
    [
        (
            [
                nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.ReLU(),
                nn.Flatten(), nn.Linear(864, 5), nn.ReLU(), nn.Linear(5, 4),
            ], (1, 26, 26), ["conv", "conv", "dense_rec", "dense"],
        ),
        (
            [
                nn.Conv1d(1, 4, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 4, 3, stride=30), nn.ReLU(), nn.Flatten(),
                nn.Linear(40, 4),
            ], (1, 602), ["conv", "conv", "conv", "dense"],
        ),
    ],
    ids=["maps", "lines"],
)  # fmt: skip
def test_our_loader_gives_lava_soft_reset_behind_large_convolutions(layers, shape, kinds):
    torch.manual_seed(0)
    model = nets.randomize(nn.Sequential(*layers))
    x = torch.rand(8, *shape)
    net = spikec.compile(model, "netx", calibration=x, timesteps=T, reset="soft", normalization="max")
    assert [layer.kind for layer in net.layers] == kinds
    equal_in_lava(net, x[:3])


def equal_in_stock_netx(net, path, x, folder):
    """Compare what lava-dl's own loader makes of a file with this network."""
    inputs = net.encode(x)
    np.savez(folder / "inputs.npz", inputs=inputs)
    command = [PYTHON, str(STOCK), str(SCRIPT), *map(str, (path, folder / "inputs.npz", folder / "out.npz"))]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stdout + found.stderr[-3000:]
    responses = run_layers(net.layers, inputs)
    assert all(response.spikes.any() for response in responses[:-1])
    assert differing(loaded(folder / "out.npz"), responses) == (0, 0)


def large(reset):
    """(a network whose first layer is too large to be unrolled, its inputs)."""
    torch.manual_seed(0)
    model = nets.randomize(
        nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(726, 4)
        )
    )
    x = torch.rand(32, 1, 26, 26)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "1: 2304 neurons are more than 2000", spikec.SpikecWarning)
        return spikec.compile(model, "netx", calibration=x, timesteps=T, reset=reset), x


def test_stock_netx_runs_the_fall_back_of_a_file_with_soft_reset_behind_large_convolutions(tmp_path):
    """And our loader runs the network itself, of the same file."""
    net, x = large("soft")
    spikec.save(net, tmp_path / "x.net")
    equal_in_stock_netx(net.fall_back, tmp_path / "x.net", x[:3], tmp_path)
    lava, trace = run_in_lava(tmp_path / "x.net", x[:3], python=PYTHON), net.simulate(x[:3])
    assert np.array_equal(lava.output, trace.output)
    assert all(np.array_equal(lava.spikes[name], spikes) for name, spikes in trace.spikes.items())


def test_stock_netx_resets_large_convolutions_to_zero_and_subtracts_in_the_small_layers_behind_them(tmp_path):
    net, x = large("auto")
    assert [layer.kind for layer in net.layers] == ["conv", "dense_rec", "dense"]
    spikec.save(net, tmp_path / "x.net")
    equal_in_stock_netx(net, tmp_path / "x.net", x[:3], tmp_path)


def by_hand(layers, inputs):
    encoder = Encoder(inputs, 1.0, 0.5, False)
    output = layers[-1].shape
    return NetxNetwork("by_hand", encoder, tuple(layers), "hard", 0, 0, inputs, np.ones(1), output)


def readout(rng, inputs):
    weight = 2 * rng.integers(-127, 128, (3, inputs))
    return IntegerLayer("dense", "out", (3,), weight, 131071, current_decay=4096, voltage_decay=0)


@pytest.mark.parametrize(
    ("current_decay", "voltage_decay", "level", "threshold", "overflows"),
    [
        (0, 4096, 254, 901, True),
        (0, 4096, -254, 901, True),
        (4096, 0, 254, 131071, True),
        (4096, 0, -254, 901, True),
        (700, 300, 120, 901, False),
        (4096, 1, 40, 901, False),
    ],
    ids=["current wraps", "wraps below", "voltage saturates", "saturates below", "both leak", "voltage leaks"],
)
def test_overflow_and_decay_are_lava_s(current_decay, voltage_decay, level, threshold, overflows, tmp_path):
    rng = np.random.default_rng(0)
    weight = 2 * (rng.integers(-60, 61, (7, 40)) // 2)
    weight[:4] = level
    rec = np.zeros((7, 7), dtype=int)
    rec[[4, 5], [5, 0]] = -100, 60
    decays = {"current_decay": current_decay, "voltage_decay": voltage_decay}
    hidden = IntegerLayer("dense_rec", "h", (7,), weight, threshold, weight_rec=rec, **decays)
    net = by_hand([hidden, readout(rng, 7)], (40,))
    inputs = rng.random((T, 2, 40)) < 0.8
    responses = run_layers(net.layers, inputs)
    assert responses[0].spikes.any()
    assert (responses[0].overflows > 0) == overflows
    net.save(tmp_path / "x.net")
    assert differences(tmp_path / "x.net", inputs, responses, tmp_path) == (0, 0)


def test_conv_sums_and_options_are_lava_s(tmp_path):
    rng = np.random.default_rng(1)
    options = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}
    conv = IntegerLayer("conv", "c", (6, 5, 10), 2 * rng.integers(-40, 60, (6, 2, 3, 2)), 301, current_decay=500,
                 voltage_decay=200, bias=2 * rng.integers(-20, 40, 6), **options)  # fmt: skip
    net = by_hand([conv, readout(rng, 300)], (4, 9, 8))
    inputs = rng.random((T, 2, 4, 9, 8)) < 0.3
    responses = run_layers(net.layers, inputs)
    assert responses[0].spikes.any()
    net.save(tmp_path / "x.net")
    assert differences(tmp_path / "x.net", inputs, responses, tmp_path) == (0, 0)


@pytest.mark.parametrize("level", [254, -254])
@pytest.mark.parametrize("channels", [60, 180], ids=["once", "far"])
def test_sums_of_a_convolution_wrap_as_lava_s(channels, level, tmp_path):
    rng = np.random.default_rng(2)
    weight = np.full((3, channels, 3, 3), level)
    weight[1:] = 2 * rng.integers(-40, 60, weight[1:].shape)
    conv = IntegerLayer("conv", "c", (3, 4, 3), weight, 901, current_decay=4096, voltage_decay=0)
    net = by_hand([conv, readout(rng, 36)], (channels, 6, 5))
    inputs = rng.random((T, 2, channels, 6, 5)) < 0.99
    responses = run_layers(net.layers, inputs)
    assert responses[0].spikes.any()
    assert responses[0].overflows > T
    net.save(tmp_path / "x.net")
    assert differences(tmp_path / "x.net", inputs, responses, tmp_path) == (0, 0)


def test_soft_reset_of_convolutions_in_all_forms_is_lava_s(tmp_path):
    rng = np.random.default_rng(1)
    options = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}
    soft = {"current_decay": 0, "voltage_decay": 4096}
    first = IntegerLayer("conv", "a", (6, 5, 10), 2 * rng.integers(-40, 60, (6, 2, 3, 2)), 99,
                         weight_rec=-200 * np.eye(6), **soft, **options)  # fmt: skip
    second = IntegerLayer("conv", "b", (3, 5, 10), 2 * rng.integers(-40, 60, (3, 6, 3, 3)), 111,
                          weight_rec=-224 * np.eye(3), padding=(1, 1), **soft)  # fmt: skip
    net = by_hand([first, second, readout(rng, 150)], (4, 9, 8))
    inputs = rng.random((T, 3, 4, 9, 8)) < 0.3
    responses = run_layers(net.layers, inputs)
    assert all(response.spikes.any() for response in responses[:-1])
    net.save(tmp_path / "x.net")
    assert differences(tmp_path / "x.net", inputs, responses, tmp_path) == (0, 0)


def test_one_wrong_spike_is_seen(tmp_path):
    x = nets.batch("mlp", 12)
    net = spikec.compile(nets.build("mlp"), "netx", calibration=x, timesteps=T)
    net.save(tmp_path / "x.net")
    inputs = net.simulate(x[:1], T).inputs
    responses = run_layers(net.layers, inputs)
    responses[1].spikes[5, 0, 2] ^= True
    assert differences(tmp_path / "x.net", inputs, responses, tmp_path) == (1, 0)


@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_a_user_runs_a_network_in_lava_by_one_call(reset, tmp_path):
    name = "mlp" if reset == "soft" else "cnn"
    x = nets.batch(name, 12)
    net = spikec.compile(nets.build(name), "netx", calibration=x, timesteps=T, reset=reset)
    net.save(tmp_path / "x.net")
    told = []
    found = run_in_lava(tmp_path / "x.net", x[:4], python=PYTHON, progress=told.append)
    assert [str(each) for each in told] == [f"samples in lava {done} of 4" for done in range(1, 5)]
    trace = net.simulate(x[:4])
    assert np.array_equal(found.output, net.run(x[:4]).numpy())
    assert list(found.spikes) == list(trace.spikes)
    for name, spikes in trace.spikes.items():
        assert spikes.any()
        assert np.array_equal(found.spikes[name], spikes)


FORMS = {
    "dense": dense_net,
    "recurrent": lambda kind: dense_net(kind, recurrent=True),
    "map": map_net,
    "residual": residual_net,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::spikec.SpikecWarning")
@pytest.mark.parametrize(
    ("form", "kind"),
    [
        *(("dense", kind) for kind in KINDS),
        *(("recurrent", kind) for kind in RECURRENT),
        *(("map", kind) for kind in ON_MAPS),
    ],
    ids=str,
)
def test_leaky_and_recurrent_neurons_are_lava_s(form, kind, tmp_path):
    graph = FORMS[form](kind)
    x = torch.rand(12, *graph.type("x").shape, dtype=torch.float64)
    net = spikec.compile(graph, "netx", calibration=x, timesteps=T, verify="off")
    trace = net.simulate(x[:3])
    found = run_in_lava(net, x[:3], python=PYTHON)
    assert list(found.spikes) == list(trace.spikes)
    for name, spikes in trace.spikes.items():
        assert spikes.any()
        assert np.array_equal(found.spikes[name], spikes)
    assert np.array_equal(found.total, trace.total)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("recurrent", "cuba"),
        ("map", "lif"),
        ("map", "if hard and cuba"),
        ("residual", "cuba"),
        ("residual", "lif soft"),
    ],
)
def test_events_are_lava_s_too(form, kind, tmp_path):
    graph = FORMS[form](kind)
    x = (torch.rand(T, 3, *graph.type("x").shape, dtype=torch.float64) < 0.3).double()
    net = spikec.compile(graph, "netx", calibration=x.mean(0), timesteps=T, verify="off", input="spikes")
    trace = net.simulate(x)
    found = run_in_lava(net, x, python=PYTHON)
    for name, spikes in trace.spikes.items():
        assert spikes.any()
        assert np.array_equal(found.spikes[name], spikes)
    assert np.array_equal(found.total, trace.total)


def random_conv_net(seed):
    """Two convolutions of random kernels, strides, paddings, dilations and groups, one or no pool, and a Linear."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    layers, channels = [], 2
    for outputs in (4, 6):
        options = {
            "kernel_size": tuple(map(int, rng.integers(1, 4, 2))),
            "stride": tuple(map(int, rng.integers(1, 3, 2))),
            "padding": tuple(map(int, rng.integers(0, 2, 2))),
            "dilation": tuple(map(int, rng.integers(1, 3, 2))),
            "groups": int(rng.integers(1, 3)),
            "bias": bool(rng.integers(2)),
        }
        layers += [nn.Conv2d(channels, outputs, **options), nn.ReLU()]
        channels = outputs
    pools = (nn.Identity(), nn.AvgPool2d(2, ceil_mode=True), nn.MaxPool2d((2, 1), ceil_mode=True))
    net = nn.Sequential(*layers, pools[seed % 3], nn.Flatten(), nn.LazyLinear(3)).eval()
    net(torch.zeros(1, 2, 13, 12))
    return nets.randomize(net)


def random_nets():
    """Pairs of a name and (model, shape of a sample, options): ANNs with either reset, and spiking nets, over 60."""
    for reset in ("soft", "hard"):
        for seed in range(8):
            yield f"conv {seed} {reset}", random_conv_net(seed), (2, 13, 12), {"reset": reset}
        for name in branched_nets.ZOO:
            model, x = branched_nets.build(name)
            yield f"{name} {reset}", model, x.shape[1:], {"reset": reset, "normalization": "max"}
    for form, kinds in {"dense": KINDS, "recurrent": RECURRENT, "map": ON_MAPS, "residual": ("cuba", "lif")}.items():
        for kind in kinds:
            graph = dense_net(kind, form == "recurrent", 1) if form in ("dense", "recurrent") else FORMS[form](kind, 1)
            yield f"{form} {kind}", graph, graph.type("x").shape, {}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::spikec.SpikecWarning")
def test_random_nets_on_inputs_that_change_over_time_are_lava_s(tmp_path, capsys):
    steps, wanted = 16, {}
    for name, model, shape, options in random_nets():
        rng = torch.Generator().manual_seed(len(wanted))
        x = torch.rand(steps, 2, *shape, generator=rng, dtype=torch.float64)
        calibration = x.flatten(0, 1).float() if isinstance(model, nn.Module) else x.flatten(0, 1)
        net = spikec.compile(model, "netx", calibration=calibration, timesteps=steps, verify="off", **options)
        inputs = net.encode(x)
        path = tmp_path / f"{name}.net"
        net.save(path)
        np.savez(path.with_suffix(".in.npz"), inputs=inputs)
        wanted[path] = run_layers(net.layers, inputs)
    command = [PYTHON, str(MANY), str(SCRIPT), str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert found.returncode == 0, found.stdout + found.stderr[-3000:]
    counted = {path.stem: differing(loaded(path.with_suffix(".out.npz")), each) for path, each in wanted.items()}
    spikes = sum(int(response.spikes.sum()) for each in wanted.values() for response in each)
    spiking = sum(any(response.spikes.any() for response in each) for each in wanted.values())
    differ = sum(first for first, _ in counted.values())
    with capsys.disabled():
        print(f"\n{len(wanted)} random nets in lava: {differ} of {spikes:,} spikes differ")
    assert not {name: each for name, each in counted.items() if each != (0, 0)}
    assert spiking == len(wanted) >= 60
