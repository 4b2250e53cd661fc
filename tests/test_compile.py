"""``spikec.compile`` as users meet it: what it takes, what it refuses, and that nothing is left half."""

import copy
import warnings

import attrs
import numpy as np
import pytest
import torch
from torch import nn

import build
import nets
import spikec
from spikec import (
    CalibrationError,
    CompileError,
    InvalidModelError,
    SpikecWarning,
    TypeMismatchError,
    UnsupportedOpError,
    VerificationError,
)
from spikec.frontends.torch import converter
from spikec.ir.op import Op
from spikec.ir.ops import Identity, Linear, Weighted
from spikec.reading import detach_from_model, find_frontend

TARGETS = ["spikingjelly", "nir", "netx"]


def conv_net(*extra):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), *extra, nn.Flatten(), nn.Linear(4 * 36, 3)).eval()


IMAGES = torch.rand(20, 1, 8, 8)


@pytest.mark.parametrize("target", TARGETS)
def test_linear_first_needs_nothing_else(target):
    with pytest.warns(spikec.SpikecWarning, match="weights alone"):
        artifact = spikec.compile(nets.build("mlp"), target)
    assert artifact is not None


@pytest.mark.parametrize("target", TARGETS)
def test_conv_first_says_exactly_what_to_pass(target):
    with pytest.raises(InvalidModelError, match="shape") as caught:
        spikec.compile(conv_net(), target)
    assert "example_input=torch" in caught.value.hint
    assert "1, 1, " in caught.value.hint


@pytest.mark.slow
def test_an_example_is_enough():
    with pytest.warns(spikec.SpikecWarning):
        spikec.compile(conv_net(), "nir", example_input=torch.rand(1, 1, 8, 8))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "resnet", "maxpool", "concat"])
@pytest.mark.parametrize("example", [torch.rand, torch.zeros, torch.ones])
def test_an_example_of_any_kind_is_enough_for_real_nets(name, example):
    """Thresholds from the weights alone are high: the checks must not take a silent net for a wrong one."""
    x = example(2, *nets.batch(name, 2).shape[1:])
    with pytest.warns(SpikecWarning, match="weights alone"):
        spikec.compile(nets.build(name), "spikingjelly", example_input=x)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("target", TARGETS)
def test_compiling_without_gradients(target, mode):
    with mode():
        spikec.compile(conv_net(), target, calibration=IMAGES)


@pytest.mark.parametrize("target", TARGETS)
def test_an_unknown_op_is_refused_with_all_its_places(target):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = conv_net(nn.Hardshrink())
            self.head = nn.Linear(3, 3)

        def forward(self, x):
            return torch.tan(self.head(self.body(x)))

    with pytest.raises(UnsupportedOpError) as caught:
        spikec.compile(Net().eval(), target, calibration=IMAGES)
    places = [problem.location for problem in caught.value.problems]
    assert len(places) == 2
    assert "body.2" in places[0]
    assert "test_compile.py" in places[1]
    assert all(problem.hint for problem in caught.value.problems)


def broken(value):
    model = conv_net()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = value
    return model


def training(*extra):
    return conv_net(*extra).train()


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (broken(float("nan")), {"calibration": IMAGES}, InvalidModelError, "NaN"),
        (broken(float("inf")), {"calibration": IMAGES}, InvalidModelError, "inf"),
        (conv_net(), {"calibration": []}, CalibrationError, "empty"),
        (conv_net(), {"calibration": torch.rand(0, 1, 8, 8)}, CalibrationError, "no sample"),
        (conv_net(), {"calibration": torch.rand(4, 1, 9, 9)}, CompileError, "features|144"),
        (conv_net(), {"calibration": torch.rand(4, 3, 8, 8)}, CompileError, "channels|features"),
        (conv_net(), {"calibration": torch.ones(4, 1, 8, 8, dtype=torch.int64)}, CalibrationError, "int64"),
        (conv_net(), {"calibration": torch.ones(4, 1, 8, 8, dtype=torch.uint8)}, CalibrationError, "uint8"),
        (conv_net(), {"calibration": [IMAGES, torch.rand(4, 1, 9, 9)]}, CompileError, r"\[B, 1, 8, 8\]"),
        (conv_net(), {"calibration": 5}, CalibrationError, "iterable"),
        (conv_net(), {"example_input": torch.ones(1, 1, 8, 8, dtype=torch.int32)}, InvalidModelError, "int32"),
        (conv_net(), {"example_input": "image"}, InvalidModelError, "str"),
        (training(nn.Dropout(0.5)), {"calibration": IMAGES}, InvalidModelError, r"eval\(\)"),
        (training(nn.BatchNorm2d(4)), {"calibration": IMAGES}, InvalidModelError, r"eval\(\)"),
        (lambda x: x, {"calibration": IMAGES}, InvalidModelError, "not a model"),
        (np.ones(3), {}, InvalidModelError, "not a model"),
        (None, {}, InvalidModelError, "not a model"),
        ("nowhere.nir", {}, InvalidModelError, "no file"),
        (nn.Linear, {}, InvalidModelError, "not a model"),
    ],
)
def test_bad_input_gets_its_own_error(model, options, error, message):
    with pytest.raises(error, match=message) as caught:
        spikec.compile(model, "spikingjelly", **options)
    assert type(caught.value) is not CompileError


@pytest.mark.slow
def test_training_mode_without_dropout_or_batch_norm_is_fine():
    spikec.compile(training(), "spikingjelly", calibration=IMAGES)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("nirr", {}, "did you mean 'nir'"),
        (3, {}, "target is a int"),
        ("nir", {"dtt": 1e-4}, "did you mean 'dt'"),
        ("nir", {"profile": "nobody"}, "portable"),
        ("nir", {"dt": "1"}, "dt is '1'"),
        ("nir", {"dt": 0.0}, "dt is 0.0"),
        (build.GraphTarget(), {"profile": "full"}, "instance already"),
    ],
)
def test_wrong_targets_and_options(target, options, message):
    with pytest.raises(CompileError, match=message):
        spikec.compile(conv_net(), target, calibration=IMAGES, **options)


@pytest.mark.slow
def test_check_lists_without_raising():
    problems = spikec.check(conv_net(nn.Hardshrink(), nn.Hardshrink()), "nir", calibration=IMAGES)
    assert [p.location.split()[0] for p in problems] == ["2", "3"]
    assert spikec.check(conv_net(), "nir", calibration=IMAGES) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*hard reset in")
@pytest.mark.parametrize("target", TARGETS)
def test_the_model_is_left_as_it_was(target):
    model = nets.build("cnn")
    before = copy.deepcopy(model.state_dict())
    spikec.compile(model, target, calibration=nets.batch("cnn", 8))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not model.training


@pytest.mark.parametrize("target", ["spikingjelly", "nir"])
@pytest.mark.parametrize("last", [nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)], ids=str)
def test_a_network_that_is_a_pool(target, last):
    """There are no neurons, and yet the pool's sum is scaled to the average."""
    run = spikec.Compiler(target, calibration=IMAGES, verify="each").run(last)
    scaled = spikec.run(run.graph, IMAGES) * run.output_scale.item()
    found = run.artifact(IMAGES) if target == "spikingjelly" else scaled
    assert torch.allclose(found, last(IMAGES))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["spikingjelly", "nir"])
def test_a_difference_of_equal_numbers_is_silent_whatever_rounding_leaves_of_it(target):
    """A threshold of the size of a rounding error would make spikes of others."""

    class Net(nn.Module):
        def forward(self, x, y):
            low = torch.minimum(x, y)
            for _ in range(2):
                low = torch.minimum(low, low.flip(1))
            return low * 0.125

    xs = torch.randn(2, 16, 3, 6, 6, dtype=torch.float64).unbind()
    with pytest.warns(SpikecWarning, match="silent"):
        spikec.compile(Net(), target, calibration=[xs], verify="each")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*hard reset in")
@pytest.mark.parametrize("target", TARGETS)
def test_two_runs_are_alike(target):
    texts = set()
    for _ in range(2):
        compilation = spikec.Compiler(target, calibration=nets.batch("cnn", 8), timesteps=8).run(nets.build("cnn"))
        texts.add(str(compilation.graph))
    assert len(texts) == 1


@pytest.mark.parametrize("name", list(nets.ZOO))
def test_every_source_node_has_a_fate(name):
    model, x = nets.build(name), nets.batch(name)
    compilation = spikec.Compiler("spikingjelly", calibration=[x], verify="each").run(model)
    imported = compilation.stages[0].graph
    assert {entry.source for entry in compilation.ledger} == imported.sources
    assert len(compilation.ledger) > 3
    report = str(compilation.report)
    assert "fold-rescale" in report
    assert report.count("exact") >= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "resnet", "concat", "grouped", "maxpool"])
def test_rates_converge_to_the_ann(name):
    """Against torch itself, in the module's own units: four times the steps, a quarter of the error."""
    model, x = nets.build(name), nets.batch(name, 64)
    snn = spikec.compile(model, "spikingjelly", calibration=x, normalization=spikec.Normalization(method="max"))
    with torch.no_grad():
        ann = model(x)
        total, errors = torch.zeros_like(ann), []
        for t in range(1, 257):
            total += snn(x)
            if t in (16, 64, 256):
                errors.append(float((total / t - ann).abs().mean() / ann.abs().mean()))
    assert errors[2] < 5e-3
    assert errors[0] > 2.5 * errors[1] > 2.5**2 * errors[2]


@pytest.mark.parametrize(("target", "name"), [("spikingjelly", "m.pt"), ("nir", "m.nir"), ("netx", "m.net")])
def test_files_appear_whole_or_not_at_all(target, name, tmp_path, monkeypatch):
    artifact = spikec.compile(nets.build("mlp"), target, calibration=nets.batch("mlp", 16))
    spikec.save(artifact, tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    before = (tmp_path / name).read_bytes()
    backend = spikec.extend.loader.backend_named(target)

    def interrupted(self, artifact, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(backend, "save", interrupted)
    with pytest.raises(InvalidModelError, match="cannot be written: disk full"):
        spikec.save(artifact, tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == before


def test_saving_what_is_no_artifact(tmp_path):
    with pytest.raises(InvalidModelError, match="not an artifact"):
        spikec.save(nn.Linear(2, 2), tmp_path / "x")
    with pytest.raises(InvalidModelError, match="does not exist"):
        spikec.save(nn.Linear(2, 2), tmp_path / "no" / "x")
    assert list(tmp_path.iterdir()) == []


def test_evaluate_counts_what_torch_counts():
    torch.manual_seed(0)
    model, x = nets.build("mlp"), torch.rand(200, 7)
    labels = model(x).argmax(1)
    snn = spikec.compile(model, "spikingjelly", calibration=x)
    curve = spikec.evaluate(snn, [(x[:90], labels[:90]), (x[90:], labels[90:])], 20)
    with torch.no_grad():
        total = sum(snn(x) for _ in range(20))
    assert curve.shape == (20,)
    assert curve[-1] == pytest.approx(float((total.argmax(1) == labels).double().mean()))
    compilation = spikec.Compiler("spikingjelly", calibration=x).run(model)
    np.testing.assert_allclose(spikec.evaluate(compilation.graph, [(x, labels)], 20), curve, atol=0.011)
    assert spikec.evaluate(spikec.load(model), [(x, labels)], 3).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [([], CalibrationError, "empty"), ([torch.rand(3, 7)], CalibrationError, "pair")],
)
def test_evaluate_refuses(loader, error, message):
    with pytest.raises(error, match=message):
        spikec.evaluate(spikec.load(nets.build("mlp")), loader, 3)
    with pytest.raises(InvalidModelError, match="neither"):
        spikec.evaluate(nets.build("mlp"), [(torch.rand(3, 7), torch.zeros(3, dtype=torch.int64))], 3)


@pytest.mark.parametrize("labels", [torch.zeros(3, 1, dtype=int), torch.zeros(1, dtype=int), torch.zeros(3), 5])
def test_labels_that_do_not_fit_are_refused_and_never_broadcast(labels):
    with pytest.raises(CalibrationError, match="labels (are|for a batch)"):
        spikec.evaluate(spikec.load(nets.build("mlp")), [(torch.rand(3, 7), labels)], 3)


def test_a_large_offset_is_no_reason_to_refuse():
    model = nets.build("mlp")
    with torch.no_grad():
        model[-1].bias.fill_(2000.0)
    spikec.compile(model, "spikingjelly", calibration=nets.batch("mlp", 32), verify="each")


def test_example_and_calibration_must_agree():
    with pytest.raises(CalibrationError, match=r"\[1, 8, 8\] in the calibration data, and \[1, 9, 9\]"):
        spikec.compile(conv_net(), "nir", calibration=IMAGES, example_input=torch.rand(1, 1, 9, 9))


def test_a_saved_calibration_is_all_a_second_compile_needs(tmp_path):
    first = spikec.Compiler("spikingjelly", calibration=IMAGES).run(conv_net_of(0))
    first.calibration.save(tmp_path / "c.npz")
    again = spikec.Calibration.load(tmp_path / "c.npz")
    second = spikec.Compiler("spikingjelly", calibration=again).run(conv_net_of(0))
    assert str(second.graph) == str(first.graph)
    with pytest.raises(CalibrationError, match="another model"):
        spikec.Compiler("spikingjelly", calibration=again).run(conv_net_of(1))


def conv_net_of(seed):
    torch.manual_seed(seed)
    return conv_net()


def test_numpy_integers_are_integers():
    spikec.compile(nets.build("mlp"), "nir", calibration=nets.batch("mlp", 8), timesteps=np.int64(4), seed=np.int32(1))


def test_an_artifact_of_a_users_own_target_can_be_saved(tmp_path):
    @attrs.frozen
    class Text(spikec.Backend):
        name = "text"

        def emit(self, graph, context):
            return Listing(str(graph))

        def owns(self, artifact):
            return isinstance(artifact, Listing)

        def save(self, artifact, path):
            path.write_text(artifact)

    class Listing(str):
        pass

    spikec.save(spikec.compile(nets.build("mlp"), Text(), calibration=nets.batch("mlp", 8)), tmp_path / "x.txt")
    assert (tmp_path / "x.txt").read_text().startswith("graph Sequential {")
    (tmp_path / "link").symlink_to(tmp_path / "x.txt")
    spikec.save(Listing("new"), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "x.txt").read_text() == "new"
    with pytest.raises(InvalidModelError, match="folder"):
        spikec.save(Listing("new"), tmp_path)


def test_a_copied_graph_is_as_frozen_as_the_first():
    graph = copy.deepcopy(spikec.load(nets.build("mlp")))
    with pytest.raises(ValueError, match="read-only"):
        graph.match(Weighted)[0].op.weight[0, 0] = 1


def test_a_wrong_shape_names_the_first_layer_that_does_not_fit():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(5, 2)).eval()
    with pytest.raises((TypeMismatchError, InvalidModelError)) as caught:
        spikec.compile(model, "nir", example_input=torch.rand(2, 4))
    assert caught.value.location.startswith("2")


class Doubling(nn.Module):
    def forward(self, x):
        return 2 * x


def test_an_import_that_differs_from_the_model_is_noticed():
    """A converter that reads a layer as something else."""

    @converter(Doubling)
    def doubling(module, call):
        return call.add(Identity(), call.operand)

    with pytest.raises(VerificationError, match="imported graph differs from the model by"):
        spikec.compile(conv_net(Doubling()), "spikingjelly", calibration=IMAGES)
    spikec.compile(conv_net(Doubling()), "spikingjelly", calibration=IMAGES, verify="off")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_module_has_the_models_dtype(dtype):
    wanted = torch.float64 if dtype is torch.float64 else torch.float32
    snn = spikec.compile(conv_net().to(dtype), "spikingjelly", calibration=IMAGES)
    assert {t.dtype for t in (*snn.parameters(), *snn.buffers())} == {wanted}
    assert snn(IMAGES.to(wanted)).dtype == wanted


def test_the_module_is_on_the_models_device():
    graph = spikec.load(nets.build("mlp"))
    assert graph.imported.device == "cpu"
    graph.imported.device = "meta"
    snn = spikec.compile(graph, "spikingjelly", calibration=nets.batch("mlp", 16))
    assert {p.device.type for p in snn.parameters()} == {"meta"}


def test_nothing_warns_on_the_plain_path():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spikec.compile(nets.build("cnn"), "nir", calibration=nets.batch("cnn", 8), timesteps=16)


def held(graph):
    """Every array of a graph."""
    return [x for node in graph.match(Op) for x in node.op.parameters().values() if isinstance(x, np.ndarray)]


def graphs_after_training(net):
    """Whether each graph that was made of a net still holds what it held: loaded, compiled, the stages of a run."""
    x = torch.rand(5, 3)
    run = spikec.Compiler(build.GraphTarget(), calibration=[x]).run(net)
    graphs = [spikec.load(net, x), spikec.compile(net, build.GraphTarget(), calibration=[x])]
    graphs += [stage.graph for stage in run.stages]
    before = [[array.copy() for array in held(graph)] for graph in graphs]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(7.0)
    return [all(map(np.array_equal, held(graph), then)) for graph, then in zip(graphs, before, strict=True)]


@pytest.mark.parametrize("layers", [1, 4])
def test_what_becomes_of_the_model_reaches_nothing_that_was_made_of_it(layers, monkeypatch):
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))[:layers].eval()
    assert all(graphs_after_training(copy.deepcopy(net)))
    for module in ("reading", "driver"):
        monkeypatch.setattr(f"spikec.{module}.detach_from_model", lambda *graphs: None)
    unowned = graphs_after_training(net)
    assert not any(unowned if layers == 1 else [unowned[0], unowned[2]])


def test_a_frontend_lends_the_models_memory_until_it_is_copied():
    net = nn.Sequential(nn.Linear(3, 2)).eval()
    frontend, _ = find_frontend(net)
    graph = frontend.load(net, (torch.rand(5, 3),))
    lent = graph.copy()
    detach_from_model(graph)
    weight = net[0].weight.detach().numpy()
    assert [np.shares_memory(g.match(Linear)[0].op.weight, weight) for g in (lent, graph)] == [True, False]


class Skips(nn.Module):
    """A skip that is taken before the activation, as a view or as an identity."""

    def __init__(self, skip):
        super().__init__()
        self.a, self.b, self.out, self.skip = nn.Linear(10, 8), nn.Linear(8, 8), nn.Linear(8, 3), skip

    def forward(self, x):
        y = self.a(x)
        skipped = self.skip(y)
        return self.out(self.b(torch.relu(y)) + skipped)


@pytest.mark.parametrize(
    "skip",
    [nn.Identity(), nn.Dropout(), lambda y: y.view(-1, 8), lambda y: y + 0, lambda y: y.view(-1, 2, 4).flatten(1)],
)
def test_an_activation_writes_over_nothing_that_is_looked_at_elsewhere(skip):
    net, x = Skips(skip).eval(), torch.randn(32, 10)
    torch.testing.assert_close(spikec.run(spikec.load(net, x), x), net(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda h: h.clamp(max=0.3),
        lambda h: h.clamp(min=0.1),
        lambda h: torch.nn.functional.threshold(h, 0.1, 0.1),
        lambda h: torch.relu(h).clamp(max=0.1).clamp(max=0.05),
    ],
)
def test_bounds_that_float32_does_not_have_are_exact_too(function):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(10, 16), nn.Linear(16, 3)

        def forward(self, x):
            return self.b(function(self.a(x)))

    stages = spikec.Compiler("spikingjelly", calibration=torch.randn(16, 10), verify="each").run(Net().eval()).stages
    assert any(stage.check.startswith("exact") for stage in stages)
