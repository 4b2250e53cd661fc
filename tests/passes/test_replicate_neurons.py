"""Several neurons for each: k of them say after T steps what one says after k T."""

import attrs
import numpy as np
import pytest
import torch
from torch import nn

import build
import nets
from spikec import Compiler, Normalization, Pipeline, compile, diagnose, load, run, save
from spikec.calibration.source import CalibrationSource
from spikec.extend.loader import backend_named, pass_named
from spikec.extend.passbase import Context
from spikec.extend.sweep import layers
from spikec.ir.errors import CompileError, InvalidModelError
from spikec.ir.ops import Add, Neuron, Relu, Rescale
from spikec.ir.rewrite import neurons_of
from spikec.ir.stages import SPIKING
from spikec.passes.replicate_neurons import _replicated

T = 6
X = torch.rand(200, 24, dtype=torch.float64)


def single(copies, v_init=0.5):
    """A net of one layer of ReLUs, compiled with so many neurons for each."""
    b = build.Builder(24)
    g = b.done(b.relu(b.linear(b.x, 5, "fc"), "relu"))
    pipeline = Pipeline.default("spikingjelly", normalization=Normalization(method="max", v_init=v_init))
    if copies > 1:
        pipeline = pipeline.insert_after("init-potential", pass_named("replicate-neurons", copies=copies))
    return g, Compiler("spikingjelly", calibration=X.float(), pipeline=pipeline).run(g)


def rates(graph, x, steps):
    """The net's output averaged over steps, in ANN units."""
    return run(graph, x, steps).mean(0) * torch.tensor(graph.type(graph.outputs[0]).scale)


@pytest.mark.parametrize("copies", [2, 3, 5])
@pytest.mark.parametrize("v_init", [0.0, 0.3, 0.5, 0.9])
def test_k_neurons_say_after_t_steps_what_one_says_after_k_t(copies, v_init):
    _, several = single(copies, v_init)
    _, one = single(1, v_init)
    assert len(several.graph.match(Neuron)) == copies
    torch.testing.assert_close(rates(several.graph, X, T), rates(one.graph, X, copies * T), rtol=1e-9, atol=1e-9)
    assert float((rates(several.graph, X, T) - rates(one.graph, X, T)).abs().max()) > 1e-3


def test_the_rate_is_the_published_one_of_k_times_the_levels():
    """Bu et al. 2022, eq. 8, of the ReLU's current for k T steps."""
    g, several = single(3)
    z = X.numpy() @ g["fc"].weight.T + g["fc"].bias
    threshold = np.maximum(z, 0).max(0)
    levels = 3 * T
    wanted = threshold / levels * np.clip(np.floor(levels * z / threshold + 0.5), 0, levels)
    np.testing.assert_allclose(rates(several.graph, X, T).numpy(), wanted, atol=1e-6 * threshold.max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "resnet", "grouped", "concat"])
@pytest.mark.parametrize("target", ["spikingjelly", "nir"])
def test_two_neurons_for_each_bring_a_net_nearer_to_its_ann(name, target):
    x, model = nets.batch(name, 60), nets.build(name)
    with torch.no_grad():
        wanted = model(x)
    plain = Pipeline.default(target, normalization=Normalization(method="max"))
    off = []
    for pipeline in (plain, plain.insert_after("init-potential", "replicate-neurons")):
        graph = Compiler(target, calibration=x, pipeline=pipeline).run(model).graph
        off.append(float((rates(graph, x, 16) - wanted).square().mean().sqrt()))
    assert off[1] < 0.8 * off[0]


@pytest.mark.slow
def test_the_module_says_what_the_graph_says_and_the_file_too(tmp_path):
    x, model = nets.batch("cnn", 40), nets.build("cnn")
    pipeline = Pipeline.default("nir", timesteps=T).insert_after("choose", "replicate-neurons")
    c = Compiler("nir", calibration=x, timesteps=T, pipeline=pipeline).run(model)
    save(c.artifact, tmp_path / "net.nir")
    torch.testing.assert_close(rates(load(tmp_path / "net.nir"), x, T), rates(c.graph, x, T), rtol=1e-4, atol=1e-4)
    pipeline = Pipeline.default("spikingjelly", timesteps=T).insert_after("choose", "replicate-neurons")
    c = Compiler("spikingjelly", calibration=x, timesteps=T, pipeline=pipeline).run(model)
    with torch.no_grad():
        said = torch.stack([c.artifact(x) for _ in range(T)]).mean(0)
    torch.testing.assert_close(said, rates(c.graph, x, T).float(), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_what_tunes_before_it_tunes_for_k_t_and_what_comes_behind_for_t():
    x, model = nets.batch("cnn", 40), nets.build("cnn")
    stages = {}
    for steps, copies in ((T, 3), (3 * T, 1)):
        pipeline = Pipeline.default("nir", timesteps=steps)
        if copies > 1:
            pipeline = pipeline.insert_after("choose", pass_named("replicate-neurons", copies=copies))
        c = Compiler("nir", calibration=x, timesteps=steps, pipeline=pipeline).run(model)
        stages[copies] = {record.name: record.graph for record in c.stages}
        assert any(note.by == "choose" and f"T={3 * T}" in note.reason for note in c.report.notes)
    assert str(stages[3]["choose"]) == str(stages[1]["choose"])
    # a bias replaces the potential within T steps
    several, lowered = stages[3]["fold-rescale"], stages[3]["lower-v-init"]
    name = lowered.match(Neuron)[-1].name
    (affine,) = lowered.operands(name)
    np.testing.assert_allclose(lowered[affine].shift, several[name].v_init.max() / T, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("counters", [False, True])
def test_max_pools_compare_part_by_part(counters):
    """Spikes of half the weight that met neurons of the full threshold would be compared too seldom."""
    x, model = nets.batch("maxpool", 60), nets.build("maxpool")
    with torch.no_grad():
        wanted = model(x)
    backend = backend_named("spikingjelly")(counters=counters)
    off = []
    for copies in (1, 2, 4):
        pipeline = Pipeline.default(backend, timesteps=T)
        if copies > 1:
            pipeline = pipeline.insert_after("choose", pass_named("replicate-neurons", copies=copies))
        c = Compiler(backend, calibration=x, pipeline=pipeline).run(model)
        off.append(float((rates(c.graph, x, T) - wanted).square().mean().sqrt()))
        ann = next(record.graph for record in c.stages if record.name == "normalize")
        comparing = [node.name for node in ann.match(Relu) if node.op.compares]
        assert bool(comparing) != counters
        assert all(len(neurons_of(c.graph, name)) == copies for name in comparing)
    assert off[2] < 0.75 * off[1] < 0.75 * off[0]


@pytest.mark.slow
def test_a_net_that_streams_biases_is_refused_by_the_streams_name():
    x, model = nets.batch("cnn", 40), nets.build("cnn")
    backend = backend_named("spikingjelly")(streams=True)
    pipeline = Pipeline.default(backend, timesteps=T).insert_after("choose", "replicate-neurons")
    with pytest.raises(InvalidModelError, match="streams a bias"):
        compile(model, backend, calibration=x, timesteps=T, pipeline=pipeline)


@pytest.mark.parametrize("copies", [1, 0, 0.5, "2", float("nan"), float("inf")])
def test_a_wrong_number_is_refused(copies):
    with pytest.raises(CompileError, match="copies"):
        pass_named("replicate-neurons", copies=copies)


@pytest.mark.slow
def test_a_diagnosis_holds_each_copy_to_its_share_of_the_relu():
    """Clipping is what the thresholds do, whatever the number of neurons; rounding is a k-th of it."""
    x = nets.batch("cnn", 60)
    chosen = Normalization(percentile=95.0)
    found = []
    for copies in (1, 2):
        pipeline = Pipeline.default("spikingjelly", normalization=chosen)
        if copies > 1:
            pipeline = pipeline.insert_after("init-potential", "replicate-neurons")
        c = Compiler("spikingjelly", calibration=x, pipeline=pipeline).run(nets.build("cnn"))
        found.append(diagnose(c, x, 8))
    one, two = found
    assert len(two.layers) == 2 * len(one.layers)
    assert two.rungs[0].error == pytest.approx(one.rungs[0].error, rel=1e-5)
    assert one.rungs[0].error > 0.01
    assert two.rungs[1].step < 0.75 * one.rungs[1].step
    for layer, copy in zip(one.layers, two.layers[::2], strict=True):
        assert copy.signal == pytest.approx(layer.signal / 2, rel=1e-5)
        assert copy.errors["clipping"].rms == pytest.approx(layer.errors["clipping"].rms / 2, rel=1e-4)
        assert copy.residual < 1e-5


def test_a_copy_too_few_is_seen():
    """The sabotage: a share that does not fit the number of copies moves the output."""
    _, several = single(2)
    stage = next(record.graph for record in several.stages if record.name == "replicate-neurons").copy()
    total = stage.match(Add)[0].name
    copies = stage.operands(total)
    right = rates(stage, X, T)
    stage.set_operands(total, copies[0], copies[0])
    assert float((rates(stage, X, T) - right).abs().max()) > 1e-3
    assert stage[copies[0]].v_init.max() < stage[copies[1]].v_init.min()


def replicated(name="cnn", copies=3):
    """(spiking graph with casts, context) of a zoo net, potentials untuned."""
    x = nets.batch(name, 40)
    pipeline = Pipeline.default("spikingjelly", normalization=Normalization(v_init=0.0))
    pipeline = pipeline.insert_after("relu-to-if", pass_named("replicate-neurons", copies=copies))
    c = Compiler("spikingjelly", calibration=x, pipeline=pipeline, verify="off").run(nets.build(name))
    stages = {record.name: record.graph for record in c.stages}
    context = Context(stages["import"], timesteps=T, ann=stages["normalize"], calibration=build.samples(x))
    return stages["replicate-neurons"].copy(), context


def lacks(graph, context):
    """By layer, the mean over samples and steps of what it lacks, by channel, relative to its scale."""
    found = {}
    for layer in layers(graph, context):
        mean = layer.shortfall().mean(0) / context.ann[layer.name].scale
        found[layer.name] = float(np.abs(mean.mean(tuple(range(1, mean.ndim)))).mean())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["correct-bias", "calibrate-potential", "stream-bias"])
@pytest.mark.parametrize("net", ["cnn", "resnet"])
def test_neurons_that_share_a_relu_are_tuned_together(name, net):
    graph, context = replicated(net)
    before = lacks(graph, context)
    assert len(before) == len(context.ann.match(Relu))
    assert pass_named(name).run(graph, context)
    after = lacks(graph, context)
    assert sum(after.values()) < 0.5 * sum(before.values())


def test_they_stay_apart_when_they_are_tuned_or_spread():
    graph, context = replicated()
    names = graph.operands(graph.match(Add)[0].name)
    for each in ("calibrate-potential", "dither-potential"):
        before = [graph[name].v_init for name in names]
        assert pass_named(each).run(graph, context)
        moved = [graph[name].v_init - old for name, old in zip(names, before, strict=True)]
        np.testing.assert_allclose(moved[1], moved[0], rtol=0, atol=1e-12)
        assert np.ptp(moved[0]) > 0
        assert np.abs(moved[0]).max() <= 0.5 / 3 * graph[names[0]].v_threshold.max() or each == "calibrate-potential"


@pytest.mark.slow
def test_nir_has_biases_for_potentials_and_tunes_them_together():
    x, model = nets.batch("grouped", 60), nets.build("grouped")
    with torch.no_grad():
        wanted = model(x)
    off = []
    for copies in (1, 2, 4):
        pipeline = Pipeline.default("nir", timesteps=4)
        if copies > 1:
            pipeline = pipeline.insert_after("choose", pass_named("replicate-neurons", copies=copies))
        c = Compiler("nir", calibration=x, pipeline=pipeline).run(model)
        off.append(float((rates(c.graph, x, 4) - wanted).square().mean().sqrt()))
        assert not any("its own" in note.reason for note in c.report.notes)
    assert off[2] < 0.8 * off[1] < 0.8 * off[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:SpikingJelly 2.0.0:spikec.SpikecWarning")  # it resets otherwise
def test_the_spikingjelly_profile_takes_them():
    x, backend = nets.batch("cnn", 40), backend_named("nir")(profile="spikingjelly")
    pipeline = Pipeline.default(backend, timesteps=T).insert_after("choose", "replicate-neurons")
    graph = compile(nets.build("cnn"), backend, calibration=x, pipeline=pipeline)
    neurons = [node for node in graph.nodes.values() if type(node).__name__.startswith("IF")]
    assert len(neurons) == 2 * sum(isinstance(each, torch.nn.ReLU) for each in nets.build("cnn").modules())


@pytest.mark.slow
def test_to_replicate_twice_is_refused():
    twice = Pipeline.default("spikingjelly").insert_after("choose", "replicate-neurons", "replicate-neurons")
    with pytest.raises(InvalidModelError, match="2 neurons for each already"):
        compile(nets.build("cnn"), "spikingjelly", calibration=nets.batch("cnn", 40), pipeline=twice)


@pytest.mark.slow
@pytest.mark.parametrize("net", ["cnn", "resnet", "maxpool"])
def test_thresholds_of_several_are_those_that_one_has_for_so_many_times_t(net):
    """Tuned behind the copies for T steps, or in front of them for 3 T: the same net, neuron by neuron."""
    several, context = replicated(net)
    pipeline = Pipeline.default("spikingjelly", normalization=Normalization(v_init=0.0))
    c = Compiler("spikingjelly", calibration=nets.batch(net, 40), pipeline=pipeline, verify="off").run(nets.build(net))
    one = next(record.graph for record in c.stages if record.name == "relu-to-if").copy()
    context = attrs.evolve(context, calibration=CalibrationSource(None, c.calibration))
    tune = pass_named("tune-thresholds")
    assert tune.run(one, attrs.evolve(context, timesteps=3 * T))
    assert pass_named("replicate-neurons", copies=3).run(one, context)
    untuned = str(several)
    assert tune.run(several, context)
    assert str(several) == str(one) != untuned
    for node in several.match((Neuron, Rescale)):
        for field in (each.name for each in attrs.fields(type(node.op)) if each.name != "origin"):
            np.testing.assert_array_equal(getattr(node.op, field), getattr(one[node.name], field), err_msg=field)
    assert not any("tuned" in note.reason or "moved" in note.reason for note in context.notes)


@pytest.mark.slow
def test_by_default_the_net_is_tuned_with_the_copies_in_it():
    """Each way is judged on what runs: after T steps of all neurons, and no longer of one for K T."""
    x = nets.batch("cnn", 40)
    c = Compiler("spikingjelly", calibration=x, timesteps=T, neurons=2).run(nets.build("cnn"))
    names = [record.name for record in c.stages]
    assert names.index("replicate-neurons") < names.index("choose")
    assert any(note.by == "choose" and f"judged at T={T} " in note.reason for note in c.report.notes)


def test_a_model_that_spikes_already_has_no_relus_to_replicate():
    graph = compile(nets.build("cnn"), "nir", calibration=nets.batch("cnn", 40))
    pipeline = Pipeline.default("nir").from_stage(SPIKING)
    pipeline = Pipeline(["replicate-neurons", *pipeline.without("choose", "init-potential")], SPIKING)
    c = Compiler("nir", pipeline=pipeline).run(graph)
    assert any(note.by == "replicate-neurons" and "spiking from the start" in note.reason for note in c.report.notes)


def front_heavy():
    """A net whose first layer has 24 of 36 neurons, calibrated data, and what it should say of other data."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 5)).eval()
    return torch.rand(60, 12), model


@pytest.mark.parametrize("target", ["spikingjelly", "nir", "netx"])
def test_neurons_is_an_option_of_every_target(target):
    x, model = front_heavy()
    counts = []
    for neurons in (1, 2):
        options = {} if neurons == 1 else {"neurons": neurons}
        c = Compiler(target, calibration=x, timesteps=T, **options).run(model)
        counts.append(len(c.graph.match(Neuron)))
        assert ("replicate-neurons" in [record.name for record in c.stages]) == (neurons == 2)
    assert counts[1] > counts[0]


@pytest.mark.parametrize(("times", "layers_"), [(1.4, [[1, 2]]), (1.7, [[2, 1], [1, 2]]), (2.4, [[2, 3]])])
def test_a_fraction_gives_some_layers_one_more_within_the_budget(times, layers_):
    """12 of 36 neurons are a third: only the second layer fits into 1.4 times as many, either one into 1.7."""
    x, model = front_heavy()
    c = Compiler("spikingjelly", calibration=x, timesteps=T, neurons=times).run(model)
    counts = [len(neurons_of(c.graph, node.name)) for node in c.stages[0].graph.match(Relu)]
    assert counts in layers_
    tried = [note.reason for note in c.report.notes if note.by == "replicate-neurons" and "one more in" in note.reason]
    assert len(tried) == 3


def test_the_layers_that_bring_the_answers_nearest_are_chosen():
    """Beside the error of each way that the test measures itself."""
    x, model = front_heavy()
    with torch.no_grad():
        wanted = model(x)
    base = Pipeline.default("spikingjelly", normalization="max")
    found = {}
    for name, copies in (("first", (2, 1)), ("last", (1, 2))):
        graph = Compiler("spikingjelly", calibration=x, pipeline=base).run(model).stages
        spiking = next(record.graph for record in graph if record.name == "init-potential").copy()
        relus = [node.name for node in spiking.match(Neuron)]
        _replicated(spiking, dict(zip(relus, copies, strict=True)))
        found[name] = float((rates(spiking, x, T) - wanted).abs().mean())
    c = Compiler(
        "spikingjelly",
        calibration=x,
        timesteps=T,
        pipeline=base.insert_after("init-potential", pass_named("replicate-neurons", copies=1.7)),
    ).run(model)
    counts = [len(neurons_of(c.graph, node.name)) for node in c.stages[0].graph.match(Relu)]
    assert counts == ([2, 1] if found["first"] < found["last"] else [1, 2])


@pytest.mark.parametrize("target", ["spikingjelly", "nir", "netx"])
def test_options_that_do_not_go_together_are_refused(target):
    x, model = front_heavy()
    with pytest.raises(CompileError, match="neurons is 0.5"):
        compile(model, target, calibration=x, neurons=0.5)
    if target == "nir":
        with pytest.raises(CompileError, match="whole number"):
            compile(model, target, calibration=x, neurons=1.5, reset="hard")
    if target == "spikingjelly":
        with pytest.raises(CompileError, match="tuned for one neuron"):
            compile(model, target, calibration=x, timesteps=4, neurons=2, streams=True)
