import numpy as np
import pytest
import torch

from spikec import TypeMismatchError
from spikec.ir.ops import IF, Add, AvgPool, Concat, Conv, Flatten, Linear, Pad, Relu, Rescale, SumPool
from spikec.ir.ops.weighted import diagonal
from spikec.ir.types import Rate, Real, Type, compress, readonly


def rate(shape, scale):
    return Type(shape, "float64", Rate(np.asarray(scale, dtype=float)))


CHANNELS = np.array([1.0, 2.0, 4.0]).reshape(3, 1, 1)


def test_compress_shrinks_constant_axes_only():
    full = np.broadcast_to(CHANNELS, (3, 4, 5))
    assert compress(full).shape == (3, 1, 1)
    assert compress(np.ones((3, 4))).shape == (1, 1)
    assert compress(np.arange(6.0).reshape(2, 3)).shape == (2, 3)


def test_scales_are_equal_within_float32_rounding_and_no_further():
    assert Rate(CHANNELS) == Rate(CHANNELS.astype(np.float32) * np.float32(1 + 1e-7))
    assert Rate(CHANNELS) != Rate(CHANNELS * (1 + 1e-5))
    assert Rate(CHANNELS) != Rate(CHANNELS.reshape(3, 1))
    assert Rate(np.ones(1)) != Real()


@pytest.mark.parametrize("bad", [0.0, -1.0, np.inf, np.nan])
def test_a_scale_is_positive_and_finite(bad):
    with pytest.raises(TypeMismatchError, match="positive"):
        Rate(np.array([1.0, bad]))


def test_parameters_cannot_be_written():
    weight = np.ones((2, 3))
    op = Linear(weight)
    weight[0, 0] = 7
    assert op.weight[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        op.weight[0, 0] = 7
    assert readonly(op.weight) is op.weight


def test_flatten_moves_the_scale_with_the_data():
    found = Flatten().infer(rate((3, 2, 2), CHANNELS))
    assert found.shape == (12,)
    assert found.scale.tolist() == [1] * 4 + [2] * 4 + [4] * 4


def test_a_uniform_scale_stays_one_number():
    assert Flatten().infer(rate((3, 2, 2), np.full((1, 1, 1), 0.5))).scale.tolist() == [0.5]


def test_pad_extends_the_scale_of_the_edge():
    per_pixel = np.arange(1.0, 7).reshape(1, 2, 3)
    found = Pad(((0, 0), (2, 1))).infer(rate((1, 2, 3), per_pixel))
    assert found.scale[0, 0].tolist() == [1, 1, 1, 2, 3, 3]
    circular = Pad(((0, 0), (2, 1)), "circular").infer(rate((1, 2, 3), per_pixel))
    assert circular.scale[0, 0].tolist() == [2, 3, 1, 2, 3, 1]


def test_concat_puts_scales_side_by_side():
    found = Concat().infer(rate((3, 2, 2), CHANNELS), rate((1, 2, 2), np.full((1, 1, 1), 9.0)))
    assert found.scale.reshape(-1).tolist() == [1, 2, 4, 9]


def test_concat_of_real_and_rate_is_refused():
    with pytest.raises(TypeMismatchError, match="real and a rate"):
        Concat().infer(rate((1, 2, 2), np.ones((1, 1, 1))), Type((1, 2, 2), "float64"))


def test_sum_of_different_scales_is_refused():
    one = rate((3, 2, 2), CHANNELS)
    assert Add().infer(one, one) == one
    with pytest.raises(TypeMismatchError, match=r"different units.*\n +try use one scale .*normalization='max'"):
        Add().infer(one, rate((3, 2, 2), CHANNELS * 1.01))
    with pytest.raises(TypeMismatchError, match="shapes"):
        Add().infer(one, rate((3, 2, 1), CHANNELS))


def conv(**scales):
    weight = np.random.default_rng(0).normal(size=(2, 3, 1, 2))
    return Conv(weight, np.ones(2), stride=(1, 1), padding=(0, 1), dilation=(1, 1), **scales)


def test_an_affine_op_refuses_an_operand_of_another_scale():
    x = rate((3, 4, 4), CHANNELS)
    assert conv(in_scale=[1, 2, 4], out_scale=[5, 6]).infer(x).scale.reshape(-1).tolist() == [5, 6]
    with pytest.raises(TypeMismatchError, match="folded for an operand of scale 1, it has"):
        conv().infer(x)
    with pytest.raises(TypeMismatchError, match="folded for a rate-coded operand"):
        conv(in_scale=[1, 2, 4]).infer(Type((3, 4, 4), "float64"))


def test_ops_that_share_weights_over_an_axis_refuse_a_scale_that_varies_along_it():
    varying = rate((1, 2, 3), np.arange(1.0, 7).reshape(1, 2, 3))
    for op in (conv(), AvgPool((1, 2), (1, 2), (0, 0)), SumPool((1, 2), (1, 2), (0, 0))):
        with pytest.raises(TypeMismatchError, match="shares its weights|features"):
            op.infer(varying)


def test_sumpool_stands_for_the_average():
    assert SumPool((2, 3), (2, 3), (0, 0)).infer(rate((3, 4, 6), CHANNELS)).scale.reshape(-1).tolist() == [
        1 / 6,
        2 / 6,
        4 / 6,
    ]
    with pytest.raises(TypeMismatchError, match="sum-pool of a real"):
        SumPool((2, 2), (2, 2), (0, 0)).infer(Type((3, 4, 4), "float64"))


def test_rescale_and_neuron_rules():
    x = rate((3, 4, 4), CHANNELS)
    assert Rescale(1 / CHANNELS).infer(x).scale.reshape(-1).tolist() == [1, 4, 16]
    assert IF(CHANNELS).infer(x).scale.reshape(-1).tolist() == [1, 4, 16]
    for op in (IF(CHANNELS), Rescale(CHANNELS)):
        with pytest.raises(TypeMismatchError, match="real"):
            op.infer(Type((3, 4, 4), "float64"))
    with pytest.raises(TypeMismatchError, match="rank"):
        IF(np.ones(3)).infer(x)
    with pytest.raises(TypeMismatchError, match="v_init"):
        IF(CHANNELS, v_init=np.ones(5)).infer(x)
    with pytest.raises(TypeMismatchError, match="rate-coded"):
        Relu().infer(x)


@pytest.mark.parametrize("op", [conv(), conv(groups=1)])
def test_scaling_an_affine_op_is_scaling_its_signals(op):
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    gains = torch.tensor([0.5, 2, 3.0], dtype=torch.float64).reshape(3, 1, 1)
    torch.testing.assert_close(op.scale_input(gains.numpy()).eval(x), op.eval(gains * x))
    out = torch.tensor([0.5, 3.0], dtype=torch.float64).reshape(2, 1, 1)
    torch.testing.assert_close(op.scale_output(out.numpy()).eval(x), out * op.eval(x))


def test_grouped_conv_scales_each_group_by_its_own_inputs():
    rng = np.random.default_rng(1)
    op = Conv(rng.normal(size=(4, 2, 3)), rng.normal(size=4), stride=(1,), padding=(1,), dilation=(1,), groups=2)
    x = torch.rand(2, 4, 5, dtype=torch.float64)
    gains = torch.arange(1.0, 5, dtype=torch.float64).reshape(4, 1)
    torch.testing.assert_close(op.scale_input(gains.numpy()).eval(x), op.eval(gains * x))


@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 4, 5), (3, 2, 2, 2)])
def test_diagonal_multiplies_each_channel(shape):
    x = torch.rand(2, *shape, dtype=torch.float64)
    gain, shift = np.array([1.0, -2, 3]), np.array([0.5, 0, 1])
    wide = [torch.tensor(v).reshape(3, *[1] * (len(shape) - 1)) for v in (gain, shift)]
    torch.testing.assert_close(diagonal(gain, shift, len(shape)).eval(x), wide[0] * x + wide[1])


@pytest.mark.parametrize("scale", [np.arange(1.0, 21), np.ones((1, 1)), np.arange(1.0, 4)])
def test_a_scale_fits_its_sample(scale):
    with pytest.raises(TypeMismatchError, match="rank, each axis of length 1 or full"):
        rate((19,), scale)
