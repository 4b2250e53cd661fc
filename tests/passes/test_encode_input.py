"""The host's encoder: every signal behind it is spikes, and means what the input meant."""

import numpy as np
import pytest
import torch
from torch import nn

import build
import spikec
from build import Builder, source
from spikec import CalibrationError, Context, UnsupportedOpError, run
from spikec.extend.loader import pass_named
from spikec.ir.ops import IF, Flatten, Input, Linear
from spikec.ir.stages import SPIKING
from spikec.ir.verify import verify


def graph(*shape):
    """An input that passes a neuron far away, so that the graph runs in time."""
    b = Builder(*shape)
    b.graph.set_op("x", Input(shape, "float64", rate=True, origin=source("x")))
    flat = b.add(Flatten(), b.x, name="flat") if len(shape) > 1 else b.x
    weight = np.eye(int(np.prod(shape)))
    return b.done(b.add(Linear(weight), flat, name="same"))


def encode(before, **context):
    after, found = before.copy(), Context(before, **context)
    assert pass_named("encode-input").run(after, found) == 1
    verify(after, SPIKING, before.sources)
    return after, found


@pytest.mark.parametrize("shape", [(5,), (3, 6), (3, 4, 5), (2, 3, 2, 4)])
@pytest.mark.parametrize("low", [0.0, -1.5])
def test_rates_are_the_clipped_input(shape, low):
    before = graph(*shape)
    samples = low + (2.0 - low) * torch.rand(8, *shape, dtype=torch.float64)
    samples[0].view(-1)[0], samples[1].view(-1)[0] = 2.0, low
    after, _ = encode(before, calibration=build.samples(samples))
    x = 1.5 * samples
    y = run(after, x, 32).mean(0) * torch.tensor(after.type("output").scale)
    clipped = x.clamp(-2.0 if low else 0.0, 2.0).reshape(8, -1)
    assert float((y - clipped).abs().max()) <= 2.0 / (2 * 32) * (1 + 1e-9)
    (neuron,) = after.match(IF)
    assert neuron.op.v_threshold.item() == 2.0
    assert neuron.op.v_init.item() == 1.0
    assert after.type(neuron.name).shape == ((2 if low else 1) * shape[0], *shape[1:])


def test_the_largest_magnitude_is_the_scale_when_it_is_negative():
    samples = torch.tensor([[-3.0, 1.0, 0.5]])
    after, _ = encode(graph(3), calibration=build.samples(samples))
    assert after.match(IF)[0].op.v_threshold.item() == 3.0


def test_without_samples_one_is_assumed_and_said():
    after, context = encode(graph(3))
    assert after.match(IF)[0].op.v_threshold.item() == 1.0
    assert "[0, 1]" in context.notes[0].reason


def test_zeros_are_refused():
    before = graph(3)
    with pytest.raises(CalibrationError, match="zero") as error:
        pass_named("encode-input").run(before.copy(), Context(before, calibration=build.samples(torch.zeros(4, 3))))
    assert error.value.location == "x"


def test_negative_values_of_too_many_axes_are_refused():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)).eval()
    x = torch.randn(8, 2, 2, 2, 2, 3)
    with pytest.raises(UnsupportedOpError, match="negative values of samples of shape"):
        spikec.compile(net, "netx", calibration=x)
