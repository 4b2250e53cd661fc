"""Converters of transposed convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from spikec.frontends.torch.call import Call, Signal, converter
from spikec.frontends.torch.converters.functions import constant_weight, sizes
from spikec.ir.ops import ConvTranspose


def conv_transpose(rank: int) -> Callable[..., Signal]:
    """The converter of a functional transposed convolution."""

    def convert(
        call: Call,
        input: Signal,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Signal:
        array = constant_weight(call, weight)
        grouped = array.reshape(groups, -1, *array.shape[1:]).swapaxes(1, 2)
        pairs = zip(sizes(padding, rank), sizes(output_padding, rank), strict=True)
        op = ConvTranspose(
            grouped.reshape(-1, *grouped.shape[2:]),
            None if bias is None else constant_weight(call, bias),
            stride=sizes(stride, rank),
            padding=tuple((cut, cut - added) for cut, added in pairs),
            dilation=sizes(dilation, rank),
            groups=groups,
        )
        return call.add(op, input)

    return convert


converter(F.conv_transpose1d)(conv_transpose(1))
converter(F.conv_transpose2d)(conv_transpose(2))
converter(F.conv_transpose3d)(conv_transpose(3))
