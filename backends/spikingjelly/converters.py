"""What each op becomes; an op that is not in the table runs by its own meaning."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from spikec.backends.spikingjelly.modules import InputPort, OpModule, Readout, StatefulModule, fields_of
from spikec.backends.spikingjelly.neurons import CubaLIFNode, IFNode, LIFNode, NeuronNode
from spikec.extend.converters import Converters
from spikec.ir.op import Op, StatefulOp
from spikec.ir.ops import (
    IF,
    LIF,
    AdaptiveAvgPool,
    AvgPool,
    Conv,
    ConvTranspose,
    CubaLIF,
    Flatten,
    Input,
    Linear,
    Neuron,
    Output,
    Upsample,
)
from spikec.ir.ops.weighted import pad_list
from spikec.ir.types import Array, Type

#: called with (op, the type of its result); the dtype of its parameters is the type's
Convert = Callable[[Any, Type], nn.Module]

converter: Converters[Convert] = Converters("converter")


def module_for(op: Op, result: Type) -> nn.Module:
    """The module for an op: its class's converter, or that of a base class, or a wrapper around its meaning."""
    convert = converter.for_class(type(op))
    return own_meaning(op, result) if convert is None else convert(op, result)


_NODES: dict[type, Any] = {IF: IFNode, LIF: LIFNode, CubaLIF: CubaLIFNode}


def own_meaning(op: Op, result: Type) -> nn.Module:
    """The module that runs the op's ``eval``, or its ``initial`` and ``step``."""
    arrays, others = fields_of(op, getattr(torch, result.dtype))
    if not isinstance(op, Neuron):
        return (StatefulModule if isinstance(op, StatefulOp) else OpModule)(type(op), arrays, others)
    # what spikes stand for is known to the graph, not to a module
    fields = {**arrays, **{name: value for name, value in others.items() if name not in ("origin", "out_scale")}}
    node = _NODES.get(type(op), functools.partial(NeuronNode, type(op)))
    made: NeuronNode = node(**fields)
    return made


def _tensor(value: Array, like: Type) -> Tensor:
    return torch.tensor(value, dtype=getattr(torch, like.dtype))


def _fill(module: nn.Module, op: Linear | Conv | ConvTranspose, like: Type) -> nn.Module:
    module.weight = nn.Parameter(_tensor(op.weight, like))
    if op.bias is not None:
        module.bias = nn.Parameter(_tensor(op.bias, like))
    return module


@converter(Input)
def _input(op: Input, result: Type) -> nn.Module:
    return InputPort(op.shape, getattr(torch, op.dtype))


@converter(Output)
def _output(op: Output, result: Type) -> nn.Module:
    scale = result.scale
    return Readout(None if bool((scale == 1).all()) else _tensor(scale, result))


@converter(Linear)
def _linear(op: Linear, result: Type) -> nn.Module:
    made = nn.Linear(op.in_features, op.out_features, bias=op.bias is not None, device="meta")
    return _fill(made, op, result)


_CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_ZEROS: dict[int, Any] = {1: nn.ConstantPad1d, 2: nn.ConstantPad2d, 3: nn.ConstantPad3d}


@converter(Conv)
def _conv(op: Conv, result: Type) -> nn.Module:
    uneven = any(before != after for before, after in op.padding)
    made = _CONV[len(op.kernel)](
        op.in_features,
        op.out_features,
        op.kernel,
        op.stride,
        0 if uneven else tuple(before for before, _ in op.padding),
        op.dilation,
        op.groups,
        bias=op.bias is not None,
        device="meta",
    )
    conv = _fill(made, op, result)
    return nn.Sequential(_ZEROS[len(op.kernel)](tuple(pad_list(op.padding)), 0.0), conv) if uneven else conv


_TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@converter(ConvTranspose)
def _conv_transpose(op: ConvTranspose, result: Type) -> nn.Module:
    added = tuple(before - after for before, after in op.padding)
    limits = map(max, op.stride, op.dilation)
    if any(before < 0 for before, _ in op.padding) or any(
        not 0 <= more < limit for more, limit in zip(added, limits, strict=True)
    ):
        return own_meaning(op, result)
    made = _TRANSPOSED[len(op.kernel)](
        op.in_features,
        op.out_features,
        op.kernel,
        op.stride,
        tuple(before for before, _ in op.padding),
        added,
        op.groups,
        bias=op.bias is not None,
        dilation=op.dilation,
        device="meta",
    )
    grouped = op.weight.reshape(op.groups, -1, *op.weight.shape[1:]).swapaxes(1, 2)
    return _fill(made, attrs.evolve(op, weight=grouped.reshape(op.in_features, -1, *op.kernel)), result)


@converter(Upsample)
def _upsample(op: Upsample, result: Type) -> nn.Module:
    return nn.Upsample(op.size) if 1 <= len(op.size) <= 3 else own_meaning(op, result)


_AVG_POOL: dict[int, Any] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
_ADAPTIVE: dict[int, Any] = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


@converter(AvgPool)
def _avg_pool(op: AvgPool, result: Type) -> nn.Module:
    pool: nn.Module = _AVG_POOL[len(op.kernel)](op.kernel, op.stride, op.padding, op.ceil_mode, op.count_include_pad)
    return pool


@converter(AdaptiveAvgPool)
def _adaptive(op: AdaptiveAvgPool, result: Type) -> nn.Module:
    pool: nn.Module = _ADAPTIVE[len(op.size)](result.shape[-len(op.size) :])
    return pool


@converter(Flatten)
def _flatten(op: Flatten, result: Type) -> nn.Module:
    return nn.Flatten(op.start + 1, op.end + 1 if op.end >= 0 else op.end)
