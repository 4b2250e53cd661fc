"""How reading a model ends: with everything that was refused, or with a graph of what its outputs need."""

from collections.abc import Iterable, Sequence

import attrs

from spikec.ir.errors import (
    CompileError,
    Hint,
    InvalidModelError,
    Option,
    Problem,
    TypeMismatchError,
    UnsupportedOpError,
)
from spikec.ir.graph import Graph
from spikec.ir.op import Role


def failure(errors: Sequence[CompileError], graph: Graph, inputs: Iterable[str]) -> CompileError:
    """All errors as one, an UnsupportedOpError if one of them is; where shapes do not fit it says those of the inputs.

    Args:
        errors: at least one.
        graph: what was read.
        inputs: names of the model's inputs in it.
    """
    shapes = ", ".join(f"{name}: {['B', *graph.type(name).shape]}".replace("'", "") for name in inputs)
    hint = Hint(f"the inputs were {shapes}; give ", Option("example_input"), " as the model takes it, batch first")

    def hinted(problem: Problem, error: CompileError) -> Problem:
        needs = not problem.hint and isinstance(error, TypeMismatchError)
        return attrs.evolve(problem, hint=hint) if needs else problem

    first = next((error for error in errors if isinstance(error, UnsupportedOpError)), errors[0])
    result = type(first)([hinted(problem, error) for error in errors for problem in error.problems])
    result.graph, result.__cause__ = graph, first.__cause__
    return result


def without_unused(graph: Graph, what: str, location: str = "") -> Graph:
    """The graph, from which every op is removed that no output needs.

    Args:
        graph: with its outputs.
        what: what it was read from, for messages.
        location: of the model.

    Raises:
        InvalidModelError: nothing is left.
    """
    for name in reversed(list(graph)):
        if graph[name].role is not Role.IO and not graph.users(name):
            graph.remove(name, "its result is not used")
    if all(graph[name].role is Role.IO for name in graph):
        raise InvalidModelError(f"the {what} has no operation: its output is its input", location=location)
    return graph
