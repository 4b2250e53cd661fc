"""What an op of somebody else's says of itself, tried on random operands: its shape, and that it is linear."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from spikec.ir.op import Op, Role, StatefulOp
from spikec.ir.ops import Weighted
from spikec.ir.types import Type

#: float64 results of a linear op may differ by this share of the largest of them
_ROUNDING = 1e-9
_tried: WeakKeyDictionary[Op, set[tuple[tuple[int, ...], ...]]] = WeakKeyDictionary()


def broken_claim(op: Op, operands: Sequence[Type], result: Type) -> tuple[str, str] | None:
    """(what is wrong, what to do), where an op's ``eval`` or ``step`` contradicts its ``infer`` or its role.

    spikec's own ops have tests for that; each other op is tried once for each shape of its operands.
    """
    shapes = tuple(t.shape for t in operands)
    if type(op).__module__.startswith("spikec.") or op.role is Role.IO or shapes in _tried.setdefault(op, set()):
        return None
    kind = type(op).__name__
    generator = torch.Generator().manual_seed(0)
    x, y = ([torch.randn((1, *s), dtype=torch.float64, generator=generator) for s in shapes] for _ in range(2))
    try:
        with torch.no_grad():
            found = tuple(_run(op, x).shape[1:])
            if found != result.shape:
                message = f"{op.kind} gives samples of shape {found}, and its type rule says {result.shape}"
                return message, f"mend {kind}.infer, or its eval"
            if op.role is Role.LINEAR and not isinstance(op, StatefulOp) and (why := _not_linear(op, x, y)):
                return f"{op.kind} is not linear, as {kind}.role says: {why}", (
                    f"give {kind} another role, or make it linear; what adds a bias derives from Weighted"
                )
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return f"{op.kind} fails for samples of shape {', '.join(map(str, shapes))}: {reason}", f"mend {kind}.eval"
    _tried[op].add(shapes)
    return None


def _run(op: Op, xs: Sequence[Tensor]) -> Tensor:
    return op.step(op.initial(*xs), *xs)[1] if isinstance(op, StatefulOp) else op.eval(*xs)


def _not_linear(op: Op, x: Sequence[Tensor], y: Sequence[Tensor]) -> str:
    """Why it is not, or nothing. The bias of a :class:`Weighted` is allowed."""
    offset = op.eval(*map(torch.zeros_like, x))
    if offset.any() and not isinstance(op, Weighted):
        return "eval of zeros is not zero"
    parts = op.eval(*x) - 2 * (op.eval(*y) - offset)
    whole = op.eval(*(a - 2 * b for a, b in zip(x, y, strict=True)))
    same = (whole - parts).abs().max() <= _ROUNDING * parts.abs().max() if parts.numel() else True
    return "" if same else "eval(x - 2 y) is not eval(x) - 2 eval(y)"
