"""Writes to a part of a tensor that is used later as a whole, and the other way round."""

import pytest
import torch
from torch import nn

import spikec
from spikec import UnsupportedOpError


class Net(nn.Module):
    """A body between two layers, on maps [4, 6, 5]."""

    def __init__(self, body):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.body = nn.Conv2d(2, 4, 3, padding=1), body
        self.eval()

    def forward(self, x):
        return self.body(self.conv(x))


SHAPE = (2, 6, 5)


def middle(y):
    y[:, 1:3, 2:4, 1:4].relu_()
    return y


def every_second(y):
    y[:, :, ::2].mul_(3.0)
    return y


def one_channel_of_another(y):
    y[:, 0] = y[:, 2]
    return y


def a_number(y):
    y[:, :, 0] = 0.5
    return y


def a_constant(y):
    y[..., 1:3] = torch.arange(2.0)
    return y


def broadcast(y):
    y[:, :2] = y[:, 3:]
    return y


def augmented(y):
    y[:, :2] += y[:, 2:]
    return y


def overlapping(y):
    left, right = y[..., :3], y[..., 2:]
    left.relu_()
    right.neg_()
    return torch.cat([left, right, y], -1)


def parts_of_the_whole(y):
    first, second = y.chunk(2, 1)
    turned = y.permute(0, 2, 3, 1)
    y.relu_()
    return torch.cat([second, first, turned.permute(0, 3, 2, 1).permute(0, 1, 3, 2)], 1)


def part_of_a_turned_view(y):
    y.permute(0, 3, 2, 1)[:, 1:4].clamp_(0, 0.1)
    return y


def rows_of_a_view(y):
    y.view(-1, 2, 2, 30)[:, :, 1].zero_()
    return y


def new_from_parts(y):
    z = torch.empty_like(y)
    z[:, :2], z[:, 2:] = y[:, 2:], torch.relu(y[:, :2])
    return z


def copied(y):
    z = torch.zeros_like(y)
    z.narrow(1, 1, 2).copy_(y[:, :2])
    return z + y


def filled(y):
    z = y.clone()
    z.select(2, 1).fill_(2.0)
    return z - y


@pytest.mark.parametrize(
    "body",
    [
        *(middle, every_second, one_channel_of_another, a_number, a_constant, broadcast, augmented, overlapping),
        *(parts_of_the_whole, part_of_a_turned_view, rows_of_a_view, new_from_parts, copied, filled),
    ],
)
def test_parts_are_written(agrees, body):
    agrees(Net(lambda y: body(y.clone())), SHAPE)


def test_a_part_that_is_no_slice_is_refused():
    def stairs(y):
        y.as_strided((y.shape[0], 3, 3), (120, 40, 7)).relu_()
        return y

    with pytest.raises(spikec.CompileError):
        spikec.load(Net(stairs), torch.randn(2, *SHAPE))


def test_a_constant_is_not_written_to():
    class Constant(nn.Module):
        def forward(self, x):
            y = torch.zeros(1, 6)
            y[:, :3] = x
            return torch.relu(y)

    with pytest.raises(UnsupportedOpError) as error:
        spikec.load(Constant(), torch.rand(2, 3))
    assert "torch.zeros_like(x)" in error.value.hint


def test_a_view_that_repeats_is_still_a_view():
    def repeated(y):
        many = y[:, :1].expand(-1, 4, -1, -1)
        y.relu_()
        return many - y

    with pytest.raises(UnsupportedOpError, match="in another shape or order"):
        spikec.load(Net(repeated), torch.randn(2, *SHAPE))


class OneFeature(nn.Module):
    """Writes to one number of each sample, a part that has no axis."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(32, 4)

    def forward(self, x):
        y = self.fc(x.flatten(1))
        y[:, 0] += 1
        return y


@pytest.mark.slow
@pytest.mark.parametrize("target", ["spikingjelly", "netx"])
def test_a_number_of_a_vector_is_written_and_compiled(target):
    torch.manual_seed(0)
    model, x = OneFeature().eval(), torch.rand(8, 2, 4, 4)
    compilation = spikec.Compiler(target, calibration=x, timesteps=64).run(model)
    found = spikec.simulate(compilation.graph, x, 64).answer
    assert float((found - model(x).detach()).abs().max()) < 0.2
