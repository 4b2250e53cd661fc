"""Goes through an ONNX graph once, node by node, and converts what depends on the model's input."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from spikec.extend.call import Refused, Signal
from spikec.frontends.onnx.call import Call, Known, Value, converter
from spikec.frontends.onnx.model import DOMAINS, as_array, attributes, opsets
from spikec.frontends.onnx.run import RANDOM, run_node
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
from spikec.ir.ops import Output
from spikec.ir.origin import Source


class Walk:
    """Partial evaluation of an ONNX graph: nodes on signals become ops, all others are computed now.

    The batch stays symbolic: where the model does not fix it, shapes are computed for two batch sizes, and what
    differs between the two depends on it.
    """

    def __init__(self, proto: Any, graph: Graph, inputs: Mapping[str, Signal], batches: tuple[int, ...]) -> None:
        """``inputs``: the graph's inputs by the names of the model's."""
        self.proto = proto
        self.graph = graph
        self.batches = batches
        self.opsets = opsets(proto)
        self.errors: list[CompileError] = []
        self._values: dict[str, Value] = dict(inputs)
        self._constants = {each.name: each for each in proto.graph.initializer}
        self._used: set[str] = set()

    def run(self) -> None:
        """Fill the graph.

        Raises:
            UnsupportedOpError: with every refused node; other errors are raised if there is none of these.
        """
        if self.proto.graph.sparse_initializer:
            raise UnsupportedOpError("sparse initializers are not supported", hint="store them dense")
        self._nodes(self.proto.graph.node, [each.name for each in self.proto.graph.output])
        if self.errors:
            self._fail()
        for each in self.proto.graph.output:
            self._output(each.name)
        count = len(self.proto.graph.output)
        self.graph.imported.structure = 0 if count == 1 else tuple(range(count))

    def _nodes(self, nodes: Sequence[Any], results: Sequence[str]) -> None:
        """Everything that the results need, in order."""
        live = _live(nodes, results)
        self._used |= {name for node in live for name in _uses(node)} | set(results)
        alive = {id(node) for node in live}
        for node in nodes:
            if id(node) in alive:
                self._step(node)
            else:
                self.graph.drop((_source(node),), "its result is not used")

    def _step(self, node: Any) -> None:
        try:
            results = self._convert(node)
        except CompileError as error:
            self.errors.append(error)
            results = ()
        for name, value in zip(node.output, [*results, *[Refused(node.name)] * len(node.output)], strict=False):
            self._values[name] = value

    def value(self, name: str) -> Value:
        """What a name of the model stands for.

        Raises:
            InvalidModelError: nothing gives it.
        """
        if name and name not in self._values:
            if name not in self._constants:
                raise InvalidModelError(f"nothing in the ONNX model gives {name!r}", hint="check it: onnx.checker")
            self._values[name] = Known.fixed(as_array(self._constants[name]), len(self.batches))
        return self._values[name] if name else None

    def _convert(self, node: Any) -> Sequence[Value]:
        source = _source(node)
        call = Call(
            self.graph,
            source,
            _name(node),
            tuple(self.value(name) for name in node.input),
            attributes(node),
            self.opsets.get("" if node.domain in DOMAINS else node.domain, 0),
            self.batches,
            tuple(map(bool, node.output)),
            tuple(bool(name) and name in self._used for name in node.output),
        )
        inside = [self.value(name) for name in _uses(node) - set(node.input)]
        values = [*call.inputs, *inside]
        if node.op_type == "If" and isinstance(call.inputs[0], Known):
            return self._branch(node, call)
        if not any(isinstance(value, (Signal, Refused)) for value in values):
            self.graph.drop((source,), "a constant")
            return self._compute(node, call)
        key = node.op_type if node.domain in DOMAINS else (node.domain, node.op_type)
        rule = converter.get(key)
        if rule is None:
            call.refuse(*_unsupported(node, source.kind))
        if any(isinstance(value, Refused) for value in values):
            return ()
        return self._apply(rule, call, source)

    def _apply(self, rule: Callable[..., Any], call: Call, source: Source) -> Sequence[Value]:
        """The converter's results; whatever it does wrong is said of it."""
        try:
            found = rule(call)
        except CompileError as error:
            if error.location:
                raise
            raise type(error)([call.problem(each.message, each.hint) for each in error.problems]) from None
        except Exception as error:
            message = f"its converter {_place(rule)} raises {type(error).__name__}: {error}"
            raise UnsupportedOpError(call.problem(message, "mend it; it is called as (call)")) from error
        results = found if isinstance(found, (tuple, list)) else (found,)
        for each in results:
            if not isinstance(each, Known) and not (isinstance(each, Signal) and each.name in self.graph):
                call.refuse(f"its converter {_place(rule)} returns {found!r}", "return what call.add gives: a Signal")
        if any(call.wanted[len(results) :]):
            call.refuse(f"only the first {len(results)} output(s) of {source.kind} are supported, others are used")
        signals = [each for each in results if isinstance(each, Signal)]
        if all(source not in self.graph[each.name].origin for each in signals):
            self.graph.drop((source,), "does nothing" if signals else "shape arithmetic")
        return results

    def _compute(self, node: Any, call: Call) -> Sequence[Value]:
        """A node on constants: once, or for each batch size where they depend on it."""
        if node.op_type in RANDOM:
            call.refuse(f"{call.source.kind} is another number at every run", "make it a constant")
        known = {name: value for name in (*node.input, *_uses(node)) if isinstance(value := self.value(name), Known)}
        count = 1 if all(each.is_fixed for each in known.values()) else len(self.batches)
        try:
            runs = [
                run_node(node, self.opsets, {name: each.values[i] for name, each in known.items()})
                for i in range(count)
            ]
        except Exception as error:  # numpy's, protobuf's and the evaluator's own
            reason = (str(error).splitlines() or [""])[0]
            call.refuse(
                f"{call.source.kind} cannot be computed beforehand: {type(error).__name__}: {reason}",
                "make its result an initializer",
            )
        return [
            Known(column) if count > 1 else Known.fixed(column[0], len(self.batches))
            for column in zip(*runs, strict=True)
        ]

    def _branch(self, node: Any, call: Call) -> Sequence[Value]:
        """An If whose condition is known is one of its branches."""
        branch = call.attributes["then_branch" if bool(np.all(call.constant(0))) else "else_branch"]
        self.graph.drop((call.source,), "its condition is a constant")
        self._constants.update({each.name: each for each in branch.initializer})
        names = [each.name for each in branch.output]
        self._nodes(branch.node, names)
        return [self.value(name) for name in names]

    # --------------------------------------------------------------- output

    def _output(self, name: str) -> None:
        value = self.value(name)
        if not isinstance(value, Signal):
            raise InvalidModelError(
                f"output {name} does not depend on the model's input", hint="remove it from the model's outputs"
            )
        self.graph.add(Output(), value.name, name=f"output_{name}" if name in self.graph else name)

    def _fail(self) -> NoReturn:
        first = next((e for e in self.errors if isinstance(e, UnsupportedOpError)), self.errors[0])
        alike = [e for e in self.errors if type(e) is type(first)]
        problems = [self._hinted(problem, first) for error in alike for problem in error.problems]
        raise type(first)(problems) from first.__cause__

    def _hinted(self, problem: Problem, error: CompileError) -> Problem:
        if problem.hint or not isinstance(error, TypeMismatchError):
            return problem
        shapes = ", ".join(f"{name}: {['B', *self.graph.type(name).shape]}" for name in self.graph.inputs)
        said = f"the inputs were {shapes}; give ".replace("'", "")
        hint = Hint(said, Option("example_input"), " as the model takes it, batch first")
        return Problem(problem.message, problem.location, problem.op, hint)


def _uses(node: Any) -> set[str]:
    """Names that a node takes, those that its subgraphs take from outside too."""
    return set(filter(None, node.input)).union(*(_free(graph) for graph in _subgraphs(node)))


def _free(graph: Any) -> set[str]:
    given = {each.name for each in (*graph.input, *graph.initializer)}
    given |= {name for node in graph.node for name in node.output}
    taken = {each.name for each in graph.output}.union(*(_uses(node) for node in graph.node))
    return taken - given


def _subgraphs(node: Any) -> Iterator[Any]:
    for each in node.attribute:
        yield from [each.g] if each.HasField("g") else each.graphs


def _live(nodes: Iterable[Any], results: Iterable[str]) -> list[Any]:
    """The nodes that the results depend on, last first."""
    needed, found = set(results), []
    for node in reversed(list(nodes)):
        if needed.intersection(node.output):
            needed |= _uses(node)
            found.append(node)
    return found


def _kind(node: Any) -> str:
    return node.op_type if node.domain in DOMAINS else f"{node.domain}.{node.op_type}"


def _source(node: Any) -> Source:
    """The node by its first output, which is unique; the path is its name, where it has one."""
    output = next((name for name in node.output if name), "")
    return Source(output, node.name or output, _kind(node))


def _name(node: Any) -> str:
    """The node's name in the graph; one that is a number or nothing gets the operator's in front."""
    wish = re.sub(r"\W+", "_", node.name or "").strip("_")
    return wish if wish and not wish[0].isdigit() else f"{node.op_type.lower()}_{wish}".rstrip("_")


def _place(rule: Any) -> str:
    """``name (file.py:12)`` of a converter."""
    code = inspect.unwrap(rule).__code__
    return f"{rule.__name__} ({os.path.basename(code.co_filename)}:{code.co_firstlineno})"


_SMOOTH = ("Elu", "Selu", "Celu", "Gelu", "Swish", "HardSwish", "Mish", "Softplus", "Softsign", "Erf", "Shrink")
_STATISTICS = (
    *("InstanceNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization"),
    *("LpNormalization", "MeanVarianceNormalization", "LRN"),
)


def _unsupported(node: Any, kind: str) -> tuple[str, str]:
    """(message, hint) for a node without a converter."""
    name = node.op_type
    key = f'"{name}"' if node.domain in DOMAINS else f'("{node.domain}", "{name}")'
    register = f"register a converter: @converter({key}), see frontends/README.md"
    if node.domain not in DOMAINS:
        return f"{kind} is not supported: it is of the domain {node.domain}, which is not ONNX's own", register
    if "quantize" in name.lower() or name.startswith(("QLinear", "ConvInteger", "MatMulInteger")):
        return f"{kind} is not supported: the model is quantized", "give the float model that it was made from"
    if name in ("If", "Loop", "Scan"):
        message = f"{kind} is not supported: which nodes run depends on the model's input"
        return message, "unroll it, or export the model without control flow"
    if name in _STATISTICS:
        message = f"{kind} is not supported: it divides by statistics of the sample itself"
        return message, f"use batch normalization and retrain, or {register}"
    if name in _SMOOTH:
        return f"{kind} is not supported", f"replace it by Relu and retrain, or {register}"
    return f"{kind} is not supported", register
