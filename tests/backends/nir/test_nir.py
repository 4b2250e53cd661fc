"""What is written as NIR, against plain numpy and nir's own checks."""

import copy
import itertools
import tracemalloc

import attrs
import h5py
import nir
import numpy as np
import pytest
import torch

import build
import nets
import spikec
from nir_numpy import evaluate
from spikec.backends.nir.backend import Nir
from spikec.ir.ops import (
    IF,
    Add,
    AvgPool,
    Concat,
    Conv,
    Flatten,
    Input,
    Linear,
    MaxPool,
    Output,
    Pad,
    Permute,
    Reshape,
    SumPool,
)

T = 32
ZOO = ["mlp_batchnorm", "cnn", "resnet", "grouped", "conv1d", "strided", "concat", "functional", "two_inputs"]


def compiled(name, dtype=torch.float64, timesteps=16):
    x = nets.batch(name, dtype=dtype)
    run = spikec.Compiler("nir", calibration=[x], timesteps=timesteps).run(nets.build(name, dtype=dtype))
    xs = x if isinstance(x, tuple) else (x,)
    return run, tuple(torch.rand(T, *each.shape, dtype=torch.float64) for each in xs)


def read(graph, folder):
    spikec.save(graph, folder / "net.nir")
    return nir.read(folder / "net.nir")


def agree(graph, written, xs):
    """Outputs and all spikes of the interpreter and the evaluator."""
    spikes = {node.name: [] for node in graph.match(IF)}
    y = spikec.run(graph, xs, tap=lambda name, value, *_: spikes[name].append(value) if name in spikes else None)
    start = written.metadata.get("v_init", 0.0)
    found = evaluate(written, {k: x.numpy() for k, x in zip(sorted(written.inputs), xs, strict=True)}, v_init=start)
    for name, steps in spikes.items():
        (key,) = [key for key in found if key.split("_", 1)[-1] == name]
        assert np.array_equal(found[key], torch.stack(steps).numpy()), name
    assert sum(float(torch.stack(steps).sum()) for steps in spikes.values()) > 100
    for key, expected in zip(sorted(written.outputs), y if isinstance(y, tuple) else (y,), strict=True):
        assert np.allclose(found[key].reshape(expected.shape), expected.numpy(), rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "timesteps"), [*((name, 16) for name in [*ZOO, "two_outputs"]), ("mlp", None), ("resnet", None)]
)
def test_file_equals_the_interpreter_spike_for_spike(name, timesteps, tmp_path):
    run, xs = compiled(name, timesteps=timesteps)
    agree(run.graph, run.artifact, xs)
    agree(run.graph, read(run.artifact, tmp_path), xs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp_batchnorm", "grouped", "resnet"])
def test_float32_file_means_the_float32_graph(name, tmp_path):
    run, xs = compiled(name, torch.float32)
    found = read(run.artifact, tmp_path)
    arrays = [a for node in found.nodes.values() for a in vars(node).values() if isinstance(a, np.ndarray)]
    assert {a.dtype for a in arrays if a.dtype.kind == "f"} == {np.dtype("float32")}
    agree(run.graph, found, xs)


@pytest.mark.slow
def test_a_wrong_weight_is_noticed(tmp_path):
    run, xs = compiled("grouped")
    found = read(run.artifact, tmp_path)
    next(n for n in found.nodes.values() if isinstance(n, nir.Conv2d)).weight[...] *= 1.01
    with pytest.raises(AssertionError):
        agree(run.graph, found, xs)


# ------------------------------------------------------------------ the form


def grouped():
    """A graph with convolutions of 2 and of 6 groups, and frames for it."""
    ops = conv((6, 2, 3, 3), groups=2), IF(np.ones((1, 1, 1)), strict=True), conv((6, 1, 1, 1), groups=6)
    return hand(*ops, shape=(4, 8, 6)), torch.rand(T, 5, 4, 8, 6, dtype=torch.float64)


def test_groups_are_blocks_in_the_file(tmp_path):
    graph, x = grouped()
    written = read(Nir().emit(graph, spikec.Context(graph)), tmp_path)
    first, second = (node for node in written.nodes.values() if isinstance(node, nir.Conv2d))
    assert np.array_equal(first.weight[:3, :2], graph["conv"].weight[:3])
    assert np.array_equal(first.weight[3:, 2:], graph["conv"].weight[3:])
    assert not first.weight[:3, 2:].any()
    assert not first.weight[3:, :2].any()
    assert second.weight.shape == (6, 6, 1, 1)
    agree(graph, written, (x,))


def test_profile_full_keeps_groups_that_would_take_too_much(tmp_path, monkeypatch):
    graph, x = grouped()
    assert all(
        getattr(node, "groups", 1) == 1
        for node in Nir(profile="full").emit(graph, spikec.Context(graph)).nodes.values()
    )
    monkeypatch.setattr("spikec.backends.nir.backend.DENSE", 100)
    dense = Nir().emit(graph, spikec.Context(graph))
    context = spikec.Context(graph)
    kept = Nir(profile="full").emit(graph, context)
    assert [node.groups for node in kept.nodes.values() if isinstance(node, nir.Conv2d)] == [2, 6]
    assert kept.check_types()
    assert "nir.read takes the file with type_check=False" in str(context.notes)
    spikec.save(kept, tmp_path / "kept.nir")
    with pytest.raises(ValueError, match="type"):
        nir.read(tmp_path / "kept.nir")
    again = nir.read(tmp_path / "kept.nir", type_check=False)
    assert [node.groups for node in again.nodes.values() if isinstance(node, nir.Conv2d)] == [2, 6]
    found, wanted = (spikec.run(spikec.load(each), x) for each in (tmp_path / "kept.nir", dense))
    assert found.any()
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_profile_full_starts_where_the_neurons_do(dtype, tmp_path):
    """By thresholds that are lower, in nodes alone; a bias comes to the same at one number of steps only."""
    rng = np.random.default_rng(0)
    weight, bias, starts = (rng.normal(size=size).astype(dtype) for size in ((5, 3), 5, 5))
    graph = spikec.Graph("hand")
    x = graph.add(Input((3,), dtype, rate=True), name="x")
    neurons = IF(np.ones(5, dtype), v_init=np.abs(starts) % 1, strict=True)
    graph.add(Output(), graph.add(neurons, graph.add(Linear(weight, bias), x)), name="y")
    run = spikec.Compiler("nir", profile="full", timesteps=16).run(graph)
    spikec.save(run.artifact, tmp_path / "net.nir")
    x = torch.rand(T, 200, 3, dtype=getattr(torch, dtype))
    found, wanted, alone = (spikec.run(each, x) for each in (spikec.load(tmp_path / "net.nir"), run.graph, graph))
    assert float((found != wanted).double().mean()) <= {"float32": 1e-4, "float64": 0}[dtype]
    assert torch.equal(wanted, alone)
    bare = attrs.evolve(neurons, v_init=np.zeros(()))
    graph.set_op(next(node.name for node in graph.match(IF)), bare)
    assert not torch.equal(spikec.run(graph, x), wanted)
    assert all("v_init" not in node.metadata for node in run.artifact.nodes.values())


def test_with_hard_reset_profile_full_starts_at_zero():
    x = nets.batch("mlp_batchnorm", dtype=torch.float64)
    options = {"calibration": [x], "timesteps": 8, "normalization": "max", "profile": "full"}
    for reset, starts in (("auto", True), ("hard", False)):
        run = spikec.Compiler("nir", reset=reset, **options).run(nets.build("mlp_batchnorm", dtype=torch.float64))
        assert all(bool(node.op.v_init.any()) == starts for node in run.graph.match(IF))


def test_saving_copies_one_node_at_a_time(tmp_path):
    size, count = 1 << 20, 6
    layers = {f"n{i}": nir.Linear(np.zeros((1024, 128))) for i in range(count)}
    names = ["input", *layers, "output"]
    ends = {"input": nir.Input({"input": np.array([128])}), "output": nir.Output({"output": np.array([1024])})}
    graph = nir.NIRGraph(layers | ends, list(itertools.pairwise(names)), metadata={}, type_check=False)
    spikec.save(graph, tmp_path / "first.nir")  # what is imported on the way
    peaks = []
    for write, name in ((spikec.save, "ours.nir"), (lambda *x: nir.write(*reversed(x)), "theirs.nir")):
        tracemalloc.start()
        write(graph, tmp_path / name)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    in_memory = (tmp_path / "ours.nir").stat().st_size  # which old versions of nir do not compress
    assert peaks[0] - in_memory < 2.5 * size < 2 * count * size < peaks[1]
    ours, theirs = (nir.read(tmp_path / name, type_check=False) for name in ("ours.nir", "theirs.nir"))
    assert ours.to_dict().keys() == theirs.to_dict().keys()
    assert ours.edges == theirs.edges
    assert all(np.array_equal(ours.nodes[name].weight, theirs.nodes[name].weight) for name in layers)


@pytest.mark.slow
def test_form_of_the_nodes(tmp_path):
    run, _ = compiled("grouped")
    for graph in (run.artifact, read(run.artifact, tmp_path)):
        assert graph.check_types()
        kinds = {type(node) for node in graph.nodes.values()}
        assert kinds == {nir.Input, nir.Output, nir.Conv2d, nir.IF, nir.SumPool2d, nir.Flatten, nir.Affine}
        for name, node in graph.nodes.items():
            if isinstance(node, nir.Conv2d):
                assert node.groups == 1
                assert node.weight.shape[2] == node.weight.shape[3]
                assert node.bias.shape == node.weight.shape[:1]
            if isinstance(node, nir.IF):
                (producer,) = [a for a, b in graph.edges if b == name]
                shape = tuple(graph.nodes[producer].output_type["output"])
                assert node.r.shape == node.v_threshold.shape == node.v_reset.shape == shape
                assert (node.r == 1).all()
                assert node.v_threshold.flat[0] == np.nextafter(1.0, 0)


@pytest.mark.slow
def test_v_reset_is_not_written_and_every_reader_knows_the_class(tmp_path):
    run, _ = compiled("mlp")
    neurons = [node for node in run.artifact.nodes.values() if isinstance(node, nir.IF)]
    assert {type(node) for node in neurons} == {nir.IF}, "importers look nodes up by exact class"
    Nir().save(copy.deepcopy(run.artifact), tmp_path / "net.nir")
    with h5py.File(tmp_path / "net.nir") as file:
        fields = [set(node) for node in file["node/nodes"].values() if node["type"][()] == b"IF"]
    assert fields == [{"type", "r", "v_threshold"}] * len(neurons)
    assert not nir.read(tmp_path / "net.nir").nodes["n1_relu_1"].v_reset.any()


@pytest.mark.parametrize(("profile", "value", "stored"), [("portable", 0, 0), ("portable", 0.5, 1), ("full", 0, 1)])
def test_a_hard_reset_to_zero_is_left_to_the_metadata(profile, value, stored):
    graph = hand(IF(np.ones((1,)), v_reset=np.full((1,), float(value)), strict=True))
    written = Nir(profile=profile).emit(graph, spikec.Context(graph))
    assert ("v_reset" in written.nodes["n0_if"].to_dict()) == stored
    assert written.metadata["reset"] == "value"


@pytest.mark.slow
def test_names_sort_into_topological_order(tmp_path):
    run, _ = compiled("resnet")
    found = read(run.artifact, tmp_path)
    assert list(found.nodes) == sorted(found.nodes) == list(run.artifact.nodes)
    place = {name: i for i, name in enumerate(found.nodes)}
    assert all(place[a] < place[b] for a, b in found.edges)
    first, second, *_, last = found.nodes
    assert (first, second, last) == ("input", "n00_conv1", "output")


@pytest.mark.slow
def test_edges_of_skips_come_last():
    run, _ = compiled("resnet")
    edges = run.artifact.edges
    place = {name: i for i, name in enumerate(run.artifact.nodes)}
    fed = [b for _, b in edges]
    skips = [edge for i, edge in enumerate(edges) if edge[1] in fed[:i]]
    assert len(skips) == 3
    assert edges[-len(skips) :] == skips
    for a, b in skips:
        main = next(x for x, y in edges if y == b)
        assert place[main] > place[a]


@pytest.mark.slow
def test_several_ports(tmp_path):
    run, _ = compiled("two_outputs")
    assert list(read(run.artifact, tmp_path).outputs) == ["output_0", "output_1"]
    run, _ = compiled("two_inputs")
    back = read(run.artifact, tmp_path)
    assert list(back.inputs) == ["input_0", "input_1"]
    assert spikec.load(back).inputs == run.graph.inputs != ("input_0", "input_1")
    again = spikec.compile(spikec.load(back), "nir", timesteps=16)
    assert [again.metadata["ports"][name]["name"] for name in again.inputs] == list(run.graph.inputs)


@pytest.mark.slow
def test_metadata_survive(tmp_path):
    run, _ = compiled("two_outputs")
    found = read(run.artifact, tmp_path).metadata
    np.testing.assert_equal(found, run.artifact.metadata)
    assert (found["dt"], found["reset"], found["fire"], found["spikes"]) == (1e-4, "subtract", ">", "binary")
    assert (found["v_init"], found["timesteps"], found["gain"]) == (0, 16, "unit")
    assert found["output_scale"] == {"output_0": 1.0, "output_1": 1.0}
    assert found["producer"] == f"spikec {spikec.__version__}"
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()).eval()
    options = {"calibration": torch.rand(50, 3), "normalization": spikec.Normalization()}
    run = spikec.Compiler("nir", dt=2e-3, **options).run(model)
    found = read(run.artifact, tmp_path).metadata
    assert found["dt"] == 2e-3
    assert found["v_init"] == 0.5
    assert "timesteps" not in found
    assert np.array_equal(found["output_scale"], run.output_scale)
    assert found["output_scale"].shape == (4,)


def test_potentials_that_differ_stand_at_the_neurons(tmp_path):
    graph = hand(IF(np.ones((1,)), v_init=np.array([0.1, 0.2, 0.3]), strict=True))
    found = read(Nir().emit(graph, spikec.Context(graph)), tmp_path)
    assert "v_init" not in found.metadata
    assert np.array_equal(found.nodes["n0_if"].metadata["v_init"], [0.1, 0.2, 0.3])


@pytest.mark.slow
def test_the_loss_without_timesteps_is_reported():
    run, _ = compiled("mlp", timesteps=None)
    (note,) = [note for note in run.report.notes if note.by == "lower-v-init"]
    assert "compile with timesteps=" in str(note)
    run, _ = compiled("mlp")
    assert not [note for note in run.report.notes if note.by == "lower-v-init"]
    assert any("one float64 lower" in str(note) for note in run.report.notes)


# ------------------------------------------------------------------ refusals


def hand(*ops, shape=(3,)):
    graph = spikec.Graph("hand")
    x = graph.add(Input(shape, "float64", rate=True), name="x")
    for op in ops:
        x = graph.add(op, x)
    graph.add(Output(), x, name="output")
    return graph


def conv(shape, **options):
    axes = len(shape) - 2
    fields = {"stride": (1,) * axes, "padding": (0,) * axes, "dilation": (1,) * axes, **options}
    return Conv(np.ones(shape), np.zeros(shape[0]), **fields)


def legal(graph):
    context = spikec.Context(graph)
    spikec.extend.loader.pass_named("legalize-nir").run(graph, context)
    spikec.extend.loader.pass_named("strict-threshold").run(graph, context)
    return graph


def neurons(rank):
    return IF(np.ones((1,) * rank))


IMAGE = (2, 8, 6)
REFUSED = {
    "no 3d convolution": hand(conv((2, 2, 3, 3, 3)), shape=(2, 5, 5, 5)),
    "no 3d pool": hand(SumPool((2, 2, 2), (2, 2, 2), (0, 0, 0)), shape=(2, 4, 4, 4)),
    "Affine in NIR takes a vector": hand(Linear(np.ones((2, 6)), None), shape=(4, 6)),
    "disagree about a Flatten": hand(neurons(3), Flatten(1, 2), neurons(2), shape=IMAGE),
    "has no reshape": hand(neurons(3), Reshape((8, 12)), neurons(2), shape=IMAGE),
    "has no permute": hand(neurons(3), Permute((1, 2, 0)), neurons(3), shape=IMAGE),
    "has no pad": hand(Pad((1, 1), mode="reflect"), conv((2, 2, 3, 3)), shape=IMAGE),
    "has no avgpool": hand(AvgPool((2, 2), (2, 2), (1, 1), count_include_pad=False), shape=IMAGE),
    "maxpool .* may not exist": None,
}


@pytest.mark.parametrize("message", [m for m, graph in REFUSED.items() if graph is not None])
def test_what_nir_has_not_is_refused(message):
    graph = legal(REFUSED[message].copy())
    problems = Nir().check(graph)
    assert len(problems) == 1, problems
    assert message in problems[0].message
    assert problems[0].hint
    assert problems[0].op


AS_MATRICES = ("3d convolution", "3d pool", "takes a vector", "a Flatten", "reshape", "permute")


@pytest.mark.parametrize("message", [m for m, graph in REFUSED.items() if graph is not None])
def test_a_refusal_names_the_profile_that_has_it_as_a_matrix(message):
    """Where there is one; and that profile takes it."""
    graph = REFUSED[message].copy()
    (problem,) = Nir().check(legal(graph.copy()))
    assert ("profile='full'" in problem.hint) == message.endswith(AS_MATRICES)
    (in_full,) = Nir(profile="full").check(legal(graph.copy()))
    assert "profile=" not in in_full.hint
    if message.endswith(AS_MATRICES):
        assert spikec.extend.loader.pass_named("lower-shapes").run(graph, spikec.Context(graph))
        assert not Nir(profile="full").check(legal(graph))


def test_what_the_passes_before_must_have_done_is_held_to():
    """Each is what a pass of the order makes so; a pipeline of one's own may leave it out."""
    padded = hand(SumPool((2, 2), (2, 2), (1, 1)), shape=IMAGE)
    oblong = hand(conv((2, 2, 3, 1)), shape=IMAGE)
    bare = hand(Linear(np.ones((3, 3)), None))
    at = hand(IF(np.ones(1)))
    cases = {
        "a sum-pool with padding, which readers ignore": padded,
        "a convolution with uneven padding or sides": oblong,
        "an affine op without a bias": bare,
        "a neuron that fires at its threshold; those of the reader fire above it": at,
    }
    for message, graph in cases.items():
        (problem,) = Nir().check(graph)
        assert problem.message == message
        assert problem.hint.startswith("run ")
    unused = hand(conv((2, 2, 3, 3)), shape=IMAGE)
    unused.add(Input((3,), "float64", rate=True), name="other")
    assert "an input that nothing uses" in [problem.message for problem in Nir().check(unused)]


@pytest.mark.slow
def test_all_refusals_come_at_once_and_name_the_layers():
    b = build.Builder(2, 6, 6, 6)
    h = b.relu(b.conv(b.x, 3, "conv1", kernel=(1, 1, 1), padding=(0, 0, 0), stride=(1, 1, 1)), "relu1")
    h = b.add(AvgPool((2, 2, 2), (2, 2, 2), (0, 0, 0)), h, name="pool")
    graph = b.done(b.linear(b.add(Flatten(), h, name="flatten"), 3, "fc"))
    x = torch.rand(4, 2, 6, 6, 6, dtype=torch.float64)
    with pytest.raises(spikec.UnsupportedOpError) as error:
        spikec.compile(graph, "nir", calibration=x)
    assert [problem.location for problem in error.value.problems] == ["conv1", "pool"]
    assert [p.location for p in spikec.check(graph, "nir", calibration=x)] == ["conv1", "pool"]


def test_maxpool_is_refused():
    graph = hand(MaxPool((2, 2), (2, 2), (0, 0), (1, 1)), shape=IMAGE)
    with pytest.raises(spikec.TypeMismatchError, match="maxpool of a rate-coded signal"):
        Nir().check(graph)


def test_concat_along_another_axis_is_refused():
    graph = spikec.Graph("hand")
    x = graph.add(Input(IMAGE, "float64", rate=True), name="x")
    graph.add(Output(), graph.add(Concat(1), x, graph.add(IF(np.ones((1, 1, 1)), strict=True), x)), name="y")
    (problem,) = Nir().check(graph)
    assert "has no concat" in problem.message


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (conv((4, 2, 3, 3), padding=((0, 1), (0, 1))), "uneven padding"),
        (conv((4, 2, 3, 4)), "uneven padding or sides"),
        (Conv(np.ones((4, 2, 3, 3)), None, stride=(1, 1), padding=(0, 0), dilation=(1, 1)), "without a bias"),
        (SumPool((2, 2), (2, 2), (1, 1)), "padding"),
        (IF(np.ones((1, 1, 1))), "fires at its threshold"),
    ],
)
def test_what_legalize_would_have_mended_is_refused_without_it(op, message):
    (problem,) = Nir().check(hand(op, shape=IMAGE))
    assert message in problem.message
    assert "run " in problem.hint
    assert not Nir().check(legal(hand(op, shape=IMAGE)))


def test_sums_must_be_fan_in():
    for operands in (("a", "b"), ("a", "a")):
        graph = spikec.Graph("hand")
        graph.add(Input((3,), "float64", rate=True), name="x")
        for name in ("a", "b"):
            graph.add(Linear(np.eye(3), np.zeros(3)), "x", name=name)
        total = graph.add(Add(), *operands, name="sum")
        graph.add(Output(), "b", name="other")
        graph.add(Output(), total, name="y")
        (problem,) = Nir().check(graph)
        assert "not the fan-in" in problem.message
        assert not Nir().check(legal(graph))
        Nir().emit(graph, spikec.Context(graph))


def test_an_unused_input_is_refused():
    graph = hand(Linear(np.eye(3), np.zeros(3)))
    graph.add(Input((2,), "float64", rate=True), name="idle")
    (problem,) = Nir().check(graph)
    assert "nothing uses" in problem.message
    assert "%idle" in problem.op


def test_mixed_resets_stand_at_the_neurons():
    soft, hard = IF(np.ones((1,)), strict=True), IF(np.ones((1,)), v_reset=np.zeros((1,)), strict=True)
    graph = hand(soft, hard)
    found = Nir().emit(graph, spikec.Context(graph))
    assert "reset" not in found.metadata
    assert [node.metadata.get("reset") for node in found.nodes.values()] == [None, "subtract", "value", None]


def test_options():
    with pytest.raises(spikec.CompileError, match="'nobody'\n.*portable"):
        spikec.Compiler("nir", profile="nobody")
    with pytest.raises(spikec.CompileError, match="snnTorch 1.0.0 has 0.0001"):
        Nir(profile="snntorch", dt=1e-3)
    for dt in (0, -1e-3, float("inf"), float("nan")):
        with pytest.raises(spikec.CompileError, match="dt is"):
            Nir(dt=dt)


def test_owns_graphs_only():
    graph = hand(Linear(np.eye(3), np.zeros(3)))
    assert Nir().owns(Nir().emit(graph, spikec.Context(graph)))
    assert not Nir().owns(graph)
