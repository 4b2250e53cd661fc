"""Ops that move numbers about, and the transposed convolution, against torch; scales move as the data does."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from spikec import TypeMismatchError
from spikec.ir.ops import Conv, ConvTranspose, Permute, Slice, Upsample
from spikec.ir.types import Rate, Type


def rate(shape, scale):
    return Type(shape, "float64", Rate(np.asarray(scale, dtype=float)))


CHANNELS = np.array([1.0, 2.0, 4.0]).reshape(3, 1, 1)
TORCH = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@pytest.mark.parametrize(
    ("groups", "extra", "dilation", "padding"), [*itertools.product((1, 2), (0, 2), (1, 2), (0, 1))]
)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_conv_transpose_is_torchs(axes, groups, extra, dilation, padding):
    kernel = (3, 2, 4)[:axes]
    weight = torch.randn(6, 4, *kernel, dtype=torch.float64)
    bias = torch.randn(4 * groups, dtype=torch.float64)
    x = torch.randn(2, 6, *(5, 4, 3)[:axes], dtype=torch.float64)
    wanted = TORCH[axes](x, weight, bias, 3, padding, extra, groups, dilation)
    own = weight.reshape(groups, 6 // groups, 4, *kernel).transpose(1, 2).flatten(0, 1)
    op = ConvTranspose(
        own.numpy(),
        bias.numpy(),
        stride=(3,) * axes,
        padding=((padding, padding - extra),) * axes,
        dilation=(dilation,) * axes,
        groups=groups,
    )
    torch.testing.assert_close(op.eval(x), wanted, rtol=0, atol=1e-12)
    gain = torch.linspace(1, 2, 6, dtype=torch.float64)
    scaled = x * gain.reshape(-1, *[1] * axes)
    torch.testing.assert_close(op.scale_input(gain.numpy()).eval(x), op.eval(scaled), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("bias", "dilation", "padding", "hole"), [*itertools.product((0, 1), (1, 2), (0, 3), (0, 1))])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_depthwise_conv_is_torchs_to_the_last_digits(axes, bias, dilation, padding, hole, dtype):
    kernel, size = (3, 2, 2)[:axes], (11, 9, 7)[:axes]
    weight = torch.randn(5, 1, *kernel, dtype=dtype)
    weight[:, :, 1] *= hole
    shift = torch.randn(5, dtype=dtype) if bias else None
    x = torch.randn(2, 5, *size, dtype=dtype)
    torchs = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[axes]
    wanted = torchs(x, weight, shift, 2, padding, dilation, 5)
    geometry = {"stride": (2,) * axes, "padding": (padding,) * axes, "dilation": (dilation,) * axes}
    op = Conv(weight.numpy(), None if shift is None else shift.numpy(), groups=5, **geometry)
    torch.testing.assert_close(op.eval(x), wanted, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-14)


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 0), (1, 1)])
@pytest.mark.parametrize(("bias", "rows"), [*itertools.product((0, 1), (1, 3))])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_convolution_of_single_cells_is_torchs(axes, bias, rows, stride, padding):
    """Only without a stride and without padding is each number of the result one of the operand."""
    weight = torch.randn(5 * rows, 1, *(1,) * axes, dtype=torch.float64)
    shift = torch.randn(5 * rows, dtype=torch.float64) if bias else None
    x = torch.randn(2, 5, *(4, 3, 2)[:axes], dtype=torch.float64)
    wanted = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[axes](x, weight, shift, stride, padding, 1, 5)
    geometry = {"stride": (stride,) * axes, "padding": (padding,) * axes}
    op = Conv(weight.numpy(), None if shift is None else shift.numpy(), groups=5, **geometry)
    torch.testing.assert_close(op.eval(x), wanted, rtol=0, atol=1e-14)
    assert op.is_elementwise == (stride == 1 and padding == 0)


def test_a_depthwise_conv_without_weights_answers_its_bias():
    op = Conv(np.zeros((2, 1, 2)), np.array([1.0, 2.0]), stride=(1,), padding=(0,), dilation=(1,), groups=2)
    assert op.eval(torch.rand(1, 2, 4, dtype=torch.float64)).tolist() == [[[1.0] * 3, [2.0] * 3]]


def test_conv_transpose_takes_the_scale_it_was_folded_for():
    op = ConvTranspose(np.ones((2, 3, 2, 2)), stride=(2, 2), padding=(0, 0), dilation=(1, 1))
    folded = op.scale_input(CHANNELS.reshape(-1)).scale_output(np.array([2.0, 4.0]))
    assert folded.infer(rate((3, 4, 4), CHANNELS)).scale.reshape(-1).tolist() == [0.5, 0.25]
    with pytest.raises(TypeMismatchError, match="folded for an operand of scale"):
        folded.infer(rate((3, 4, 4), CHANNELS * 2))
    with pytest.raises(TypeMismatchError, match="samples of rank 3"):
        op.infer(rate((3, 4), np.ones((1, 1))))


@pytest.mark.parametrize("size", [(10, 14), (3, 9), (8, 8), (5, 7), (1, 20)])
def test_upsample_is_torchs_nearest(size):
    x = torch.randn(2, 3, 5, 7)
    assert torch.equal(Upsample(size).eval(x), F.interpolate(x, size=size))


def test_scales_move_with_the_data():
    per_pixel = np.arange(1.0, 7).reshape(1, 2, 3)
    x = rate((3, 2, 3), CHANNELS)
    assert Permute((1, 2, 0)).infer(x).scale.tolist() == CHANNELS.transpose(1, 2, 0).tolist()
    assert Slice(0, 1).infer(x).scale.reshape(-1).tolist() == [2, 4]
    assert Slice(-1, 0, None, 2).infer(rate((1, 2, 3), per_pixel)).scale.tolist() == per_pixel[..., ::2].tolist()
    assert Slice(-3, -2, 3).infer(x).shape == (2, 2, 3)
    assert Upsample((4, 6)).infer(x).scale.shape == (3, 1, 1)
    assert Upsample((4, 3)).infer(rate((1, 2, 3), per_pixel)).scale[0, :, 0].tolist() == [1, 1, 4, 4]
