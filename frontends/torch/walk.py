"""Goes through a traced graph once, node by node, and converts what depends on the model's input."""

from __future__ import annotations

import dataclasses
import inspect
import operator
import os
from collections.abc import Sequence
from typing import Any, NoReturn

import attrs
import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate, map_arg

from spikec.frontends.torch.call import (
    BATCH,
    Call,
    Missing,
    Refused,
    Signal,
    fields_of,
    is_record,
    leaves,
    may_take_batch,
    readable,
)
from spikec.frontends.torch.memory import Memory
from spikec.frontends.torch.reasons import reason
from spikec.frontends.torch.trace import AUGMENTED, Traced
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
from spikec.ir.ops import Identity, Input, Output, Relu
from spikec.ir.origin import Source
from spikec.ir.types import Real


def read(traced: Traced, shapes: Sequence[tuple[int, ...]], dtype: str, notes: Sequence[str] = ()) -> Graph:
    """The graph of a model for inputs of these shapes, batch not counted, with notes on how it was traced.

    Raises:
        UnsupportedOpError: with every problem, where a call has no converter.
        TypeMismatchError: a layer does not take what it is given.
        InvalidModelError: it computes nothing, or returns something else than signals.
    """
    walk = Walk(traced, shapes, dtype)
    walk.graph.imported.notes += notes
    walk.run()
    graph = walk.graph
    for name in reversed(list(graph)):
        if graph[name].role is not Role.IO and not graph.users(name):
            graph.remove(name, "its result is not used")
    if all(graph[name].role is Role.IO for name in graph):
        raise InvalidModelError("the model has no operation: its output is its input", location=traced.name)
    return graph


class Walk:
    """Partial evaluation of an fx graph: calls on signals become ops, all others are computed now.

    In-place calls are followed as torch does: everything that shares the changed tensor's memory has the
    new value from then on.
    """

    def __init__(self, traced: Traced, shapes: Sequence[tuple[int, ...]], dtype: str) -> None:
        """``shapes``: of a sample of each input."""
        self.traced = traced
        self.graph = graph = Graph(traced.name)
        graph.imported.device = traced.device
        self.inputs: dict[str, Any] = dict(traced.parameters)
        for name, shape in zip(traced.inputs, shapes, strict=True):
            self.inputs[name] = Signal(graph.add(Input(shape, dtype, rate=traced.spiking), name=name))
        self.values: dict[fx.Node, Any] = {}
        self.errors: list[CompileError] = []
        self._memory = Memory(traced, graph, self.values)
        self._of_batch: set[fx.Node] = set()

    def run(self) -> None:
        """Fill the graph.

        Raises:
            CompileError: with every problem; an UnsupportedOpError if one of them is.
        """
        for node in self.traced.graph.nodes:
            if node.op == "output":
                self._finish(node)
            else:
                self.step(node)

    def step(self, node: fx.Node) -> None:
        """Find the value of the next node."""
        if node.op == "placeholder":
            value = self.values[node] = self.inputs[str(node.target)] if not node.args else node.args[0]
            if isinstance(value, Signal):
                self._memory.begin(node, value)
            return
        source = self.traced.source(node)
        self.graph.register_sources(source)
        try:
            self.values[node] = self._value(node, source)
            self._account(node, source)
        except CompileError as error:
            self.errors.append(error)
            self.values[node] = self._stand_in(node, source)

    def _stand_in(self, node: fx.Node, source: Source) -> Any:
        """In place of a result that was refused: what follows is read, and judged, all the same.

        A ReLU where the shape is the operand's (nothing, if that is spikes), elsewhere inputs.
        """
        try:
            result = self._memory.alone(node)
        except Exception:  # whatever a user's layer does with tensors that hold no numbers
            return Refused(node.name)
        if result is None or not all(_batch_first(x) for x in leaves(result) if isinstance(x, Tensor)):
            return Refused(node.name)
        operand = next((x for x in map(self.values.get, node.all_input_nodes) if isinstance(x, Signal)), None)
        name = self.traced.op_name(node, source)

        def stand_in(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            if operand is not None and tuple(x.shape[1:]) == self.graph.type(operand.name).shape:
                real = isinstance(self.graph.type(operand.name).encoding, Real)
                op = Relu(origin=(source,)) if real else Identity(origin=(source,))
                return Signal(self.graph.add(op, operand.name, name=name))
            return Signal(self.graph.add(Input(tuple(x.shape[1:]), str(x.dtype).split(".")[1]), name=name))

        return map_aggregate(result, stand_in)

    def known(self, node: fx.Node) -> Any:
        """The value of a node while the graph is still being traced.

        Raises:
            fx.proxy.TraceError: it depends on the batch size, or on a call that was refused.
        """
        for each in self.traced.graph.nodes:
            if each not in self.values:
                self.step(each)
        if isinstance(self.values[node], Refused):
            problem = self.errors[0].problems[0]
            raise fx.proxy.TraceError(f"{problem.message}, at {problem.location}")
        if node in self._of_batch and not isinstance(self.values[node], (tuple, list)):
            raise fx.proxy.TraceError("it depends on the batch size, which is not fixed")
        return self.values[node]

    def _value(self, node: fx.Node, source: Source) -> Any:
        if node.op == "get_attr":
            self.graph.drop((source,), "a constant")
            value = self.traced.attribute(str(node.target))
            return value.detach().clone() if isinstance(value, Tensor) else value
        args, kwargs = self._resolve((node.args, node.kwargs))
        module = self.traced.module(node)
        inside = list(leaves((args, kwargs)))
        if _is_container(node.target) or not any(isinstance(leaf, (Signal, Refused, Missing)) for leaf in inside):
            return self._compute(node, source, args, kwargs)
        rule = self.traced.rule(node)
        call = Call(self.graph, source, self.traced.op_name(node, source), args, kwargs, module)
        if rule is None:
            if not call.operands and _on_numbers(node, args):
                return Refused(node.name)
            why, instead = reason(source.kind, module)
            message = f"{source.kind} is not supported{': ' if why else ''}{why}"
            call.refuse(message, _hint(self.traced.key(node), instead))
        gone = next((leaf.reason for leaf in inside if isinstance(leaf, Missing)), "")
        if gone and node.target not in (operator.getitem, getattr):
            call.refuse(gone, "leave it out, or do it outside the network")
        if any(isinstance(leaf, Refused) for leaf in inside):
            return Refused(node.name)
        if self._given_batch(node) and not may_take_batch(rule):
            call.refuse(
                f"{source.kind} with a number that depends on the batch size is not supported",
                "samples of a batch are independent in a compiled network",
            )
        return self._convert(rule, call)

    def _resolve(self, value: Any) -> Any:
        return map_arg(value, self.values.__getitem__)

    def _compute(self, node: fx.Node, source: Source, args: Any, kwargs: Any) -> Any:
        module = self.traced.module(node)
        target: Any = node.target
        if self._given_batch(node) and not _on_numbers(node, args):
            call = Call(self.graph, source, "", args, kwargs)
            call.refuse(
                f"{source.kind} with a size that depends on the batch is not supported",
                "make the tensor for one sample: it broadcasts over the batch",
            )
        try:
            with torch.no_grad():
                if node.op == "call_method":
                    value = getattr(args[0], target)(*args[1:], **kwargs)
                else:
                    value = (module or target)(*args, **kwargs)
        except Exception as error:
            call = Call(self.graph, source, "", args, kwargs)
            reason = f"{type(error).__name__}: {readable(str(error))}"
            raise InvalidModelError(call.problem(f"{source.kind} fails: {reason}")) from error
        if _is_container(node.target):
            reason = "a container"
        else:
            reason = "a constant" if any(isinstance(leaf, Tensor) for leaf in leaves(value)) else "shape arithmetic"
        self.graph.drop((source,), reason)
        return value

    def _convert(self, rule: Any, call: Call) -> Any:
        """The converter's result; whatever it does wrong is said of it."""
        bound = None
        if call.module is None:
            signature = inspect.signature(rule)
            given = {k if k in signature.parameters else _NUMPY.get(k, k): v for k, v in call.kwargs.items()}
            try:
                bound = signature.bind(call, *call.args, **given)
            except TypeError as error:
                call.refuse(f"{call.source.kind} with these arguments is not supported: {error}")
        try:
            value = rule(call.module, call) if bound is None else rule(*bound.args, **bound.kwargs)
        except CompileError:
            raise
        except Exception as error:
            form = "(module, call)" if bound is None else "(call, *args, **kwargs)"
            message = f"its converter {_place(rule)} raises {type(error).__name__}: {readable(str(error))}"
            raise UnsupportedOpError(call.problem(message, f"mend it; it is called as {form}")) from error
        for leaf in leaves(value):
            if leaf is None or isinstance(leaf, str) or (isinstance(leaf, Signal) and leaf.name not in self.graph):
                call.refuse(f"its converter {_place(rule)} returns {value!r}", "return what call.add gives: a Signal")
        return value

    def _account(self, node: fx.Node, source: Source) -> None:
        """Follow what the call changes in place, and see to it that the source node is accounted for."""
        value = self.values[node]
        found = list(leaves(value))
        if any(isinstance(leaf, Refused) for leaf in found):
            return
        signals = [leaf for leaf in found if isinstance(leaf, Signal)]
        if signals:
            self._follow(node, source, value)
        elif (self._given_batch(node) and node.target is not operator.getitem) or any(map(_is_batch, found)):
            self._of_batch.add(node)
        if source not in self.graph.imported.dropped and all(
            source not in self.graph[each.name].origin for each in signals
        ):
            self.graph.drop((source,), "does nothing" if signals else "shape arithmetic")

    def _given_batch(self, node: fx.Node) -> bool:
        return any(part in self._of_batch for part in node.all_input_nodes)

    def _follow(self, node: fx.Node, source: Source, value: Any) -> None:
        """Everything that shares the memory a call changed has the new value from then on."""
        changes = self._memory.call(node, _in_place(node, self.traced.module(node)))
        for other in changes.same:
            self.values[other] = value
        nodes = list(self.traced.graph.nodes)
        later = set(nodes[nodes.index(node) + 1 :])
        for other in changes.other:
            if later.intersection(other.users):
                raise UnsupportedOpError(
                    f"{source.kind} changes a tensor in place that is used later in another shape or order: "
                    f"%{other.name} shares its memory, or may do so",
                    location=str(source),
                    hint="write it without the underscore or inplace=True",
                )

    # --------------------------------------------------------------- output

    def _finish(self, node: fx.Node) -> None:
        result = self._resolve(node.args[0])
        if self.errors:
            for leaf in leaves(result):
                if isinstance(leaf, Signal):
                    self.graph.add(Output(), leaf.name, name="output")
            self._fail()
        self.graph.imported.structure = self._output(result, "output", [0])

    def _fail(self) -> NoReturn:
        first = next((e for e in self.errors if isinstance(e, UnsupportedOpError)), self.errors[0])
        problems = [self._hinted(problem, error) for error in self.errors for problem in error.problems]
        failure = type(first)(problems)
        failure.graph = self.graph
        raise failure from first.__cause__

    def _hinted(self, problem: Problem, error: CompileError) -> Problem:
        if problem.hint or not isinstance(error, TypeMismatchError):
            return problem
        shapes = ", ".join(
            f"{name}: [B, {_sizes(self.graph.type(name).shape)}]"
            for name in self.graph.inputs
            if Signal(name) in self.inputs.values()
        )
        hint = Hint(f"the inputs were {shapes}; give ", Option("example_input"), " as the model takes it, batch first")
        return attrs.evolve(problem, hint=hint)

    def _output(self, value: Any, name: str, count: list[int]) -> Any:
        """Add outputs for every signal in the model's own container; the container with their positions.

        What stays inside a layer is None there.
        """
        if isinstance(value, Signal):
            self.graph.add(Output(), value.name, name=name)
            count[0] += 1
            return count[0] - 1
        if isinstance(value, Missing):
            self.graph.imported.notes.append(f"{value.reason}: the model's result holds None in its place")
            return None
        if isinstance(value, dict):
            return {key: self._output(each, f"{name}_{key}", count) for key, each in value.items()}
        if is_record(value):
            return type(value)(**self._output(fields_of(value), name, count))
        if isinstance(value, (tuple, list)) and value:
            items = [self._output(each, f"{name}_{i}", count) for i, each in enumerate(value)]
            if isinstance(value, list):
                return items
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        raise InvalidModelError(
            f"the model returns a {type(value).__name__} that does not depend on its input",
            location=self.traced.name,
            hint="return tensors only, alone or in a tuple, list or dict",
        )


def _batch_first(x: Tensor) -> bool:
    return x.ndim > 0 and x.shape[0] == BATCH and x.dtype in (torch.float32, torch.float64)


def _is_batch(value: Any) -> bool:
    return isinstance(value, int) and value != 0 and value % BATCH == 0


#: modules of functions that compute sizes from sizes
_ON_NUMBERS = ("_operator", "builtins", "math")
#: names of arguments as numpy has them, which torch's functions take too
_NUMPY = {"axis": "dim", "keepdims": "keepdim", "x": "input", "a": "input", "x1": "input", "x2": "other"}


def _place(rule: Any) -> str:
    """``name (file.py:12)`` of a converter."""
    code = inspect.unwrap(rule).__code__
    return f"{rule.__name__} ({os.path.basename(code.co_filename)}:{code.co_firstlineno})"


def _on_numbers(node: fx.Node, args: Any) -> bool:
    """True for a call that computes sizes from sizes, or checks them."""
    if node.op == "call_method":
        return not isinstance(args[0], Tensor)
    return node.target is torch._assert or getattr(node.target, "__module__", "") in _ON_NUMBERS


def _is_container(target: Any) -> bool:
    return isinstance(target, type) and (hasattr(target, "_fields") or dataclasses.is_dataclass(target))


def _sizes(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def _in_place(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return getattr(module, "inplace", False) is True
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.kwargs.get("inplace") is True or node.target in AUGMENTED or name.rstrip("_") + "_" == name


def _hint(key: str, instead: str) -> str:
    register = f"register a converter: @converter({key}), see frontends/README.md"
    return f"{instead}, or {register}" if instead else register
