"""Goes through a traced graph once, node by node, and converts what depends on the model's input."""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from spikec.errors import CompileError, InvalidModelError, Problem, TypeMismatchError, UnsupportedOpError
from spikec.frontends.torch_fx_call import Call, Signal, layer_rule, leaves, qualified, rules
from spikec.frontends.torch_fx_trace import Traced
from spikec.graph import Graph
from spikec.ops import Flatten, Identity, Output, Reshape
from spikec.origin import Source


class _Refused:
    """The value of a node that was refused: what depends on it is not converted, but still looked at."""


REFUSED = _Refused()
#: calls whose result is new memory although no number changes
_COPIES = ("clone", torch.clone, operator.add, torch.add, "add")


class Walk:
    """Partial evaluation of an fx graph: calls on signals become ops, all others are computed now.

    In-place calls are followed as torch does: everything that shares the changed tensor's memory has the
    new value from then on.
    """

    def __init__(self, traced: Traced, graph: Graph) -> None:
        self.traced = traced
        self.graph = graph
        self.values: dict[fx.Node, Any] = {}
        self.errors: list[CompileError] = []
        self._memory: dict[fx.Node, fx.Node] = {}
        self._nodes = list(traced.graph.nodes)

    def run(self, inputs: Mapping[str, Signal]) -> None:
        """Fill the graph.

        Args:
            inputs: the graph's inputs by the names of forward's arguments.

        Raises:
            UnsupportedOpError: with every refused call; other errors are raised if there is none of these.
        """
        for node in self._nodes:
            if node.op == "placeholder":
                self.values[node] = inputs[str(node.target)] if not node.args else node.args[0]
                self._memory[node] = node
            elif node.op == "output":
                self._finish(node)
            else:
                source = self.traced.source(node)
                try:
                    self.values[node] = self._value(node, source)
                except CompileError as error:
                    self.errors.append(error)
                    self.values[node] = REFUSED

    def _value(self, node: fx.Node, source: Source) -> Any:
        if node.op == "get_attr":
            self.graph.drop((source,), "a constant")
            value = self.traced.attribute(str(node.target))
            return value.detach().clone() if isinstance(value, Tensor) else value
        args, kwargs = self._resolve((node.args, node.kwargs))
        module = self.traced.module(node)
        inside = list(leaves((args, kwargs)))
        if _is_container(node.target) or not any(isinstance(leaf, (Signal, _Refused)) for leaf in inside):
            return self._compute(node, source, args, kwargs)
        rule = layer_rule(module) if module is not None else _function_rule(node)
        at = Call(self.graph, source, _name(node, module, source), args, kwargs, module)
        if rule is None:
            at.refuse(f"{source.kind} is not supported", _hint(node, source.kind))
        if REFUSED in inside:
            return REFUSED
        value = self._convert(rule, at)
        self._account(node, source, value)
        return value

    def _resolve(self, value: Any) -> Any:
        return map_arg(value, self.values.__getitem__)

    def _compute(self, node: fx.Node, source: Source, args: Any, kwargs: Any) -> Any:
        module = self.traced.module(node)
        target: Any = node.target
        try:
            with torch.no_grad():
                if node.op == "call_method":
                    value = getattr(args[0], target)(*args[1:], **kwargs)
                else:
                    value = (module or target)(*args, **kwargs)
        except Exception as error:
            at = Call(self.graph, source, "", args, kwargs)
            raise InvalidModelError(at.problem(f"{source.kind} fails: {type(error).__name__}: {error}")) from error
        if _is_container(node.target):
            reason = "a container"
        else:
            reason = "a constant" if any(isinstance(leaf, Tensor) for leaf in leaves(value)) else "shape arithmetic"
        self.graph.drop((source,), reason)
        return value

    def _convert(self, rule: Any, at: Call) -> Any:
        if at.module is not None:
            return rule(at.module, at)
        try:
            bound = inspect.signature(rule).bind(at, *at.args, **at.kwargs)
        except TypeError as error:
            at.refuse(f"{at.source.kind} with these arguments is not supported: {error}")
        return rule(*bound.args, **bound.kwargs)

    def _account(self, node: fx.Node, source: Source, value: Any) -> None:
        """Remember whose memory the value lives in, and that the source node is accounted for."""
        signals = [leaf for leaf in leaves(value) if isinstance(leaf, Signal)]
        operand = next(iter(node.all_input_nodes))
        self._memory[node] = node
        if isinstance(value, Signal):
            op = self.graph[value.name]
            moved = isinstance(op, (Identity, Flatten, Reshape)) and op.origin == (source,)
            if (moved and node.target not in _COPIES) or value == self.values[operand]:
                self._memory[node] = self._memory[operand]
            if _in_place(node, self.traced.module(node)):
                self._mutate(operand, node, value, source)
        if not signals:
            self.graph.drop((source,), "shape arithmetic")
        elif all(source not in self.graph[signal.name].origin for signal in signals):
            self.graph.drop((source,), "does nothing")

    def _mutate(self, changed: fx.Node, by: fx.Node, value: Signal, source: Source) -> None:
        """``by`` changed the memory of ``changed``: all that share it see the new value."""
        memory = self._memory[changed]
        shape = self.graph.type(value.name).shape
        later = set(self._nodes[self._nodes.index(by) + 1 :])
        for other, where in self._memory.items():
            old = self.values.get(other)
            if where is not memory or not isinstance(old, Signal):
                continue
            if self.graph.type(old.name).shape == shape:
                self.values[other] = value
            elif later.intersection(other.users):
                raise UnsupportedOpError(
                    f"{source.kind} changes a tensor in place that is used later in another shape",
                    location=str(source),
                    hint="write it without the underscore or inplace=True",
                )
        self._memory[by] = memory

    # --------------------------------------------------------------- output

    def _finish(self, node: fx.Node) -> None:
        result = self._resolve(node.args[0])
        if self.errors:
            first = next((e for e in self.errors if isinstance(e, UnsupportedOpError)), self.errors[0])
            alike = [e for e in self.errors if type(e) is type(first)]
            problems = [self._hinted(problem, first) for error in alike for problem in error.problems]
            raise type(first)(problems) from first.__cause__
        self.graph.structure = self._output(result, "output", [0])

    def _hinted(self, problem: Problem, error: CompileError) -> Problem:
        if problem.hint or not isinstance(error, TypeMismatchError):
            return problem
        shapes = ", ".join(f"{name}: [B, {_sizes(self.graph.type(name).shape)}]" for name in self.graph.inputs)
        hint = f"the inputs were {shapes}; give an example_input as the model takes it, batch first"
        return Problem(problem.message, problem.location, problem.op, hint)

    def _output(self, value: Any, name: str, count: list[int]) -> Any:
        """Add outputs for every signal in the model's own container; the container with their positions."""
        if isinstance(value, Signal):
            self.graph.add(Output(), value.name, name=name)
            count[0] += 1
            return count[0] - 1
        if isinstance(value, dict):
            return {key: self._output(each, f"{name}_{key}", count) for key, each in value.items()}
        if isinstance(value, (tuple, list)) and value:
            items = [self._output(each, f"{name}_{i}", count) for i, each in enumerate(value)]
            if isinstance(value, list):
                return items
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        raise InvalidModelError(
            f"the model returns a {type(value).__name__} that does not depend on its input",
            location=type(self.traced.root).__name__,
            hint="return tensors only, alone or in a tuple, list or dict",
        )


def _is_container(target: Any) -> bool:
    return isinstance(target, type) and hasattr(target, "_fields")


def _sizes(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def _function_rule(node: fx.Node) -> Any:
    if node.op == "call_method":
        return rules.get(("method", node.target))
    return rules.first((node.target, qualified(node.target)))


def _name(node: fx.Node, module: nn.Module | None, source: Source) -> str:
    """The module path; for a function, the path of the module that calls it and fx's name."""
    if module is None or not node.target:
        stem = re.sub(r"_\d+$", "", node.name)
        stem = "add" if node.target is operator.iadd else stem
        return f"{source.path}_{stem}" if source.path and module is None else stem
    path = str(node.target)
    return f"{type(module).__name__.lower()}_{path}" if path[0].isdigit() else path


def _in_place(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return getattr(module, "inplace", False) is True
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.kwargs.get("inplace") is True or node.target is operator.iadd or name.rstrip("_") + "_" == name


#: smooth or leaky relatives of ReLU, in lower case without underscores
_BY_RELU = "gelu silu elu celu selu mish softplus sigmoid logsigmoid tanh hardswish hardsigmoid leakyrelu prelu rrelu"


def _hint(node: fx.Node, kind: str) -> str:
    key = f'("method", "{node.target}")' if node.op == "call_method" else kind
    if getattr(node.target, "__module__", "") == "_operator":
        key = f"operator.{getattr(node.target, '__name__', '')}"
    bare = kind.split(".")[-1].lower().replace("_", "")
    register = f"register a converter: @rules({key}), see frontends/README.md"
    if bare in _BY_RELU.split():
        return f"replace {kind} by {'nn.ReLU' if kind.startswith('nn.') else 'torch.relu'} and retrain, or {register}"
    return register
