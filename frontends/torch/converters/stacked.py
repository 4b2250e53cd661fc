"""``torch.stack(xs)``, whose new axis lies in front of the batch: a list of signals, which functions take apart."""

import functools
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from spikec.frontends.torch.call import Call, Signal, Stacked, converter, on_stacked
from spikec.frontends.torch.converters.activations import NO_INDICES, Extreme
from spikec.frontends.torch.converters.arith import affine


def _reads(function: Any) -> Callable[[Any], Any]:
    """Register for what reads that function of a signal."""
    return functools.partial(on_stacked.setdefault, converter.get(function))


def _over_first(
    call: Call, input: Stacked, dim: Any = None, keepdim: bool = False, *, pairwise: Any, mean: bool = False
) -> Signal:
    """A function of several over the new axis: of the first two, of that and the third, and so on."""
    dims = dim if isinstance(dim, (tuple, list)) else (dim,)
    rank = len(call.shape(input[0])) + 2
    if keepdim or [each if each is None else each % rank for each in dims] != [0]:
        call.refuse("of what is stacked in front of the batch only that axis can go", "torch.stack(xs, 1), dim=1")
    combine = converter.get(pairwise)
    assert combine is not None
    result: Signal = functools.reduce(partial(combine, call), input)
    return affine(call, result, np.asarray(1 / len(input)), np.zeros(())) if mean else result


_reads(torch.sum)(partial(_over_first, pairwise=torch.add))
_reads(torch.mean)(partial(_over_first, pairwise=torch.add, mean=True))
_reads(torch.amax)(partial(_over_first, pairwise=torch.maximum))
_reads(torch.amin)(partial(_over_first, pairwise=torch.minimum))


def _extreme(call: Call, input: Stacked, dim: Any = None, keepdim: bool = False, *, pairwise: Any) -> Extreme:
    return Extreme(_over_first(call, input, dim, keepdim, pairwise=pairwise), NO_INDICES)


_reads(torch.max)(partial(_extreme, pairwise=torch.maximum))
_reads(torch.min)(partial(_extreme, pairwise=torch.minimum))


def _item(call: Call, input: Stacked, index: Any) -> Any:
    """One of the signals, or some; what else the index says is for the signal."""
    first, *rest = index if isinstance(index, tuple) else (index,)
    if isinstance(first, slice) and not rest:
        return Stacked(*tuple(input)[first])
    if not isinstance(first, int) or not -len(input) <= first < len(input):
        call.refuse("an index of what is stacked in front of the batch is a number", "torch.stack(xs, 1), x[:, ...]")
    part, along = tuple(input)[first], converter.get(operator.getitem)
    assert along is not None
    return along(call, part, tuple(rest)) if rest else part


_reads(operator.getitem)(_item)


def _unbound(call: Call, input: Stacked, dim: int = 0) -> Any:
    return tuple(_selected(call, input, dim, i) for i in range(len(input)))


def _selected(call: Call, input: Stacked, dim: int, index: int) -> Any:
    if dim != 0:
        call.refuse("of what is stacked in front of the batch only that axis is known", "torch.stack(xs, 1)")
    return _item(call, input, index)


_reads(torch.unbind)(_unbound)
_reads(torch.select)(_selected)
