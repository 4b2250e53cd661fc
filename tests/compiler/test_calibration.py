import attrs
import numpy as np
import pytest
import torch

import build
from spikec import Calibration, CalibrationError, Compiler, Normalization, Pass, Pipeline
from spikec.calibration import Statistics
from spikec.data import Batches
from spikec.stages import FOLDED

RELUS = {"relu1": 0, "relu2": 0, "relu3": 0}


def values(seed=0, n=2000):
    rng = np.random.default_rng(seed)
    return torch.tensor(np.maximum(rng.normal(size=(n, 3, 4)) * [[1], [10], [1e-4]], 0))


@pytest.mark.parametrize("q", [0, 30, 50, 90, 99, 99.9, 99.99, 100])
def test_percentiles_against_numpy(q):
    x = values()
    found = Statistics.of(x, 0).percentile(q)
    wanted = np.percentile(x.numpy().transpose(1, 0, 2).reshape(3, -1), q, axis=1)
    np.testing.assert_allclose(found, wanted, rtol=0.008, atol=1e-12)


def test_the_maximum_is_the_maximum():
    x = values().float()
    assert Statistics.of(x, 0).maximum.tolist() == x.amax((0, 2)).tolist()


def test_bins_stand_for_the_values():
    x = values()
    found, counts = Statistics.of(x, 0).bins()
    rows = x.numpy().transpose(1, 0, 2).reshape(3, -1)
    assert found[0] == 0
    assert (np.diff(found) > 0).all()
    assert counts.sum(1).tolist() == [rows.shape[1]] * 3
    assert counts[:, 0].tolist() == (rows == 0).sum(1).tolist()
    np.testing.assert_allclose(counts @ found, rows.sum(1), rtol=0.004)


def test_the_layer_is_all_channels_together():
    x = values()
    found = Statistics.of(x, 0).layer()
    np.testing.assert_allclose(found.percentile(99.9), np.percentile(x.numpy(), 99.9), rtol=0.008)


def test_statistics_do_not_depend_on_batches():
    x = values()
    whole = Statistics.of(x, 0)
    for seed, size in ((0, 7), (1, 500), (2, 1)):
        parts = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))].split(size)
        merged = Statistics.of(parts[0], 0)
        for part in parts[1:]:
            merged = merged.merge(Statistics.of(part, 0))
        assert np.array_equal(merged.maximum, whole.maximum)
        assert np.array_equal(merged.percentile(99.9), whole.percentile(99.9))


def test_all_zeros():
    found = Statistics.of(torch.zeros(5, 2, 3), 0)
    assert found.percentile(99.9).tolist() == [0, 0]
    assert found.merge(Statistics.of(torch.ones(5, 2, 3), 0)).percentile(100).tolist() == [1, 1]


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


def test_save_load_and_reuse(tmp_path):
    x = torch.rand(90, 2, 8, 6)
    ann = Compiler(build.GraphTarget(), calibration=x).run(build.residual())
    folded = next(s.graph for s in ann.stages if s.name == "fold-batchnorm")
    gathered = Calibration.gather(folded, RELUS, [(x,)])
    gathered.save(tmp_path / "c.npz")
    again = Calibration.load(tmp_path / "c.npz")
    assert (again.samples, again.shapes) == (90, ((2, 8, 6),))
    assert [p.name for p in tmp_path.iterdir()] == ["c.npz"]
    found = Compiler(build.GraphTarget(), calibration=again).run(build.residual())
    assert str(found.graph) == str(ann.graph)


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
        (torch.rand(0, 6), "empty"),
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
