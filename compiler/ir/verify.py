"""What must hold of a graph before the first pass and after every one, and of what an op says of itself."""

from collections.abc import Collection, Sequence
from weakref import WeakKeyDictionary

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.ir.errors import CompileError, Problem, VerificationError
from spikec.ir.graph import Graph
from spikec.ir.op import Op, Role, StatefulOp
from spikec.ir.ops import Weighted
from spikec.ir.origin import Source
from spikec.ir.stages import Stage
from spikec.ir.types import Array, Type

#: float64 results of a linear op may differ by this share of the largest of them
_ROUNDING = 1e-9
_tried: WeakKeyDictionary[Op, set[tuple[tuple[int, ...], ...]]] = WeakKeyDictionary()


def verify(
    graph: Graph,
    stage: Stage,
    sources: Collection[Source] = (),
    before: Graph | None = None,
    known: Stage | None = None,
) -> None:
    """Check structure, parameters, types, the stage's rules, and that no source node vanished.

    Args:
        graph: what to check; it is not changed.
        stage: which ops and encodings may exist now.
        sources: the source nodes of the model; each must be held by an op or dropped for a stated reason.
        before: a graph that was checked; what it has in common with this one is not looked at again.
        known: the stage whose rules it was found to keep.

    Raises:
        CompileError: with every problem of the first kind found; a subclass says which kind.
    """
    is_new = before is None or not graph.same_as(before)
    if is_new:
        _raise(_structure(graph), VerificationError)
        _raise(_not_finite(graph, before), VerificationError)
        _check_types(graph)
    if is_new or stage != known:
        _raise(stage.problems(graph), stage.error)
    if is_new:
        held = graph.sources
        hint = "carry its origin, or graph.drop it with a reason"
        vanished = [Problem("a source node vanished", str(each), hint=hint) for each in sources if each not in held]
        _raise(vanished, VerificationError)


def _check_types(graph: Graph) -> None:
    """Infer all types, and hold every op to its own."""
    for name, op in graph.items():
        result = graph.type(name)
        if op.register:
            graph.apply_rule(name, op.infer, *(graph.type(x) for x in graph.operands(name)))
        if not _is_ours(op) and (broken := broken_claim(op, [graph.type(x) for x in graph.operands(name)], result)):
            raise VerificationError(graph.problem(name, *broken))


def _is_ours(op: Op) -> bool:
    return type(op).__module__.startswith("spikec.")


def _structure(graph: Graph) -> list[Problem]:
    """List what is wrong with the wiring; a cycle raises by itself."""
    problems: list[Problem] = []
    if not graph.outputs:
        return [Problem(f"graph {graph.name} has no output", hint="add one: graph.add(Output(), name)")]
    used = {x for name in graph for x in graph.operands(name)}  # raises for a cycle without a delay
    for name, op in graph.items():
        operands = graph.operands(name)
        wanted = 1 if op.arity is None else op.arity
        if len(operands) < wanted or (op.arity is not None and len(operands) > wanted):
            problems.append(graph.problem(name, f"takes {wanted} operand(s), has {len(operands)}"))
        if op.role is not Role.IO and name not in used:
            problems.append(graph.problem(name, "nobody uses the result", "remove the node"))
    return problems


def _not_finite(graph: Graph, before: Graph | None) -> list[Problem]:
    checked = {op for _, op in before.items()} if before is not None else set()
    hint = "the training diverged: retrain it" if before is None else "mend the pass that makes it"
    return [
        graph.problem(name, f"its {field} holds NaN or infinity", hint)
        for name, op in graph.items()
        if op not in checked
        for field, value in op.parameters().items()
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not _allowed(op, field, value)
    ]


def _allowed(op: Op, field: str, value: Array) -> bool:
    if np.isfinite(value).all():
        return True
    return bool(attrs.fields_dict(type(op))[field].metadata.get("infinite")) and not np.isnan(value).any()


def _raise(problems: list[Problem], error: type[CompileError]) -> None:
    if problems:
        raise error(problems)


def broken_claim(op: Op, operands: Sequence[Type], result: Type) -> tuple[str, str] | None:
    """Return (what is wrong, what to do) where an op's ``eval`` or ``step`` contradicts its ``infer`` or its role.

    spikec's own ops have tests for that; each other op is tried once for each shape of its operands.
    """
    shapes = tuple(t.shape for t in operands)
    if _is_ours(op) or op.role is Role.IO or shapes in _tried.setdefault(op, set()):
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
    """Say why it is not, or nothing. The bias of a :class:`Weighted` is allowed."""
    offset = op.eval(*map(torch.zeros_like, x))
    if offset.any() and not isinstance(op, Weighted):
        return "eval of zeros is not zero"
    parts = op.eval(*x) - 2 * (op.eval(*y) - offset)
    whole = op.eval(*(a - 2 * b for a, b in zip(x, y, strict=True)))
    same = (whole - parts).abs().max() <= _ROUNDING * parts.abs().max() if parts.numel() else True
    return "" if same else "eval(x - 2 y) is not eval(x) - 2 eval(y)"
