import itertools
import json
import math

import attrs
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import build as small
import spikec
from nets import ZOO, batch, build
from spikec.diagnosis import layers as diagnose_layers
from spikec.diagnosis.cost import PRICES, Cost, Count, takes_spikes
from spikec.diagnosis.diagnosis import Deviation
from spikec.diagnosis.layers import Fed, ideal, limit, split
from spikec.interpreter.probe import macs
from spikec.ir.ops import IF, Head, Input, Linear, Neuron, Relu

CONVERTS = [name for name in ZOO if name != "two_outputs"]


@attrs.frozen
class Change(spikec.Pass):
    """Any change to the ops of one class, by a function of (name, op)."""

    name = "change"
    contract = "approximate"
    kind: type = Relu
    by: object = None

    def run(self, graph, context):
        nodes = graph.match(self.kind)
        for node in nodes:
            graph.set_op(node.name, self.by(node.name, node.op))
        return len(nodes)


def compiled(model, x, target="spikingjelly", *changes, **options):
    normalization = spikec.Normalization(**options.pop("normalization", {}))
    pipeline = spikec.Pipeline.default(target, normalization=normalization, timesteps=options.get("timesteps"))
    pipeline = pipeline.without(*{each.name for each in pipeline if each.contract == "tuned"})
    for after, change in changes:
        pipeline = pipeline.insert_after(after, change)
    return spikec.Compiler(target, calibration=x, pipeline=pipeline, verify="off", **options).run(model)


def doubles(x):
    return tuple(each.double() for each in x) if isinstance(x, tuple) else x.double()


# ------------------------------------------------------------------ the parts


def test_the_parts_of_an_error_add_up_neuron_by_neuron_and_each_is_what_it_says():
    rng = np.random.default_rng(0)
    steps, threshold, start = 7, 0.8, 0.3
    train = torch.tensor(rng.normal(0.2, 0.7, size=(steps, 500)))
    z = torch.tensor(rng.normal(0.2, 0.7, size=500))
    neuron = IF(np.full(1, threshold), v_init=np.full(1, start))
    v, spikes = np.full(500, start), np.zeros(500)
    for current in train.numpy():
        v = v + current
        fired = v >= threshold
        v, spikes = v - threshold * fired, spikes + fired
    activation = z.clamp(min=0) / threshold
    parts = split(
        neuron, steps, Fed(z, activation, z, torch.zeros_like(z)), train.mean(0), torch.tensor(spikes) / steps
    )
    total = spikes / steps - activation.numpy()
    np.testing.assert_allclose(sum(part.numpy() for part in parts.values()), total, atol=1e-15)

    counts = np.clip(np.floor((steps * z.numpy() + start) / threshold), 0, steps)
    np.testing.assert_allclose(parts["clipping"], np.minimum(1 - z.numpy() / threshold, 0), atol=1e-15)
    np.testing.assert_allclose(parts["quantization"], counts / steps - np.clip(z.numpy() / threshold, 0, 1), atol=1e-15)
    real = np.clip(np.floor((steps * train.mean(0).numpy() + start) / threshold), 0, steps)
    np.testing.assert_allclose(parts["unevenness"], (spikes - real) / steps, atol=1e-15)
    assert all(float(part.abs().max()) > 0.05 for part in parts.values())


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("start", [0.0, 0.5])
def test_the_ideal_rate_is_that_of_the_neuron_fed_a_constant(strict, start):
    neuron = IF(np.full(1, 2.0), v_init=np.full(1, start), strict=strict)
    z = torch.arange(-16, 49, dtype=torch.float64)[:, None] / 8  # ties, and exact in binary
    state, spikes = neuron.initial(z), torch.zeros_like(z)
    for _ in range(8):
        state, fired = neuron.step(state, z)
        spikes += fired
    assert torch.equal(ideal(neuron, 8, z), spikes / 8)
    assert torch.equal(limit(neuron, z), (z / 2).clamp(0, 1))


def test_a_neuron_that_is_reset_to_a_value_is_run_for_its_ideal_rate():
    neuron = IF(np.ones(1), v_reset=np.zeros(1))
    z = torch.full((1, 1), 0.7, dtype=torch.float64)
    assert float(ideal(neuron, 8, z)) == 0.5  # every second step, not floor(8 * 0.7) / 8


@pytest.mark.slow
@pytest.mark.parametrize("target", ["spikingjelly", "nir"])
def test_a_layer_is_compared_with_torch(target):
    steps, model, x = 8, build("cnn", dtype=torch.float64), batch("cnn", 6, dtype=torch.float64)
    compilation = compiled(model, x, target, timesteps=steps)
    found = spikec.diagnose(compilation, x, steps)
    relus = {name: module for name, module in model.named_modules() if isinstance(module, nn.ReLU)}
    seen = {}
    for name, module in relus.items():
        module.register_forward_hook(lambda _, xs, y, name=name: seen.__setitem__(name, (xs[0].clone(), y.clone())))
    with torch.no_grad():
        model(x)
    counts, graph = {}, compilation.graph

    def tap(name, value, state, operands):
        if isinstance(graph[name], Neuron):
            counts[name] = counts.get(name, 0) + value.numpy()

    spikec.run(graph, x, steps, tap=tap)
    assert [layer.name for layer in found.layers] == list(relus)
    for layer in found.layers:
        z, activation = (each.numpy() for each in seen[layer.name])
        scale = graph.type(layer.node).scale
        total = counts[layer.node] / steps * scale - activation
        assert layer.total.mean == pytest.approx(total.mean(), abs=1e-9)
        assert layer.total.rms == pytest.approx(math.sqrt((total**2).mean()), rel=1e-6)
        clipping = np.minimum(activation, scale) - activation
        assert layer.errors["clipping"].rms == pytest.approx(math.sqrt((clipping**2).mean()), rel=1e-5, abs=1e-7)
        rounded = np.clip(np.floor(steps * z / scale + 0.5), 0, steps) * scale / steps - np.clip(z, 0, scale)
        assert layer.errors["quantization"].rms == pytest.approx(math.sqrt((rounded**2).mean()), rel=0.01)
        assert layer.rate == pytest.approx((counts[layer.node] / steps).mean())
        assert layer.silent == pytest.approx((counts[layer.node].max(0) == 0).mean())
        assert layer.saturated == pytest.approx((counts[layer.node] == steps).mean())
        assert layer.clipped == pytest.approx((activation > scale).mean(), abs=1e-3)
        assert sum(error.mean for error in layer.errors.values()) == pytest.approx(layer.total.mean, abs=1e-12)
        own = layer.total.mean - layer.errors["propagated"].mean
        assert layer.own.mean == pytest.approx(own, abs=1e-12)
    first = found.layers[0]
    assert first.errors["propagated"].rms < 1e-9  # its current is constant
    assert first.errors["unevenness"].rms < 1e-9
    assert found.layers[2].errors["propagated"].rms > 1e-3


@pytest.mark.parametrize("name", CONVERTS)
@pytest.mark.parametrize("target", ["spikingjelly", "nir"])
def test_every_neuron_has_its_relu_and_keeps_its_charge(name, target):
    if (name, target) == ("conv3d", "nir"):
        return  # NIR has no Conv3d
    x = batch(name, 6)
    data = [x] if isinstance(x, tuple) else x
    found = spikec.diagnose(compiled(build(name), data, target, timesteps=8), data, 8)
    assert all(layer.signal > 0 for layer in found.layers)
    assert max(layer.residual for layer in found.layers) < 1e-9
    assert found.rungs[-1].error == pytest.approx(found.error[-1])


def test_the_charge_of_a_neuron_that_loses_some_is_seen(monkeypatch):
    x = batch("mlp", 6)
    compilation = compiled(build("mlp"), x)
    monkeypatch.setattr(diagnose_layers, "is_soft", lambda op: True)
    reset = compilation.graph.copy()
    for node in reset.match(Neuron):
        reset.set_op(node.name, attrs.evolve(node.op, v_reset=np.zeros(())))
    found = spikec.diagnose(attrs.evolve(compilation, graph=reset), x, 16)
    assert max(layer.residual for layer in found.layers) > 0.01


@pytest.mark.slow
def test_targets_with_encoders_integers_and_hard_reset():
    model, x = build("strided"), batch("strided", 8)
    compilation = spikec.Compiler("netx", calibration=x, timesteps=16, reset="hard", verify="off").run(model)
    found = spikec.diagnose(compilation, x, 16)
    assert [layer.name for layer in found.layers] == ["%input_spikes", "1", "3"]
    encoder, *hidden = found.layers
    assert encoder.errors["quantization"].rms == pytest.approx(encoder.total.rms, rel=1e-6)
    assert encoder.residual < 1e-9
    assert [layer.residual for layer in hidden] == [None, None]
    assert found.cost.macs == 0
    assert found.rungs[-1].error < 1


@pytest.mark.slow
def test_heads_several_outputs_and_inputs():
    model, x = build("two_outputs"), batch("two_outputs", 30)
    found = spikec.diagnose(compiled(model, x), x, 32)
    assert found.agreement[-1] > 0.9
    x = batch("mlp", 30, dtype=torch.float64)
    graph = spikec.load(build("mlp", dtype=torch.float64), x)
    graph.insert_before("output", 0, Head("softmax"))
    with pytest.warns(spikec.SpikecWarning, match="softmax is kept outside"):
        compilation = compiled(graph, x)
    found = spikec.diagnose(compilation, x, 64)
    with torch.no_grad():
        wanted = torch.softmax(build("mlp", dtype=torch.float64)(x), 1)
    mean = spikec.run(compilation.graph, x, 64).mean(0) * torch.tensor(compilation.graph.type("output").scale)
    error, spread = (torch.softmax(mean, 1) - wanted).square().sum(), (wanted - wanted.mean(0)).square().sum()
    assert found.error[-1] == pytest.approx(float((error / spread).sqrt()), rel=1e-6)


def test_the_error_of_several_outputs_is_the_mean_of_their_squares():
    model, x = build("two_outputs", dtype=torch.float64), batch("two_outputs", 30, dtype=torch.float64)
    compilation = compiled(model, x)
    with torch.no_grad():
        wanted = list(model(x).values())
    shares = []
    for name, b, train in zip(compilation.graph.outputs, wanted, spikec.run(compilation.graph, x, 8), strict=True):
        mean = train.mean(0) * torch.tensor(compilation.graph.type(name).scale)
        shares.append(float((mean - b).square().sum() / (b - b.mean(0)).square().sum()))
    assert shares[0] != pytest.approx(shares[1], rel=0.01)
    assert spikec.diagnose(compilation, x, 8).error[-1] == pytest.approx(math.sqrt(sum(shares) / 2), rel=1e-6)


# ------------------------------------------------------------ who is to blame


def shrunk(node, factor):
    """Normalize, and then one layer's scale is wrong."""
    return Change(Relu, lambda name, op: attrs.evolve(op, scale=op.scale * factor) if name == node else op)


@pytest.mark.slow
@pytest.mark.parametrize(("node", "name"), [("relu_2", "2"), ("relu_6", "6"), ("relu_10", "10")])
def test_a_threshold_that_is_too_small_is_found(node, name):
    model, x = build("cnn"), batch("cnn", 8)
    change = ("normalize", shrunk(node, 0.2))
    found = spikec.diagnose(compiled(model, x, "spikingjelly", change, normalization={"method": "max"}), x, 32)
    worst = max(found.layers, key=lambda layer: layer.relative(layer.own))
    assert worst.name == name
    assert worst is max(found.layers, key=lambda layer: layer.effects["own"].rms)
    assert worst.own.rms == pytest.approx(worst.errors["clipping"].rms, rel=0.1)
    assert worst.errors["clipping"].mean < 0
    assert found.rungs[0].step > max(rung.step for rung in found.rungs[1:])


@pytest.mark.slow
def test_the_maximum_clips_nothing():
    x = batch("cnn", 6)
    whole = spikec.diagnose(compiled(build("cnn"), x, normalization={"method": "max"}), x, 4)
    assert all(layer.clipped == 0 for layer in whole.layers)
    assert all(layer.errors["clipping"].rms < 1e-6 for layer in whole.layers)


@pytest.mark.slow
def test_a_small_error_has_the_effect_that_was_foreseen():
    model, x = separable()
    compilation = compiled(model, x, normalization={"percentile": 99})
    found = spikec.diagnose(compilation, x, 512)
    with torch.no_grad():
        ann = model(x).double()
    snn = spikec.run(compilation.graph, x.double(), 512).mean(0)
    first, second = ann.topk(2).indices.T
    rows = torch.arange(len(x))
    change = (snn - ann)[rows, first] - (snn - ann)[rows, second]
    size = float((ann[rows, first] - ann[rows, second]).square().mean().sqrt())
    foreseen = sum(layer.effects["own"].mean for layer in found.layers)
    assert abs(foreseen) > 1e-3
    assert foreseen == pytest.approx(float(change.mean()) / size, rel=0.1)


def separable(count=200, seed=0):
    """Classes that differ, so that agreement can fall: logits of either sign, near each other."""
    torch.manual_seed(seed)
    layers = [nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)]
    model = nn.Sequential(*layers).eval()
    x = torch.randn(count, 8)
    with torch.no_grad():
        for layer in layers[::2]:
            layer.weight *= 2
        layers[-1].bias -= model(x).mean(0)
    return model, x


@pytest.mark.slow
def test_a_small_threshold_gets_the_percentile_that_clips_less():
    model, x = separable()
    change = ("normalize", shrunk("relu_3", 0.25))
    found = spikec.diagnose(compiled(model, x, "spikingjelly", change, normalization={"method": "max"}), x, 256)
    assert (found.advice.kind, found.advice.layer) == ("clipping", "3")
    assert found.advice.change == "normalization=spikec.Normalization(percentile=99.9)"
    assert found.rungs[0].agreement < 0.95
    assert found.rungs[0].step > max(rung.step for rung in found.rungs[1:])


@pytest.mark.slow
def test_data_beyond_the_calibration_is_told_from_a_small_threshold():
    model, x = separable()
    found = spikec.diagnose(compiled(model, x / 4, normalization={"method": "max"}), x, 256)
    assert found.advice.kind == "clipping"
    assert found.advice.change.startswith("calibration=")


def test_too_few_steps_are_found():
    model, x = separable()
    found = spikec.diagnose(compiled(model, x, timesteps=2), x, 2)
    assert found.advice.kind == "quantization"
    assert found.advice.change == "timesteps=4, and run as many"
    assert found.rungs[1].agreement < 0.8 < found.rungs[0].agreement


@pytest.mark.slow
def test_neurons_that_start_at_zero_are_found():
    model, x = separable()
    found = spikec.diagnose(compiled(model, x, normalization={"v_init": 1e-9}), x, 16)
    assert found.advice.kind == "quantization"
    plain = spikec.Pipeline.default("spikingjelly").without("init-potential")
    compilation = spikec.Compiler("spikingjelly", calibration=x, pipeline=plain).run(model)
    found = spikec.diagnose(compilation, x, 16)
    assert (found.advice.kind, found.advice.change) == (
        "quantization",
        "normalization=spikec.Normalization(v_init=0.5)",
    )


def test_a_layer_that_shares_one_threshold_between_unequal_channels_is_found():
    model, x = separable()
    with torch.no_grad():
        model[0].weight[1:] /= 100
        model[0].bias[1:] /= 100
        model[2].weight[:, 1:] *= 100
    found = spikec.diagnose(compiled(model, x, normalization={"per_channel": False}), x, 8)
    assert (found.advice.kind, found.advice.layer) == ("quantization", "1")
    assert found.advice.change == "normalization=None, timesteps=8"
    assert "times what 99.9 % of its activations need" in found.advice.why


def test_silent_channels_do_not_make_a_threshold_too_large():
    x = batch("mlp", 24)
    compilation = compiled(build("mlp"), x)
    found = spikec.diagnose(compilation, x, 4, tolerance=1e-3)
    assert found.layers[0].silent > 0.3  # their scale is the layer's, for want of another
    assert found.advice.change == "timesteps=8, and run as many"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::spikec.SpikecWarning")
def test_thresholds_without_data_are_found():
    model, x = separable()
    found = spikec.diagnose(spikec.Compiler("spikingjelly", example_input=x).run(model), x, 16)
    assert found.advice.change == "calibration= with a few hundred training samples"


def opposed():
    """The second layer gets a large current and loses it again: what comes first decides what it says."""
    first, second, last = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 5)
    with torch.no_grad():
        first.weight.copy_(torch.rand(4, 4).repeat(2, 1))
        first.bias.zero_()
        large = 2 * torch.rand(6, 4)
        second.weight.copy_(torch.cat([torch.randn(6, 4) + large, -large], 1))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last).eval()


def test_spikes_that_come_too_early_are_found():
    model, x = opposed(), torch.rand(100, 4)
    with torch.no_grad():
        model[-1].bias -= model(x).mean(0)

    def early(name, op):
        start = np.where(np.arange(8) < 4, 0.6, 0.4)
        return attrs.evolve(op, v_init=start * op.v_threshold) if name == "relu_1" else op

    change = ("init-potential", Change(Neuron, early))
    compilation = compiled(model, x, "spikingjelly", change, normalization={"method": "max"})
    found = spikec.diagnose(compilation, x, 64)
    assert (found.advice.kind, found.advice.layer) == ("unevenness", "3")
    assert found.layers[0].errors["unevenness"].rms < 1e-9
    second = found.layers[1]
    assert second.errors["unevenness"].rms > 3 * second.errors["quantization"].rms
    assert found.rungs[2].step > found.rungs[1].step > found.rungs[0].step


@pytest.mark.slow
def test_a_network_that_says_what_the_ann_says_is_left_alone():
    model, x = separable()
    found = spikec.diagnose(compiled(model, x, normalization={"method": "max"}), x, 256, tolerance=0.05)
    assert found.advice.kind is None
    assert found.enough < 256
    assert found.advice.change == f"timesteps={found.enough}"
    assert (found.agreement[found.enough - 1 :] >= 0.95).all()
    assert found.agreement[found.enough - 2] < 0.95


# ----------------------------------------------------------------- operations


@pytest.mark.parametrize("name", ["cnn", "grouped", "resnet", "concat", "conv1d", "conv3d", "maxpool", "mlp"])
def test_macs_are_half_the_flops_that_torch_counts(name):
    model, x = build(name), batch(name, 1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    assert sum(macs(spikec.load(model, x)).values()) == counter.get_total_flops() / 2


def matrix(op, shape):
    """A linear op without its bias, as a matrix over the flattened operand."""
    size = math.prod(shape)
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    return (op.eval(basis) - op.eval(torch.zeros(1, *shape, dtype=torch.float64))).flatten(1).numpy().T


@pytest.mark.slow
def test_synops_are_spikes_times_the_weights_that_each_meets():
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(3, 4, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 2 * 2, 5),
    ).eval()
    x, steps = torch.rand(3, 1, 8, 8), 6
    compilation = compiled(model, x)
    graph, records = compilation.graph, {}

    def tap(name, value, state, operands):
        if isinstance(graph[name], Neuron):
            records.setdefault(name, []).append(value.flatten(1).numpy())

    spikec.run(graph, x.double(), steps, tap=tap)
    shapes = {name: graph.type(name).shape for name in graph}
    pool, conv, linear = (next(n for n in graph if graph[n].kind == kind) for kind in ("sumpool", "flatten", "linear"))
    conv = "conv2d_3"
    pooled, weights = matrix(graph[pool], shapes["relu_1"]), matrix(graph[conv], shapes[pool])
    fan_out = {
        "relu_1": (weights != 0).sum(0) @ (pooled != 0),
        "relu_4": (matrix(graph[linear], (16,)) != 0).sum(0),
    }
    synops = sum(float((np.array(records[name]) @ fan_out[name]).sum()) for name in records)
    cost = spikec.diagnose(compilation, x, steps).cost
    assert cost.synops == pytest.approx(synops / 3)
    assert cost.spikes == pytest.approx(sum(np.sum(trains) for trains in records.values()) / 3)
    assert cost.macs == 3 * 9 * 64 * steps  # the image is no spike
    assert cost.ann_macs == 3 * 9 * 64 + 4 * 27 * 4 + 80


@pytest.mark.slow
def test_the_comparisons_of_a_max_pool_pass_spikes_on():
    x = batch("maxpool", 4)
    found = {
        target: spikec.diagnose(compiled(build("maxpool"), x, target), x, 8).cost for target in ("nir", "spikingjelly")
    }
    first = 4 * 2 * 9 * 64 * 8
    assert {cost.macs for cost in found.values()} == {first}


def test_macs_of_a_transposed_conv_go_by_its_inputs_positions():
    model = nn.Sequential(nn.ConvTranspose2d(2, 3, (3, 2), stride=2), nn.ReLU()).eval()
    assert sum(macs(spikec.load(model, torch.zeros(1, 2, 4, 5))).values()) == 4 * 5 * 2 * 3 * (3 * 2)


@pytest.mark.parametrize(("weight", "bias", "spikes"), [(1.0, None, True), (1.0, 0.5, False), (0.7, None, False)])
def test_a_unit_weight_passes_spikes_on_and_one_with_a_bias_does_not(weight, bias, spikes):
    b = small.Builder(3)
    b.graph.set_op("x", Input((3,), "float64", rate=True, origin=small.source("x")))
    fired = b.add(IF(np.ones(1)), b.x, name="if")
    moved = b.add(Linear(weight * np.eye(3), None if bias is None else np.full(3, bias)), fired, name="moved")
    graph = b.done(b.add(Linear(np.ones((2, 3))), moved, name="last"))
    assert takes_spikes(graph) == {"moved": True, "last": spikes}
    count = Count(graph)
    count.step("moved", [torch.tensor([[2 + 1e-12, 1.0, 0.0]], dtype=torch.float64)])  # pooled spikes, and rounding
    assert count.synops == 3


def test_weights_that_are_zero_cost_nothing_in_time():
    b = small.Builder(3)
    b.graph.set_op("x", Input((3,), "float64", rate=True, origin=small.source("x")))
    current = b.add(Linear(np.array([[1.5, 0.0, 0.0], [0.0, 2.0, 0.5]])), b.x, name="pruned")
    assert Count(b.done(b.add(IF(np.ones(1)), current, name="if"))).macs == 3


def test_energy_is_the_published_arithmetic():
    ann, snn = Cost(3_640_000_000, 0, 20.86e9, 0).energy(PRICES[1])
    assert (round(1 / ann), round(1 / snn)) == (22, 623)  # images a joule in Bu et al. 2025: 22 and 622
    assert Cost(10, 0, 30, 5).energy(PRICES[0]) == (pytest.approx(46e-12), pytest.approx(50e-12))


# ------------------------------------------------------------------ the record


@pytest.mark.slow
def test_accuracy_is_that_of_evaluate_and_batches_do_not_matter():
    model, x = separable()
    with torch.no_grad():
        labels = model(x).argmax(1)
    labels[:20] = (labels[:20] + 1) % 10
    compilation = compiled(model, x)
    whole = spikec.diagnose(compilation, x, 8, labels)
    pairs = list(zip(x.split(33), labels.split(33), strict=True))
    parts = spikec.diagnose(compilation, pairs, 8)
    other = spikec.diagnose(compilation, iter(x.split(50)), 8, labels.tolist())
    np.testing.assert_allclose(whole.accuracy, spikec.evaluate(compilation.graph, pairs, 8), atol=1 / 200)
    assert whole.ann_accuracy == 0.9
    for one in (parts, other):
        assert json.dumps(one.to_dict(), indent=1).count("\n") == json.dumps(whole.to_dict(), indent=1).count("\n")
        np.testing.assert_array_equal(one.accuracy, whole.accuracy)
        np.testing.assert_array_equal(one.agreement, whole.agreement)
        np.testing.assert_allclose(one.error, whole.error, rtol=1e-12)
        assert one.cost.synops == pytest.approx(whole.cost.synops)
        for a, b in zip(one.layers, whole.layers, strict=True):
            assert (a.silent, a.residual) == (b.silent, pytest.approx(b.residual, abs=1e-12))
            assert a.total.rms == pytest.approx(b.total.rms)
    assert spikec.diagnose(compilation, x, 8).accuracy is None


def test_a_single_number_is_judged_by_its_error():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1)).eval(), torch.rand(50, 4)
    found = spikec.diagnose(compiled(model, x, normalization={"method": "max"}), x, 64, tolerance=0.1)
    assert (found.agreement == 1).all()
    assert found.error[0] > 0.1
    assert 1 < found.enough <= 64
    assert (found.error[found.enough - 1 :] <= 0.1).all()


@pytest.mark.slow
def test_text_json_and_plot(tmp_path):
    model, x = separable()
    found = spikec.diagnose(compiled(model, x), x, 4, torch.zeros(200, dtype=torch.int64))
    text = str(found)
    for piece in ("T=4", "agreement", "accuracy", "clipping", "SynOps", "Horowitz", "try timesteps=8", "\n  3 "):
        assert piece in text
    found.json(tmp_path / "d.json")
    read = json.loads((tmp_path / "d.json").read_text())
    assert read == json.loads(json.dumps(found.to_dict()))
    assert read["layers"][0]["name"] == "1"
    assert read["advice"]["kind"] == "quantization"
    assert len(read["agreement"]) == 4
    assert "points" not in read["layers"][0]
    found.plot(tmp_path / "d.png")
    assert (tmp_path / "d.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    table = text[text.index("  silent, saturated") : text.index("\none sample")]
    assert max(map(len, table.splitlines())) <= 120
    assert repr(found) == f"<spikec.Diagnosis {text.splitlines()[0]}>"
    assert "quantization" in found._repr_html_()
    assert "<td" in found._repr_html_()


@pytest.mark.slow
def test_every_bar_of_the_plot_is_one_error_of_one_layer():
    model, x = separable(16)
    found = spikec.diagnose(compiled(model, x), x, 4)
    bars = found.plot().axes[1].patches
    layer = found.layers[0]
    errors = [layer.relative(layer.errors[kind]) for kind in ("clipping", "quantization", "propagated", "unevenness")]
    drawn = [bar.get_width() for bar in bars][:: len(found.layers)]
    assert drawn == pytest.approx([100 * error for error in (*errors, layer.relative(layer.total))])
    assert all(bar.get_x() == 0 for bar in bars)


@pytest.mark.slow
def test_titles_side_by_side_do_not_touch():
    torch.manual_seed(0)
    model = nn.Sequential()
    for block in range(4):
        model.add_module(
            f"a_block_with_a_name_that_no_title_can_hold_{block}",
            nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 4)),
        )
    x = torch.rand(16, 4)
    figure = spikec.diagnose(compiled(model.eval(), x), x, 4).plot()
    figure.canvas.draw()
    boxes = [axes.title.get_window_extent() for axes in figure.axes[2:]]
    assert len(boxes) == 4
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


@pytest.mark.slow
def test_each_part_of_the_plot_goes_into_axes_of_the_users_own(tmp_path):
    from matplotlib.figure import Figure

    model, x = separable(16)
    found = spikec.diagnose(compiled(model, x), x, 4, torch.zeros(16, dtype=torch.int64))
    mine = Figure()
    left, middle, right = mine.subplots(1, 3)
    assert found.plot_over_time(ax=left) is found.plot_errors(ax=middle) is found.plot_rates("1", ax=right) is mine
    np.testing.assert_array_equal(left.lines[0].get_ydata(), 100 * found.agreement)
    np.testing.assert_array_equal(left.lines[1].get_ydata(), 100 * found.accuracy)
    assert len(middle.patches) == 5 * len(found.layers)
    np.testing.assert_array_equal(right.lines[0].get_data(), found.layers[0].points)
    found.plot_rates(found.layers[0].node, path=tmp_path / "rates.svg")
    assert "<svg" in (tmp_path / "rates.svg").read_text()
    with pytest.raises(spikec.CompileError, match="no layer '7'") as refused:
        found.plot_rates("7")
    assert refused.value.hint == f"there are {found.layers[0].node}, {found.layers[1].node}"


@pytest.mark.slow
def test_accuracies_of_several_networks_are_drawn_side_by_side(tmp_path):
    model, x = separable(32)
    labels = model(x).argmax(1)
    curves = {
        mode: spikec.evaluate(
            spikec.compile(model, "spikingjelly", calibration=x, normalization=mode), [(x, labels)], timesteps=6
        )
        for mode in ("max", 0.5)
    }
    axes = spikec.plot_accuracy(curves, 1.0, path=tmp_path / "curves.png").axes[0]
    for line, curve in zip(axes.lines, curves.values(), strict=False):
        np.testing.assert_array_equal(line.get_data(), [range(1, 7), 100 * np.asarray(curve)])
    assert [each.get_text() for each in axes.get_legend().get_texts()] == ["max", "0.5", "ANN"]
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(spikec.CompileError, match="no row of shares"):
        spikec.plot_accuracy({"wrong": [97.5, 98.0]})


@pytest.mark.slow
def test_a_table_has_a_row_for_each_layer():
    pytest.importorskip("pandas")
    model, x = separable(16)
    found = spikec.diagnose(compiled(model, x), x, 4)
    table = found.to_pandas()
    assert table.layer.tolist() == [layer.name for layer in found.layers]
    assert table.quantization[0] == found.layers[0].relative(found.layers[0].errors["quantization"])


class CalledTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.relu = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()

    def forward(self, x):
        return self.relu(self.two(self.relu(self.one(x))))


@pytest.mark.slow
def test_calls_of_one_layer_are_told_apart():
    x = torch.rand(8, 4)
    compilation = spikec.Compiler("spikingjelly", calibration=x, normalization="max").run(CalledTwice().eval())
    names = [layer.name for layer in spikec.diagnose(compilation, x, 2).layers]
    assert len(set(names)) == 2
    assert all("relu" in name and f"%{layer}" in name for name, layer in zip(names, ("relu", "relu_1"), strict=True))


def test_a_plot_without_matplotlib_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    model, x = separable(8)
    with pytest.raises(spikec.MissingDependencyError, match=r'pip install "spikec\[demo\]"'):
        spikec.diagnose(compiled(model, x), x, 2).plot(tmp_path / "d.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_points_of_a_layer_are_every_nth_activation_beside_its_rate():
    model, x = separable()
    layer = spikec.diagnose(compiled(model, x), x, 4).layers[0]
    activation = model[:2](x).detach().flatten()[::4].numpy()  # 200 samples of 32 neurons, in at most 2000 points
    np.testing.assert_allclose(layer.points[0, : 64 * 32 // 2 : 2], activation[: 64 * 32 // 4], atol=1e-6)


def test_a_layer_that_is_silent_in_the_ann_is_judged_by_its_scale():
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval(), torch.rand(20, 4)
    with torch.no_grad():
        model[0].bias.fill_(-10.0)
    with pytest.warns(spikec.SpikecWarning, match="silent on the calibration data"):
        compilation = compiled(model, x)
    layer = attrs.evolve(spikec.diagnose(compilation, x, 4).layers[0], total=Deviation(0.0, 0.5))
    assert layer.signal == 0
    assert layer.relative(layer.total) == 0.5 / layer.scale[1]


# ----------------------------------------------------------------- bad input


@pytest.mark.slow
def test_bad_input_is_named():
    model, x = separable(20)
    compilation = compiled(model, x)

    def refused(error, match, *arguments, **options):
        with pytest.raises(error, match=match):
            spikec.diagnose(*arguments, **options)

    for alone in (compilation.artifact, "model.net"):
        refused(spikec.InvalidModelError, "not a Compilation, which holds the ANN", alone, x, 4)
    refused(spikec.CompileError, "timesteps is 0", compilation, x, 0)
    refused(spikec.CompileError, "tolerance is 2", compilation, x, 4, tolerance=2)
    refused(spikec.CalibrationError, "empty", compilation, [], 4)
    refused(spikec.CalibrationError, "no sample", compilation, x[:0], 4)
    refused(spikec.CalibrationError, "is a dict", compilation, {"x": x}, 4)
    refused(spikec.CalibrationError, "tuple, read as batches that differ", compilation, (x, torch.zeros(20).long()), 4)
    refused(spikec.CalibrationError, "is a TensorDataset", compilation, torch.utils.data.TensorDataset(x), 4)
    refused(spikec.CalibrationError, "19 labels for a batch", compilation, x, 4, [1] * 19)
    refused(spikec.CalibrationError, "21 labels for 20 samples", compilation, x, 4, [1] * 21)
    refused(spikec.CalibrationError, "labels are .* float32", compilation, x, 4, torch.rand(20))
    refused(spikec.CalibrationError, "some batches have labels", compilation, [(x, [1] * 20), (x,)], 4)
    refused(spikec.CompileError, "input is", compilation, x[:, :3], 4)
    two = compiled(build("two_outputs"), batch("two_outputs"))
    refused(spikec.InvalidModelError, "one output", two, batch("two_outputs"), 4, [1] * 4)


@pytest.mark.slow
def test_a_network_without_an_ann_or_without_neurons_is_refused():
    model, x = separable(20)
    again = spikec.Compiler("spikingjelly", calibration=x).run(compiled(model, x, "nir").artifact)
    with pytest.raises(spikec.InvalidModelError, match="spikes already") as error:
        spikec.diagnose(again, x, 4)
    assert "of the ANN that it was made from" in error.value.hint
    linear = spikec.Compiler("spikingjelly", calibration=x).run(nn.Linear(8, 3).eval())
    with pytest.raises(spikec.InvalidModelError, match="no neuron"):
        spikec.diagnose(linear, x, 4)
