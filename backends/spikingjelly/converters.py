"""What torch module each op becomes; an op that is not in the table runs by its own meaning."""

import functools
from collections.abc import Callable
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn

from spikec.backends.spikingjelly.modules import (
    AdaptiveAverage,
    Elementwise,
    InputPort,
    OpModule,
    Readout,
    StatefulModule,
)
from spikec.backends.spikingjelly.neurons import OF_THE_GRAPH, CubaLIFNode, IFNode, LIFNode, NeuronNode
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
from spikec.ir.spatial import pad_list
from spikec.ir.types import Array, Type

#: called with (op, the type of its result); the dtype of its parameters is the type's
Convert = Callable[[Any, Type], nn.Module]

converter: Converters[Convert] = Converters("converter")


def module_for(op: Op, result: Type) -> nn.Module:
    """Make the module for an op by the converter of its class or a base class, or else around its meaning."""
    convert = converter.for_class(type(op))
    return own_meaning(op, result) if convert is None else convert(op, result)


_NODES: dict[type, Any] = {IF: IFNode, LIF: LIFNode, CubaLIF: CubaLIFNode}


def own_meaning(op: Op, result: Type) -> nn.Module:
    """Make the module that runs the op's ``eval``, or its ``initial`` and ``step``, with tensors for its arrays."""
    fields = {field.name: getattr(op, field.name) for field in attrs.fields(type(op))}
    names = [field.name for field in attrs.fields(type(op)) if field.metadata.get("array")]
    arrays = {name: None if fields[name] is None else _tensor(fields[name], result) for name in names}
    others = {name: value for name, value in fields.items() if name not in arrays}
    if not isinstance(op, Neuron):
        return (StatefulModule if isinstance(op, StatefulOp) else OpModule)(type(op), arrays, others)
    node = _NODES.get(type(op), functools.partial(NeuronNode, type(op)))
    return cast(nn.Module, node(**arrays, **{name: others[name] for name in others if name not in OF_THE_GRAPH}))


def _tensor(value: Array, like: Type) -> Tensor:
    return torch.tensor(value, dtype=getattr(torch, like.dtype))


def _filled(kind: str, op: Linear | Conv | ConvTranspose, weight: Array, like: Type, **options: Any) -> nn.Module:
    """Make torch's layer of that name, with the op's numbers."""
    # made without memory, and without a bias: its own random numbers are not wanted
    made = getattr(nn, kind)(op.in_features, op.out_features, bias=False, device="meta", **options)
    made.weight = nn.Parameter(_tensor(weight, like))
    made.bias = None if op.bias is None else nn.Parameter(_tensor(op.bias, like))
    return cast(nn.Module, made)


@converter(Input)
def _input(op: Input, result: Type) -> nn.Module:
    return InputPort(op.shape, getattr(torch, op.dtype))


@converter(Output)
def _output(op: Output, result: Type) -> nn.Module:
    scale = result.scale
    return Readout(None if bool((scale == 1).all()) else _tensor(scale, result))


@converter(Linear)
def _linear(op: Linear, result: Type) -> nn.Module:
    return _filled("Linear", op, op.weight, result)


@converter(Conv)
def _conv(op: Conv, result: Type) -> nn.Module:
    if op.is_elementwise:
        return Elementwise(_tensor(op.weight, result), None if op.bias is None else _tensor(op.bias, result))
    axes, uneven = len(op.kernel), any(before != after for before, after in op.padding)
    padding = 0 if uneven else tuple(before for before, _ in op.padding)
    conv = _filled(f"Conv{axes}d", op, op.weight, result, padding=padding, **_windows(op))
    if not uneven:
        return conv
    return nn.Sequential(getattr(nn, f"ConstantPad{axes}d")(tuple(pad_list(op.padding)), 0.0), conv)


@converter(ConvTranspose)
def _conv_transpose(op: ConvTranspose, result: Type) -> nn.Module:
    added = tuple(before - after for before, after in op.padding)
    limits = map(max, op.stride, op.dilation)
    if any(before < 0 for before, _ in op.padding) or any(
        not 0 <= more < limit for more, limit in zip(added, limits, strict=True)
    ):
        return own_meaning(op, result)
    grouped = op.weight.reshape(op.groups, -1, *op.weight.shape[1:]).swapaxes(1, 2)  # torch has inputs first
    weight = grouped.reshape(op.in_features, -1, *op.kernel)
    padding = {"padding": tuple(before for before, _ in op.padding), "output_padding": added}
    return _filled(f"ConvTranspose{len(op.kernel)}d", op, weight, result, **padding, **_windows(op))


def _windows(op: Conv | ConvTranspose) -> dict[str, Any]:
    return {"kernel_size": op.kernel, "stride": op.stride, "dilation": op.dilation, "groups": op.groups}


@converter(Upsample)
def _upsample(op: Upsample, result: Type) -> nn.Module:
    return nn.Upsample(op.size) if 1 <= len(op.size) <= 3 else own_meaning(op, result)


@converter(AvgPool)
def _avg_pool(op: AvgPool, result: Type) -> nn.Module:
    kind = getattr(nn, f"AvgPool{len(op.kernel)}d")
    return cast(nn.Module, kind(op.kernel, op.stride, op.padding, op.ceil_mode, op.count_include_pad))


@converter(AdaptiveAvgPool)
def _adaptive(op: AdaptiveAvgPool, result: Type) -> nn.Module:
    if any(size != 1 for size in op.size):
        return AdaptiveAverage(type(op), {}, {"size": op.size})
    return cast(nn.Module, getattr(nn, f"AdaptiveAvgPool{len(op.size)}d")(1))


@converter(Flatten)
def _flatten(op: Flatten, result: Type) -> nn.Module:
    return nn.Flatten(op.start + 1, op.end + 1 if op.end >= 0 else op.end)
