import functools
import os
import subprocess
import sys
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from torch import nn

import build
import spikec
from spikec import (
    Calibration,
    CalibrationError,
    CompileError,
    Compiler,
    InvalidModelError,
    Normalization,
    Pass,
    Pipeline,
)
from spikec.calibration import calibration
from spikec.calibration.calibration import RETAINED, Retained
from spikec.calibration.source import Batches, CalibrationSource
from spikec.calibration.statistics import Statistics
from spikec.ir import op
from spikec.ir.stages import FOLDED

RELUS = {"relu1": 0, "relu2": 0, "relu3": 0}


@pytest.mark.slow
@pytest.mark.parametrize("normalization", ["max", "99.9%", "50%", 0.5, None])
def test_thresholds_do_not_depend_on_batch_order_or_size(normalization):
    x = torch.rand(90, 2, 8, 6)
    found = []
    for batches in (x.split(90), x.split(7), x.flip(0).split(13)):
        c = Compiler(build.GraphTarget(), calibration=list(batches), normalization=normalization).run(build.residual())
        found.append([c.graph.type(name).scale for name in ("relu1", "relu2", "relu3")])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.slow
def test_save_load_and_reuse(tmp_path):
    x = torch.rand(90, 2, 8, 6)
    percentile = Normalization()  # what needs no samples, which a saved calibration does not hold
    ann = Compiler(build.GraphTarget(), calibration=x, normalization=percentile).run(build.residual())
    folded = next(s.graph for s in ann.stages if s.name == "fold-batchnorm")
    gathered = Calibration.gather(folded, RELUS, [(x,)])
    gathered.save(tmp_path / "c.npz")
    again = Calibration.load(tmp_path / "c.npz")
    assert (again.samples, again.shapes) == (90, ((2, 8, 6),))
    assert [p.name for p in tmp_path.iterdir()] == ["c.npz"]
    found = Compiler(build.GraphTarget(), calibration=again, normalization=percentile).run(build.residual())
    assert str(found.graph) == str(ann.graph)


@pytest.mark.slow
def test_a_calibration_of_another_model():
    x = torch.rand(9, 6)
    mlp = Compiler(build.GraphTarget(), calibration=x).run(build.mlp())
    folded = next(s.graph for s in mlp.stages if s.name == "fold-batchnorm")
    gathered = Calibration.gather(folded, {"relu1": 0, "relu2": 0}, [(x,)])
    with pytest.raises(CalibrationError, match="of another model"):
        Compiler(build.GraphTarget(), calibration=gathered, verify="off").run(build.residual())


def test_a_pass_may_gather_other_nodes_or_change_weights_before_normalize():
    """Statistics are of the very graph that asks for them, however often that is."""

    @attrs.frozen
    class Louder(Pass):
        name = "louder"
        contract = "approximate"
        needs = (FOLDED,)

        def run(self, graph, context):
            before = context.gather(graph, {"relu1": 0}).nodes["relu1"].maximum
            graph.set_op("fc1", graph["fc1"].affine(np.full(8, 10.0), np.zeros(8)))
            self.seen.append((before, context.gather(graph, {"relu1": 0}).nodes["relu1"].maximum))
            return 1

        seen = []

    x = torch.rand(50, 6)
    pipeline = Pipeline.default(build.GraphTarget(), normalization=Normalization(method="max")).insert_before(
        "normalize", Louder()
    )
    c = Compiler(build.GraphTarget(), calibration=x, pipeline=pipeline).run(build.mlp())
    ((before, after),) = Louder.seen
    np.testing.assert_allclose(after, before * 10, rtol=1e-5)
    np.testing.assert_allclose(c.graph.type("relu1").scale.max(), after.max(), rtol=1e-5)
    assert c.calibration.nodes.keys() == {"relu1", "relu2"}


@pytest.mark.slow
def test_calibrate_is_what_compile_gathers(tmp_path):
    """It is saved with the samples that passes look at, so that a second compile needs nothing else."""
    x = torch.rand(300, 2, 8, 6)
    one = spikec.calibrate(build.residual(), x.split(50), build.GraphTarget())
    one.save(tmp_path / "c.npz")
    two = Calibration.load(tmp_path / "c.npz")
    compiled = Compiler(build.GraphTarget(), calibration=x.split(50)).run(build.residual())
    assert identical(one, two)
    assert identical(one, compiled.calibration)
    assert str(Compiler(build.GraphTarget(), calibration=two).run(build.residual()).graph) == str(compiled.graph)
    context, _ = Compiler(build.GraphTarget(), calibration=two).lower(build.residual())
    assert torch.equal(context.samples[0], one.retained.inputs[0])
    with pytest.raises(CompileError, match="no pass"):
        spikec.calibrate(build.mlp(), torch.rand(9, 6), build.GraphTarget(), pipeline=["eliminate-identity"])


def identical(one, other):
    pairs = [(one.nodes[name], other.nodes[name]) for name in one.nodes]
    fields = [field.name for field in attrs.fields(Statistics)]
    return (
        one.nodes.keys() == other.nodes.keys()
        and (one.samples, one.model, one.shapes) == (other.samples, other.model, other.shapes)
        and all(np.array_equal(getattr(a, name), getattr(b, name)) for a, b in pairs for name in fields)
        and np.array_equal(one.retained.marks, other.retained.marks)
        and all(map(torch.equal, one.retained.inputs, other.retained.inputs))
    )


@pytest.mark.slow
def test_order_and_shards_of_batches_change_no_bit():
    parts = torch.rand(520, 2, 8, 6).split(40)
    target = build.GraphTarget()
    whole = spikec.calibrate(build.residual(), parts, target)
    assert identical(whole, spikec.calibrate(build.residual(), parts[::-1], target))
    shards = [spikec.calibrate(build.residual(), parts[i::3], target) for i in range(3)]
    assert identical(whole, shards[2].merge(shards[0]).merge(shards[1]))
    assert not identical(whole, shards[0].merge(shards[1]))
    assert not identical(whole, spikec.calibrate(build.residual(), parts[1:], target))


PROCESS = """
import sys
import torch
import build, spikec
from torch import distributed

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
parts = torch.load(f"{folder}/x.pt").split(40)
spikec.calibrate(build.residual(), parts[rank::2], build.GraphTarget()).all_reduce().save(f"{folder}/{rank}.npz")
gated = torch.load(f"{folder}/gated.pt", weights_only=False)
spikec.calibrate(gated, parts[rank:12:2], all_reduce=True).save(f"{folder}/gated_{rank}.npz")
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_find_what_one_does(tmp_path, one_thread):
    x = torch.rand(520, 2, 8, 6)
    torch.save(x, tmp_path / "x.pt")
    gated = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GLU(1), nn.Flatten(), nn.Linear(48, 3), nn.SiLU()).eval()
    torch.save(gated, tmp_path / "gated.pt")
    path = [str(Path(build.__file__).parent), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, "-c", PROCESS]
    running = [subprocess.Popen([*command, str(rank), str(tmp_path)], env=env) for rank in range(2)]
    assert [process.wait(100) for process in running] == [0, 0]
    whole = spikec.calibrate(build.residual(), x.split(40), build.GraphTarget())
    for rank in range(2):
        assert identical(Calibration.load(tmp_path / f"{rank}.npz"), whole)
    seen = [Calibration.load(tmp_path / f"gated_{rank}.npz") for rank in range(2)]
    assert identical(*seen)
    snn = spikec.compile(gated, "spikingjelly", calibration=seen[0], normalization="max")
    alone = spikec.compile(gated, "spikingjelly", calibration=x[:480], normalization="max")
    assert seen[0].samples == 480
    with torch.no_grad():
        found, wanted = (sum(each(x[:40]) for _ in range(64)) for each in (snn, alone))
    assert (found - wanted).norm() < 0.05 * wanted.norm()


def test_what_a_gated_network_saw_is_not_merged_afterwards():
    gated = nn.Sequential(nn.Linear(4, 6), nn.GLU(), nn.Linear(3, 2)).eval()
    one, other = (spikec.calibrate(gated, k * torch.rand(8, 4)) for k in (1, 2))
    with pytest.raises(CalibrationError, match="different models") as error:
        one.merge(other)
    assert "all_reduce=True" in error.value.hint
    with pytest.raises(CalibrationError, match="not initialised"):
        spikec.calibrate(gated, torch.rand(8, 4), all_reduce=True)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_processes_that_never_met():
    with pytest.raises(CalibrationError, match="not initialised"):
        Calibration().all_reduce()


def test_samples_are_kept_by_what_they_are():
    x, y = torch.rand(700, 3), torch.rand(700, dtype=torch.float64)
    whole = Retained.of((x, y))
    assert len(whole.marks) == RETAINED
    order = torch.randperm(700)
    found = [Retained.of((a, b)) for a, b in zip(x[order].split(64), y[order].split(64), strict=True)]
    merged = functools.reduce(Retained.merge, found)
    assert np.array_equal(whole.marks, merged.marks)
    assert all(map(torch.equal, whole.inputs, merged.inputs))
    rows = {tuple(row) for row in x.tolist()}
    assert {tuple(row) for row in merged.inputs[0].tolist()} <= rows


def test_events_are_averaged_over_time():
    events = (torch.rand(5, 90, 6) < 0.3).float()
    axis_0 = spikec.calibrate(build.mlp(), events, build.GraphTarget(), time_axis=0)
    axis_1 = spikec.calibrate(build.mlp(), [events.transpose(0, 1)], build.GraphTarget(), time_axis=1)
    still = spikec.calibrate(build.mlp(), events.mean(0), build.GraphTarget())
    assert identical(axis_0, still)
    assert identical(axis_1, still)
    for axis in (3, -4):
        with pytest.raises(CalibrationError, match="no time axis"):
            spikec.calibrate(build.mlp(), events, build.GraphTarget(), time_axis=axis)


def test_devices():
    x = torch.rand(40, 6)
    assert spikec.calibrate(build.mlp(), x, build.GraphTarget(), device="cpu").samples == 40
    for device in ("meta", "toaster", "cuda:99"):
        with pytest.raises(CalibrationError, match=f"device '{device}' cannot be used"):
            spikec.calibrate(build.mlp(), x, build.GraphTarget(), device=device)


@pytest.mark.parametrize("size", [1e308, 1e200, 1e40])
def test_values_that_are_not_finite_are_located_also_where_float64_holds_them(size):
    with pytest.raises(InvalidModelError, match=r"not finite\n.*relu1"):
        spikec.calibrate(build.mlp(), (torch.rand(4, 6, dtype=torch.float64) + 0.1) * size, build.GraphTarget())


def test_a_context_has_samples_of_the_first_batch_until_all_were_seen():
    source = CalibrationSource.of(torch.arange(1, 3001.0)[:, None].split(1000), ["x"])
    graph = build.Builder(1).graph
    assert source.is_long
    assert spikec.Context(graph, calibration=source).samples[0].max() <= 1000
    first = source.only_first_batch()
    assert not first.is_long
    source.gather(graph, {"x": 0})
    assert spikec.Context(graph, calibration=source).samples[0].max() > 1000
    assert first.gather(graph, {"x": 0}).samples == 1000
    assert not CalibrationSource.of(None, ["x"])


def test_merging_calibrations_of_different_models():
    one, other = (Calibration(model=name) for name in ("a", "b"))
    with pytest.raises(CalibrationError, match="different models"):
        one.merge(other)


def test_a_file_that_is_no_calibration(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones(3))
    (tmp_path / "y.npz").write_text("nothing")
    for name in ("x.npz", "y.npz", "missing.npz"):
        with pytest.raises(CalibrationError, match="not a saved calibration"):
            Calibration.load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "values", "match"),
    [
        ("x", np.array([2.0, 1.0]), "x: its values do not rise"),
        ("x", np.ones((2, 3)), "x: its values do not rise"),
        ("x", np.array([np.inf]), "no finite numbers"),
        ("x/moments", np.ones(3), "no mean and deviation"),
        ("x/moments", np.ones((3, 3)), "no mean and deviation"),
        ("x/moments", np.array([[1.0, 2.0], [1.0, 0.0]]), "no mean and deviation"),
    ],
)
def test_values_in_a_file_are_what_passes_take(name, values, match, tmp_path):
    Calibration(values={name: values}).save(tmp_path / "x.npz")
    with pytest.raises(CalibrationError, match=match):
        Calibration.load(tmp_path / "x.npz")
    right = {"x": np.array([1.0, 2.0]), "x/moments": np.ones((2, 3))}
    Calibration(values=right).save(tmp_path / "x.npz")
    assert Calibration.load(tmp_path / "x.npz").values.keys() == right.keys()


def test_batches_take_what_users_have():
    x, y = torch.rand(5, 6), torch.zeros(5)
    for data in ([x], [(x, y)], [{"x": x, "label": y}], iter([x]), x, x.numpy(), [x.numpy()]):
        batches = Batches(data, ["x"])
        assert torch.equal(batches.first[0], x)
        assert [len(batch) for batch in batches] == [1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "empty"),
        (torch.rand(0, 6), "no sample"),
        ([torch.zeros(0, 6)], "no sample"),
        ([torch.ones(3, 6, dtype=torch.int64)], "int64"),
        ([{"image": torch.rand(3, 6)}], "no key 'x'"),
        (7, "not an iterable"),
        (["text"], "not a tensor"),
        ("images.npz", "calibration is a str"),
        (torch.utils.data.TensorDataset(torch.rand(3, 6)), "single samples"),
        ({"x": torch.rand(3, 6)}, "calibration is a dict"),
        ((torch.rand(3, 6), torch.zeros(3)), r"\[\(x, y\)\]"),
        ([torch.full((2, 6), float("nan"))], "NaN"),
        ([()], "0 elements"),
    ],
)
def test_bad_calibration_data(data, message):
    with pytest.raises(CalibrationError, match=message):
        Batches(data, ["x"])


def test_batches_of_different_samples():
    for data in ([torch.rand(2, 6), torch.rand(2, 7)], [(torch.rand(2, 6), 1), (torch.rand(2, 5), 1)]):
        with pytest.raises(CalibrationError, match=r"is \[2, [57]\], the first one was \[B, 6\]"):
            list(Batches(data, ["x"]))


def test_a_generator_can_be_read_once():
    batches = Batches((torch.rand(2, 6) for _ in range(3)), ["x"])
    assert len(list(batches)) == 3
    with pytest.raises(CalibrationError, match="generator"):
        iter(batches)


def test_weights_are_kept_as_tensors_from_the_second_batch_on(monkeypatch):
    """Of a large network they take as much memory again, which a single batch need not pay."""
    seen = []

    def run(graph, xs, **_):
        seen.append(op._tensors.get() is not None)

    monkeypatch.setattr(calibration, "run", run)
    batches = [(torch.rand(2, 3),)] * 3
    b = build.Builder(3)
    list(calibration._run(b.done(b.linear(b.x, 2, "fc")), {}, batches))
    assert seen == [False, True, True]
    assert op._tensors.get() is None
