"""What a frontend is, a model in and a Graph out; how reading ends, with what was refused or with what is needed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import attrs
from torch import Tensor

from spikec.interpreter.imported import Reference
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


class Frontend:
    """Reads one kind of model. A file in ``frontends/``, or in a folder there, holds an instance as ``frontend``.

    Attributes:
        takes: what it reads, for error messages.
    """

    takes: ClassVar[str]

    def accepts(self, model: Any) -> bool:
        """True for a model of this kind."""
        raise NotImplementedError

    def opened(self, model: Any) -> Any:
        """The model that all methods below take: a frontend that reads files makes of a path what the file holds.

        Options on how a model is read are keyword arguments of a frontend's own method.

        Args:
            model: one that ``accepts``, maybe opened already.
        """
        return model

    def advice(self, model: Any) -> str:
        """What to do with something that no frontend accepts, to have a model of this kind; empty where unknown."""
        return ""

    def input_names(self, model: Any) -> list[str]:
        """Names of the model's inputs, in order: the keys that calibration dicts have."""
        raise NotImplementedError

    def batches(self, model: Any, examples: Sequence[Tensor] | None) -> Sequence[Tensor] | None:
        """Examples [B, ...] from what the model takes: one that runs all time-steps in a call takes [T, B, ...]."""
        return examples

    def load(self, model: Any, examples: Sequence[Tensor] | None) -> Graph:
        """The model as a graph.

        Args:
            model: one that ``accepts``.
            examples: an input [B, ...] each, or None where the format gives shapes.

        Raises:
            UnsupportedOpError: with every node that cannot be read.
            InvalidModelError: the model itself is wrong, or its input's shape cannot be known.
        """
        raise NotImplementedError

    def differences(self, model: Any) -> list[Problem]:
        """What the tool that the model was opened for does otherwise than the model means, one after the other.

        Args:
            model: opened with an option ``reader``; a model without one differs in nothing.
        """
        return []

    def reference(self, model: Any) -> Reference | None:
        """The model as it runs by itself, which the imported graph is compared with; None if it cannot."""
        return None

    def layer_results(self, model: Any, graph: Graph, xs: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """What the model's own layers give, by which the first op of a wrong import is found.

        Args:
            model: one that ``accepts``.
            graph: as :meth:`load` gave it.
            xs: as ``reference`` takes them.

        Returns:
            Results [B, ...] (of a spiking model [T, B, ...]) by ``Source.path``. Layers may be missing: the fewer are
            known, the more ops are named as possibly wrong.
        """
        return {}


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
    for source in [each for _, op in graph.items() for each in op.origin]:
        graph.imported.dropped.pop(source, None)  # what is left of a call does something
    if all(graph[name].role is Role.IO for name in graph):
        hint = "there is nothing to compile; a layer with weights, or an activation, makes a network of it"
        raise InvalidModelError(f"the {what} has no operation: its output is its input", location=location, hint=hint)
    return graph
