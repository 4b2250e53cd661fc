"""Converters of what divides by a statistic of the sample, and of products that an equation states."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from spikec.frontends.onnx.call import INDEPENDENT, Call, Signal, converter
from spikec.frontends.torch.converters.norms import response_norm


def _sizes(call: Call, x: Signal, axis: int) -> tuple[int, ...]:
    """The sizes of the axes from one on."""
    return call.shape(x)[call.axis(x, axis) :]


@converter("LayerNormalization")
def _layer_norm(
    call: Call, x: Any, scale: Any, bias: Any = None, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Any:
    """The mean and the inverse of the deviation too, where they are used."""
    result = F.layer_norm(x, _sizes(call, x, axis), scale, bias, epsilon)
    if not any(call.wanted[1:]):
        return result
    axes = list(range(call.axis(x, axis) + 1, len(call.shape(x)) + 1))
    mean = torch.mean(x, axes, True)
    return result, mean, torch.rsqrt(torch.mean(torch.square(x - mean), axes, True) + epsilon)


@converter("RMSNormalization")
def _rms_norm(call: Call, x: Any, scale: Any, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Any:
    return F.rms_norm(x, _sizes(call, x, axis), scale, epsilon)


@converter("GroupNormalization")
def _group_norm(
    call: Call, x: Any, scale: Any, bias: Any, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Any:
    """Below opset 21 there is a number for each group, from then on for each channel."""
    channels = call.shape(x)[0]
    scale, bias = (
        each if len(each) == channels else torch.repeat_interleave(each, channels // num_groups)
        for each in (scale, bias)
    )
    return F.group_norm(x, num_groups, scale, bias, epsilon)


@converter("InstanceNormalization")
def _instance_norm(call: Call, x: Any, scale: Any, bias: Any, epsilon: float = 1e-5) -> Any:
    return F.instance_norm(x, None, None, scale, bias, True, 0.0, epsilon)


@converter("LpNormalization")
def _lp_norm(call: Call, x: Any, axis: int = -1, p: int = 2) -> Any:
    return F.normalize(x, float(p), call.axis(x, axis) + 1)


@converter("LRN")
def _local_response_norm(
    call: Call, x: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Any:
    """Of an even number of channels one more counts behind a channel, where torch has it in front."""
    return response_norm(x, call.shape(x), ((size - 1) // 2, size // 2), alpha, beta, bias)


@converter("ReduceLogSumExp")
def _reduce_log_sum_exp(call: Call, x: Any, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
    return torch.logsumexp(x, _axes(call, x, axes), bool(keepdims))


@converter("ReduceL2")
def _reduce_l2(call: Call, x: Any, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
    return torch.linalg.vector_norm(x, 2, _axes(call, x, axes), bool(keepdims))


def _axes(call: Call, x: Any, axes: Any) -> list[int]:
    """The axes that a node names; all of them would be those of the batch too."""
    if 0 in call.shape(x):
        call.refuse("it holds no number", "give it at least one")
    if axes is None or not np.size(axes):
        call.refuse("a norm over all axes mixes the samples of a batch", INDEPENDENT)
    return [int(each) for each in np.ravel(axes)]


@converter("Einsum")
def _einsum(call: Call, *operands: Any, equation: str) -> Any:
    return torch.einsum(equation, *operands)
