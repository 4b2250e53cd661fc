"""Windows that lie over each other, in columns and back on a map: what torch computes, for any batch."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spikec
from moved_nets import Net
from spikec.ir.errors import CompileError, UnsupportedOpError


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.unfold(2, 3, 2),
        lambda x: x.unfold(-1, 4, 1) * 2,
        lambda x: x.unfold(1, 2, 2),
        lambda x: x.unfold(3, 8, 8).squeeze(3),
        lambda x: x.unfold(2, 3, 2).unfold(3, 4, 4).flatten(4),
        lambda x: x.unfold(2, 1, 3),
        lambda x: F.unfold(x, 3),
        lambda x: F.unfold(x, (2, 3), padding=1, stride=(2, 1)),
        lambda x: F.unfold(x, (3, 2), dilation=(1, 3), stride=2, padding=(1, 0)),
        lambda x: F.unfold(x, (7, 8)),
        lambda x: nn.Unfold(2, stride=2)(x),
        lambda x: F.fold(F.unfold(x, 3), (7, 8), 3),
        lambda x: F.fold(F.unfold(x, 2, stride=3, padding=1).relu(), (7, 8), 2, stride=3, padding=1),
        lambda x: F.fold(F.unfold(x, (3, 2), (1, 3), (1, 0), 2) ** 2, (7, 8), (3, 2), (1, 3), (1, 0), 2),
        lambda x: nn.Fold((4, 5), 2)(x.flatten(2)[:, :, :12]),
        lambda x: nn.Fold((5, 4), 2)(x.flatten(2)[:, :, :12]),
    ],
)
def test_windows_are_what_torch_takes(agrees, function):
    agrees(Net(function), (4, 7, 8))


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda x: x.unfold(2, 8, 1), "give a window of 7 cells at most"),
        (lambda x: x.unfold(0, 1, 1), "batch axis"),
        (lambda x: F.fold(x.flatten(2), (4, 5), 2), r"no windows of \[2, 2\] for a map of \[4, 5\]"),
        (lambda x: F.fold(x.flatten(2), (9, 8), 3), r"no windows of \[3, 3\]"),
        (lambda x: F.fold(x.flatten(1, 2)[:, :, :1], (2, 2), 4), "no windows"),
        (lambda x: F.unfold(x.flatten(2), 2), "takes samples of rank 3"),
        (lambda x: F.fold(x, (4, 5), 2), "takes samples of rank 2"),
    ],
)
def test_windows_that_are_not_there_are_refused_at_the_users_line(function, match):
    with pytest.raises(CompileError, match=match) as error:
        spikec.load(Net(function), torch.zeros(2, 4, 7, 8))
    assert "test_windows.py" in str(error.value)


def test_a_network_that_adds_its_windows_up_compiles():
    torch.manual_seed(0)
    net = Net(lambda x: F.fold(F.relu(F.unfold(x - 0.5, 2)), (5, 5), 2).mean((2, 3))).eval()
    x = torch.rand(16, 2, 5, 5)
    snn = spikec.compile(net, "spikingjelly", calibration=x, normalization="max")
    assert (spikec.simulate(snn, x, 256).answer - net(x)).abs().max() < 0.02 * net(x).abs().max()


def test_a_patch_that_differs_between_samples_stays_refused():
    with pytest.raises(UnsupportedOpError):
        spikec.load(Net(lambda x: x.unfold(2, 2, 2)[x[:, 0, 0, 0] > 0]), torch.zeros(2, 4, 7, 8))
