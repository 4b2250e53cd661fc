"""Passes that tune a spiking graph to the ANN on samples."""

import attrs
import numpy as np
import pytest
import torch
from torch import nn

import build
import nets
from spikec import Backend, CompileError, Compiler, Normalization, Pass, Pipeline, check, load, run
from spikec.extend.beginnings import Beginnings
from spikec.extend.loader import backend_named, pass_named
from spikec.extend.passbase import Context
from spikec.extend.sweep import layers
from spikec.interpreter.results import agreement, agreement_text, outputs
from spikec.ir.ops import IF, Add, Conv, Linear, Neuron, Relu, Rescale, Stream
from spikec.ir.stages import SPIKING

T = 8


def start(name="resnet", count=40, timesteps=T):
    """(spiking graph with casts, context) of a zoo net, thresholds and potentials untuned."""
    x = nets.batch(name, count)
    xs = x if isinstance(x, tuple) else (x,)
    compiler = Compiler("spikingjelly", calibration=[x], normalization=Normalization(), verify="off", counters=False)
    stages = {record.name: record.graph for record in compiler.run(nets.build(name)).stages}
    context = Context(stages["import"], timesteps, ann=stages["normalize"], calibration=build.samples(*xs))
    return stages["init-potential"].copy(), context


def errors(graph, context, axes=(1, 2)):
    """By layer, the mean over samples and steps of what it lacks, relative to its scale; over channels or neurons."""
    found = {}
    for layer in layers(graph, context):
        lacks = layer.shortfall().mean(0) / context.ann[layer.name].scale
        over = tuple(axis for axis in axes if axis < lacks.ndim)
        found[layer.name] = float(np.abs(lacks.mean(over)).mean())
    return found


# --------------------------------------------------------------- correct-bias


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_corrected_biases_bring_every_channels_mean_to_the_anns(name):
    graph, context = start(name)
    before = errors(graph, context)
    assert pass_named("correct-bias").run(graph, context)
    after = errors(graph, context)
    assert sum(after.values()) < 0.5 * sum(before.values())


@pytest.mark.slow
def test_only_biases_change_and_none_in_front_of_neurons_that_compare():
    graph, context = start("maxpool")
    before = graph.copy()
    pass_named("correct-bias").run(graph, context)
    changed = [name for name in graph if graph[name] is not before[name]]
    assert changed
    for name in changed:
        assert isinstance(graph[name], (Conv, Linear))
        assert np.array_equal(graph[name].weight, before[name].weight)
    comparing = [node.name for node in context.ann.match(Relu) if node.op.compares]
    behind = {graph.operands(graph.operands(name)[0])[0] for name in comparing}
    assert comparing
    assert not behind & set(changed)


def test_a_layer_without_a_bias_of_its_own_is_noted():
    b = build.Builder(3)
    fc = b.linear(b.x, 4, "fc")
    g = b.done(b.linear(b.relu(fc, "relu"), 2, "a"), b.linear(fc, 2, "b"))
    c = Compiler("spikingjelly", calibration=torch.rand(30, 3), normalization=Normalization(), timesteps=T).run(g)
    assert any(note.by == "correct-bias" and "%relu" in str(note) and "its own" in str(note) for note in c.report.notes)


# ----------------------------------------------------------------- potentials


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_calibrated_potentials_bring_every_neurons_mean_to_the_anns(name):
    graph, context = start(name)
    before = errors(graph, context, axes=())
    assert pass_named("calibrate-potential", rounds=2).run(graph, context)
    after = errors(graph, context, axes=())
    assert sum(after.values()) < 0.5 * sum(before.values())


@pytest.mark.parametrize("layers_", ["all", "first"])
def test_dither_spreads_evenly_around_where_the_neurons_started(layers_):
    graph, context = start("cnn")
    pass_named("dither-potential", layers=layers_).run(graph, context)
    first, *others = graph.match(IF)
    v = first.op.v_init
    assert v.shape == graph.type(first.name).shape
    assert abs(v.mean() - 0.5) < 1e-3
    assert 0 <= v.min() < 0.01
    assert 0.99 < v.max() < 1
    # the golden recurrence leaves no gap over any run of 50 neighbours
    windows = np.lib.stride_tricks.sliding_window_view(v.reshape(-1), 50)
    assert np.diff(np.sort(windows, axis=1), axis=1).max() < 0.05
    assert all((node.op.v_init.size > 1) == (layers_ == "all") for node in others)


def test_neurons_that_compare_are_not_dithered():
    graph, context = start("maxpool")
    pass_named("dither-potential").run(graph, context)
    for node in context.ann.match(Relu):
        assert (graph[node.name].v_init.size == 1) == node.op.compares


# ----------------------------------------------------------------- thresholds


@pytest.mark.slow
def test_tuned_thresholds_are_those_of_normalize():
    chosen = Normalization(method="mmse")
    x = nets.batch("resnet", 40)
    wanted = Compiler("spikingjelly", calibration=[x], normalization=chosen, timesteps=T, verify="off")
    normalized = next(s.graph for s in wanted.run(nets.build("resnet")).stages if s.name == "normalize")
    pipeline = Pipeline.default("spikingjelly", normalization=Normalization())
    pipeline = pipeline.insert_after("init-potential", pass_named("choose", candidates=((Always(),),)))
    got = Compiler("spikingjelly", calibration=[x], timesteps=T, pipeline=pipeline, verify="off")
    spiking = next(s.graph for s in got.run(nets.build("resnet")).stages if s.name == "choose")
    for node in normalized.match(Relu):
        ((after, _),) = spiking.users(node.name)
        np.testing.assert_allclose(spiking[after].factor, node.op.scale)


@attrs.frozen
class Always(Pass):
    """The thresholds of mmse, and biases that make them worth taking."""

    name = "always"
    needs = (SPIKING,)

    def run(self, graph, context):
        return sum(
            pass_named(name).run(graph, context) for name in ("tune-thresholds", "calibrate-potential", "correct-bias")
        )


# -------------------------------------------------------------- choosing


@attrs.frozen
class Harm(Pass):
    """Every neuron starts that much lower."""

    name = "harm"
    needs = (SPIKING,)
    by: float = 100.0

    def run(self, graph, context):
        for node in graph.match(IF):
            graph.set_op(node.name, attrs.evolve(node.op, v_init=node.op.v_init - self.by))
        return len(graph.match(IF))


@pytest.mark.slow
def test_the_best_candidate_is_taken_and_all_are_reported():
    graph, context = start()
    candidates = ((Harm(),), (pass_named("correct-bias"),), (Harm(by=0.5),))
    best = graph.copy()
    pass_named("correct-bias").run(best, context)
    assert pass_named("choose", candidates=candidates).run(graph, context)
    for name in best:
        if isinstance(best[name], (Conv, Linear)) and best[name].bias is not None:
            np.testing.assert_array_equal(graph[name].bias, best[name].bias)
    assert len([note for note in context.notes if "mean error of the outputs" in note.reason]) == 4


@pytest.mark.slow
def test_of_bad_ways_none_is_chosen():
    x = nets.batch("resnet", 40)
    pipeline = Pipeline.default("spikingjelly", normalization=Normalization(), timesteps=T).insert_after(
        "init-potential", pass_named("choose", candidates=((Harm(),), (Harm(by=50.0),)))
    )
    c = Compiler("spikingjelly", calibration=[x], timesteps=T, pipeline=pipeline).run(nets.build("resnet"))
    assert next(s.changes for s in c.stages if s.name == "choose") == 0
    notes = [note.reason for note in c.report.notes if note.by == "choose"]
    assert [note.split(":")[0] for note in notes[1:4]] == ["as it is", "harm", "harm{by=50.0}"]


@attrs.frozen
class Potentials(Backend):
    """A target whose artifact is the final graph; it takes a potential a neuron or it does not."""

    name = "potentials"
    each: bool = True

    @property
    def potentials(self):
        return self.each

    def emit(self, graph, context):
        return graph


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "maxpool", "two_outputs"])
@pytest.mark.parametrize("timesteps", [4, None])
@pytest.mark.parametrize("each", [True, False])
def test_the_default_is_no_worse_than_percentile_and_v_init_on_samples_that_it_did_not_see(name, timesteps, each):
    x = nets.batch(name, 200)
    xs = x if isinstance(x, tuple) else (x,)
    model = nets.build(name)
    seen = tuple(each[:40] for each in xs)
    options = {"calibration": [seen if isinstance(x, tuple) else seen[0]], "timesteps": timesteps, "verify": "off"}
    plain = Pipeline.default(Potentials(each), timesteps=timesteps).without("choose")
    graphs = [Compiler(Potentials(each), **options, **more).run(model).graph for more in ({"pipeline": plain}, {})]
    ann = load(model, x)
    was, now = (agreement(graph, ann, [each[40:] for each in xs], timesteps or 32)[1] for graph in graphs)
    assert now >= was * 1.01  # errors are negative; twenty samples tell ways apart to some tenths of a percent
    if not each:
        for node in graphs[1].match(IF):
            fraction = np.broadcast_arrays(node.op.v_init, node.op.v_threshold)
            np.testing.assert_allclose(fraction[0] / fraction[1], 0.5)


@pytest.mark.slow
def test_without_samples_nothing_is_tuned_and_it_is_noted():
    x = nets.batch("mlp", 40)
    saved = Compiler("spikingjelly", calibration=[x]).run(nets.build("mlp")).calibration
    bare = attrs.evolve(saved, retained=None)
    c = Compiler("spikingjelly", calibration=bare, timesteps=T).run(nets.build("mlp"))
    assert any(note.by == "choose" and "no samples" in note.reason for note in c.report.notes)
    assert all(float((node.op.v_init / node.op.v_threshold).max()) == 0.5 for node in c.graph.match(IF))


@pytest.mark.slow
def test_a_net_too_large_to_be_tuned_unasked(monkeypatch):
    monkeypatch.setattr("spikec.extend.passbase.WORK", 1000)
    x = nets.batch("mlp", 40)
    free, asked = (
        Compiler("spikingjelly", calibration=[x], timesteps=t).run(nets.build("mlp")).report.notes for t in (None, T)
    )
    assert any("so large" in note.reason for note in free)
    assert not any("so large" in note.reason for note in asked)


# ---------------------------------------------------------------- stream-bias


@pytest.mark.slow
def test_streamed_biases_bring_every_step_to_the_ann():
    graph, context = start("cnn")

    def worst():
        return max(
            float(np.abs(layer.shortfall().reshape(T, len(layer.wanted), -1).mean(2)).mean())
            for layer in layers(graph, context)
        )

    before = worst()
    assert pass_named("stream-bias", rounds=4).run(graph, context) == len(graph.match(Stream))
    assert worst() < 0.7 * before


@attrs.frozen
class Streams(Pass):
    """Streamed biases, whatever they are good for."""

    name = "streams"
    contract = "approximate"
    needs = (SPIKING,)

    def run(self, graph, context):
        return pass_named("stream-bias").run(graph, context)


@pytest.mark.slow
def test_a_streaming_net_compiles_to_modules_and_nowhere_else():
    x = nets.batch("resnet", 40)
    pipeline = Pipeline.default("spikingjelly").insert_after("init-potential", Streams())
    compiler = Compiler("spikingjelly", calibration=[x], timesteps=T, pipeline=pipeline, verify="each")
    c = compiler.run(nets.build("resnet"))
    assert len(c.graph.match(Stream)) == len(c.graph.match(IF))
    assert not c.graph.match(Rescale)
    with torch.no_grad():
        got = torch.stack([c.artifact(x) for _ in range(T + 3)])
    wanted = run(c.graph, x, T + 3) * torch.tensor(c.output_scale, dtype=torch.float32)
    torch.testing.assert_close(got, wanted)
    assert any("stream" in str(problem) for problem in check(c.graph, "nir"))


def test_the_default_streams_where_the_user_asks_for_it():
    for normalization in (None, Normalization()):
        names = str(
            Pipeline.default(backend_named("spikingjelly")(streams=True), timesteps=T, normalization=normalization)
        )
        assert "stream-bias" in names
    assert "stream-bias" not in str(Pipeline.default("spikingjelly", timesteps=T))


# ---------------------------------------------------------- outgoing-amplitude


@pytest.mark.slow
def test_amplitudes_are_least_squares_and_fold_into_the_weights_behind():
    graph, context = start("cnn")
    before = graph.copy()
    first = graph.match(IF)[0].name
    layer = next(iter(layers(graph, context)))
    wanted = layer.activations().swapaxes(0, 1).reshape(8, -1)
    found = layer.values().swapaxes(0, 1).reshape(8, -1)
    gain = [np.linalg.lstsq(f[:, None], w, rcond=None)[0].item() for f, w in zip(found, wanted, strict=True)]
    gain = np.where(found.any(1), np.clip(gain, 0.7, 1.4), 1)
    assert pass_named("outgoing-amplitude").run(graph, context)
    (conv,) = [n.name for n in graph.match(Conv) if graph[n.name] is not before[n.name]][:1]
    assert conv != first
    np.testing.assert_allclose(graph[conv].weight, before[conv].weight * np.reshape(gain, (1, -1, 1, 1)), rtol=1e-6)
    assert graph[conv].in_scale.tolist() == before[conv].in_scale.tolist()
    assert max(abs(gain - 1)) > 1e-4


@pytest.mark.slow
def test_an_identity_skip_keeps_its_amplitude():
    graph, context = start("resnet")
    pass_named("outgoing-amplitude").run(graph, context)
    assert any("reach more than affine ops" in note.reason for note in context.notes)


@attrs.frozen
class Rename(Pass):
    """What a user's pass may do: every neuron gets another name."""

    name = "rename"
    contract = "exact"

    def run(self, graph, context):
        neurons = graph.match(Neuron)
        for i, node in enumerate(neurons):
            graph.replace_uses(node.name, graph.add(node.op, *graph.operands(node.name), name=f"neuron{i}"))
            graph.remove(node.name)
        return len(neurons)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["relu-to-if", "init-potential", "choose"])
@pytest.mark.parametrize("target", ["spikingjelly", "nir"])
def test_renamed_neurons_are_tuned_as_they_would_be_under_their_own_names(target, place):
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.PReLU(4), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 4, 3), nn.Hardtanh(), nn.Flatten(), nn.Linear(16, 3)),
    ).eval()
    x = torch.randn(64, 1, 10, 10)
    order = Pipeline.default(target, timesteps=16)
    plain, renamed = (
        Compiler(target, calibration=x, timesteps=16, pipeline=each).run(net)
        for each in (order, order.insert_after(place, Rename()))
    )
    assert any(name.startswith("neuron") for name in renamed.graph)
    torch.testing.assert_close(outputs(plain.graph, [x], 16)[0], outputs(renamed.graph, [x], 16)[0])


@pytest.mark.parametrize(
    "tuned",
    ["replicate-neurons", "outgoing-amplitude", "stream-bias", "correct-bias", "dither-potential"],
)
def test_every_tuning_pass_follows_renamed_neurons(tuned):
    plain, context = start("mlp")
    renamed = plain.copy()
    Rename().run(renamed, context)
    changes = [pass_named(tuned).run(graph, context) for graph in (plain, renamed)]
    assert changes[0] == changes[1] > 0
    x = context.samples[0]
    torch.testing.assert_close(run(plain, x, T), run(renamed, x, T))


def test_a_renamed_neuron_that_is_not_told_apart_is_noted():
    """Two layers without anything of their own in front: their names are all that the neurons have."""
    b = build.Builder(4)
    first = b.relu(b.x, "first")
    g = b.done(b.add(Add(), first, b.relu(first, "second"), name="sum"))
    context = Context(g, T, ann=g, calibration=build.samples(torch.rand(16, 4, dtype=torch.float64)))
    spiking = g.copy()
    spiking.set_op("x", attrs.evolve(spiking["x"], rate=True))
    for i, node in enumerate(spiking.match(Relu)):
        neuron = spiking.add(IF(np.ones(1)), *spiking.operands(node.name), name=f"neuron{i}")
        spiking.replace_uses(node.name, neuron)
        spiking.remove(node.name)
    assert pass_named("dither-potential").run(spiking, context) == 0
    assert {note.node for note in context.notes} == {"first", "second"}
    assert all("renamed" in note.reason for note in context.notes)


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("init-potential{fraction=-3}", "fraction"),
        ("init-potential{fraction=nan}", "fraction"),
        ("init-potential{fraction='half'}", "fraction"),
        ("correct-bias{rounds=0}", "rounds"),
        ("correct-bias{rounds=1.5}", "rounds"),
        ("stream-bias{step=-1}", "step"),
        ("calibrate-potential{step=inf}", "step"),
        ("dither-potential{amplitude=nan}", "amplitude"),
        ("outgoing-amplitude{limits=(2, 1)}", "limits"),
        ("outgoing-amplitude{limits=(nan, 1)}", "limits"),
        ("outgoing-amplitude{limits=3}", "limits"),
        ("tune-thresholds{normalization=3}", "normalization"),
        ("fold-rescale{thresholds=some}", "thresholds"),
        ("legalize-netx{limit=-1}", "limit"),
    ],
)
def test_options_without_a_meaning_are_refused_by_name(text, option):
    with pytest.raises(CompileError, match=f"{option}'? "):
        Pipeline.parse(text)


@pytest.mark.slow
def test_what_candidates_begin_with_runs_once_and_the_choice_is_as_if_each_ran_alone():
    ran = []

    @attrs.frozen
    class Counted(Pass):
        name = "counted"
        contract = "tuned"
        needs = (SPIKING,)

        def run(self, graph, context):
            ran.append(len(graph))
            return Harm(by=-0.6).run(graph, context)

    ways = [(Counted(), pass_named("dither-potential", layers=which)) for which in ("first", "all")]
    graph, context = start("cnn")
    Harm(by=0.6).run(graph, context)
    (x,) = context.samples
    own = attrs.evolve(context, calibration=build.samples(x[:20]))
    alone = []
    for way in ways:
        tried = graph.copy()
        for each in way:
            each.run(tried, own)
        alone.append(agreement(tried, context.reference, [x[20:]], T))
    ran.clear()
    chosen = graph.copy()
    assert pass_named("choose", candidates=tuple(ways)).run(chosen, context)
    assert len(ran) == 2  # tried once for both, and then what was chosen on all samples
    notes = [note.reason for note in context.notes]
    for found, way in zip(alone, ways, strict=True):
        assert f"{' + '.join(map(str, way))}: {agreement_text(found)}" in notes
    best = ways[max(range(2), key=lambda i: alone[i][1])]
    for each in best:
        each.run(graph, context)
    for node in graph.match(IF):
        np.testing.assert_array_equal(chosen[node.name].v_init, node.op.v_init)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "resnet", "maxpool", "two_inputs"])
def test_ways_that_begin_alike_end_as_each_does_alone_and_their_first_layer_runs_once(name, monkeypatch):
    calibrated = pass_named("calibrate-potential")
    ways = [[pass_named("dither-potential", layers=which), calibrated] for which in ("first", "all")]
    graph, context = start(name)
    alone = []
    for way in ways:
        tried, ran = graph.copy(), attrs.evolve(context)
        for each in way:
            each.run(tried, ran)
        alone.append(tried)
    steps, ran = IF.steps, []

    def counted(op, state, *xs):
        ran.append(op)
        return steps(op, state, *xs)

    monkeypatch.setattr(IF, "steps", counted)
    together, begun = [], attrs.evolve(context, begun=Beginnings())
    for way in ways:
        tried = graph.copy()
        for each in way:
            each.run(tried, begun)
        together.append((tried, len(ran)))
        ran.clear()
    for one, (other, _) in zip(alone, together, strict=True):
        for node in one.match(IF):
            np.testing.assert_array_equal(node.op.v_init, other[node.name].v_init)
    assert together[1][1] < together[0][1]


@pytest.mark.slow
def test_a_way_that_begins_otherwise_is_not_taken_for_one_that_ran():
    graph, context = start("cnn")
    found = []
    for context_ in (context, attrs.evolve(context, begun=Beginnings())):
        sums = []
        for amplitude in (0.5, 1.0, 0.5):
            tried = graph.copy()
            pass_named("dither-potential", amplitude=amplitude).run(tried, context_)
            sums.append([layer.shortfall() for layer in layers(tried, context_)])
        found.append(sums)
    for one, other in zip(*found, strict=True):
        assert all(map(np.array_equal, one, other))
    assert not np.array_equal(found[1][0][0], found[1][1][0])


@pytest.mark.slow
def test_a_graph_that_cannot_be_nearer_is_run_only_until_that_is_known():
    graph, context = start("cnn", count=200)
    bad = graph.copy()
    Harm().run(bad, context)
    is_kept, text = context.compared(bad, graph)
    assert is_kept
    assert " on 32 of 200 samples -> " in text
    seen = agreement(bad, context.reference, [x[:32] for x in context.samples], T)
    assert text.startswith(agreement_text(seen))
    is_kept, text = attrs.evolve(context, judged=[]).compared(graph, bad)  # of which it knows nothing
    assert not is_kept
    whole = [agreement(each, context.reference, context.samples, T) for each in (graph, bad)]
    assert text == " -> ".join(map(agreement_text, whole))
    assert context.compared(graph, graph.copy())[0]


@pytest.mark.parametrize(("count", "is_kept"), [(31, True), (32, False)])
def test_answers_of_few_samples_do_not_keep_a_graph_that_is_further_off(count, is_kept):
    """One answer is lost, and the outputs are far nearer than they were."""
    graph, context = start("cnn", count=count)
    after = graph.copy()
    Harm().run(after, context)
    wanted = context.wanted(context.tuning_samples(graph))
    lost = [x.clone() for x in wanted]
    lost[0][0] = lost[0][0].flip(-1)
    context.ran(graph, [x + 10 for x in wanted])
    context.ran(after, lost)
    assert context.compared(graph, after)[0] == is_kept
