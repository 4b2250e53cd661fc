"""Networks of ``netx`` as users hold them: read from files of spikec and of lava-dl, as graphs, run, and summed up."""

import functools

import attrs
import h5py
import numpy as np
import pytest
import torch
from torch import nn

import nets
import spikec
from spikec import InvalidModelError, UnsupportedOpError
from spikec.backends.netx import NetxModel, NetxNetwork
from spikec.backends.netx.sim import NEVER, IntegerLayer
from spikec.ir.ops import IF, LIF, CubaLIF, Delay, LoihiNeuron

T = 24


def small_cnn():
    layers = (nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(3, 4, 2), nn.ReLU())
    return nets.randomize(nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 3))), torch.rand(8, 2, 8, 6)


@functools.cache
def compiled(reset, low):
    model, x = small_cnn()
    return spikec.compile(model, "netx", calibration=x + low, timesteps=T, reset=reset), x + low


def layer(name, outputs, inputs, seed=0, **options):
    rng = np.random.default_rng(seed)
    given = {
        "threshold": NEVER,
        "current_decay": 4096,
        "voltage_decay": 0,
        "weight": 2 * rng.integers(-40, 80, (outputs, inputs)),
    }
    return IntegerLayer("dense_rec" if "weight_rec" in options else "dense", name, (outputs,), **given | options)


def by_hand(*layers, shape=(6,), **options):
    output = layers[-1].shape
    given = {"reset": "hard", "constants": 0, "pulses": 0, "output_scale": np.ones((1,) * len(output))}
    return NetxNetwork("by_hand", None, layers, input_shape=shape, output_shape=output, **given | options)


def spikes(*shape, seed=0):
    return (np.random.default_rng(seed).random((T, 3, *shape)) < 0.3).astype(np.float64)


def over_time(net, x, rounded=False):
    """The spikes of every neuron of the network's graph but the encoder, and its output at each step."""
    graph, seen = net.to_graph(rounded), {}
    wanted = {each.name for each in net.layers}

    def tap(name, value, *_):
        if name in wanted:
            seen.setdefault(name, []).append(value.numpy())

    steps = spikec.run(graph, torch.as_tensor(x, dtype=torch.float64), None if net.encoder is None else T, tap=tap)
    return {name: np.stack(each) for name, each in seen.items()}, steps.numpy()


# ------------------------------------------------------------------ the graph


@pytest.mark.slow
@pytest.mark.parametrize("low", [0.0, -0.4], ids=["unsigned", "signed"])
@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_the_graph_gives_the_simulation_s_spikes(reset, low, tmp_path):
    net, x = compiled(reset, low)
    net.save(tmp_path / "x.net")
    loaded = NetxNetwork.load(tmp_path / "x.net")
    trace = loaded.simulate(x)
    seen, steps = over_time(loaded, x)
    assert list(seen) == list(trace.spikes)
    for name, found in seen.items():
        assert trace.spikes[name].any()
        assert np.array_equal(found, trace.spikes[name])
    assert np.array_equal(steps, trace.steps)
    assert np.array_equal(spikec.run(tmp_path / "x.net", x, T), trace.steps)
    assert np.array_equal(trace.steps.sum(0) / T * net.output_scale, net.run(x).numpy())


@pytest.mark.slow
@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_a_file_becomes_nir_and_torch(reset, tmp_path):
    net, x = compiled(reset, -0.3)
    net.save(tmp_path / "x.net")
    back = spikec.load(spikec.compile(str(tmp_path / "x.net"), "nir"))
    assert np.array_equal(spikec.run(back, x.double(), T), net.over_time(x))
    module = spikec.compile(net, "spikingjelly")
    module.step_mode = "m"
    found = module(x.double().expand(T, *x.shape)).mean(0)
    np.testing.assert_allclose(found.detach().numpy(), net.run(x).numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_a_file_is_evaluated(tmp_path):
    net, x = compiled("hard", 0.0)
    net.save(tmp_path / "x.net")
    labels = net.run(x).argmax(1)
    found = spikec.evaluate(tmp_path / "x.net", [(x[:5], labels[:5]), (x[5:], labels[5:])], T)
    assert found[-1] == 1.0
    assert np.array_equal(found, spikec.evaluate(net.to_graph(), [(x.double(), labels)], T))


def test_recurrent_weights_read_the_step_before():
    rng = np.random.default_rng(3)
    hidden = layer("h", 9, 6, threshold=151, weight_rec=2 * rng.integers(-60, 60, (9, 9)))
    net = by_hand(hidden, layer("y", 4, 9, threshold=90))
    x = spikes(6)
    seen, steps = over_time(net, x)
    trace = net.simulate(x)
    assert net.to_graph().match(Delay)
    for name, found in seen.items():
        assert found.any()
        assert np.array_equal(found, trace.spikes[name])
    assert np.array_equal(steps, trace.spikes["y"])  # the last layer fires, so that its spikes are the output
    assert np.array_equal(trace.total, trace.spikes["y"].sum(0))
    assert np.array_equal(net.run(x), trace.total / T)


def test_channels_of_a_map_that_inhibit_themselves_each_in_its_way():
    rng = np.random.default_rng(4)
    weight = 2 * rng.integers(-20, 60, (3, 2, 3, 3))
    rec = -np.diag([200, 120, 40])
    hidden = IntegerLayer("conv", "h", (3, 5, 4), weight, 151, 0, 4096, rec, padding=(1, 1))
    net = by_hand(hidden, layer("y", 4, 60), shape=(2, 5, 4))
    x = spikes(2, 5, 4)
    seen, steps = over_time(net, x)
    trace = net.simulate(x)
    assert 0 < trace.spikes["h"].mean() < 1
    assert np.array_equal(seen["h"], trace.spikes["h"])
    assert np.array_equal(steps, trace.steps)


def test_inhibition_by_the_threshold_is_soft_reset_and_a_bias_of_the_voltage_is_where_it_starts():
    hidden = layer("h", 9, 6, threshold=151, current_decay=0, voltage_decay=4096, weight_rec=-220 * np.eye(9),
                   bias=2 * np.arange(-4, 5))  # fmt: skip
    net = by_hand(hidden, layer("y", 4, 9))
    (neuron,) = net.to_graph().match(IF)
    assert neuron.op.v_reset is None
    assert neuron.op.v_threshold.item() == 220
    seen, steps = over_time(net, spikes(6))
    trace = net.simulate(spikes(6))
    assert trace.spikes["h"].any()
    assert np.array_equal(seen["h"], trace.spikes["h"])
    assert np.array_equal(steps, trace.steps)


@pytest.mark.parametrize(("current_decay", "voltage_decay"), [(4096, 409), (1000, 409), (1000, 4096), (4096, 4096)])
def test_decays_are_those_of_lif_and_cubalif(current_decay, voltage_decay):
    """Written out in numpy, without the rounding of netx."""
    hidden = layer("h", 9, 6, threshold=230, current_decay=current_decay, voltage_decay=voltage_decay,
                   bias=2 * np.arange(9))  # fmt: skip
    net = by_hand(hidden, layer("y", 4, 9))
    (neuron,) = (node.op for node in net.to_graph().match(IF | LIF | CubaLIF))
    assert type(neuron) is (LIF if current_decay == 4096 else CubaLIF)
    x = spikes(6, seed=1)
    found = over_time(net, x)[0]["h"]
    u, v, wanted = np.zeros((3, 9)), np.zeros((3, 9)), []
    for now in x:
        u = u * (1 - current_decay / 4096) + now @ hidden.weight.T
        v = v * (1 - voltage_decay / 4096) + u + hidden.bias
        wanted.append(v > hidden.threshold)
        v = np.where(wanted[-1], 0, v)
    assert np.array_equal(found, wanted)
    rounded = net.simulate(x).spikes["h"]
    assert rounded.any()
    assert (rounded != found).mean() < 0.01  # netx rounds decays, towards zero


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize(("current_decay", "voltage_decay"), [(4096, 409), (1000, 409), (1000, 4096), (700, 0)])
def test_a_rounded_graph_gives_the_simulation_s_spikes_of_neurons_that_leak(current_decay, voltage_decay, recurrent):
    options = {"weight_rec": 2 * np.random.default_rng(3).integers(-60, 60, (9, 9))} if recurrent else {}
    hidden = layer("h", 9, 6, threshold=231, current_decay=current_decay, voltage_decay=voltage_decay,
                   bias=2 * np.arange(9), **options)  # fmt: skip
    net = by_hand(hidden, layer("y", 4, 9))
    (neuron,) = net.to_graph(rounded=True).match(LoihiNeuron)
    assert neuron.op.grain == 1 / 64
    x = np.concatenate([spikes(6, seed=seed) for seed in range(3)])
    trace = net.simulate(x)
    seen, steps = over_time(net, x, rounded=True)
    assert 0 < trace.spikes["h"].mean() < 1
    assert np.array_equal(seen["h"], trace.spikes["h"])
    assert np.array_equal(steps, trace.steps)


def test_a_pulse_charges_neurons_that_leak_to_the_grain():
    weight = np.concatenate([layer("h", 9, 6).weight, 2 * np.arange(20, 56).reshape(9, 4)[:, :1]], 1)
    hidden = layer("h", 9, 7, threshold=231, voltage_decay=409, weight=weight)
    net = by_hand(hidden, layer("y", 4, 9), shape=(7,), pulses=1)
    x = spikes(6)
    seen, _ = over_time(net, x, rounded=True)
    assert np.array_equal(seen["h"], net.simulate(x).spikes["h"])


def test_what_a_graph_has_not_is_refused_by_its_layer():
    last = layer("y", 4, 9)
    cases = {
        "current decays, and whose voltage does not": [
            layer("h", 9, 6, threshold=99, current_decay=7, bias=np.ones(9))
        ],
        "an output that never fires": [],
        "do not repeat": [layer("h", 10, 6, threshold=99, relays=1)],
        "whose current stays": [layer("h", 9, 8, threshold=99, current_decay=7)],
    }
    for message, hidden in cases.items():
        end = last if hidden else layer("y", 4, 6, voltage_decay=3)
        with pytest.raises(UnsupportedOpError, match=message) as error:
            by_hand(*hidden, end, pulses=2 * ("stays" in message), shape=(6 + 2 * ("stays" in message),)).to_graph()
        assert error.value.location in ("h", "y")


def test_what_a_graph_of_maps_has_not_is_refused_by_its_layer():
    def last(inputs):
        return IntegerLayer("conv", "y", (2, 4, 4), np.full((2, inputs, 3, 3), 20), NEVER, 4096, 0, padding=(1, 1))

    unlike = np.ones((2, 4, 4))
    unlike[0, 0] = 2
    cases = {
        "output_scale that differs within a channel": (last(1), {"output_scale": unlike}),
        "a bias that differs within a channel": (last(2), {"constants": 1}),  # less of it where the map ends
    }
    for message, (conv, options) in cases.items():
        net = by_hand(conv, shape=(conv.weight.shape[1], 4, 4), **options)
        with pytest.raises(UnsupportedOpError, match=message) as error:
            net.to_graph()
        assert error.value.location in ("by_hand", "y")


# ------------------------------------------------------------------ files of others


def of_lava(path, change=None):
    """A file as lava-dl writes it: without what spikec adds, of floats, a flat layer's shape with three axes."""
    net, x = compiled("hard", 0.0)
    plain = attrs.evolve(net, layers=tuple(attrs.evolve(each, relays=0) for each in net.layers))
    plain.save(path)
    with h5py.File(path, "a") as file:
        del file["spikec"]
        for group in file["layer"].values():
            if "weight" in group:
                weight = group["weight"][()].astype(np.float32)
                del group["weight"]
                group["weight"] = weight
        del file["layer/4/shape"]
        file["layer/4/shape"] = np.array([3, 1, 1])
        if change is not None:
            change(file)
    return net, x


@pytest.mark.slow
def test_a_file_of_lava_is_read_and_takes_spikes(tmp_path):
    ours, x = of_lava(tmp_path / "theirs.net")
    net = NetxNetwork.load(tmp_path / "theirs.net")
    assert NetxNetwork is NetxModel
    assert (net.name, net.encoder, net.timesteps) == ("theirs", None, 0)
    assert [each.name for each in net.layers] == ["layer_1", "layer_2", "layer_4"]
    trace = ours.simulate(x)
    found = net.simulate(trace.inputs)
    assert np.array_equal(found.inputs, trace.inputs)
    assert np.array_equal(found.total, trace.total)
    net.save(tmp_path / "again.net")
    assert np.array_equal(NetxNetwork.load(tmp_path / "again.net").run(trace.inputs), net.run(trace.inputs))
    assert np.array_equal(over_time(net, trace.inputs)[1], found.steps)
    with pytest.raises(InvalidModelError, match="neither 0 nor 1"):
        net.run(trace.inputs * 0.5)
    with pytest.raises(InvalidModelError, match=r"\[T, B, "):
        net.run(x)
    with pytest.raises(InvalidModelError, match="24 steps"):
        net.run(trace.inputs, 3)


@pytest.mark.slow
def test_fractions_are_cut_off_with_a_warning(tmp_path):
    def change(file):
        file["layer/1/weight"][...] *= 0.99

    ours, _ = of_lava(tmp_path / "x.net", change)
    with pytest.warns(spikec.SpikecWarning, match="/layer/1/weight"):
        net = NetxNetwork.load(tmp_path / "x.net")
    assert np.array_equal(net.layers[0].weight, np.trunc(np.float32(0.99) * ours.layers[0].weight))


def put(key, value):
    def change(file):
        if key in file:
            del file[key]
        file[key] = value

    return change


def flattened_again(file):
    file.copy("layer/3", "layer/5")
    file.copy("layer/4", "layer/6")
    put("layer/6/weight", np.ones((3, 3)))(file)


def moved(*pairs):
    def change(file):
        for pair in pairs:
            file.move(*pair)

    return change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("layer/2/type", "pool"), "'pool', which netx has not"),
        (put("layer/2/type", "convT"), "'convT', which netx has not"),
        (put("layer/2/neuron/type", "SDNN"), "its neurons are SDNN"),
        (put("layer/2/delay", np.arange(4)), "delays"),
        (put("layer/0/neuron/type", "CUBA"), "input layer has neurons"),
        (put("layer/0/type", "conv"), "not an input, and is conv"),
        (put("layer/4/weight", np.full((3, 24), -256)), "netx clips"),
        (put("layer/4/weight", np.zeros((3, 24))), "weights of zero only"),
        (put("layer/2/weight", np.full((4, 3, 2, 2), 2000)), "its weight .* takes up to 254"),  # netx clips no kernel
        (put("layer/2/bias", np.full(4, 40_000)), "its bias .* 16 bits"),
        (put("layer/2/shape", np.array([4, 3, 3])), r"does not make \(4, 3, 3\)"),
        (flattened_again, "flattens a vector"),
        (moved(("layer/3", "f"), ("layer/4", "layer/3")), r"does not make \(3,\) of \(4, "),
        (moved(("layer/3", "f"), ("layer/2", "layer/3"), ("f", "layer/2")), r"does not make \(4, 3, 2\) of \(240,\)"),
        (lambda file: file.move("layer/3", "layer/5"), "no group 3"),
    ],
)
def test_what_netx_does_not_run_is_refused_by_name(change, message, tmp_path):
    of_lava(tmp_path / "x.net", change)
    with pytest.raises(InvalidModelError, match=message):
        NetxNetwork.load(tmp_path / "x.net")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.move("layer", "other"), "no group layer"),
        (put("spikec/format", 9), r"has format 9, this spikec reads \(1, 2\)"),
        (put("spikec/names", ["a", "a", "b"]), "must name each"),
        (put("spikec/names", [1, 2, 3]), "must be a text"),
        (put("spikec/relays", [0, 0, 1]), "last layer repeats inputs"),
        (put("spikec/relays", [9, 0, 0]), "neurons repeat an input, which are all"),
        (put("spikec/constants", 99), "inputs are always on"),
        (put("spikec/encoder_shape", [9, 9, 9]), "its encoder makes 729 inputs"),
        (put("spikec/output_shape", [4]), r"its output_shape is \(4,\)"),
        (put("spikec/output_scale", np.ones(2)), r"its output_scale has shape \(2,\)"),
        (put("layer/2/neuron/vThMant", [1, 2]), r"its vThMant has shape \(2,\)"),
        (put("layer/2/stride", [1, 1, 1]), "its stride has 3 numbers, and must have 2"),
        (put("layer/2/bias", np.zeros(7)), r"its bias has shape \(7,\)"),
        (put("layer/4/type", "dense_rec"), "a dense_rec, and nothing else, has a weight_rec"),
        (put("layer/4/weight_rec", np.zeros((3, 3))), "a dense_rec, and nothing else, has a weight_rec"),
        (lambda file: file["layer/2"].pop("weight"), "it has no weight"),
        (lambda file: file.copy("layer", "spikec/layer"), "no group stock"),
    ],
)
def test_a_file_of_ours_that_does_not_fit_itself_is_refused(change, message, tmp_path):
    net, _ = compiled("hard", 0.0)
    net.save(tmp_path / "x.net")
    with h5py.File(tmp_path / "x.net", "a") as file:
        change(file)
    with pytest.raises(InvalidModelError, match=message):
        NetxNetwork.load(tmp_path / "x.net")


# ------------------------------------------------------------------ the summary


@pytest.mark.slow
def test_the_summary_counts_neurons_synapses_bits_bytes_and_cores():
    conv = IntegerLayer("conv", "c", (4, 200, 200), np.full((4, 2, 3, 3), 126), 99, 4096, 0, padding=(1, 1))
    weight = np.zeros((10, 160_000), dtype=np.int64)
    weight[:, :80_000] = 254
    net = by_hand(conv, layer("y", 10, 160_000, weight=weight), shape=(2, 200, 200))
    first, last = net.summary().layers
    assert (first.neurons, first.synapses, first.bits, first.bytes) == (160_000, 72 * 40_000, 7, 63 + 1_280_000)
    assert first.cores == 20  # 8,192 neurons a core
    assert (last.synapses, last.bits, last.bytes, last.cores) == (800_000, 8, 800_080, 5)  # 196,608 bytes a core
    total = net.summary()
    assert repr(net) == f"<NetxNetwork by_hand: {total.totals}>"
    assert "2 layers, 160,010 neurons, 3,680,000 synapses of 8 bits" in repr(net)
    shown = str(total)
    assert "4x200x200" in shown
    assert shown.endswith("about 25 cores of Loihi 2")
