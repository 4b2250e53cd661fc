"""Linear layers that are driven by events, against torch's."""

import io

import pytest
import torch
from torch import nn

import spikec
from spikec.backends.spikingjelly import events
from spikec.backends.spikingjelly.events import EventLinear


def layers(outputs=96, bias=True):
    torch.manual_seed(0)
    plain = nn.Linear(40, outputs, bias=bias, dtype=torch.float64)
    return plain, EventLinear.of(plain)


def sparse(rate, samples=11):
    x = (torch.rand(samples, 40, generator=torch.Generator().manual_seed(1)) < rate).double()
    x[[0, 5, -1]] = 0  # samples in which nothing fires, the first and the last too
    return x


@pytest.fixture(autouse=True)
def any_amount_of_work(monkeypatch):
    monkeypatch.setattr(events, "LEAST", 0)


@pytest.fixture
def dense_calls(monkeypatch):
    found = []
    forward = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: found.append(len(x)) or forward(self, x))
    return found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("values", [1, 3, -0.5], ids=["spikes", "sums of spikes", "negative"])
def test_few_events_are_added_up(values, bias, dense_calls):
    plain, layer = layers(bias=bias)
    x = sparse(0.1) * values
    with torch.no_grad():
        found = layer(x)
        assert dense_calls == []
        torch.testing.assert_close(found, plain(x), rtol=0, atol=1e-12)
        assert torch.equal(layer(torch.zeros(3, 40).double()), (plain.bias if bias else torch.zeros(96)).expand(3, 96))


def test_many_events_and_what_is_trained_are_torchs(dense_calls):
    plain, layer = layers()
    with torch.no_grad():
        layer(sparse(0.6))
        layer(torch.cat([sparse(0.6), -sparse(0.6)]))  # a sum of 0
    assert len(dense_calls) == 2
    x = sparse(0.1).requires_grad_()
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, plain.weight.sum(0).expand_as(x).detach())


def test_of_little_work_none_is_saved(dense_calls, monkeypatch):
    monkeypatch.setattr(events, "LEAST", 11 * 40 * 96 + 1)
    with torch.no_grad():
        layers()[1](sparse(0.1))
    assert len(dense_calls) == 1


@pytest.mark.slow
def test_a_network_with_events_spikes_as_one_without_and_follows_its_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 80), nn.ReLU(), nn.Linear(80, 80), nn.ReLU(), nn.Linear(80, 4)).double().eval()
    x = torch.rand(20, 6, dtype=torch.float64)
    plain, net = (spikec.compile(model, "spikingjelly", calibration=x, events=e, timesteps=8) for e in (False, True))
    kept = torch.load(io.BytesIO(_saved(net)), weights_only=False)
    read = spikec.load(net)
    plain_read = spikec.load(plain)
    assert str(read) == str(plain_read)
    for other in (net, kept):
        assert sum(isinstance(part, EventLinear) for part in other.modules()) == 3
        for _ in range(2):
            wanted, found = spikec.simulate(plain, x, 8).means, spikec.simulate(other, x, 8).means
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
            for each in (plain, other):
                each.linear_2.weight.data *= 0.9
        plain.linear_2.weight.data /= 0.81


def _saved(net):
    buffer = io.BytesIO()
    torch.save(net, buffer)
    return buffer.getvalue()
