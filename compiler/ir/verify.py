"""What must hold of a graph before the first pass and after every one."""

from collections.abc import Collection

import numpy as np

from spikec.ir.claims import broken_claim
from spikec.ir.errors import CompileError, Problem, VerificationError
from spikec.ir.graph import Graph
from spikec.ir.op import Op, Role, StatefulOp
from spikec.ir.origin import Source
from spikec.ir.stages import Stage


def verify(graph: Graph, stage: Stage, sources: Collection[Source] = (), before: Graph | None = None) -> None:
    """Check structure, parameters, types, the stage's rules, and that no source node vanished.

    Args:
        graph: what to check; it is not changed.
        stage: which ops and encodings may exist now.
        sources: the source nodes of the model; each must be held by an op or dropped for a stated reason.
        before: a graph that was checked; the parameters of its ops are not looked at again.

    Raises:
        CompileError: with every problem of the first kind found; a subclass says which kind.
    """
    _raise(_structure(graph), VerificationError)
    _raise(_not_finite(graph, before), VerificationError)
    for name in graph:
        graph.type(name)
        op = graph[name]
        if isinstance(op, StatefulOp) and op.register:
            graph.apply_rule(name, op.infer, *(graph.type(x) for x in graph.operands(name)))
        if broken := broken_claim(op, [graph.type(x) for x in graph.operands(name)], graph.type(name)):
            raise VerificationError(graph.problem(name, *broken))
    _raise(stage.problems(graph), stage.error)
    held = graph.sources
    _raise(
        [
            Problem("a source node vanished", str(source), hint="carry its origin, or graph.drop it with a reason")
            for source in sources
            if source not in held
        ],
        VerificationError,
    )


def _structure(graph: Graph) -> list[Problem]:
    """What is wrong with the wiring; a cycle raises by itself."""
    problems: list[Problem] = []
    if not graph.outputs:
        return [Problem(f"graph {graph.name} has no output")]
    list(graph)  # raises for a cycle without a delay
    for name in graph:
        op = graph[name]
        operands = graph.operands(name)
        wanted = 1 if op.arity is None else op.arity
        if len(operands) < wanted or (op.arity is not None and len(operands) > wanted):
            problems.append(graph.problem(name, f"takes {wanted} operand(s), has {len(operands)}"))
        if op.role is not Role.IO and not graph.users(name):
            problems.append(graph.problem(name, "nobody uses the result", "remove the node"))
    return problems


def _not_finite(graph: Graph, before: Graph | None) -> list[Problem]:
    checked = {node.op for node in before.match(Op)} if before is not None else set()
    return [
        graph.problem(node.name, f"its {field} holds NaN or infinity")
        for node in graph.match(Op)
        if node.op not in checked
        for field, value in node.op.parameters().items()
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all()
    ]


def _raise(problems: list[Problem], error: type[CompileError]) -> None:
    if problems:
        raise error(problems)
