"""Converters of torch's layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from spikec.frontends.torch.call import Call, Signal, as_array, converter
from spikec.frontends.torch.converters.functions import (
    adaptive_avg_pool,
    adaptive_max_pool,
    avg_pool,
    batch_norm,
    conv_padding,
    instance_norm,
    max_pool,
)
from spikec.frontends.torch.converters.shapes import flatten
from spikec.ir.errors import InvalidModelError
from spikec.ir.ops import Conv, Identity, Linear, Pad


def weight_of(module: Any) -> Tensor:
    """The weight of a layer, computed where ``weight_norm`` or ``spectral_norm`` computes it in a hook."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and hook.name == "weight":
            return torch.as_tensor(hook.compute_weight(module))
        if isinstance(hook, SpectralNorm) and hook.name == "weight":
            return torch.as_tensor(hook.compute_weight(module, do_power_iteration=False))
    return torch.as_tensor(module.weight)


@converter(nn.Linear)
def _linear(module: nn.Linear, call: Call) -> Signal:
    return call.add(Linear(as_array(weight_of(module)), _bias(module)), call.operand)


@converter(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def _conv(module: nn.Conv2d, call: Call) -> Signal:
    x = call.operand
    padding = conv_padding(module.padding, module.kernel_size, module.dilation)
    if module.padding_mode != "zeros" and any(any(pair) for pair in padding):
        call.expect_rank(x, len(padding) + 1)
        x = call.add(Pad(padding, module.padding_mode), x, part="pad")
        padding = ((0, 0),) * len(padding)
    op = Conv(
        as_array(weight_of(module)),
        _bias(module),
        stride=module.stride,
        padding=padding,
        dilation=module.dilation,
        groups=module.groups,
    )
    return call.add(op, x)


def _bias(module: Any) -> Any:
    return None if module.bias is None else as_array(module.bias)


_BATCHNORM_RANKS: dict[type[nn.Module], tuple[int, ...]] = {
    nn.BatchNorm1d: (1, 2),
    nn.BatchNorm2d: (3,),
    nn.BatchNorm3d: (4,),
    nn.SyncBatchNorm: (1, 2, 3, 4),
}


@converter(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
def _batchnorm(module: Any, call: Call) -> Signal:
    call.expect_rank(call.operand, *next(r for cls, r in _BATCHNORM_RANKS.items() if isinstance(module, cls)))
    statistics = (module.running_mean, module.running_var)
    return batch_norm(call, call.operand, *statistics, module.weight, module.bias, eps=module.eps)


@converter(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
def _instancenorm(module: Any, call: Call) -> Signal:
    if module.training:
        raise InvalidModelError(call.problem("the module is in training mode", "call model.eval() before compiling"))
    statistics = (module.running_mean, module.running_var)
    by_input = not module.track_running_stats
    return instance_norm(call, call.operand, *statistics, module.weight, module.bias, by_input, eps=module.eps)


@converter(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
def _average_pool(module: Any, call: Call) -> Signal:
    rank = _rank(module, nn.AvgPool1d, nn.AvgPool2d)
    divisor = getattr(module, "divisor_override", None)
    window = (module.kernel_size, module.stride, module.padding, module.ceil_mode, module.count_include_pad)
    return avg_pool(rank)(call, call.operand, *window, divisor)


@converter(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
def _maximum_pool(module: Any, call: Call) -> Signal:
    rank = _rank(module, nn.MaxPool1d, nn.MaxPool2d)
    window = (module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode)
    return max_pool(rank)(call, call.operand, *window, module.return_indices)


@converter(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
def _adaptive_pool(module: Any, call: Call) -> Signal:
    rank = _rank(module, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
    return adaptive_avg_pool(rank)(call, call.operand, module.output_size)


@converter(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
def _adaptive_maximum_pool(module: Any, call: Call) -> Signal:
    rank = _rank(module, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)
    return adaptive_max_pool(rank)(call, call.operand, module.output_size, module.return_indices)


def _rank(module: nn.Module, one: type[nn.Module], two: type[nn.Module]) -> int:
    return 1 if isinstance(module, one) else 2 if isinstance(module, two) else 3


@converter(nn.Flatten)
def _flat(module: nn.Flatten, call: Call) -> Signal:
    return flatten(call, call.operand, module.start_dim, module.end_dim)


@converter(
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
def _identity(module: nn.Module, call: Call) -> Signal:
    return call.add(Identity(), call.operand)
