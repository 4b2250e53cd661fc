"""Converters of what divides a signal by statistics of itself, and of the statistics."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spikec.frontends.torch.call import Call, Missing, Signal, as_array, converter, methods
from spikec.frontends.torch.composed import composed
from spikec.frontends.torch.converters.arith import affine
from spikec.frontends.torch.converters.shapes import same_dtype, sample_axes
from spikec.frontends.torch.converters.weights import batch_norm
from spikec.ir.ops import Standardize

# ----------------------------------------------------------------------- norms


def _scaled(call: Call, x: Signal, weight: Any, bias: Any, rank: int = 0) -> Signal:
    """``weight x + bias`` over the trailing axes, or with a rank over the channels of samples of that rank."""
    gain, shift = (None if each is None else as_array(each).astype(np.float64) for each in (weight, bias))
    gain, shift = (np.ones(()) if gain is None else gain), (np.zeros(()) if shift is None else shift)
    if rank > 1:
        gain, shift = (each.reshape(-1, *(1,) * (rank - 1)) if each.ndim else each for each in (gain, shift))
    return affine(call, x, gain, shift)


def _has_gain(*constants: Any) -> str:
    """The end of the name of an op that a gain or a bias follows."""
    return "" if all(each is None for each in constants) else "standardized"


@converter(F.layer_norm, torch.layer_norm)
def _layer_norm(
    call: Call,
    input: Signal,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Signal:
    axes = _trailing(call, input, normalized_shape)
    x = call.add(Standardize(axes, eps=eps), input, part=_has_gain(weight, bias))
    return _scaled(call, x, weight, bias) if _has_gain(weight, bias) else x


def _trailing(call: Call, input: Signal, normalized_shape: Sequence[int]) -> list[int]:
    """The axes of a sample that have these sizes, which are the last ones."""
    sizes, shape = tuple(normalized_shape), call.shape(input)
    if not sizes or shape[-len(sizes) :] != sizes:
        call.refuse(
            f"it normalizes the last axes {list(sizes)} of a tensor {call.shown(input)}",
            "give the sizes of the last axes, without the batch",
        )
    return list(range(len(shape) - len(sizes), len(shape)))


@converter(torch.native_layer_norm)
def _native_layer_norm(call: Call, input: Signal, normalized_shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    return _layer_norm(call, input, normalized_shape, weight, bias, eps), *_NO_STATISTICS


_NO_STATISTICS = (Missing("the mean of a norm is used inside it alone"), Missing("its deviation is used inside it"))


@converter(F.rms_norm, torch.rms_norm)
def _rms_norm(
    call: Call,
    input: Signal,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Signal:
    axes = _trailing(call, input, normalized_shape)
    least = torch.finfo(getattr(torch, call.graph.type(input.name).dtype)).eps
    op = Standardize(axes, centred=False, eps=least if eps is None else eps)
    x = call.add(op, input, part=_has_gain(weight))
    return x if weight is None else _scaled(call, x, weight, None)


@converter(F.group_norm, torch.group_norm)
def _group_norm(
    call: Call,
    input: Signal,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Signal:
    rank = len(call.shape(input))
    op = Standardize(range(rank), eps=eps, groups=num_groups)
    if num_groups == call.shape(input)[0] and rank > 1:
        op = Standardize(range(1, rank), eps=eps)
    x = call.add(op, input, part=_has_gain(weight, bias))
    return _scaled(call, x, weight, bias, rank) if _has_gain(weight, bias) else x


@converter(torch.native_group_norm)
def _native_group_norm(
    call: Call, input: Signal, weight: Any, bias: Any, samples: Any, channels: int, cells: int, group: int, eps: float
) -> Any:
    return _group_norm(call, input, group, weight, bias, eps), *_NO_STATISTICS


@converter(F.instance_norm)
def _instance_norm(
    call: Call,
    input: Signal,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Signal:
    """With running statistics it is a batch norm, else it divides by the statistics of each map of the sample."""
    if not use_input_stats and running_mean is not None:
        return batch_norm(call, input, running_mean, running_var, weight, bias, eps=eps)
    call.expect_rank(input, 2, 3, 4)
    rank = len(call.shape(input))
    x = call.add(Standardize(range(1, rank), eps=eps), input, part=_has_gain(weight, bias))
    return _scaled(call, x, weight, bias, rank) if _has_gain(weight, bias) else x


@converter(F.normalize)
def _normalize(call: Call, input: Signal, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: None = None) -> Signal:
    if p != 2 or out is not None:
        call.refuse(f"a division by the {p:g}-norm is not supported", "F.normalize(x), which divides by the 2-norm")
    axes = sample_axes(call, input, dim)
    return call.add(Standardize(axes, centred=False, total=True, least=eps**2), input)


@converter(F.local_response_norm)
def _local_response_norm(
    call: Call, input: Signal, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Any:
    call.expect_rank(input, 2, 3, 4)
    return composed(call, response_norm, input, call.shape(input), (size // 2, (size - 1) // 2), alpha, beta, k)


def response_norm(x: Any, shape: Sequence[int], window: tuple[int, int], alpha: float, beta: float, k: float) -> Any:
    """``x / (k + alpha m)^beta``, m the mean of the squares in a window of channels (Krizhevsky et al. 2012, 3.3).

    Args:
        x: [B, C, ...], one to three axes behind the channels.
        shape: of a sample of x.
        window: how many channels count in front of a channel, and behind it; those that x has not are zeros.
        alpha, beta, k: numbers.
    """
    before, behind = window
    mean = torch.ones(shape[0], shape[0], dtype=torch.float64).triu(-before).tril(behind) / (before + behind + 1)
    convolution = (F.conv1d, F.conv2d, F.conv3d)[len(shape) - 2]
    power = convolution(torch.square(x), mean.reshape(*mean.shape, *(1 for _ in shape[1:])))
    return x * torch.pow(alpha * power + k, -beta)


# ------------------------------------------------------------------ statistics


@converter(torch.logsumexp, torch.special.logsumexp, *methods("logsumexp"))
def _logsumexp(call: Call, input: Signal, dim: Any, keepdim: bool = False, *, out: None = None) -> Any:
    """The largest number is taken out of the exponentials, so that none is large."""

    def total(x: Any) -> Any:
        most = x.amax(dim, True)
        y = torch.log(torch.exp(x - most).sum(dim, True)) + most
        return y if keepdim else y.squeeze(dim)

    return composed(call, total, input)


@converter(F.pairwise_distance)
def _pairwise_distance(call: Call, x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Any:
    return composed(call, lambda a, b: torch.linalg.vector_norm(a - b + eps, p, -1, keepdim), x1, x2)


def _moment(
    call: Call,
    input: Signal,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
    root: bool,
) -> Any:
    """The variance over axes of a sample, or its root; torch divides by the count less the ``correction``, 1."""
    if isinstance(dim, bool) or dim in (None, (), []):
        call.refuse("statistics over all axes mix the samples of a batch", "name the axes: x.var((2, 3))")
    less = correction if correction is not None else 1 if unbiased is None else float(unbiased)
    shape = call.shape(input)
    count = math.prod(shape[axis] for axis in sample_axes(call, input, dim))
    if count <= less:
        call.refuse(f"the variance of {count} number(s) has no divisor", "unbiased=False")

    def moment(x: Any) -> Any:
        d = x - x.mean(dim, True)
        power = (d * d).sum(dim, keepdim) * (1 / (count - less))
        return torch.sqrt(power) if root else power

    return composed(call, moment, input)


converter(torch.var, *methods("var"))(partial(_moment, root=False))
converter(torch.std, *methods("std"))(partial(_moment, root=True))


def _with_mean(call: Call, input: Signal, dim: Any = None, *args: Any, root: bool, **kwargs: Any) -> Any:
    found = _moment(call, input, dim, *args, root=root, **kwargs)
    keepdim = kwargs.get("keepdim", args[1] if len(args) > 1 else False)
    return found, composed(call, lambda x: x.mean(dim, keepdim), input)


converter(torch.var_mean)(partial(_with_mean, root=False))
converter(torch.std_mean)(partial(_with_mean, root=True))


def _norm(
    call: Call,
    input: Signal,
    p: Any = 2,
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
    out: None = None,
) -> Any:
    """The root of the sum of squares over axes of a sample."""
    if dtype is not None:
        same_dtype(call, input, str(dtype))
    if p not in (2, "fro", None):
        call.refuse(f"a norm of order {p} is not supported", "the 2-norm is")
    if dim in (None, (), []):
        call.refuse("a norm over all axes mixes the samples of a batch", "name the axes: x.norm(dim=(2, 3))")
    return composed(call, lambda x: torch.sqrt((x * x).sum(dim, keepdim)), input)


converter(torch.norm, torch.linalg.vector_norm, *methods("norm"))(_norm)


@converter(torch.linalg.norm)
def _vector_or_matrix_norm(
    call: Call, input: Signal, ord: Any = None, dim: Any = None, keepdim: bool = False, **kwargs: Any
) -> Any:
    """Of two axes the norm of order 2 is the largest singular value, which is no root of a sum."""
    if isinstance(dim, Sequence) and len(dim) == 2 and ord not in (None, "fro"):
        call.refuse(f"a matrix norm of order {ord} is not supported", "the Frobenius norm is")
    return _norm(call, input, 2 if ord is None else ord, dim, keepdim, **kwargs)
