"""Networks that interpolate, on their way to every target."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spikec
from spikec.ir.ops import Interpolate, Linear, Upsample

MODES = {
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "corners": nn.UpsamplingBilinear2d((9, 5)),
    "bicubic": nn.Upsample(size=(9, 5), mode="bicubic"),
}


def network(resizing, *behind):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), resizing, *behind, nn.Flatten())
    size = layers(torch.zeros(1, 1, 6, 6)).shape[1]
    return nn.Sequential(*layers, nn.Linear(size, 3)).eval()


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("behind", [(), (nn.Conv2d(4, 2, 3), nn.ReLU())], ids=["linear", "conv"])
def test_spikes_are_interpolated(mode, behind):
    model, x = network(MODES[mode], *behind), torch.rand(32, 1, 6, 6)
    compilation = spikec.Compiler("spikingjelly", calibration=x).run(model)
    assert compilation.graph.match(Interpolate)
    snn = compilation.artifact
    found, wanted = sum(snn(x) for _ in range(256)) / 256, model(x)
    assert (found - wanted).pow(2).mean().sqrt() < 0.05 * wanted.std()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["nir", "netx"])
@pytest.mark.parametrize("resizing", [*MODES.values(), nn.Upsample(scale_factor=2), nn.AdaptiveAvgPool2d(4)], ids=str)
def test_elsewhere_the_linear_layer_behind_takes_it_in(resizing, target):
    """Both targets are compared with the interpreter where they are emitted."""
    compilation = spikec.Compiler(target, calibration=torch.rand(32, 1, 6, 6), timesteps=16).run(network(resizing))
    assert not compilation.graph.match(Interpolate) + compilation.graph.match(Upsample)
    assert compilation.graph.match(Linear)[-1].op.in_features == 4 * 36


@pytest.mark.slow
def test_in_front_of_a_convolution_nir_says_what_to_do():
    model = network(MODES["bilinear"], nn.Conv2d(4, 2, 3), nn.ReLU())
    with pytest.raises(spikec.UnsupportedOpError, match=r"no interpolate(.|\n)*a Flatten and a Linear"):
        spikec.compile(model, "nir", calibration=torch.rand(32, 1, 6, 6))


class Resized(nn.Module):
    def __init__(self, mode, **options):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.options = {"mode": mode, **options}

    def forward(self, x):
        return F.interpolate(self.conv(x), **self.options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"mode": "nearest", "scale_factor": 2},
        {"mode": "nearest-exact", "scale_factor": 2},
        {"mode": "bilinear", "scale_factor": (1.3, 1.8)},
        {"mode": "bilinear", "size": (3, 9), "align_corners": True},
        {"mode": "bilinear", "size": (3, 3), "antialias": True},
        {"mode": "bicubic", "scale_factor": 1.5, "recompute_scale_factor": True},
    ],
    ids=str,
)
def test_a_program_of_torch_export_says_the_same(options):
    model, x = Resized(**options).eval(), torch.rand(3, 1, 7, 8)
    graph = spikec.load(torch.export.export(model, (x,)))
    torch.testing.assert_close(spikec.run(graph, x), model(x).detach())


class Sized(nn.Module):
    def __init__(self, packet, *options, size=10, factor=1.5):
        super().__init__()
        self.overload = getattr(torch.ops.aten, packet).default
        self.options = ([size, size], *options, factor, factor)

    def forward(self, x):
        return self.overload(torch.relu(x), *self.options)


@pytest.mark.slow
@pytest.mark.parametrize("packet", ["upsample_bilinear2d", "upsample_bicubic2d"])
def test_where_aten_is_given_sizes_and_factors_it_counts_by_factors(packet):
    model, x = Sized(packet, False), torch.rand(2, 3, 7, 7)
    found = spikec.run(spikec.load(torch.export.export(model, (x,))), x)
    torch.testing.assert_close(found, model(x))
    assert not torch.allclose(found, model.overload(x, [10, 10], False))


def test_nearest_cells_of_factors_are_not_those_of_sizes():
    """By a factor of 1.25, cell 6 of 12 is ``floor(6 / 1.25)`` = 4 of 10, by sizes ``floor(6 * 10 / 12)`` = 5."""
    program = torch.export.export(Sized("upsample_nearest2d", size=12, factor=1.25), (torch.rand(2, 3, 10, 10),))
    with pytest.raises(spikec.UnsupportedOpError, match="uneven distances"):
        spikec.load(program)
