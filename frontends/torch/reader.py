"""Goes through a traced graph once, node by node, and converts what depends on the model's input."""

import contextlib
import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate, map_arg

from spikec.extend.frontend import failure, without_unused
from spikec.frontends.torch.alike import ONE_SAMPLE, Alike
from spikec.frontends.torch.batch import BatchSize, takes_batch
from spikec.frontends.torch.call import (
    Call,
    Missing,
    Moved,
    Refused,
    Signal,
    Stacked,
    fields_of,
    gives_constant,
    gives_view,
    is_record,
    leaves,
    on_stacked,
    tensors,
)
from spikec.frontends.torch.convert import convert, refuse_unknown
from spikec.frontends.torch.layers import lacks_converter, layer_converter, torch_layer
from spikec.frontends.torch.memory import SAMPLES, Memory
from spikec.frontends.torch.traced import AUGMENTED, Traced
from spikec.frontends.torch.writing import NotFollowedError, put_together
from spikec.ir.errors import (
    CompileError,
    InvalidModelError,
    UnsupportedOpError,
)
from spikec.ir.graph import Graph
from spikec.ir.ops import Identity, Input, Output, Relu
from spikec.ir.origin import Source
from spikec.ir.types import Real


class Reader:
    """Partial evaluation of an fx graph: calls on signals become ops, all others are computed now.

    In-place calls are followed as torch does: everything that shares the changed tensor's memory has the new value
    from then on.
    """

    def __init__(self, traced: Traced, shapes: Sequence[tuple[int, ...]], dtype: str) -> None:
        """``shapes``: of a sample of each input, batch not counted."""
        self.graph = graph = Graph(traced.name)
        graph.imported.device = traced.device
        self._traced = traced
        self._inputs: dict[str, Any] = dict(traced.parameters)
        for name, shape in zip(traced.inputs, shapes, strict=True):
            self._inputs[name] = Signal(graph.add(Input(shape, dtype, rate=traced.spiking), name=name))
        self._values: dict[fx.Node, Any] = {}
        self._last: fx.Node | None = None
        self._errors: list[CompileError] = []
        self._memory = Memory(traced, graph, self._values)
        self._outdated: dict[fx.Node, CompileError] = {}  # nodes that changed in a way that is not followed
        self._of_batch: set[fx.Node] = set()  # nodes whose numbers are made from the batch size
        self._alike = Alike(self._values)
        self._attributes: dict[int, fx.Node] = {}  # the get_attr of each tensor of the model, by where its copy lies

    def peek(self, node: fx.Node) -> Any:
        """The value of a node while the graph is still being traced, whatever it is."""
        self._advance()
        return self._values[node]

    def value(self, node: fx.Node) -> Any:
        """The value of a node while the graph is still being traced.

        Raises:
            fx.proxy.TraceError: it depends on the batch size, or on a call that was refused.
        """
        value = self.peek(node)
        if isinstance(value, Refused):
            problem = self._errors[0].problems[0]
            raise fx.proxy.TraceError(f"{problem.message}, at {problem.location}")
        if node in self._of_batch and not isinstance(value, (tuple, list)):
            raise fx.proxy.TraceError("it depends on the batch size, which is not fixed")
        return value

    def finish(self, notes: Sequence[str] = ()) -> Graph:
        """The graph of the whole model, with notes on how it was traced.

        Raises:
            CompileError: with every problem; an UnsupportedOpError if one of them is.
            InvalidModelError: the model computes nothing, or returns something else than signals.
        """
        self.graph.imported.notes += notes
        output = self._advance()
        self._judge_use(output)
        for node in output.all_input_nodes:
            if isinstance(self._values[node], Stacked):
                message, hint = "it works along the batch axis", "stack behind the batch: torch.stack(xs, 1)"
                self._errors.append(UnsupportedOpError(message, location=str(self._traced.source(node)), hint=hint))
        result = self._resolve(output.args[0])
        graph = self.graph
        if self._errors:
            for leaf in leaves(result):
                if isinstance(leaf, Signal):
                    graph.add(Output(), leaf.name, name="output")
            inputs = [name for name in graph.inputs if Signal(name) in self._inputs.values()]
            raise failure(self._errors, graph, inputs)
        graph.imported.structure = self._output(result, "output", [0])
        return without_unused(graph, "model", self._traced.name)

    # ---------------------------------------------------------------- nodes

    def _advance(self) -> fx.Node:
        """Find the values of all nodes that there are by now; the node behind them, which is the output at the end."""
        node = next(iter(self._traced.graph.nodes)) if self._last is None else self._last.next
        while node.op not in ("output", "root"):
            self._step(node)
            self._last, node = node, node.next
        return node

    def _step(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            value = self._values[node] = self._inputs[str(node.target)] if not node.args else node.args[0]
            if isinstance(value, Signal):
                self._memory.begin(node, value)
            return
        source = self._traced.source(node)
        self.graph.register_sources(source)
        self._judge_use(node)
        try:
            self._values[node] = self._value(node, source)
            self._account(node, source)
        except CompileError as error:
            self._errors.append(error)
            self._values[node] = self._stand_in(node, source)

    def _judge_use(self, node: fx.Node) -> None:
        """State the errors of tensors that a node uses, and that changed in a way which is not followed."""
        for each in node.all_input_nodes:
            error = self._outdated.get(each)
            if error is not None and error not in self._errors:
                self._errors.append(error)

    def _stand_in(self, node: fx.Node, source: Source) -> Any:
        """In place of a result that was refused: what follows is read, and judged, all the same.

        A ReLU where the shape is the operand's (nothing, if that is spikes), elsewhere inputs. Behind a tensor whose
        batch is not its first axis the samples of a result are not known.
        """
        if any(isinstance(self._values.get(each), Moved) for each in node.all_input_nodes):
            return Refused(node.name)
        try:
            result = self._memory.alone(node)
        except Exception:  # whatever a user's layer does with tensors that hold no numbers
            return Refused(node.name)
        if result is None or not all(_batch_first(x) for x in leaves(result) if isinstance(x, Tensor)):
            return Refused(node.name)
        operand = next((x for x in map(self._values.get, node.all_input_nodes) if isinstance(x, Signal)), None)
        name = self._traced.op_name(node, source)

        def stand_in(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            if operand is not None and tuple(x.shape[1:]) == self.graph.type(operand.name).shape:
                real = isinstance(self.graph.type(operand.name).encoding, Real)
                op = Relu(origin=(source,)) if real else Identity(origin=(source,))
                return Signal(self.graph.add(op, operand.name, name=name))
            return Signal(self.graph.add(Input(tuple(x.shape[1:]), str(x.dtype).split(".")[1]), name=name))

        return map_aggregate(result, stand_in)

    def _value(self, node: fx.Node, source: Source) -> Any:
        if node.op == "get_attr":
            self.graph.drop((source,), "a constant")
            value = self._traced.attribute(str(node.target))
            if isinstance(value, Tensor):
                value = value.detach().clone()
                self._attributes[value.untyped_storage().data_ptr()] = node
            return value
        args, kwargs = self._resolve((node.args, node.kwargs))
        module = self._traced.module(node)
        call = Call(self.graph, source, self._traced.op_name(node, source), args, kwargs, module)
        inside = list(leaves((args, kwargs)))
        if _is_container(node.target) or not any(isinstance(leaf, (Signal, Refused, Missing)) for leaf in inside):
            return self._computed(node, call)
        converter = self._traced.converter(node)
        if converter is None:
            if not call.operands and _is_on_numbers(node, args):
                return Refused(node.name)
            refuse_unknown(call, self._traced.key(node))
        missing = next((leaf.reason for leaf in inside if isinstance(leaf, Missing)), "")
        if missing and node.target not in (operator.getitem, getattr):
            call.refuse(missing, "leave it out, or do it outside the network")
        if any(isinstance(leaf, Refused) for leaf in inside):
            if converter is torch_layer and lacks_converter(call):
                refuse_unknown(call, self._traced.key(node))
            return Refused(node.name)
        if self._is_given_batch(node) and (converter not in takes_batch or self._has_lost_batch(node)):
            call.refuse(
                f"{source.kind} with a number that depends on the batch size is not supported",
                "samples of a batch are independent in a compiled network",
            )
        adapted = self._traced.adapted(node, call, converter)
        if any(isinstance(each, Stacked) for each in (*args, *kwargs.values())):
            converter = on_stacked.get(converter)
            if converter is None:
                message = "it is given what is stacked in front of the batch, or works along the batch axis"
                call.refuse(message, "stack behind the batch: torch.stack(xs, 1)")
        result = convert(converter, adapted)
        if converter in gives_constant and self._is_given_batch(node):
            self._alike.add(node)
        return result

    def _resolve(self, value: Any) -> Any:
        return map_arg(value, self._values.__getitem__)

    def _computed(self, node: fx.Node, call: Call) -> Any:
        """The result of a call that does not depend on the model's input."""
        target: Any = node.target
        function = getattr(call.args[0], target) if node.op == "call_method" else call.module or target
        given = tensors((call.args, call.kwargs))
        before = [each._version for each in given]
        try:
            is_on_numbers = _is_on_numbers(node, call.args)
            value = None
            if self._is_given_batch(node):
                made = [self._values[each] for each in node.all_input_nodes if each in self._of_batch]
                if is_on_numbers or not self._has_lost_batch(node):
                    value = self._alike.made(node, function, call, made if is_on_numbers else None)
                if value is None and not is_on_numbers:
                    call.refuse(
                        f"{call.source.kind} with a size that depends on the batch is not supported", ONE_SAMPLE
                    )
            if value is None:
                doubled = self._alike.for_two_samples(node, call)
                with torch.no_grad():
                    value = function(*call.args[node.op == "call_method" :], **call.kwargs)
                value = self._alike.judged(node, call, value, doubled)
        except UnsupportedOpError:
            raise
        except Exception as error:
            reason = f"{call.source.kind} fails: {type(error).__name__}: {error}"
            hint = "compute it in __init__, and keep it with register_buffer: it does not depend on the input"
            raise InvalidModelError(call.problem(reason, hint)) from error
        changed = [x for x, version in zip(given, before, strict=True) if x._version != version]
        self._expect_whole_layers(call, changed)
        self._alike.expect_whole(node, call, changed)
        reason = "a constant" if any(isinstance(leaf, Tensor) for leaf in leaves(value)) else "shape arithmetic"
        self.graph.drop((call.source,), "a container" if _is_container(target) else reason)
        return value

    def _expect_whole_layers(self, call: Call, changed: Sequence[Tensor]) -> None:
        """Refuse a change in place of what belongs to a layer that is read as a whole, as it is in the model."""
        for each in changed:
            node = self._attributes.get(each.untyped_storage().data_ptr())
            path, _, name = str(node.target).rpartition(".") if node is not None else ("", "", "")
            if path and layer_converter(self._traced.root.get_submodule(path)) is not None:
                call.refuse(f"it changes the {name} of the layer {path} in place", "do it before compiling")

    def _account(self, node: fx.Node, source: Source) -> None:
        """Follow what the call changes in place, and see to it that the source node is accounted for."""
        value = self._values[node]
        found = list(leaves(value))
        if any(isinstance(leaf, Refused) for leaf in found):
            return
        signals = [leaf for leaf in found if isinstance(leaf, Signal)]
        if signals:
            self._follow(node, source, value)
        else:  # a part of a shape is judged by itself
            computed = self._is_given_batch(node) and node.target is not operator.getitem and node not in self._alike
            if computed or any(isinstance(each, BatchSize) for each in found):
                self._of_batch.add(node)
        if source not in self.graph.imported.dropped and all(source not in self.graph[s.name].origin for s in signals):
            constant = any(isinstance(leaf, Tensor) for leaf in found)
            self.graph.drop((source,), "does nothing" if signals else "a constant" if constant else "shape arithmetic")

    def _is_given_batch(self, node: fx.Node) -> bool:
        return any(part in self._of_batch for part in node.all_input_nodes)

    def _has_lost_batch(self, node: fx.Node) -> bool:
        """Whether a call is given a number that was made from the batch size and holds it no more, as a remainder."""
        made = (self._values[part] for part in node.all_input_nodes if part in self._of_batch)
        numbers = (each for each in made if isinstance(each, (int, float)) and not isinstance(each, BatchSize))
        return any(abs(each) < _SMALL for each in numbers)

    def _follow(self, node: fx.Node, source: Source, value: Any) -> None:
        """Everything that shares the memory a call changed has the new value from then on."""
        in_place = _in_place(node, self._traced.module(node))
        changes = self._memory.call(node, in_place, self._computes(node, source, value))
        for other in changes.same:
            self._values[other] = value
        for other in changes.other:
            call = Call(self.graph, source, f"{self._traced.op_name(node, source)}_in_{other.name}", (), {})
            with contextlib.suppress(NotFollowedError):
                old, tensor = self._values[other], self._memory.tensor(other)
                self._values[other] = put_together(call, old, tensor, value, self._memory.tensor(node))
                continue
            self._outdated[other] = UnsupportedOpError(
                f"{source.kind} changes a tensor in place that is used later in another shape or order: "
                f"%{other.name} shares its memory, or may do so",
                location=str(source),
                hint="write it without the underscore or inplace=True, and join what changes and what stays: torch.cat",
            )

    def _computes(self, node: fx.Node, source: Source, value: Any) -> bool:
        """True for a call that a converter of ours reads as an op whose result is no view of an operand.

        So it is for what is made of several tensors, and for what :attr:`Op.fresh` is true of.
        """
        converter = self._traced.converter(node)
        is_ours = str(getattr(converter, "__module__", "")).startswith("spikec.")
        if not isinstance(value, Signal) or not is_ours or converter in gives_view:
            return False
        op = self.graph[value.name]
        return source in op.origin and (op.fresh or len(set(self.graph.operands(value.name))) > 1)

    # --------------------------------------------------------------- output

    def _output(self, value: Any, name: str, count: list[int]) -> Any:
        """Add outputs for every signal in the model's own container; the container with their positions.

        What stays inside a layer is None there, and so is what an ANN gives None for.
        """
        if isinstance(value, Moved):
            raise value.error
        if isinstance(value, Signal):
            self.graph.add(Output(), value.name, name=name)
            count[0] += 1
            return count[0] - 1
        if value is None and name != "output" and not self.graph.is_spiking:
            return None
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
            location=self._traced.name,
            hint="return tensors only, alone or in a tuple, list or dict",
        )


def _batch_first(x: Tensor) -> bool:
    return x.ndim > 0 and x.shape[0] == SAMPLES and x.dtype in (torch.float32, torch.float64)


#: a number that is made from the batch size and less than that is no multiple of it, see :class:`BatchSize`
_SMALL = 2**32
#: modules of functions that compute sizes from sizes
_ON_NUMBERS = ("_operator", "builtins", "math")


def _is_on_numbers(node: fx.Node, args: Any) -> bool:
    """True for a call that computes sizes from sizes, or checks them."""
    if node.op == "call_method":
        return not isinstance(args[0], Tensor)
    return node.target is torch._assert or getattr(node.target, "__module__", "") in _ON_NUMBERS


def _is_container(target: Any) -> bool:
    return isinstance(target, type) and (hasattr(target, "_fields") or dataclasses.is_dataclass(target))


def _in_place(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return getattr(module, "inplace", False) is True
    if isinstance(node.target, torch._ops.OpOverload):
        return bool(node.target._schema.is_mutable)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.kwargs.get("inplace") is True or node.target in AUGMENTED or name.rstrip("_") + "_" == name
