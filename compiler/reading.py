"""From what the user has to a graph: whose frontend reads it, and the graph before any pass."""

import functools
import itertools
import os
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.extend import loader
from spikec.extend.frontend import Frontend
from spikec.interpreter.inputs import examples
from spikec.ir.errors import CompileError, InvalidModelError, MissingDependencyError, Problem
from spikec.ir.graph import Graph
from spikec.ir.ledger import account
from spikec.ir.op import Op
from spikec.ir.types import sealed

#: what ``example_input`` and calibration batches may be
Inputs = Tensor | Sequence[Tensor]


P = ParamSpec("P")
T = TypeVar("T")


def keeping_grad_mode(function: Callable[P, T]) -> Callable[P, T]:
    """Leave torch's grad mode as it is found, also where an interrupt ends one of torch's own blocks half-way."""

    @functools.wraps(function)
    def kept(*args: P.args, **kwargs: P.kwargs) -> T:
        before = torch.is_grad_enabled()
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt as interrupt:
            # what torch.inference_mode holds, and what a generator has open, would set the mode when it is freed
            traceback.clear_frames(interrupt.__traceback__)
            raise
        finally:
            torch.set_grad_enabled(before)

    return kept


@keeping_grad_mode
def load(model: Any, example_input: Inputs | None = None, **options: Any) -> Graph:
    """The model as a graph, before any pass; model and example are those that :func:`compile` takes.

    Args:
        model: see :func:`compile`.
        example_input: see :func:`compile`.
        options: of the frontend. For NIR: ``dt``, seconds a step; ``reset``, ``"subtract"`` or ``"value"`` (to
            v_reset); ``fire``, ``">"`` or ``">="``; ``v_init``, the potential before step 0, of all neurons or by
            name; ``reader``, the tool whose way of running the file is meant: ``"spikingjelly"``, ``"snntorch"``,
            ``"norse"``, ``"sinabs"``, ``"rockpool"``, ``"snn-mlir"``, or ``"nir"`` for the format's equations;
            ``max_bytes``, what the arrays of a file may take in memory (if not stated, half a gigabyte more than the
            file takes). Each overrides what the reader means, and both what the file's metadata say.

    Raises:
        UnsupportedOpError: with everything that cannot be read, or that the reader refuses.
        InvalidModelError: the model is none, or an option makes no sense.

    Examples:
        >>> print(spikec.load(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.rand(1, 3)))
        graph Sequential {
          %input = input(shape=3) : real<3>
          %linear_0 = linear(%input, weight=2x3#..., bias=2#...) : real<2>    ; 0
          %relu_1 = relu(%linear_0) : real<2>    ; 1
          %output = output(%relu_1) : real<2>
        }
        <BLANKLINE>
    """
    frontend, model = find_frontend(model, options)
    try:
        graph = frontend.load(model, frontend.batches(model, examples(example_input)))
    except CompileError as error:
        account(error, None, None)
        raise
    detach_from_model(graph)
    return graph


def detach_from_model(*graphs: Graph) -> None:
    """Copy the parameters that are still the model's memory, so that what becomes of the model does not reach a graph.

    An op that graphs share they share afterwards too.
    """
    detached: dict[Op, Op] = {}
    for graph in graphs:
        for node in graph.match(Op):
            if node.op not in detached:
                detached[node.op] = _detached(node.op)
            if detached[node.op] is not node.op:
                graph.set_op(node.name, detached[node.op])


def _detached(op: Op) -> Op:
    borrowed = {field: value for field, value in op.parameters().items() if _is_borrowed(value)}
    copies: dict[str, Any] = {field: sealed(value.copy()) for field, value in borrowed.items()}
    return attrs.evolve(op, **copies) if copies else op


def _is_borrowed(value: Any) -> bool:
    while isinstance(value, np.ndarray):
        value = value.base
        if isinstance(value, Tensor):
            return True
    return False


class _GraphFrontend(Frontend):
    """Takes a graph as it is, and leaves it alone: passes change a copy."""

    takes = "a spikec.Graph"

    def accepts(self, model: Any) -> bool:
        return isinstance(model, Graph)

    def input_names(self, model: Graph) -> list[str]:
        return list(model.inputs)

    def load(self, model: Graph, examples: Sequence[Tensor] | None) -> Graph:
        return model.copy()


class _NetxFrontend(Frontend):
    """Takes an integer network of ``netx``, which knows its graph; the backend is imported when a file is read."""

    takes = "a network of netx or a path ending in .net"

    def accepts(self, model: Any) -> bool:
        return is_netx(model) or (isinstance(model, Path) and model.suffix == ".net")

    def opened(self, model: Any, max_bytes: int | None = None) -> Any:
        if isinstance(model, Path):
            return loader.module("backends", "netx").NetxNetwork.load(model, max_bytes)
        return model

    def input_names(self, model: Any) -> list[str]:
        return list(self.load(model, None).inputs)

    def load(self, model: Any, examples: Sequence[Tensor] | None) -> Graph:
        graph: Graph = self.opened(model).to_graph()
        return graph


def is_netx(model: Any) -> bool:
    """Whether a model is an integer network of the target ``netx``, which runs itself."""
    kind = type(model)
    return f"{kind.__module__}.{kind.__qualname__}" == "spikec.backends.netx.model.NetxNetwork"


def reading_options() -> set[str]:
    """The names of the options that some frontend has on how it reads a model."""
    found = (each for each in loader.frontends() if isinstance(each, Frontend))
    return {name for each in found for name in loader.options_of(each.opened)}


def _no_option(name: str, frontend: Frontend) -> CompileError:
    """The error for an option on how a model is read that its frontend has not, with those that it is for."""
    whose = [each for each in loader.frontends() if isinstance(each, Frontend)]
    takes = [each.takes for each in whose if name in loader.options_of(each.opened)]
    if not takes:
        return loader.unknown(f"option for {frontend.takes}", name, loader.options_of(frontend.opened))
    return CompileError(f"{name} is for {' and '.join(takes)}, and this is {frontend.takes}", hint="leave it out")


def find_frontend(
    model: Any, options: Mapping[str, Any] = MappingProxyType({}), of_target: Collection[str] = ()
) -> tuple[Frontend, Any]:
    """The frontend that reads this kind of model, and the model as it opens it.

    Args:
        model: a path becomes what the frontend makes of it.
        options: of the frontend's ``opened``.
        of_target: those of them that the target has too, so that the frontend need not.

    Raises:
        CompileError: the frontend has no such option.
        InvalidModelError: nobody does.
        MissingDependencyError: nobody does, and a frontend could not be loaded.
    """
    if isinstance(model, str):
        model = Path(model)
    if isinstance(model, Path) and not os.path.isfile(model):  # which no path is too odd for
        what = f"the model {model} is no ordinary file" if os.path.exists(model) else f"there is no file {model}"
        raise InvalidModelError(what, hint="give the path of a file, or the model itself")
    known: list[Frontend] = []
    missing: list[CompileError] = []
    for found in itertools.chain([_GraphFrontend(), _NetxFrontend()], loader.frontends()):
        if isinstance(found, CompileError):
            missing.append(found)
        elif not found.accepts(model):
            known.append(found)
        else:
            its_own = loader.options_of(found.opened)
            for name in options:
                if name not in its_own and name not in of_target:
                    raise _no_option(name, found)
            return found, found.opened(model, **{name: options[name] for name in options if name in its_own})
    described = f"the file {model}" if isinstance(model, Path) else f"a {type(model).__module__}.{type(model).__name__}"
    advice = [text for text in (frontend.advice(model) for frontend in known) if text]
    hint = "; ".join(advice) or "give " + ", ".join(frontend.takes for frontend in known)
    problem = Problem(f"{described} is not a model that spikec reads", hint=hint)
    if missing:
        raise MissingDependencyError([problem, *(p for error in missing for p in error.problems)])
    raise InvalidModelError(problem)
