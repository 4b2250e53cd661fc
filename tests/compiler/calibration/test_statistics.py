import attrs
import numpy as np
import pytest
import torch

from spikec import CalibrationError
from spikec.calibration.statistics import SLOTS, Accumulator, Statistics

FIELDS = [field.name for field in attrs.fields(Statistics)]


def statistics(*batches, axis=0):
    found = Accumulator(axis)
    for batch in batches:
        found.add(batch)
    return found.result()


def values(seed=0, n=2000):
    rng = np.random.default_rng(seed)
    return torch.tensor(np.maximum(rng.normal(size=(n, 3, 4)) * [[1], [10], [1e-4]], 0))


def by_channel(x):
    return x.double().numpy().transpose(1, 0, 2).reshape(x.shape[1], -1)


def same(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in FIELDS)


@pytest.mark.parametrize("n", [50, 2000, 9000])
@pytest.mark.parametrize("q", [0, 30, 50, 90, 99, 99.9, 99.99, 100])
def test_percentiles_against_numpy(q, n):
    x = values(n=n)
    found = statistics(*x.split(1000)).percentile(q)
    bound = 0.001 if q > 50 else 0.008  # the median is all but zero
    np.testing.assert_allclose(found, np.percentile(by_channel(x), q, axis=1), rtol=bound, atol=1e-12)


def test_heavy_tails():
    """The 99th percentile lies a thousand times below the maximum and is known as well; below, 0.8 %."""
    x = torch.tensor(np.abs(np.random.default_rng(0).standard_cauchy(size=(50_000, 1, 4))))
    found = statistics(*x.split(5000))
    assert found.maximum[0] > 1000 * np.percentile(x, 99)
    for q, bound in ((99, 0.001), (99.9, 0.001), (50, 0.008), (1, 0.008)):
        np.testing.assert_allclose(found.percentile(q), np.percentile(x, q), rtol=bound)
    assert len(found.keys) <= SLOTS
    assert (found.keys.itemsize + found.counts.itemsize) * len(found.keys) <= 65536


def test_values_of_all_sizes():
    x = torch.tensor(10.0 ** np.random.default_rng(0).uniform(-40, 30, size=(1000, 1, 9)))
    found = statistics(x)
    assert found.maximum.tolist() == [float(x.max())]
    assert found.percentile(10).tolist() == [0]
    np.testing.assert_allclose(found.percentile(97), np.percentile(x, 97), rtol=0.008)


def test_a_value_below_what_float32_resolves_and_one_channel_of_none():
    assert statistics(torch.tensor([[1e-30, 0.0], [3e38, 0.0]])).percentile(50)[1] == 0
    assert statistics(torch.zeros(5, 2, 3)).percentile(99.9).tolist() == [0, 0]


def test_the_maximum_is_the_maximum():
    x = values()
    assert statistics(x).maximum.tolist() == x.amax((0, 2)).tolist()


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_the_channel_may_be_any_axis(axis):
    x = torch.rand(6, 3, 4, 5)
    found = statistics(x, axis=axis % 3)
    rows = x.movedim(axis % 3 + 1, 0).flatten(1).double().numpy()
    assert found.maximum.tolist() == rows.max(1).tolist()
    np.testing.assert_allclose(found.percentile(90), np.percentile(rows, 90, axis=1), rtol=0.001)


def test_bins_stand_for_the_values():
    x = values()
    found, counts = statistics(x).bins()
    rows = by_channel(x)
    assert found[0] == 0
    assert (np.diff(found) > 0).all()
    assert counts.sum(1).tolist() == [rows.shape[1]] * 3
    assert counts[:, 0].tolist() == (rows == 0).sum(1).tolist()
    np.testing.assert_allclose(counts @ found, rows.sum(1), rtol=0.004)


def test_the_layer_is_all_channels_together():
    x = values()
    found = statistics(x).layer()
    np.testing.assert_allclose(found.percentile(99.9), np.percentile(x.numpy(), 99.9), rtol=0.001)
    assert found.maximum.tolist() == [float(x.max())]


@pytest.mark.parametrize("n", [300, 5000])
def test_order_and_shards_change_no_bit(n):
    """Also where the maximum rises by octaves on the way, and where some parts are counted and some still wait."""
    growth = torch.linspace(0, 1, n, dtype=torch.float64)[:, None, None]
    parts = list((values(n=n) * 2 ** (6 * growth)).split(117))
    whole = statistics(*parts)
    assert same(whole, statistics(*reversed(parts)))
    shards = [statistics(*parts[i::3]) for i in range(3)]
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        first, second, third = (shards[i] for i in order)
        assert same(whole, first.merge(second).merge(third))
        assert same(whole, first.merge(second.merge(third)))


def test_a_dropped_batch_is_seen():
    parts = values().split(100)
    whole, less = statistics(*parts), statistics(*parts[1:])
    assert not any(np.array_equal(getattr(whole, name), getattr(less, name)) for name in ("count", "counts"))


def test_a_merge_that_ignores_the_octave_would_be_seen(monkeypatch):
    small, large = values(n=500), 100 * values(1, n=500)
    whole = statistics(small, large)
    assert same(whole, statistics(small).merge(statistics(large)))
    small, large = statistics(small), statistics(large)
    monkeypatch.setattr("spikec.calibration.statistics.base", lambda maximum: np.zeros(len(maximum), dtype=np.int64))
    assert not same(whole, small.merge(large))


@pytest.mark.slow
def test_another_batch_size_changes_no_bit():
    x = values(n=9000).float()
    assert same(statistics(*x.split(1000)), statistics(*x.split(7)))


def test_counts_beyond_32_bits(monkeypatch):
    monkeypatch.setattr("spikec.calibration.statistics._FULL", 20_000)
    parts = values(n=9000).split(2500)
    found = Accumulator(0)
    for part in parts:
        found.add(part)
    assert found._table.dtype == torch.int64
    monkeypatch.undo()
    assert same(found.result(), statistics(*parts))


def test_different_layers_do_not_merge():
    with pytest.raises(CalibrationError, match="different layers"):
        statistics(torch.rand(2, 3)).merge(statistics(torch.rand(2, 4)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite(bad):
    with pytest.raises(CalibrationError, match="not finite"):
        statistics(torch.tensor([[1.0, bad]]))


@pytest.mark.slow
def test_twenty_million_values_in_one_batch():
    rows = torch.arange(20_000_000, dtype=torch.float32).reshape(20, 4, 250_000)
    found = statistics(rows)
    assert found.count == 5_000_000
    np.testing.assert_allclose(found.layer().percentile(50), 1e7, rtol=0.001)
