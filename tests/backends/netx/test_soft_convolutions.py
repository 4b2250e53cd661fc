"""Soft reset behind convolutions that are too large to be unrolled, which lava has by our loader only."""

import functools

import attrs
import h5py
import numpy as np
import pytest
import torch
from torch import nn

import nets
import spikec
from spikec import UnsupportedOpError, run
from spikec.backends.netx import NetxNetwork
from spikec.backends.netx.backend import Netx
from spikec.backends.netx.file import stock
from spikec.backends.netx.sim import IntegerLayer, run_layer
from spikec.ir.errors import InvalidModelError
from spikec.ir.ops import IF
from spikec.passes.fall_back_netx import FallBackNetx

T = 32


def maps():
    """Its first layer has 2,304 neurons."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(864, 5), nn.ReLU(), nn.Linear(5, 4),
    ), (1, 26, 26)  # fmt: skip


def lines():
    """Its first two layers, the second of which compares what a max-pool takes, have 2,400 neurons each."""
    return nn.Sequential(
        nn.Conv1d(1, 4, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 4, 3, stride=30), nn.ReLU(), nn.Flatten(),
        nn.Linear(40, 4),
    ), (1, 602)  # fmt: skip


@functools.cache
def compiled(reset, normalization="max", network=maps):
    """A network with layers of more than 2,000 neurons; inputs, and the ANN's answers."""
    torch.manual_seed(0)
    model, shape = network()
    model = nets.randomize(model)
    x = torch.rand(8, *shape)
    options = {"calibration": x, "timesteps": T, "reset": reset, "normalization": normalization}
    return spikec.Compiler("netx", **options).run(model), x, model(x).detach()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "kinds"), [(maps, ["conv", "conv", "dense_rec", "dense"]), (lines, ["conv", "conv", "conv", "dense"])]
)
def test_integers_are_the_graph_spike_for_spike_and_near_the_ann(network, kinds):
    found, x, ann = compiled("soft", network=network)
    net = found.artifact
    assert [layer.kind for layer in net.layers] == kinds
    assert net.reset == "soft"
    assert "our loader only" in str(found.report)
    spikes = {}

    def tap(name, value, *_):
        if isinstance(found.graph[name], IF):
            spikes.setdefault(name, []).append(value.numpy().astype(bool))

    total = run(found.graph, x.double(), T, tap=tap).sum(0).numpy()
    trace = net.simulate(x)
    for name, seen in trace.spikes.items():
        assert seen.any()
        assert np.array_equal(np.stack(spikes[name]).reshape(seen.shape), seen)
    assert np.array_equal(trace.steps.sum(0), total)
    errors = {
        reset: float((compiled(reset, network=network)[0].artifact.run(x) - ann).pow(2).mean().sqrt() / ann.std())
        for reset in ("soft", "hard")
    }
    assert errors["soft"] < 0.1
    assert errors["soft"] < errors["hard"] / 2


def same(one, other):
    """Whether two networks are one, their own fall-backs apart."""
    layers = zip(one.layers, other.layers, strict=True)
    fields = attrs.asdict(one, recurse=False).keys() - {"layers", "fall_back", "encoder"}
    return all(same_fields(a, b, attrs.asdict(a, recurse=False)) for a, b in layers) and same_fields(one, other, fields)


def same_fields(one, other, fields):
    return all(np.array_equal(getattr(one, field), getattr(other, field)) for field in fields)


@pytest.mark.slow
def test_the_file_holds_for_stock_netx_what_hard_reset_compiles_to(tmp_path):
    """Its layers are where netx reads them; ours are where it does not look."""
    found, x, _ = compiled("soft", None)
    net, hard = found.artifact, compiled("hard", None)[0].artifact
    assert same(net.fall_back, hard)
    assert not same(net, hard)
    assert net.fall_back.fall_back is None
    assert "fall-back-netx: hard reset to zero in 3 layer(s)" in str(found.report)
    assert "on samples not tuned on" in str(found.report)
    net.save(tmp_path / "x.net")
    hard.save(tmp_path / "hard.net")
    with h5py.File(tmp_path / "x.net") as file, h5py.File(tmp_path / "hard.net") as other:
        read, wanted = {}, {}
        file["layer"].visititems(lambda name, item: read.update({name: item[()]} if hasattr(item, "shape") else {}))
        other["layer"].visititems(lambda name, item: wanted.update({name: item[()]} if hasattr(item, "shape") else {}))
        assert read.keys() == wanted.keys()
        assert all(np.array_equal(read[name], wanted[name]) for name in wanted)
        assert "softReset" in file["spikec/layer/1"]
    again = NetxNetwork.load(tmp_path / "x.net")
    assert same(again, net)
    assert same(again.fall_back, hard)
    assert torch.equal(again.fall_back.run(x), hard.run(x))


@attrs.frozen
class Refuses(spikec.Pass):
    name = "refuses"

    def run(self, graph, context):
        raise UnsupportedOpError("it is refused")


@pytest.mark.slow
@pytest.mark.parametrize(("passes", "why"), [((Refuses(),), "it is refused"), ((), "not even integers")])
def test_a_fall_back_that_cannot_be_is_left_out_and_said_to_be(passes, why):
    _, x, _ = compiled("soft")
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2304, 3)).eval()
    target = Netx(reset="soft")
    pipeline = spikec.Pipeline.default(target, normalization="max", timesteps=T)
    pipeline = pipeline.replace("fall-back-netx", FallBackNetx(passes))
    found = spikec.Compiler(target, calibration=x, timesteps=T, pipeline=pipeline).run(model)
    assert found.artifact.fall_back is None
    assert "stock netx resets this network to zero as it stands: " in str(found.report)
    assert why in str(found.report)


@pytest.mark.slow
def test_no_fall_back_where_netx_has_all_layers():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()
    net = spikec.compile(model, "netx", calibration=torch.rand(8, 1, 6, 6), timesteps=T, reset="soft")
    assert net.reset == "soft"
    assert net.fall_back is None


@pytest.mark.slow
def test_without_a_fall_back_the_same_layers_are_hard_to_stock_netx(tmp_path):
    found, x, _ = compiled("soft")
    attrs.evolve(found.artifact, fall_back=None).save(tmp_path / "x.net")
    with h5py.File(tmp_path / "x.net") as file:
        layer = file["layer/1"]
        threshold = -layer["softReset/weight"][()]
        assert "weight_rec" not in layer
        assert (threshold == threshold[0]).all()
        assert [layer[f"neuron/{key}"][()] for key in ("iDecay", "vDecay", "vThMant")] == [4096, 0, threshold[0] - 1]
        assert layer["softReset/iDecay"][()].max() == 0
        assert layer["softReset/vThMant"][()] == threshold[0] // 2 - 1  # neurons start half way
    again = NetxNetwork.load(tmp_path / "x.net")
    assert torch.equal(again.run(x), found.artifact.run(x))
    graph = again.to_graph()
    assert np.array_equal(run(graph, x.double(), T).sum(0).numpy(), found.artifact.simulate(x).steps.sum(0))
    hard = attrs.evolve(again, layers=tuple(map(stock, again.layers)))
    assert not torch.equal(hard.run(x), again.run(x))


def layer(**options):
    soft = {"current_decay": 0, "voltage_decay": 4096, "threshold": 49}
    made = {"kind": "conv", "name": "c", "shape": (2, 4, 3), "weight": 2 * np.ones((2, 1, 1, 1)) * [[[[20]]], [[[30]]]]}
    return IntegerLayer(**made, **soft, weight_rec=-100 * np.eye(2), **options)


def test_a_neuron_of_a_map_loses_its_threshold_a_step_after_its_spike():
    on = np.random.default_rng(0).random((40, 2, 1, 4, 3)) < 0.5
    found = run_layer(layer(), on).spikes
    assert found.any()
    potential = np.zeros((2, 2, 4, 3))
    for t in range(len(on)):
        potential = potential + 2 * np.array([20, 30]).reshape(2, 1, 1) * on[t]
        fired = potential > 49
        assert np.array_equal(found[t], fired)
        potential = potential - 100 * fired


@pytest.mark.slow
def test_a_convolution_with_recurrent_weights_that_netx_does_not_read_is_refused(tmp_path):
    found, _, _ = compiled("hard")
    found.artifact.save(tmp_path / "x.net")
    with h5py.File(tmp_path / "x.net", "a") as file:
        channels = len(file["layer/1/weight"])
        file["layer/1/weight_rec"] = np.zeros((channels, channels))
    with pytest.raises(InvalidModelError, match="a convolution with a weight_rec"):
        NetxNetwork.load(tmp_path / "x.net")


@pytest.mark.slow
def test_blocks_of_lava_dl_have_no_such_neurons():
    _, x, _ = compiled("soft")
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2304, 3)).eval()
    with pytest.raises(UnsupportedOpError, match="no block of a convolution with soft reset") as error:
        spikec.compile(model, "lava", calibration=x, timesteps=T, reset="soft")
    assert 'target "netx"' in error.value.hint
