"""Pools and other linear ops disappear into the weights next to them, for targets that have no pool."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import attrs
import numpy as np
import torch

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph
from spikec.ir.op import Op, Role, StatefulOp, tensor_cache
from spikec.ir.ops import AdaptiveAvgPool, AvgPool, Conv, Flatten, Linear, Pad, Reshape, SumPool, Weighted
from spikec.ir.origin import merge
from spikec.ir.types import Array, Rate, Type, channel_scale

#: all output and input features of a weight
_FEATURES = (slice(None), slice(None))


class BlockedError(Exception):
    """Two ops cannot become one; the message says why."""


@attrs.frozen
class FoldPool(Pass):
    """Compose linear ops without weights into the Linear or Conv that takes their result.

    Whatever is linear (any pool, padding, reshape) goes into a Linear behind a flatten. A pool whose windows
    are all alike and a zero padding go into a Conv: over a pool of kernel k_p and stride s_p, a kernel of
    size k becomes one of size ``k_p + s_p d (k - 1)`` with stride ``s_p s`` and padding ``p_p + s_p p``. A
    pool between a Conv and something that has no weights goes into the Conv before it.

    Attributes:
        affine: compose affine ops too: Conv and Linear into a Linear, a 1x1 Conv into a Conv.
    """

    name: ClassVar[str] = "fold-pool"

    affine: bool = False

    def run(self, graph: Graph, context: Context) -> int:
        """Fold consumers first, so that a chain of pools goes as one."""
        blocked: dict[str, str] = {}
        changes = 0
        for name in reversed([node.name for node in graph.match(Weighted)]):
            if name in graph and isinstance(graph[name], Linear):
                changes += self._into_linear(graph, name, blocked)
            elif name in graph and isinstance(graph[name], Conv):
                changes += self._into_conv(graph, name, blocked)
        for pool in graph.match(Op):
            if isinstance(pool.op, (SumPool, AvgPool)):
                changes += _into_producer(graph, pool.name, blocked)
        for node in graph.match(Op):
            if isinstance(node.op, (SumPool, AvgPool, AdaptiveAvgPool)):
                context.note(node.name, blocked.get(node.name, "no Linear or Conv takes its result alone"))
        return changes

    def _composable(self, graph: Graph, name: str) -> bool:
        op = graph[name]
        if isinstance(op, StatefulOp) or op.role is not Role.LINEAR or op.arity != 1 or len(graph.users(name)) != 1:
            return False
        return self.affine or not isinstance(op, Weighted)

    def _into_linear(self, graph: Graph, name: str, blocked: dict[str, str]) -> int:
        """Compose the longest chain that ends in this Linear."""
        chain: list[str] = []
        (source,) = graph.operands(name)
        if len(graph.type(source).shape) != 1:
            blocked[source] = f"%{name} is applied along the last axis only"
            return 0
        while self._composable(graph, source):
            chain.insert(0, source)
            (source,) = graph.operands(source)
        while chain and isinstance(graph[chain[0]], (Flatten, Reshape)):
            source = chain.pop(0)
        if not chain:
            return 0
        composed = _compose(graph, source, chain, name)
        if len(graph.type(source).shape) > 1:
            source = graph.add(Flatten(), source, name=f"{name}_flat")
        graph.set_op(name, composed)
        graph.set_operands(name, source)
        graph.remove_dead(chain[-1])
        return len(chain)

    def _into_conv(self, graph: Graph, name: str, blocked: dict[str, str]) -> int:
        """Compose what feeds this Conv as long as that goes."""
        changes = 0
        while self._composable(graph, graph.operands(name)[0]):
            (source,) = graph.operands(name)
            op, conv = graph[source], graph[name]
            (operand,) = graph.operands(source)
            assert isinstance(conv, Conv)
            try:
                folded = _before(op, conv, graph.type(operand), graph.type(source))
            except BlockedError as why:
                blocked[source] = str(why)
                break
            folded = attrs.evolve(folded, origin=merge(conv.origin, op.origin))
            graph.set_op(name, folded)
            graph.set_operands(name, operand)
            graph.remove(source)
            changes += 1
        return changes


def _compose(graph: Graph, source: str, chain: Sequence[str], name: str) -> Linear:
    """``W (A x + a) + b`` as one Linear over the flattened x; the rows of ``W A`` by one backward sweep."""
    linear = graph[name]
    assert isinstance(linear, Linear)
    operand = graph.type(source)
    weight = np.asarray(linear.weight, dtype=np.float64)
    with tensor_cache(), torch.inference_mode(False), torch.enable_grad():
        rows = torch.zeros((linear.out_features, *operand.shape), dtype=torch.float64, requires_grad=True)
        y = rows
        for each in chain:
            y = graph[each].eval(y)
        (gradient,) = torch.autograd.grad(y, rows, torch.tensor(weight))
    shift = weight @ y[0].detach().numpy()
    bias = None if linear.bias is None and not shift.any() else linear.shift + shift
    return attrs.evolve(
        linear,
        weight=gradient.reshape(len(weight), -1).numpy(),
        bias=bias,
        in_scale=_flat_scale(operand),
        origin=merge(linear.origin, *(graph[each].origin for each in chain)),
    )


def _flat_scale(operand: Type) -> Array:
    if operand.scale.size == 1:
        return operand.scale.reshape(-1)
    return np.broadcast_to(operand.scale, operand.shape).reshape(-1)


def _before(op: Op, conv: Conv, operand: Type, between: Type) -> Conv:
    """``conv(op(x))`` as one Conv."""
    scale = channel_scale(operand, 0, "conv") if isinstance(operand.encoding, Rate) else np.ones(1)
    if isinstance(op, (SumPool, AvgPool)):
        return attrs.evolve(_pool_then_conv(op, conv, operand, between), in_scale=scale)
    if isinstance(op, Pad):
        return attrs.evolve(_padded(op, conv), in_scale=scale)
    if isinstance(op, Conv):
        return attrs.evolve(_one_by_one_then_conv(op, conv), in_scale=scale)
    raise BlockedError(f"a {op.kind} is no convolution")


def _window(pool: SumPool | AvgPool, operand: Type, between: Type) -> tuple[list[tuple[int, int]], float]:
    """Padding of a pool as pairs, and the weight of each cell in a window."""
    pads = [(p, p) if isinstance(p, int) else p for p in pool.padding]
    if isinstance(pool, SumPool):
        return pads, 1.0
    if any(pool.padding) and not pool.count_include_pad:
        raise BlockedError("without count_include_pad the windows have different divisors")
    sizes = zip(operand.shape[1:], pads, pool.kernel, pool.stride, between.shape[1:], strict=True)
    if any((size + sum(pad) - k) // s + 1 != out for size, pad, k, s, out in sizes):
        raise BlockedError("ceil_mode makes windows of different sizes")
    return pads, 1 / math.prod(pool.kernel)


def _pool_then_conv(pool: SumPool | AvgPool, conv: Conv, operand: Type, between: Type) -> Conv:
    pads, cell = _window(pool, operand, between)
    for i, (before, after) in enumerate(conv.padding):
        k, s, near = pool.kernel[i], pool.stride[i], pads[i][0]
        inside = k > s + near if before else False
        beyond = between.shape[i + 1] * s - near < operand.shape[i + 1] if after else False
        if inside or beyond:
            raise BlockedError("the convolution's padding would reach cells that the pool covers or leaves out")
    steps = [s * d for s, d in zip(pool.stride, conv.dilation, strict=True)]
    size = [k_p + step * (k - 1) for k_p, step, k in zip(pool.kernel, steps, conv.kernel, strict=True)]
    weight = np.zeros((*conv.weight.shape[:2], *size))
    ones = (1,) * len(size)
    for tap in np.ndindex(*conv.kernel):
        area = tuple(slice(i * step, i * step + k) for i, step, k in zip(tap, steps, pool.kernel, strict=True))
        weight[_FEATURES + area] += cell * conv.weight[_FEATURES + tap].reshape(*conv.weight.shape[:2], *ones)
    padding = [(q[0] + s * p[0], q[1] + s * p[1]) for q, s, p in zip(pads, pool.stride, conv.padding, strict=True)]
    stride = [a * b for a, b in zip(pool.stride, conv.stride, strict=True)]
    return attrs.evolve(conv, weight=weight, stride=stride, padding=padding, dilation=ones)


def _padded(pad: Pad, conv: Conv) -> Conv:
    if pad.mode != "constant" or any(size < 0 for pair in pad.padding for size in pair):
        raise BlockedError("only zero padding folds into a convolution")
    if len(pad.padding) > len(conv.kernel):
        raise BlockedError("it pads the channels")
    missing = len(conv.kernel) - len(pad.padding)
    pairs = ((0, 0),) * missing + pad.padding
    padding = [(a + c, b + d) for (a, b), (c, d) in zip(pairs, conv.padding, strict=True)]
    return attrs.evolve(conv, padding=padding)


def _one_by_one_then_conv(first: Conv, conv: Conv) -> Conv:
    ones = (1,) * len(conv.kernel)
    if first.kernel != ones or first.stride != ones or any(any(pair) for pair in first.padding):
        raise BlockedError("only a 1x1 convolution of stride 1 folds into the convolution behind it")
    if first.bias is not None and any(any(pair) for pair in conv.padding):
        raise BlockedError("its bias does not reach the zeros that the convolution behind it pads with")
    groups = math.gcd(first.groups, conv.groups)
    inner = _dense(first, groups).reshape(groups, -1, first.in_features // groups)
    outer = _dense(conv, groups)
    weight = np.einsum("gom...,gmi->goi...", outer, inner)
    shift = np.einsum("gomk,gm->go", outer.reshape(*outer.shape[:3], -1), first.shift.reshape(groups, -1)).reshape(-1)
    bias = conv.bias if first.bias is None else conv.shift + shift
    return attrs.evolve(conv, weight=weight.reshape(conv.out_features, -1, *conv.kernel), bias=bias, groups=groups)


def _dense(conv: Conv, groups: int) -> Array:
    """The weight as [groups, O/groups, I/groups, *kernel] for fewer groups, the new entries zero."""
    weight = np.zeros((conv.out_features, conv.in_features, *conv.kernel))
    rows, columns = conv.out_features // conv.groups, conv.in_features // conv.groups
    for g in range(conv.groups):
        own = slice(g * rows, (g + 1) * rows)
        weight[own, g * columns : (g + 1) * columns] = conv.weight[own]
    rows, columns = conv.out_features // groups, conv.in_features // groups
    return np.stack([weight[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] for g in range(groups)])


def _into_producer(graph: Graph, name: str, blocked: dict[str, str]) -> int:
    """Compose a pool into the Conv that makes its operand."""
    pool = graph[name]
    (source,) = graph.operands(name)
    conv = graph[source]
    if not isinstance(pool, (SumPool, AvgPool)) or not isinstance(conv, Conv) or len(graph.users(source)) != 1:
        return 0
    try:
        folded = _conv_then_pool(conv, pool, graph.type(source), graph.type(name))
    except BlockedError as why:
        blocked[name] = str(why)
        return 0
    graph.set_op(name, attrs.evolve(folded, origin=merge(conv.origin, pool.origin)))
    graph.set_operands(name, graph.operands(source)[0])
    graph.remove(source)
    return 1


def _conv_then_pool(conv: Conv, pool: SumPool | AvgPool, operand: Type, result: Type) -> Conv:
    pads, cell = _window(pool, operand, result)
    if any(any(pair) for pair in pads):
        raise BlockedError("a padded pool behind a convolution is no convolution")
    spans = [d * (k - 1) + 1 for d, k in zip(conv.dilation, conv.kernel, strict=True)]
    size = [span + s * (k - 1) for span, s, k in zip(spans, conv.stride, pool.kernel, strict=True)]
    weight = np.zeros((*conv.weight.shape[:2], *size))
    for shift in np.ndindex(*pool.kernel):
        area = tuple(
            slice(i * s, i * s + span, d)
            for i, s, span, d in zip(shift, conv.stride, spans, conv.dilation, strict=True)
        )
        weight[_FEATURES + area] += cell * conv.weight
    return attrs.evolve(
        conv,
        weight=weight,
        bias=None if conv.bias is None else conv.shift * cell * math.prod(pool.kernel),
        stride=[a * b for a, b in zip(conv.stride, pool.stride, strict=True)],
        dilation=(1,) * len(size),
        out_scale=conv.out_scale / pool.gain,
    )
