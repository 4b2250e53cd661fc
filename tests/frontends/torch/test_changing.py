"""Forwards that change the module they belong to: read as torch runs them, or refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spikec


class Net(nn.Module):
    def __init__(self, call):
        super().__init__()
        torch.manual_seed(0)
        self.f, self.act, self.norm, self.calls = nn.Linear(6, 6), nn.LeakyReLU(0.5), nn.BatchNorm1d(6), 0
        self.drop, self.slopes, self.kept = nn.Dropout(), nn.PReLU(), None
        self.register_buffer("seen", torch.zeros(6))
        self.call = call
        self.eval()

    def forward(self, x):
        return self.call(self, self.f(x))


def attribute(net, y):
    net.act.negative_slope = 0.5
    y = net.act(y)
    net.act.negative_slope = 0.1
    return net.act(y)


def parameter(net, y):
    before, y = net.slopes.weight, net.slopes(y)
    net.slopes.weight = nn.Parameter(torch.tensor([0.7]))
    y = net.slopes(y)
    net.slopes.weight = before
    return y


def layer(net, y):
    before, net.act = net.act, nn.LeakyReLU(0.2)
    net.act(y)
    y = net.act(y)
    net.act = before
    return net.act(-y)


def in_place(net, y):
    net.act.inplace = True
    net.act(y)
    net.act.inplace = False
    return y + net.act(-y)


def own_tensor(net, y):
    shift = torch.zeros(6)
    y = y + shift
    shift += 1
    return torch.relu(y) * shift


def unused(net, y):
    net.calls += 1
    net.seen += 1
    return y


@pytest.mark.parametrize("call", [attribute, parameter, layer, in_place, own_tensor, unused])
def test_what_is_the_same_in_every_call_is_read(call):
    net, x = Net(call), torch.randn(5, 6)
    graph = spikec.load(net, x)
    found = spikec.run(graph, x)
    for _ in range(2):
        torch.testing.assert_close(found, net(x).detach())


@pytest.mark.parametrize("call", [attribute, in_place, own_tensor, unused])
def test_it_is_read_at_the_time_of_each_call_where_sizes_are_known_later(call):
    net, x = Net(call), torch.randn(5, 6)
    torch.testing.assert_close(spikec.run(spikec.load(net), x), net(x).detach())


def weight(net, y):
    net.slopes.weight.data.fill_(0.7)
    return net.slopes(y)


def counted(net, y):
    net.seen += 1
    return y + net.seen


def statistics(net, y):
    net.norm.running_mean.add_(1)
    return net.norm(y)


def remembered(net, y):
    y = y if net.kept is None else y + net.kept
    net.kept = F.relu(y)
    return y


def every_other(net, y):
    net.calls += 1
    return y * 2 if net.calls % 2 else y


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (weight, "it changes the weight of the layer slopes in place"),
        (counted, "changes b_seen"),
        (statistics, "changes b_norm_running_mean"),
        (remembered, "another result when it is called again"),
        (every_other, "another result when it is called again"),
    ],
)
def test_what_is_another_in_each_call_is_refused(call, message):
    with pytest.raises(spikec.CompileError, match=message):
        spikec.load(Net(call), torch.randn(2, 6))


def test_a_weight_that_forward_clips_is_read_clipped():
    class Clipped(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 6))

        def forward(self, x):
            self.weight.data.clamp_(-0.1, 0.1)
            return F.linear(x, self.weight)

    net, x = Clipped(), torch.randn(5, 6)
    graph = spikec.load(net, x)
    assert net.weight.abs().max() > 0.1
    torch.testing.assert_close(spikec.run(graph, x), net(x).detach())


class Changing(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        doubled = x * 2
        x.relu_()
        x -= 0.5
        return self.head(doubled) + x.sum(1, keepdim=True)


@pytest.mark.slow
@pytest.mark.parametrize("as_program", [False, True])
def test_data_stays_as_it_is_where_forward_changes_its_input(as_program):
    net, x = Changing().eval(), torch.randn(64, 4)
    model = torch.export.export(net, (x.clone(),)) if as_program else net
    before = x.clone()
    graph = spikec.Compiler("spikingjelly", calibration=x).run(model).stages[0].graph
    assert torch.equal(x, before)
    torch.testing.assert_close(spikec.run(graph, x), net(x.clone()).detach())
