"""Convolutions of the integer simulation where torch's own gives fractions: patches times a matrix."""

import numpy as np
import pytest
import torch

from spikec.backends.netx.sim import NEVER, IntegerLayer, run_layer


def correlated(weight, spikes, stride, padding, dilation, groups):
    """The definition of a cross-correlation of maps [N, I, H, W], one product of the kernel at a time."""
    height, width = weight.shape[2:]
    ahead, aside = ((pad, pad) for pad in padding)
    x = np.pad(spikes.astype(np.int64), ((0, 0), (0, 0), ahead, aside))
    size = [(x.shape[2 + i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]
    sums = np.zeros((len(x), len(weight), *size), dtype=np.int64)
    for row in range(size[0]):
        for column in range(size[1]):
            top, left = row * stride[0], column * stride[1]
            down, across = top + dilation[0] * height, left + dilation[1] * width
            seen = x[:, :, top : down : dilation[0], left : across : dilation[1]][:, :, :height, :width]
            for each, kernel in enumerate(weight):
                first = each // (len(weight) // groups) * len(kernel)
                sums[:, each, row, column] = (seen[:, first : first + len(kernel)] * kernel).sum((1, 2, 3))
    return sums


@pytest.fixture
def fractions(monkeypatch):
    """Have torch's convolution be off by a quarter, as Winograd's may be off by a little; returns its calls."""
    calls, real = [], torch.nn.functional.conv2d

    def off(*args, **options):
        calls.append(args)
        return real(*args, **options) + 0.25

    monkeypatch.setattr(torch.nn.functional, "conv2d", off)
    return calls


PLAIN = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}


@pytest.mark.parametrize(
    "options",
    [
        PLAIN,
        PLAIN | {"groups": 2},
        {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2},
        {"stride": (1, 2), "padding": (2, 0), "dilation": (2, 1), "groups": 1},
        PLAIN | {"stride": (2, 2), "padding": (1, 1)},
    ],
    ids=["plain", "groups", "groups and all else", "all else", "a pool"],
)
@pytest.mark.parametrize("silent", [0, 2], ids=["all heard", "the last outputs hear nothing"])
def test_where_torch_gives_fractions_patches_give_integers(options, silent, fractions):
    rng = np.random.default_rng(0)
    weight = 2 * rng.integers(-60, 61, (6, 4 // options["groups"], 3, 2))
    if options["padding"] == (1, 1):
        weight = weight.repeat(2, 2).repeat(2, 3)
    weight[6 - silent :, 0] = 0  # as relays hear only the channel that is always on
    spikes = rng.random((3, 2, 4, 9, 8)) < 0.4
    spikes[:, :, 1:] &= options["groups"] > 1 or silent == 0
    wanted = correlated(weight, spikes.reshape(6, 4, 9, 8), **options).reshape(3, 2, 6, -1)
    layer = IntegerLayer(
        "conv", "c", (6, *correlated(weight, spikes[0, :1], **options).shape[2:]), weight, NEVER,
        current_decay=4096, voltage_decay=0, **options,
    )  # fmt: skip
    found = run_layer(layer, spikes)
    assert fractions
    assert np.array_equal(found.voltages.reshape(wanted.shape), wanted.cumsum(0))
    assert wanted.any()


def test_a_sum_beyond_24_bits_wraps_in_patches_too(fractions):
    on = np.ones((1, 1, 2, 3, 3), dtype=bool)
    weight = np.full((3, 2, 3, 3), 254)
    weight[0] = 8000  # 18 x 8000 is beyond 2^17
    layer = IntegerLayer("conv", "c", (3, 1, 1), weight, NEVER, current_decay=4096, voltage_decay=0)
    assert run_layer(layer, on).voltages.ravel().tolist() == [144000 - 262144, 4572, 4572]
    assert fractions
