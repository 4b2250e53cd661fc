"""Signals whose batch is not their first axis, as where a sequence stands before the samples, or is joined to them.

A graph knows samples only, so such a tensor is one of a batch of one sample, all of its axes being axes of a sample:
what is done along the others can be read of it, as of any signal, until the batch stands first again.
"""

import functools
import inspect
import math
import operator
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

import attrs
import torch
from torch import Tensor
from torch.fx.node import map_aggregate
from torch.nn import functional as F

from spikec.extend.call import Call
from spikec.extend.composites import permuted, reshaped
from spikec.frontends.torch.batch import BATCH, BatchSize
from spikec.frontends.torch.call import Moved, Signal, converter, leaves, methods
from spikec.frontends.torch.regrouping import regrouped_sizes
from spikec.ir.errors import CompileError, UnsupportedOpError

#: the batch's size where shapes are worked out: it divides no other, so that the axis that has it is the batch's
_SAMPLES = 1_000_003

#: what is read along other axes than the batch: arguments that name axes, and functions as torch has them
_ALONG: tuple[tuple[str, tuple[Callable[..., Any], ...]], ...] = (
    ("", (torch.add, torch.sub, torch.mul, torch.div, torch.neg, torch.clone, torch.matmul, torch.bmm)),
    ("", (F.linear, F.dropout, F.relu, F.gelu, F.silu, F.hardtanh, F.relu6, F.leaky_relu, F.elu)),
    ("", (torch.sigmoid, torch.tanh, F.hardswish, F.hardsigmoid, F.mish, F.softplus, torch.clamp, torch.exp)),
    ("", (torch.maximum, torch.minimum, torch.sqrt, torch.square, torch.pow, torch.rsqrt, torch.clamp_min)),
    ("", (torch.abs, torch.reciprocal, torch.sin, torch.cos, torch.log, torch.log1p, torch.expm1, torch.erf)),
    ("", (torch.atan, F.selu, F.celu, F.softsign, F.logsigmoid, F.tanhshrink, torch.addcmul)),
    ("", (torch.gt, torch.ge, torch.lt, torch.le, torch.logical_not)),
    ("dim", (torch.mean, torch.sum, torch.amax, torch.cat, torch.select, torch.unbind)),
    ("dim", (torch.chunk, torch.split, torch.unsqueeze, torch.squeeze, torch.narrow)),
    ("dim", (torch.linalg.vector_norm, torch.amin, torch.logsumexp, torch.cumsum, F.glu)),
    ("dims", (torch.flip, torch.roll)),
)
#: what changes the order of axes
_ORDERS = (torch.permute, torch.transpose, torch.movedim, torch.adjoint, torch.t)


@functools.cache
def _rules() -> Mapping[Any, tuple[Callable[..., Any], tuple[str, ...]]]:
    """For each converter the function that says what shape its result has, and the arguments that name axes."""
    table = {converter.get(function): (function, tuple(names.split())) for names, some in _ALONG for function in some}
    for each in (torch.softmax, torch.log_softmax):
        table[converter.get(each)] = (lambda x, *rest: x, ("dim",))
    table[converter.get(torch.where)] = (lambda condition, *rest: torch.where(condition != 0, *rest), ())
    table[converter.get(torch.masked_fill)] = (lambda x, mask, *rest: x.masked_fill(mask != 0, *rest), ())
    table[converter.get(F.layer_norm)] = (lambda x, shape, *rest: F.layer_norm(x, shape), ())
    table[converter.get(F.normalize)] = (lambda x, *rest: x, ("dim",))
    table[converter.get(F.scaled_dot_product_attention)] = (_attended, ())
    table[converter.get(F.rms_norm)] = (lambda x, shape, *rest: F.rms_norm(x, shape), ())
    table[converter.get(torch.addmm)] = (lambda bias, x, weight, *rest: torch.mm(x, weight), ())
    table[converter.get(*methods("expand_as"))] = (Tensor.expand_as, ())
    return table


def moved(call: Call, input: Signal, error: CompileError) -> Moved:
    """A signal as a tensor of a batch of one, with all its axes.

    Args:
        call: the call that moves the batch.
        input: the signal, whose batch stands first.
        error: what is said where nothing reads the result.
    """
    if isinstance(input, Moved):
        return input
    whole = reshaped(call, input, (1, *call.shape(input)), part="whole")
    return Moved(whole.name, 0, 1, error)


def refuse(call: Call, tensor: Moved) -> NoReturn:
    """Refuse the call that moved the batch, because of one behind it that is not read of such a tensor.

    Raises:
        UnsupportedOpError: always.
    """
    (problem,) = tensor.error.problems
    if call.source in problem.origin:
        raise tensor.error
    message = f"{problem.message}, and {call.source.kind}, at {call.source}, cannot take such a tensor"
    raise UnsupportedOpError(attrs.evolve(problem, message=message, origin=(*problem.origin, call.source)))


def first_in(args: Any) -> Moved | None:
    """The first of the arguments of a call whose batch is not its first axis."""
    for each in args:
        if isinstance(each, Moved):
            return each
        if isinstance(each, (tuple, list)) and (inside := first_in(each)) is not None:
            return inside
    return None


def settled(call: Call, tensor: Moved) -> Signal:
    """A whole tensor, as a signal of samples where its batch is the first axis alone."""
    shape = call.graph.type(tensor.name).shape
    is_first = tensor.axis == 0 and shape[0] == 1
    return reshaped(call, Signal(tensor.name), shape[1:]) if is_first else tensor


def regrouped(call: Call, input: Moved, shape: Sequence[Any]) -> Signal:
    """A whole tensor in another shape.

    Raises:
        CompileError: where the batch is in it does not follow from the sizes.
    """
    old = call.graph.type(input.name).shape
    front = math.prod(old[: input.axis]) * input.before
    answer = regrouped_sizes(old, front, shape)
    if answer is None and input.axis and shape[0] == BATCH:  # a sequence as long as the batch that was exported
        answer = regrouped_sizes(old, front, (old[0], *shape[1:]))
    if answer is None:
        refuse(call, input)
    sizes, axis, before = answer
    whole = reshaped(call, Signal(input.name), sizes, part="whole")
    return settled(call, Moved(whole.name, axis, before, input.error))


# -------------------------------------------------------------------- calls


def read(call: Call, convert: Callable[..., Any], arguments: Mapping[str, Any], first: Moved) -> Any:
    """What a call gives that takes a moved signal.

    Args:
        call: the call.
        convert: what reads it of other signals.
        arguments: of the call, by the names that the converter has for them.
        first: the moved signal, or the first of several.

    Raises:
        CompileError: it is not read of such a signal, or works along the batch's axis.
    """
    special = _special().get(convert)
    if special is not None:
        return special(call, **arguments)
    function, names = _rules().get(convert, (None, ()))
    if function is None:
        refuse(call, first)
    rank = max(len(call.graph.type(each.name).shape) + (not isinstance(each, Moved)) for each in _signals(arguments))
    tensors = map_aggregate(dict(arguments), lambda x: with_rank(call, x, rank, first) if isinstance(x, Signal) else x)
    known = inspect.signature(convert).parameters
    stated = {name: arguments.get(name, known[name].default) for name in names}
    axes = {name: value for name, value in stated.items() if value is not None}
    for axis in (each for value in axes.values() for each in (value if isinstance(value, (tuple, list)) else [value])):
        if axis % rank == first.axis and function is not torch.unsqueeze:
            refuse(call, first)
    named = {name for name in tensors if known[name].kind is inspect.Parameter.KEYWORD_ONLY}
    places = _places(function, tensors, call, first, named)
    if any(isinstance(each, Moved) and each.before != first.before for each in _signals(arguments)):
        refuse(call, first)
    given = {**tensors, **{name: lifted(value) for name, value in axes.items()}}
    plain = map_aggregate(given, lambda x: Signal(x.name) if isinstance(x, Signal) else x)
    results = convert(call, **plain)
    pairs = zip(leaves(results), places, strict=True)
    settled_results = [settled(call, attrs.evolve(first, name=each.name, axis=axis)) for each, axis in pairs]
    return type(results)(settled_results) if isinstance(results, (tuple, list)) else settled_results[0]


def _signals(arguments: Any) -> list[Signal]:
    return [leaf for leaf in leaves(dict(arguments)) if isinstance(leaf, Signal)]


def with_rank(call: Call, x: Signal, rank: int, first: Moved) -> Moved:
    """A signal as a whole tensor with that many axes, new ones of length 1 in front."""
    x = moved(call, x, first.error)
    shape = call.graph.type(x.name).shape
    missing = rank - len(shape)
    if not missing:
        return x
    longer = reshaped(call, Signal(x.name), (*[1] * missing, *shape), part="axes")
    return Moved(longer.name, x.axis + missing, x.before, x.error)


def lifted(axes: Any) -> Any:
    """Axes of a tensor as those of one more, which is in front."""
    if isinstance(axes, (tuple, list)):
        return [lifted(axis) for axis in axes]
    return axes + 1 if axes >= 0 else axes


def placed(call: Call, x: Moved, batch: int) -> list[int]:
    """The shape of a whole tensor for a batch of that size, which may be a formula."""
    shape = list(call.graph.type(x.name).shape)
    shape[x.axis] *= batch
    return shape


def _places(
    function: Callable[..., Any],
    tensors: Mapping[str, Any],
    call: Call,
    first: Moved,
    named: Collection[str] = (),
) -> list[int]:
    """Which axis of each result the batch is, by what torch makes of tensors without numbers.

    Args:
        function: the one that is called.
        tensors: its arguments; those that are ``named`` it takes by name alone.
        call: the call.
        first: what is said where that is not known.
        named: names of arguments.
    """

    def stand_in(x: Any) -> Any:
        if isinstance(x, Moved):
            return torch.empty(placed(call, x, _SAMPLES), device="meta")
        return x.to("meta") if isinstance(x, Tensor) else x

    try:
        given: Any = map_aggregate(dict(tensors), stand_in)
        in_order = (value for name, value in given.items() if name not in named)
        results = function(*in_order, **{name: given[name] for name in named})
    except (RuntimeError, IndexError, TypeError, ValueError):
        refuse(call, first)
    found = []
    for each in results if isinstance(results, (tuple, list)) else (results,):
        axes = [axis for axis, size in enumerate(each.shape) if size % _SAMPLES == 0]
        if len(axes) != 1:
            refuse(call, first)
        found += axes
    return found


def _attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *rest: Any) -> Tensor:
    """The result of an attention, without its numbers; it may not mix samples, nor be masked in another way in each.

    Raises:
        ValueError: it does.
    """
    scores = query @ key.mT
    along = (*scores.shape[-2:], *value.shape[-2:])
    if any(size % _SAMPLES == 0 for size in along) or (mask is not None and (scores + mask).shape != scores.shape):
        raise ValueError
    return scores @ value


# ----------------------------------------------------------- shapes, and indices


@functools.cache
def _special() -> Mapping[Any, Callable[..., Any]]:
    """What reads a call whose arguments hold sizes or cells, by the converter that reads it of other signals."""
    table: dict[Any, Callable[..., Any]] = {
        converter.get(torch.reshape): regrouped,
        **{converter.get(each): functools.partial(_ordered, each) for each in _ORDERS},
        converter.get(*methods("reshape_as")): _as_other,
        converter.get(torch.broadcast_to): _expanded,
        converter.get(F.pad): _padded,
        converter.get(torch.flatten): _flattened,
        converter.get(torch.unflatten): _unflattened,
        converter.get(operator.getitem): _item,
        converter.get(torch.ops.aten.slice): _cut,
        converter.get(*methods("size")): _size,
        converter.get(*methods("dim")): _dim,
        converter.get(getattr): _attribute,
    }
    return {key: rule for key, rule in table.items() if key is not None}


def _ordered(function: Callable[..., Any], call: Call, input: Moved, **axes: Any) -> Signal:
    """The axes in the order that torch gives those of a tensor without numbers, each as long as its number."""
    rank = len(call.graph.type(input.name).shape)
    try:
        order = list(function(torch.empty(tuple(range(rank)), device="meta"), *axes.values()).shape)
    except (RuntimeError, IndexError, TypeError, ValueError):
        refuse(call, input)
    whole = permuted(call, Signal(input.name), order)
    return settled(call, attrs.evolve(input, name=whole.name, axis=order.index(input.axis)))


def _as_other(call: Call, input: Signal, other: Signal) -> Signal:
    shape = placed(call, other, BATCH) if isinstance(other, Moved) else [BATCH, *call.shape(other)]
    if isinstance(input, Moved):
        return regrouped(call, input, shape)
    reshape = converter.get(torch.reshape)
    assert reshape is not None
    result: Signal = reshape(call, input, shape)
    return result


def _expanded(call: Call, input: Moved, size: Sequence[Any]) -> Signal:
    x = with_rank(call, input, len(size), input)
    cells, wanted = call.graph.type(x.name).shape[x.axis], size[x.axis]
    exported = not isinstance(wanted, BatchSize) and cells > 1 and wanted % cells == 0  # for a batch of one size
    if wanted not in (-1, BATCH * cells) and not exported:
        refuse(call, input)
    expand = converter.get(torch.broadcast_to)
    assert expand is not None
    whole = expand(call, Signal(x.name), (-1, *(-1 if i == x.axis else each for i, each in enumerate(size))))
    return settled(call, attrs.evolve(x, name=whole.name))


def _padded(call: Call, input: Moved, pad: Sequence[int], *rest: Any, **options: Any) -> Signal:
    behind = len(call.graph.type(input.name).shape) - 1 - input.axis
    if any(pad[2 * behind : 2 * behind + 2]):
        refuse(call, input)
    convert = converter.get(F.pad)
    assert convert is not None
    whole = convert(call, Signal(input.name), pad, *rest, **options)
    return settled(call, attrs.evolve(input, name=whole.name))


def _flattened(call: Call, input: Moved, start_dim: int = 0, end_dim: int = -1) -> Signal:
    sizes = placed(call, input, BATCH)
    start, end = start_dim % len(sizes), end_dim % len(sizes)
    return regrouped(call, input, [*sizes[:start], math.prod(sizes[start : end + 1]), *sizes[end + 1 :]])


def _unflattened(call: Call, input: Moved, dim: int, sizes: Any) -> Signal:
    shape = placed(call, input, BATCH)
    axis = dim % len(shape)
    if axis == input.axis:
        return regrouped(call, input, [*shape[:axis], *sizes, *shape[axis + 1 :]])
    try:
        inner = torch.unflatten(torch.empty(shape[axis], device="meta"), 0, tuple(sizes)).shape
    except (RuntimeError, TypeError):
        refuse(call, input)
    return regrouped(call, input, [*shape[:axis], *inner, *shape[axis + 1 :]])


def _item(call: Call, input: Any, index: Any) -> Any:
    index = index if isinstance(index, tuple) else (index,)
    get = converter.get(operator.getitem)
    assert get is not None
    if isinstance(input, (tuple, list)):
        return get(call, input, index)
    rank = _dim(call, input)
    dots = next((i for i, each in enumerate(index) if each is ...), len(index))
    missing = rank - sum(each is not None and each is not ... for each in index)
    whole = (*index[:dots], *[slice(None)] * missing, *index[dots + 1 :])
    along = [each for each in whole if each is not None]
    if len(along) != rank or not isinstance(along[input.axis], slice) or along[input.axis] != slice(None):
        refuse(call, input)
    (axis,) = _places(lambda x, _: x[whole], {"input": input, "index": None}, call, input)
    part = get(call, Signal(input.name), (slice(None), *whole))
    return settled(call, attrs.evolve(input, name=part.name, axis=axis))


def _cut(call: Call, self: Moved, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
    """As ``x[start:end:step]`` along one axis; exported programs have one for each axis that is taken whole."""
    cells = slice(start or None, None if end == sys.maxsize else end, None if step == 1 else step)
    return _item(call, self, (slice(None),) * (dim % _dim(call, self)) + (cells,))


def _size(call: Call, input: Moved, dim: int | None = None) -> Any:
    shape = placed(call, input, BATCH)
    return torch.Size(shape) if dim is None else shape[dim]


def _dim(call: Call, input: Moved) -> int:
    return len(call.graph.type(input.name).shape)


def _attribute(call: Call, input: Moved, name: str) -> Any:
    if name == "shape":
        return _size(call, input)
    if name == "ndim":
        return _dim(call, input)
    if name in ("dtype", "device"):
        get = converter.get(getattr)
        assert get is not None
        return get(call, Signal(input.name), name)
    refuse(call, input)
