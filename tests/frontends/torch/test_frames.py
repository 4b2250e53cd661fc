"""Layers on frames that are joined to the batch: what is read of them is what torch computes, the rest is refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spikec
from spikec.ir.errors import CompileError, UnsupportedOpError
from spikec.ir.stages import IMPORTED
from spikec.ir.verify import verify


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


W1, W2, FOUR, SIX = random(6, 2, 3), random(6, 2, 3, 2), random(4), random(6)
UP1, UP2 = random(4, 3, 3), random(4, 3, 3, 2)
VAR = FOUR.abs() + 0.5

#: functions of y, which is [B * 5, 4, 8] with the first, and [B * 5, 4, 6, 8] with the others
LINES = {
    "conv": lambda y: F.conv1d(y, W1, SIX, 2, 1, 2, groups=2),
    "conv, same": lambda y: F.conv1d(y, W1, padding="same", groups=2),
    "transposed": lambda y: F.conv_transpose1d(y, UP1, SIX, 2, 1, 1, 2),
    "avg_pool": lambda y: F.avg_pool1d(y, 3, 2, 1, True, False),
    "max_pool": lambda y: F.max_pool1d(y, 3, 2, 1, 2),
    "adaptive": lambda y: F.adaptive_avg_pool1d(y, 2) + F.adaptive_max_pool1d(y, 2),
    "batch norm": lambda y: F.batch_norm(y, FOUR, VAR, FOUR, -FOUR),
    "batch norm of rows": lambda y: F.batch_norm(y.amax(2), FOUR, VAR),
    "prelu": lambda y: F.prelu(y, FOUR),
    "nearest": lambda y: F.interpolate(y, 16),
    "linear": lambda y: F.interpolate(y, scale_factor=2.5, mode="linear"),
    "pad": lambda y: F.pad(F.pad(y, (1, 2)), (2, 1), "replicate"),
}
MAPS = {
    "conv": lambda y: F.conv2d(y, W2, SIX, (2, 1), (1, 0), (1, 2), 2),
    "conv, one number": lambda y: F.conv2d(y, W2, None, 2, 1, groups=2),
    "conv, same": lambda y: F.conv2d(y, W2, padding="same", groups=2),
    "conv, valid": lambda y: F.conv2d(y, W2, padding="valid", groups=2),
    "transposed": lambda y: F.conv_transpose2d(y, UP2, SIX, (2, 3), (1, 0), (0, 1), 2),
    "avg_pool": lambda y: F.avg_pool2d(y, (3, 2), 2, 1, True, False),
    "avg_pool, divisor": lambda y: F.avg_pool2d(y, 2, divisor_override=3),
    "max_pool": lambda y: F.max_pool2d(y, 3, (2, 1), (1, 0), (1, 2), True),
    "adaptive": lambda y: F.adaptive_avg_pool2d(y, (2, None)) + F.adaptive_max_pool2d(y, (2, 8)),
    "batch norm": lambda y: F.batch_norm(y, FOUR, VAR, FOUR, -FOUR),
    "prelu": lambda y: F.prelu(y, FOUR) + F.prelu(y, FOUR[:1]),
    "nearest": lambda y: F.interpolate(y, (12, 16)) + F.interpolate(y, scale_factor=2, mode="nearest-exact"),
    "bilinear": lambda y: F.interpolate(y, (7, 5), mode="bilinear", align_corners=True),
    "bilinear, factors": lambda y: F.interpolate(y, scale_factor=(2, 1.5), mode="bilinear"),
    "pad": lambda y: F.pad(F.pad(y, (1, 2)), (2, 1, 1, 0), "reflect"),
    "pad with a value": lambda y: F.pad(y, (1, 2, 0, 1), value=2.0),
    "several": lambda y: F.max_pool2d(F.relu(F.conv2d(y, W2, groups=2)), 2).mean((2, 3)).softmax(-1),
}


class Net(nn.Module):
    """A function of frames that are joined to the batch, and apart again, behind it or in front of it."""

    def __init__(self, function, first):
        super().__init__()
        self.function, self.first = function, first

    def forward(self, x):
        y = self.function((x.transpose(0, 1) if self.first else x).flatten(0, 1))
        return y.unflatten(0, (5, -1)).sum(0) if self.first else y.unflatten(0, (-1, 5)).sum(1)


def same(graph, net, *sample):
    verify(graph, IMPORTED, graph.sources)
    x = random(3, *sample)
    found, wanted = spikec.run(graph, x), net(x)
    assert found.shape == wanted.shape
    assert wanted.std() > 0.01
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def holds(function, *sample):
    for first in (False, True):
        net = Net(function, first).eval()
        same(spikec.load(net, torch.zeros(2, *sample)), net, *sample)


@pytest.mark.parametrize("name", LINES)
def test_a_function_of_lines_is_torchs(name):
    holds(LINES[name], 5, 4, 8)


@pytest.mark.parametrize("name", MAPS)
def test_a_function_of_maps_is_torchs(name):
    holds(MAPS[name], 5, 4, 6, 8)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using padding=.same.:UserWarning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize(("name", "rank"), [*((name, 1) for name in LINES), *((name, 2) for name in MAPS)])
def test_an_exported_program_is_read_as_its_module(name, rank, fixed):
    function, sample = (LINES[name], (5, 4, 8)) if rank == 1 else (MAPS[name], (5, 4, 6, 8))
    net = Net(function, False).eval()
    shapes = None if fixed else ({0: torch.export.Dim("batch")},)
    program = torch.export.export(net, (torch.zeros(2, *sample),), dynamic_shapes=shapes)
    same(spikec.load(program), net, *sample)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_frames_are_read_of_core_operators():
    layers = [nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.ConvTranspose2d(6, 3, 2), nn.BatchNorm2d(3)]
    net = Net(nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten()), False).eval()
    program = torch.export.export(net, (torch.zeros(2, 5, 4, 6, 7),)).run_decompositions()
    same(spikec.load(program), net, 5, 4, 6, 7)


@pytest.mark.parametrize(
    "function",
    [
        lambda y: F.instance_norm(y),
        lambda y: F.group_norm(y, 2),
        lambda y: F.pixel_shuffle(y, 2),
        lambda y: F.conv2d(torch.ones(1, 4, 8, 8), y),
        lambda y: F.pad(y, (1, 1, 1, 1, 1, 1, 1, 1)),
        lambda y: F.pad(y, (0, 0, 0, 0, 0, 0, 1, -1)),
        lambda y: F.interpolate(y, scale_factor=2, mode="bicubic"),
        lambda y: F.interpolate(y, scale_factor=2, mode="area"),
        lambda y: F.conv3d(y.unsqueeze(2), random(2, 4, 1, 1, 1)).squeeze(2),
        lambda y: F.conv2d(y.transpose(0, 1), random(2, 15, 1, 1)),
        lambda y: F.max_pool2d(y.transpose(0, 2), 2).transpose(0, 2),
    ],
)
def test_what_does_not_treat_each_frame_by_itself_or_is_not_read_so_is_refused(function):
    with pytest.raises(UnsupportedOpError, match="cannot take such a tensor"):
        spikec.load(Net(function, False), torch.zeros(3, 5, 4, 6, 8))


@pytest.mark.parametrize(
    "function",
    [
        lambda y: F.conv2d(y[:, 0], random(2, 15, 1, 1)).unsqueeze(0),  # which torch takes for one sample
        lambda y: F.max_pool2d(y[:, 0], 2),
        lambda y: F.max_pool2d(y, 2, return_indices=True)[0],
        lambda y: F.conv2d(y, y[0, :1, :1, :1].unsqueeze(0)),
        lambda y: F.batch_norm(y, None, None, training=True),
    ],
)
def test_what_is_refused_of_maps_is_refused_of_frames(function):
    with pytest.raises(CompileError):
        spikec.load(Net(function, False), torch.zeros(3, 5, 4, 6, 8))


@pytest.mark.slow
def test_a_film_compiles_and_every_target_answers_as_its_ann():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3)]
    net, x = Net(nn.Sequential(*layers), False).eval(), torch.rand(48, 5, 1, 6, 6)
    with torch.no_grad():
        wanted = net(x)
    snn = spikec.Compiler("spikingjelly", calibration=x).run(net)
    thresholds = {node.name: node.op.v_threshold.size for node in snn.graph.match(spikec.ir.ops.IF)}
    assert set(thresholds.values()) <= {1, 4, 6}  # one a channel, shared by all frames
    found = spikec.simulate(snn.graph, x, timesteps=64).means[-1]
    assert (found - wanted).std() < 0.1 * wanted.std()
    with pytest.raises(UnsupportedOpError, match="NIR has no 3d convolution"):
        spikec.compile(net, "nir", calibration=x)
    file = spikec.load(spikec.compile(net, "nir", calibration=x, profile="full"))
    assert (spikec.simulate(file, x, timesteps=64).means[-1] - wanted).std() < 0.1 * wanted.std()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_behind_a_refusal_of_frames_nothing_else_is_judged():
    layers = [nn.Conv2d(4, 6, 3), nn.ReflectionPad2d(1), nn.AdaptiveMaxPool2d(1), nn.Flatten()]
    net = Net(nn.Sequential(*layers), False).eval()
    program = torch.export.export(net, (torch.zeros(2, 5, 4, 6, 7),)).run_decompositions()  # the pad is two indices
    with pytest.raises(UnsupportedOpError, match=r"nn.ReflectionPad2d, at function.1") as caught:
        spikec.load(program)
    assert len(caught.value.problems) == 1
