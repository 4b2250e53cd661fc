"""From what the user has to a graph: whose frontend reads it, and the graph before any pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from spikec import loader
from spikec.data import examples
from spikec.errors import CompileError, InvalidModelError, MissingDependencyError, Problem
from spikec.frontend import Frontend
from spikec.graph import Graph
from spikec.ledger import account

#: what ``example_input`` and calibration batches may be
Inputs = Tensor | Sequence[Tensor]


def load(model: Any, example_input: Inputs | None = None) -> Graph:
    """The model as a graph, before any pass.

    Args:
        model: see :func:`compile`.
        example_input: tensor [B, ...] or a tuple of them; see :func:`compile`.
    """
    frontend, model = find_frontend(model)
    try:
        return frontend.load(model, frontend.batches(model, examples(example_input)))
    except CompileError as error:
        account(error, None, None)
        raise


class _GraphFrontend(Frontend):
    """A Graph is already one."""

    name = "graph"
    takes = "a spikec.Graph"

    def accepts(self, model: Any) -> bool:
        return isinstance(model, Graph)

    def input_names(self, model: Graph) -> list[str]:
        return list(model.inputs)

    def load(self, model: Graph, examples: Sequence[Tensor] | None) -> Graph:
        return model.copy()


def find_frontend(model: Any) -> tuple[Frontend, Any]:
    """The frontend that reads this kind of model, and the model (a path becomes a Path).

    Raises:
        InvalidModelError: nobody does.
        MissingDependencyError: nobody does, and a frontend could not be loaded.
    """
    if isinstance(model, str):
        model = Path(model)
    if isinstance(model, Path) and not model.exists():
        raise InvalidModelError(f"there is no file {model}")
    known: list[Frontend] = [_GraphFrontend()]
    missing: list[MissingDependencyError] = []
    for _, found in loader.frontends():
        if isinstance(found, MissingDependencyError):
            missing.append(found)
        else:
            known.append(found)
    for frontend in known:
        if frontend.accepts(model):
            return frontend, model
    shown = f"the file {model}" if isinstance(model, Path) else f"a {type(model).__module__}.{type(model).__name__}"
    problem = Problem(f"{shown} is not a model that spikec reads", hint="give " + ", ".join(f.takes for f in known))
    if missing:
        raise MissingDependencyError([problem, *(p for error in missing for p in error.problems)])
    raise InvalidModelError(problem)
