"""The shapes that ops know by themselves are those that torch finds on tensors without data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikec.ir.ops import (
    AdaptiveAvgPool,
    Add,
    AvgPool,
    Clamp,
    Concat,
    Conv,
    ConvTranspose,
    Interpolate,
    LeakyRelu,
    Linear,
    MaxPool,
    Multiply,
    Relu,
    SumPool,
    Upsample,
)
from spikec.ir.types import Type

#: mostly sizes that fit, and some that do not
SIZES = st.integers(0, 9)
SMALL = st.integers(0, 4)


def per_axis(draw, axes, of):
    return tuple(draw(of) for _ in range(axes))


def shape_or_refusal(find, operands):
    try:
        return find(*operands)
    except Exception as error:  # whatever torch says
        return str(error)


@st.composite
def convolutions(draw):
    axes, groups = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    weight = np.ones((draw(SMALL), draw(SMALL), *per_axis(draw, axes, SMALL)), np.float32)
    pads = tuple((draw(st.integers(-1, 3)), draw(st.integers(-1, 3))) for _ in range(axes))
    pads = draw(st.sampled_from([pads, tuple((a, a) for a, _ in pads)]))
    bias = draw(st.sampled_from([None, np.ones(len(weight), np.float32), np.ones(len(weight) + 1, np.float32)]))
    options = {"stride": per_axis(draw, axes, SMALL), "dilation": per_axis(draw, axes, SMALL)}
    return Conv(weight, bias, groups=groups, padding=pads, **options), [(*per_axis(draw, axes + 1, SIZES),)]


@st.composite
def transposed(draw):
    axes, groups = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    weight = np.ones((draw(SMALL), draw(SMALL), *per_axis(draw, axes, SMALL)), np.float32)
    pads = tuple((draw(st.integers(-2, 3)), draw(st.integers(-2, 3))) for _ in range(axes))
    bias = draw(st.sampled_from([None, np.ones(len(weight), np.float32), np.ones(len(weight) + 1, np.float32)]))
    options = {"stride": per_axis(draw, axes, SMALL), "dilation": per_axis(draw, axes, SMALL)}
    op = ConvTranspose(weight, bias, groups=groups, padding=pads, **options)
    return op, [(op.in_features, *per_axis(draw, draw(st.sampled_from([axes, axes, axes + 1])), SIZES))]


@st.composite
def resized(draw):
    axes = draw(st.integers(1, 4))
    size, factors = per_axis(draw, axes, SMALL), per_axis(draw, axes, st.sampled_from([0.3, 0.5, 1.0, 1.7, 2.0, 3.0]))
    corners, mode = draw(st.booleans()), draw(st.sampled_from(["linear", "cubic"]))
    op = draw(
        st.sampled_from(
            [
                Upsample(size),
                Interpolate(size, mode, corners),
                Interpolate(size, mode, corners, factors),
                Interpolate(size, mode, corners, factors[1:] or None),
            ]
        )
    )
    return op, [per_axis(draw, draw(st.sampled_from([axes + 1, axes + 1, axes])), SIZES)]


@st.composite
def pools(draw):
    axes = draw(st.integers(1, 3))
    kernel, stride, dilation, padding = (per_axis(draw, axes, SMALL) for _ in range(4))
    pairs = tuple((a, draw(SMALL)) for a in padding)
    ceil_mode = draw(st.booleans())
    op = draw(
        st.sampled_from(
            [
                lambda: AvgPool(kernel, stride, padding, ceil_mode, draw(st.booleans())),
                lambda: MaxPool(kernel, stride, pairs, dilation, ceil_mode),
                lambda: MaxPool(kernel, stride, tuple((a, a) for a in padding), dilation, ceil_mode),
                lambda: SumPool(kernel, stride, pairs),
                lambda: AdaptiveAvgPool(tuple(draw(st.sampled_from([size, None])) for size in kernel)),
            ]
        )
    )()
    return op, [per_axis(draw, draw(st.sampled_from([axes + 1, axes + 1, axes])), SIZES)]


@st.composite
def others(draw):
    rank = draw(st.integers(0, 3))
    shape = per_axis(draw, rank, SIZES)
    last = shape[-1] if shape else 1
    bound = draw(st.sampled_from([None, 1.0]))
    slope = np.ones(
        tuple(draw(st.sampled_from([1, size])) for size in per_axis(draw, rank, st.sampled_from([*shape, 2])))
    )
    parts = [shape, tuple(draw(st.sampled_from([size, size, 3])) for size in shape)]
    return draw(
        st.sampled_from(
            [
                (Relu(bound), [shape]),
                (Clamp(bound, None), [shape]),
                (LeakyRelu(slope), [shape]),
                (Linear(np.ones((draw(SMALL), last)), np.ones(draw(SMALL))), [shape]),
                (Linear(np.ones((draw(SMALL), last))), [shape]),
                (Concat(draw(st.integers(-4, 3))), parts),
                (Multiply(), [shape, tuple(draw(st.sampled_from([size, size, 1, 3])) for size in shape)]),
                (Multiply(), parts),
                (Add(), draw(st.sampled_from([parts, parts[:1] * 3]))),
            ]
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "cases",
    [convolutions(), transposed(), pools(), resized(), others()],
    ids=["conv", "transposed", "pools", "resized", "others"],
)
def test_a_known_shape_is_the_one_that_torch_finds(cases):
    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(cases)
    def check(case):
        op, shapes = case
        if isinstance(op, Conv) and shapes[0][0] != op.in_features:
            shapes = [(op.in_features, *shapes[0][1:])]  # any other number is refused before
        operands = [Type(shape) for shape in shapes]
        assert shape_or_refusal(op.shape_of, operands) == shape_or_refusal(op.tried_shape, operands)

    check()


def test_common_ops_do_not_try(monkeypatch):
    def tried(*_):
        raise AssertionError("tensors without data take a millisecond, and the first of them half a second")

    monkeypatch.setattr("spikec.ir.op.Op.tried_shape", tried)
    image, ones = Type((4, 8, 8)), np.ones((6, 4, 3, 3))
    assert Conv(ones, stride=(2, 2), padding=(1, 1)).shape_of(image) == (6, 4, 4)
    assert AvgPool((2, 2), (2, 2), (0, 0)).shape_of(image) == (4, 4, 4)
    assert MaxPool((3, 3), (2, 2), (1, 1), (1, 1)).shape_of(image) == (4, 4, 4)
    assert SumPool((2, 2), (2, 2), (0, 0)).shape_of(image) == (4, 4, 4)
    assert AdaptiveAvgPool((1, None)).shape_of(image) == (4, 1, 8)
    assert Linear(np.ones((3, 8))).shape_of(image) == (4, 8, 3)
    assert Relu().shape_of(image) == image.shape
    assert Concat().shape_of(image, image) == (8, 8, 8)
    assert Add().shape_of(image, image) == image.shape
    assert Multiply().shape_of(image, Type((4, 1, 1))) == image.shape
    assert Upsample((16, 16)).shape_of(image) == (4, 16, 16)
    assert Interpolate((16, 16)).shape_of(image) == (4, 16, 16)
    assert Interpolate((16, 16), factors=(2.0, 2.0)).shape_of(image) == (4, 16, 16)
    assert ConvTranspose(np.ones((6, 4, 2, 2)), stride=(2, 2)).shape_of(image) == (6, 16, 16)
