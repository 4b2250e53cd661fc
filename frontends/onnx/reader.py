"""Goes through an ONNX graph once, node by node, and converts what depends on the model's input."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
from torch import Tensor

from spikec.extend.call import Refused
from spikec.extend.call import Signal as BaseSignal
from spikec.extend.frontend import failure, without_unused
from spikec.frontends.onnx import frames, moved
from spikec.frontends.onnx.call import SIGNAL_WANTED, Call, Constant, Row, Value, converter
from spikec.frontends.onnx.checked import subgraphs
from spikec.frontends.onnx.evaluate import RANDOM, Budget
from spikec.frontends.onnx.model import DOMAINS, as_array, attributes, check_types, opsets
from spikec.frontends.torch.call import Moved
from spikec.frontends.torch.tensor import from_tensors
from spikec.ir.errors import CompileError, InvalidModelError, UnsupportedOpError
from spikec.ir.graph import Graph
from spikec.ir.ops import Identity, Output
from spikec.ir.origin import Source


class Reader:
    """Partial evaluation of an ONNX graph: nodes on signals become ops, all others are computed now.

    The batch stays symbolic: where the model does not fix it, shapes are computed for two batch sizes, and what
    differs between the two depends on it.
    """

    def __init__(
        self, proto: Any, graph: Graph, inputs: Mapping[str, BaseSignal], batches: tuple[int, ...], budget: Budget
    ) -> None:
        """``inputs``: the graph's inputs by the names of the model's; ``budget``: for what is computed."""
        self.proto = proto
        self.graph = graph
        self.batches = batches
        self.opsets = opsets(proto)
        self._budget = budget
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
            raise failure(self.errors, self.graph, self.graph.inputs)
        for each in self.proto.graph.output:
            self._output(each.name)
        count = len(self.proto.graph.output)
        self.graph.imported.structure = 0 if count == 1 else tuple(range(count))
        without_unused(self.graph, "ONNX model")

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
            if error not in self.errors:  # whatever takes a Row raises the error of that Row
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
            self._values[name] = Constant((as_array(self._constants[name]),) * len(self.batches))
        return self._values[name] if name else None

    def _convert(self, node: Any) -> Sequence[Value]:
        call = Call(
            self.graph,
            _source(node),
            _name(node),
            node,
            {name: self.value(name) for name in [*node.input, *_uses(node)] if name},
            self.opsets,
            self.batches,
            tuple(bool(name) and name in self._used for name in node.output),
            self._budget,
        )
        try:
            return self._results(call)
        except CompileError as error:
            raise call.located(error) from error.__cause__

    def _results(self, call: Call) -> Sequence[Value]:
        """What a node gives: constants, or signals of the graph."""
        node, kind = call.node, call.source.kind
        given = attributes(node, call.opset)
        if node.op_type == "If" and isinstance(call.inputs[0], Constant):
            return self._branch(call, call.inputs[0], given)
        if all(isinstance(value, Constant) for value in call.values.values()):
            self.graph.drop((call.source,), "a constant")
            if node.op_type in RANDOM:
                call.refuse(f"{kind} is another number at every run", "make it a constant")
            _check_types(call)
            return call.computed()
        convert = converter.get(node.op_type if node.domain in DOMAINS else (node.domain, node.op_type))
        if convert is None:
            call.refuse(*_unsupported(node, kind))
        if any(isinstance(value, Refused) for value in call.values.values()):
            return ()
        for value in call.inputs[1:] if node.op_type == "Gather" else call.values.values():
            if isinstance(value, Row):
                raise value.error
        _check_types(call)
        if moved.first(call) is None:
            found = self._called(convert, call, given)
        elif frames.takes(call):
            found = frames.read(call, given, self._called)
        else:
            found = moved.read(call, given, partial(self._called, convert))
        results = from_tensors(found if isinstance(found, (tuple, list)) else (found,))
        for each in results:
            if isinstance(each, Tensor):
                call.refuse(
                    f"the first input of {kind} does not depend on the model's input, and it must", SIGNAL_WANTED
                )
            if not isinstance(each, (Constant, Row)) and not (isinstance(each, BaseSignal) and each.name in self.graph):
                call.refuse_result(convert, found)
        if any(call.wanted[len(results) :]):
            call.refuse(
                f"only the first {len(results)} output(s) of {kind} are supported, others are used",
                "compute the others from the first",
            )
        if not any(isinstance(each, BaseSignal) for each in results):
            self.graph.drop((call.source,), "part of a Gather" if isinstance(found, Row) else "shape arithmetic")
        return [self._named(call, each) if isinstance(each, BaseSignal) else each for each in results]

    def _called(self, convert: Callable[..., Any], call: Call, given: Mapping[str, Any]) -> Any:
        """What the converter returns; whatever it does wrong is said of it."""
        signature = inspect.signature(convert)
        try:
            bound = signature.bind(call, *map(call.argument, call.inputs), **given)
            bound.arguments = {name: value for name, value in bound.arguments.items() if value is not None}
            bound = signature.bind(*bound.args, **bound.kwargs)  # an input that is left out takes its default
        except TypeError as error:
            call.refuse(
                f"{call.source.kind} with these inputs and attributes is not supported: {error}",
                "leave the optional ones out, or register a converter for it",
            )
        with call.blaming(convert, "(call, *inputs, **attributes)"):
            return convert(*bound.args, **bound.kwargs)

    def _named(self, call: Call, result: BaseSignal) -> BaseSignal:
        """A result under the node's own name where that is free; an input that is returned becomes an Identity."""
        op, operands = self.graph[result.name], self.graph.operands(result.name)
        if call.source not in op.origin:
            return attrs.evolve(result, name=call.add(Identity(), result).name)
        if call.name in self.graph or self.graph.users(result.name):
            return result
        self.graph.remove(result.name)
        return attrs.evolve(result, name=self.graph.add(op, *operands, name=call.name))

    def _branch(self, call: Call, condition: Constant, branches: Mapping[str, Any]) -> Sequence[Value]:
        """An If whose condition is known is one of its branches."""
        if not condition.is_fixed:
            condition.refuse()
        branch = branches["then_branch" if condition.values[0].all() else "else_branch"]
        self.graph.drop((call.source,), "its condition is a constant")
        for each in branch.initializer:  # another branch may have had a constant of that name
            self._constants[each.name] = each
            self._values.pop(each.name, None)
        names = [each.name for each in branch.output]
        self._nodes(branch.node, names)
        return [self.value(name) for name in names]

    # --------------------------------------------------------------- output

    def _output(self, name: str) -> None:
        value = self.value(name)
        if isinstance(value, (Row, Moved)):
            raise value.error
        if not isinstance(value, BaseSignal):
            raise InvalidModelError(
                f"output {name} does not depend on the model's input", hint="remove it from the model's outputs"
            )
        self.graph.add(Output(), value.name, name=f"output_{name}" if name in self.graph else name)


def _check_types(call: Call) -> None:
    arrays = {slot: value.values[0] for slot, value in enumerate(call.inputs) if isinstance(value, Constant)}
    check_types(call.node, call.opset, arrays)


def _uses(node: Any) -> set[str]:
    """Names that a node takes, those that its subgraphs take from outside too."""
    return set(filter(None, node.input)).union(*(_free(graph) for graph in subgraphs(node)))


def _free(graph: Any) -> set[str]:
    given = {each.name for each in (*graph.input, *graph.initializer)}
    given |= {name for node in graph.node for name in node.output}
    taken = {each.name for each in graph.output}.union(*(_uses(node) for node in graph.node))
    return taken - given


def without_dead_nodes(proto: Any) -> Any:
    """The model, without the nodes whose results nobody uses; itself where there are none."""
    live = _live(proto.graph.node, [each.name for each in proto.graph.output])
    if len(live) == len(proto.graph.node):
        return proto
    pruned = type(proto)()
    pruned.CopyFrom(proto)
    del pruned.graph.node[:]
    pruned.graph.node.extend(reversed(live))
    return pruned


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


#: (operators, why they have no converter, what to do instead) in place of a bare "not supported"
_REASONS = (
    ("If Loop Scan", "which nodes run depends on the model's input", "export the model without control flow"),
    (
        "MeanVarianceNormalization",
        "it divides by statistics of the sample itself",
        "use batch normalization and retrain",
    ),
    (
        "Shrink Sign Round Ceil",
        "it jumps, and a rate changes steadily with its input",
        "replace it by Relu and retrain",
    ),
    (
        "QuantizeLinear DequantizeLinear DynamicQuantizeLinear QLinearConv QLinearMatMul ConvInteger MatMulInteger",
        "the model is quantized",
        "give the float model that it was made from",
    ),
)


def _unsupported(node: Any, kind: str) -> tuple[str, str]:
    """(message, hint) for a node without a converter."""
    is_own = node.domain in DOMAINS
    key = f'"{node.op_type}"' if is_own else f'("{node.domain}", "{node.op_type}")'
    register = f"register a converter: @converter({key}), see frontends/README.md"
    if not is_own:
        return f"{kind} is not supported: it is of the domain {node.domain}, which is not ONNX's own", register
    for names, why, instead in _REASONS:
        if node.op_type in names.split():
            return f"{kind} is not supported: {why}", f"{instead}, or {register}"
    return f"{kind} is not supported", register
