"""What a converter of an ONNX node is given, and the table that converters are registered in."""

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NoReturn

import attrs
import numpy as np
import torch

from spikec.extend import loader
from spikec.extend.call import Call as BaseCall
from spikec.extend.call import Refused
from spikec.extend.call import Signal as BaseSignal
from spikec.extend.composites import expanded
from spikec.extend.converters import Converters
from spikec.frontends.onnx.evaluate import Budget, run_node
from spikec.frontends.torch.call import Call as TorchCall
from spikec.frontends.torch.call import Moved, leaves
from spikec.frontends.torch.call import converter as torch_converter
from spikec.frontends.torch.convert import convert
from spikec.frontends.torch.moved import placed
from spikec.frontends.torch.tensor import SignalTensor
from spikec.ir.errors import CompileError, InvalidModelError, UnsupportedOpError, ignoring_others
from spikec.ir.op import Op
from spikec.ir.types import Array

#: the hint for what would mix the samples of a batch
INDEPENDENT = "samples of a batch are independent in a compiled network"
#: the hint where a constant stands in the place of a signal
SIGNAL_WANTED = "swap its inputs, or make the constant an input of the model"


loader.modules("frontends", "torch")  # importing torch's converters registers them


class WithoutNumbers:
    """A tensor whose numbers are not known while the model is read: whatever needs them refuses the node."""

    #: what is said then, and the hint
    why: ClassVar[tuple[str, str]]

    @classmethod
    def refuse(cls, *_: Any, **__: Any) -> NoReturn:
        """Raise an UnsupportedOpError; who converts the node adds where it stands."""
        message, hint = cls.why
        raise UnsupportedOpError(message, hint=hint)

    __array__ = __bool__ = __float__ = __index__ = __int__ = __iter__ = __len__ = __torch_function__ = refuse


@attrs.frozen
class Signal(SignalTensor, WithoutNumbers):
    """A tensor that depends on the model's input; torch's functions, methods and operators take it.

    Each call is read by torch's own converter, see :meth:`Call.run`, so that the rules about batches, broadcasting and
    what spikes cannot compute are written once.
    """

    why = ("one of its inputs must be a constant, and is computed from the model's input", "make it a constant")


@attrs.frozen(eq=False)
class Constant(WithoutNumbers):
    """A tensor that does not depend on the model's input, only perhaps on the number of samples in a batch.

    Attributes:
        values: the tensor for each of the batch sizes that the graph is read for.
    """

    why = ("one of its inputs depends on the batch size", INDEPENDENT)

    values: tuple[Array, ...]

    @property
    def is_fixed(self) -> bool:
        """True where it does not depend on the batch size."""
        first = self.values[0]
        return all(each is first or np.array_equal(each, first) for each in self.values[1:])


@attrs.frozen(eq=False)
class Row:
    """All numbers of a batch in one row. Only a Gather takes it, where it makes samples of the row again.

    Attributes:
        signal: the tensor whose numbers they are.
        error: why nothing else can take it.
    """

    signal: BaseSignal
    error: CompileError


#: a tensor of the model: None for an optional input that is left out
Value = BaseSignal | Constant | Row | Refused | None

#: Converters. A key is the operator's name, or (domain, name) outside of ONNX's own domain. Called as
#: ``(call, *inputs, **attributes)``; an input that is left out is left to the parameter's default. A tensor that
#: depends on the model's input is a :class:`Signal`, floats are torch tensors, integers (nested lists of) int, and
#: what depends on the batch size is a :class:`Constant`; a Gather may be given a :class:`Row`. The result is one of
#: these classes, or a tuple of them.
converter: Converters[Callable[..., Any]] = Converters("ONNX converter")


@attrs.frozen(eq=False)
class Call(BaseCall):
    """One node of the user's ONNX model. Half and bfloat16 numbers are float32 here, text is ``str``.

    Attributes:
        node: the ``onnx.NodeProto``.
        values: what each name stands for that the node, or a subgraph in it, takes.
        opsets: the version of each domain's operators.
        batches: the batch sizes that the graph is read for: one where the model fixes it, else several.
        wanted: for each output whether anything uses it.
        budget: what may still be computed.
    """

    node: Any
    values: Mapping[str, Value]
    opsets: Mapping[str, int]
    batches: tuple[int, ...]
    wanted: tuple[bool, ...]
    budget: Budget

    @property
    def inputs(self) -> tuple[Value, ...]:
        """The node's inputs; None for one that is left out."""
        return tuple(self.values.get(name) for name in self.node.input)

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators."""
        return self.opsets.get("", 0)

    def argument(self, value: Value) -> Any:
        """What the converter gets for an input, see :data:`converter`."""
        if isinstance(value, BaseSignal):
            return Signal(value.name, self.run)
        if not isinstance(value, Constant) or not value.is_fixed:
            return value
        array = value.values[0]
        if array.dtype not in (np.float32, np.float64):
            return array.tolist()
        with ignoring_others():  # torch warns that the model's memory is read-only; nobody writes to it
            return torch.from_numpy(np.asarray(array))

    def array(self, slot: int) -> Any:
        """A constant input as it lies in the model, without a copy; None where it is left out."""
        value = self.inputs[slot] if slot < len(self.inputs) else None
        if isinstance(value, BaseSignal):
            Signal.refuse()
        if isinstance(value, Constant) and not value.is_fixed:
            Constant.refuse()
        return value.values[0] if isinstance(value, Constant) else None

    def add(self, op: Op, *operands: BaseSignal, part: str = "") -> Signal:
        """Add an op behind its operands, as every call does; its weights must be numbers.

        Raises:
            InvalidModelError: they hold NaN or infinity.
            CompileError: the batch of an operand is not its first axis.
        """
        for operand in operands:
            self.shape(operand)
            if isinstance(operand, SignalTensor) and operand.moved is not None:
                raise operand.moved.error
        for value in op.parameters().values():
            if not np.isfinite(value).all() if isinstance(value, np.ndarray) else value != value:
                raise InvalidModelError(self.problem(self._not_finite(), "train or load them again"))
        added = super().add(op, *operands, part=part)
        kind = self.graph.type(added.name)
        self.check_memory(math.prod(kind.shape, start=np.dtype(kind.dtype).itemsize))
        return Signal(added.name, self.run)

    def check_memory(self, count: int) -> None:
        """Refuse what takes more bytes than may be computed from the model."""
        self.budget.check(count)

    def _not_finite(self) -> str:
        """Which of the node's constants are no numbers; one that is computed from them may not be either."""
        named = {name: self.values.get(name) for name in self.node.input}
        wrong = [
            name
            for name, value in named.items()
            if isinstance(value, Constant)
            and any(each.dtype.kind == "f" and not np.isfinite(each).all() for each in value.values)
        ]
        return f"its weights hold NaN or infinity{': ' * bool(wrong)}{', '.join(map(repr, wrong))}"

    def run(self, key: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What torch's converter of a function or method, by its key, makes of signals: ops of this node."""
        for leaf in leaves((args, kwargs)):
            if isinstance(leaf, Constant):
                leaf.refuse()
        name = key[1] if isinstance(key, tuple) else key.__name__
        found = torch_converter.first((key, ("method", name)))
        if found is None:
            self.refuse(
                f"{self.source.kind} is not supported: torch's {name} has no converter", "register one for torch"
            )
        return convert(found, _FunctionCall(self.graph, self.source, self.name, args, kwargs, outer=self))

    def shape(self, signal: BaseSignal) -> tuple[int, ...]:
        """Shape of one sample of a signal, without the batch; a constant is refused."""
        if not isinstance(signal, BaseSignal):
            self.refuse(
                f"an input of {self.source.kind} does not depend on the model's input, and it must", SIGNAL_WANTED
            )
        return super().shape(signal)

    def position(self, signal: BaseSignal, axis: int) -> int:
        """An axis of ONNX's tensor, counted from the front; negative ones count from the end."""
        rank = len(self.shape(signal)) + 1
        if not -rank <= axis < rank:
            self.refuse(
                f"axis {axis} of a tensor {self.shown(signal)} does not exist",
                f"axes run from -{rank} to {rank - 1}, the batch is 0",
            )
        return axis % rank

    def axis(self, signal: BaseSignal, axis: int) -> int:
        """An axis of ONNX's tensor as an axis of a sample; the batch is refused."""
        position = self.position(signal, axis)
        if position == 0:
            self.refuse("it works along the batch axis", INDEPENDENT)
        return position - 1

    def computed(self, x: BaseSignal | None = None, stand_in: Callable[..., Array] = np.zeros) -> list[Constant]:
        """What onnx itself makes of the node, for each output.

        Args:
            x: the only input that may be a signal.
            stand_in: what x is replaced by, as a function of its shape, batch first: zeros, where the result depends
                on nothing but that shape.
        """
        signals = {value.name for value in self.values.values() if isinstance(value, BaseSignal)}
        if signals - {None if x is None else x.name}:
            Signal.refuse()
        constants = [value for value in self.values.values() if isinstance(value, Constant)]
        count = 1 if not signals and all(value.is_fixed for value in constants) else len(self.batches)
        runs = [self._run(i, stand_in) for i in range(count)]
        self.budget.spent += sum(each.nbytes for run in runs for each in run if each.base is None)
        return [Constant(column * (len(self.batches) // count)) for column in zip(*runs, strict=True)]

    def _run(self, i: int, stand_in: Callable[..., Array]) -> list[Array]:
        feeds = {
            name: value.values[i] if isinstance(value, Constant) else stand_in(self._sized(value, self.batches[i]))
            for name, value in self.values.items()
            if isinstance(value, (BaseSignal, Constant))
        }
        return self.evaluated(self.node, self.opsets, feeds, f", for a batch of {self.batches[i]}", self.budget)

    def _sized(self, signal: BaseSignal, batch: int) -> tuple[int, ...]:
        """The shape of a signal's tensor for a batch of that size."""
        return tuple(placed(self, signal, batch)) if isinstance(signal, Moved) else (batch, *self.shape(signal))

    def evaluated(
        self, node: Any, opsets: Mapping[str, int], feeds: Mapping[str, Array], when: str, budget: Budget | None
    ) -> list[Array]:
        """The results of an ONNX node for these inputs, as :func:`run_node` gives them.

        Args:
            node, opsets, feeds, budget: see there.
            when: said of it where it fails.
        """
        try:
            return run_node(node, opsets, feeds, budget)
        except CompileError as error:
            raise self.located(error) from None
        except Exception as error:  # numpy's, protobuf's and the evaluator's own
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            self.refuse(
                f"{self.source.kind} cannot be computed beforehand{when}: {reason}",
                "mend its inputs, or make its result an initializer",
            )

    def result_shape(self, x: BaseSignal) -> tuple[int, ...]:
        """The shape of a sample of the result, where it depends on nothing but the shape of x.

        Raises:
            UnsupportedOpError: the result's first axis is not the batch, or another one depends on it.
        """
        self.shape(x)
        shapes = [each.shape for each in self.computed(x)[0].values]
        inside = shapes[0][1:]
        if shapes != [(batch, *inside) for batch in self.batches]:
            self.refuse(
                f"it does not keep the batch axis first and whole: the result is {list(shapes[0])} "
                f"for a batch of {self.batches[0]}",
                f"{INDEPENDENT}: flatten from axis 1 on, name the axes to squeeze",
            )
        return inside

    def beside(self, value: Any, signal: BaseSignal) -> Array:
        """A constant that meets a signal element by element, without its batch axis, along which it must not vary."""
        rank = len(self.shape(signal)) + 1
        arrays = value.values if isinstance(value, Constant) else (np.asarray(value),)
        shown = f"a constant of shape {list(arrays[0].shape)}"
        if arrays[0].ndim > rank:
            self.refuse(
                f"{shown} has more axes than the signal {self.shown(signal)}",
                f"reshape the constant to at most {rank} axes",
            )
        samples = [sample for array in arrays for sample in (array if array.ndim == rank else [array])]
        if not samples or not all(np.array_equal(each, samples[0]) for each in samples):
            self.refuse(
                f"{shown} differs from sample to sample of {self.shown(signal)}",
                f"{INDEPENDENT}: give one that broadcasts over them",
            )
        return np.asarray(samples[0])

    def broadcast(self, *operands: Any) -> list[Any]:
        """Signals expanded to their common shape, and constants that torch broadcasts to it, without a batch axis."""
        signals = [each for each in operands if isinstance(each, Signal)]
        if len({len(self.shape(each)) for each in signals}) > 1:
            shown = " and ".join(map(self.shown, signals))
            self.refuse(f"broadcasting {shown} would put the batch of one beside another axis", "unsqueeze the smaller")
        found = [each if isinstance(each, Signal) else self.beside(each, signals[0]) for each in operands]
        shapes = [self.shape(each) if isinstance(each, Signal) else each.shape for each in found]
        try:
            shape = np.broadcast_shapes(*shapes)
        except ValueError:
            self.refuse(
                f"its operands do not broadcast: samples of {', '.join(map(str, shapes))}",
                "expand one: sizes must be equal, or 1",
            )
        return [
            expanded(self, each, shape, part=f"operand{i}") if isinstance(each, Signal) else _tensor(each)
            for i, each in enumerate(found)
        ]

    def arguments(self) -> str:
        """The node's inputs, signals by their names."""
        return ", ".join(map(_show, self.inputs))


@attrs.frozen(eq=False)
class _FunctionCall(TorchCall):
    """A call of a torch function by an ONNX converter: the node adds its ops, and says what it is called with."""

    outer: BaseCall = attrs.field(kw_only=True)

    def add(self, op: Op, *operands: BaseSignal, part: str = "") -> BaseSignal:
        return self.outer.add(op, *operands, part=part)


def _tensor(array: Array) -> torch.Tensor:
    """A constant as a tensor; one number that is repeated becomes a scalar, which bounds a signal by a plain clamp."""
    is_repeated = array.size and (array == array.flat[0]).all()
    return torch.from_numpy(np.array(array.flat[0] if is_repeated else array))


def _show(value: Value) -> str:
    if isinstance(value, BaseSignal):
        return f"%{value.name}"
    if isinstance(value, Constant):
        return f"{value.values[0].dtype}{list(value.values[0].shape)}"
    return "" if value is None else str(value)
