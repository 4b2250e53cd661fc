"""Thresholds from statistics, held to what the definition gives on the values themselves."""

import math

import numpy as np
import pytest
import torch

from spikec import CompileError, Normalization
from spikec.calibration import normalization
from spikec.calibration.normalization import _searched
from spikec.calibration.statistics import Accumulator

#: relative width of a bin of the histogram, at most
BIN = 0.008


@pytest.fixture
def values():
    """[N, C] of ReLUs: long tails, many zeros, a channel that is nearly always the same, one that is silent."""
    rng = np.random.default_rng(0)
    z = np.maximum(rng.normal(size=(4000, 4)) * [1.0, 0.2, 0.01, 1.0] + [0.0, -0.1, 0.5, -99.0], 0)
    z[:, 0] **= 2
    return z


def statistics(z):
    found = Accumulator(0)
    found.add(torch.tensor(z))
    return found.result()


def squared_error(z, threshold, timesteps, v_init):
    count = np.clip(np.floor(timesteps * z / threshold + v_init), 0, timesteps)
    return ((z - threshold / timesteps * count) ** 2).sum()


@pytest.mark.parametrize("timesteps", [1, 4, 32])
@pytest.mark.parametrize("v_init", [0.0, 0.5])
def test_mmse_has_the_least_squared_error_of_all_candidates(values, timesteps, v_init):
    chosen = Normalization(method="mmse", v_init=v_init).statistic(statistics(values), timesteps)
    for z, threshold in zip(values.T[:3], chosen, strict=False):
        errors = [squared_error(z, share * z.max(), timesteps, v_init) for share in np.arange(1, 101) / 100]
        moved = np.sqrt(len(z)) * BIN * z.max()  # the histogram moves each value by less than a bin
        assert np.sqrt(squared_error(z, threshold, timesteps, v_init)) <= np.sqrt(min(errors)) + 2 * moved
    assert chosen[3] == 0


@pytest.mark.parametrize("timesteps", [4, 32, 512])
def test_mmse_leaves_out_only_candidates_that_clip_too_much(values, timesteps, monkeypatch):
    """It is the same number to the last bit where all are looked at; the sabotage is a bound that is too low."""
    looked, tails = [], normalization._tails

    def counted(known):
        above = tails(known)
        return lambda bounds, channels: (looked.append(len(bounds)), above(bounds, channels))[1]

    def chosen(**fields):
        looked.clear()
        with monkeypatch.context() as patch:
            patch.setattr(normalization, "_tails", counted)
            for field, value in fields.items():
                patch.setattr(normalization, field, value)
            return Normalization(method="mmse").statistic(statistics(values), timesteps), sum(looked)

    (few, cost), (all_, most) = chosen(), chosen(_FIRST=1)
    np.testing.assert_array_equal(few, all_)
    assert cost < 0.7 * most
    assert (chosen(_ROUNDING=-0.5)[0] != all_).any()


def test_mmse_knows_where_the_neuron_starts(values):
    rounding, flooring = (Normalization(method="mmse", v_init=v).statistic(statistics(values), 4) for v in (0.5, 0.0))
    wrong = squared_error(values[:, 0], flooring[0], 4, 0.5)
    assert wrong > 1.1 * squared_error(values[:, 0], rounding[0], 4, 0.5)


def test_mmse_clips_less_the_more_steps_there_are(values):
    by_steps = [Normalization(method="mmse").statistic(statistics(values), t)[0] for t in (2, 8, 32, 128)]
    assert by_steps == sorted(by_steps)
    assert by_steps[0] < by_steps[-1]


def guessed(z, threshold):
    """What is clipped of four values above the largest, ten thousand quantiles of them."""
    rising = np.sort(z)
    least = rising[-math.floor(len(z) ** 0.5) - 1]
    above = z.max() - np.log((np.arange(10000) + 0.5) / 10000) * (z[z > least] - least).mean()
    return 4 * (np.maximum(above - threshold, 0) ** 2).mean()


@pytest.mark.parametrize("count", [6, 60, 4000])
@pytest.mark.parametrize("timesteps", [4, 32, 256])
def test_of_the_thresholds_that_are_as_good_as_can_be_guessed_that_nearest_to_the_largest_value_is_taken(
    values, timesteps, count
):
    bins, counts = statistics(values[:count, :1]).bins()
    z = np.repeat(bins, counts[0])  # so that the histogram knows them as they are
    (chosen,) = Normalization(method="mmse", unseen=4.0).statistic(statistics(z[:, None]), timesteps)
    shares = np.append(np.arange(1, 101) / 100, np.arange(26, 76) / 25)
    guesses = np.array([guessed(z, share * z.max()) for share in shares])
    errors = np.array([squared_error(z, share * z.max(), timesteps, 0.5) for share in shares]) + guesses
    above = errors - errors.min() - guesses[errors.argmin()]
    slack = 0.01 * (errors + guesses)  # quantiles are no integral
    place = np.abs(shares - chosen / z.max()).argmin()
    assert above[place] <= slack[place]
    nearer = np.abs(np.log(shares)) < abs(np.log(shares[place])) - 1e-9
    assert (above > -slack)[nearer].all()


def test_unseen_values_count_the_less_the_more_there_are(values):
    z = np.abs(np.random.default_rng(1).normal(size=(40000, 1)))
    far = [
        Normalization(method="mmse", unseen=4.0).statistic(statistics(z[:count]), 64)[0] / z[:count].max()
        for count in (6, 60, 600, 40000)
    ]
    assert far == sorted(far, reverse=True)
    assert far[0] > 1.3
    assert far[-1] <= 1


@pytest.mark.slow
def test_ltb_is_the_iteration_of_the_paper(values):
    chosen = Normalization(method="ltb").statistic(statistics(values), 8)
    threshold = np.zeros(4)
    for _ in range(1000):
        threshold = threshold + 2 * np.maximum(values - threshold, 0).mean(0)
    np.testing.assert_allclose(chosen[:3], np.minimum(threshold, values.max(0))[:3], rtol=0.01)
    assert chosen[3] == 0


@pytest.mark.parametrize("method", ["max", "mmse", "ltb", "percentile"])
def test_a_factor_multiplies_any_statistic(values, method):
    whole, half = (Normalization(method=method, factor=f).statistic(statistics(values), 8) for f in (1.0, 0.5))
    np.testing.assert_allclose(half, whole / 2)


@pytest.mark.parametrize("bad", ["maximum", 0.0, 1.5, None, "101%", True])
def test_what_is_no_normalization_is_refused(bad):
    with pytest.raises(CompileError):
        Normalization.parse(bad)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
def test_bins_are_found_where_numpy_finds_them(values, scale):
    bins, _ = statistics(np.append(values, np.exp(-9 * values), 1) * scale).bins()
    near = np.concatenate([bins, np.nextafter(bins, np.inf), np.nextafter(bins, 0)])
    bounds = np.concatenate([near, np.outer(bins, np.linspace(0.1, 2, 50)).ravel(), [5e-324, 1e300, np.inf]])
    np.testing.assert_array_equal(_searched(bins)(bounds), np.searchsorted(bins, bounds))
    np.testing.assert_array_equal(_searched(bins[:1])(bounds), np.searchsorted(bins[:1], bounds))
