"""The bridge to torch: an ONNX converter calls torch's functions on a signal, and torch's own converters read them.

Torch asks a signal's ``__torch_function__`` what ``F.relu(x)`` means, and the converter of ``F.relu`` in
``frontends/torch`` adds its ops to the graph of the ONNX model. So the rules about batches, broadcasting and what
spikes cannot compute are written once.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NoReturn

import attrs

from spikec.extend import loader
from spikec.extend.call import Call as BaseCall
from spikec.extend.call import Signal as BaseSignal
from spikec.frontends.torch.call import Call as TorchCall
from spikec.frontends.torch.call import converter, leaves
from spikec.ir.errors import Problem, UnsupportedOpError
from spikec.ir.op import Op

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
class Signal(WithoutNumbers, BaseSignal):
    """A tensor that depends on the model's input; torch's functions, methods and operators take it.

    Attributes:
        call: the ONNX node that is being converted.
    """

    why = ("one of its inputs must be a constant, and is computed from the model's input", "make it a constant")

    call: BaseCall = attrs.field(eq=False, repr=False)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _read(function, args, kwargs or {})

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if converter.get(("method", name)) is None:
            raise AttributeError(f"torch has no converter of the method {name!r}")
        return lambda *args, **kwargs: _read(name, (self, *args), kwargs)


def _operator(function: Callable[..., Any], step: int = 1) -> Callable[..., Any]:
    return lambda *operands: _read(function, operands[::step], {})


for _name in ("add", "sub", "mul", "truediv", "matmul", "neg", "getitem"):
    setattr(Signal, f"__{_name}__", _operator(getattr(operator, _name)))
for _name in ("add", "sub", "mul", "truediv", "matmul"):
    setattr(Signal, f"__r{_name}__", _operator(getattr(operator, _name), step=-1))


@attrs.frozen(eq=False)
class _FunctionCall(TorchCall):
    """A call of a torch function by an ONNX converter: its ops and its refusals are those of the ONNX node."""

    node: BaseCall = attrs.field(kw_only=True)

    def add(self, op: Op, *operands: BaseSignal, part: str = "") -> BaseSignal:
        return self.node.add(op, *operands, part=part)

    def problem(self, message: str, hint: str = "") -> Problem:
        return self.node.problem(message, hint)


def _read(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The result of torch's converter of a function, or of a method that is given by its name."""
    given = [leaf for leaf in leaves((tuple(args), dict(kwargs))) if isinstance(leaf, WithoutNumbers)]
    node = next(leaf.call for leaf in given if isinstance(leaf, Signal))
    for leaf in given:
        if not isinstance(leaf, Signal):
            leaf.refuse()
    name = function if isinstance(function, str) else function.__name__
    convert = converter.first((function, ("method", name)))
    if convert is None:
        node.refuse(f"{node.source.kind} is not supported: torch's {name} has no converter", "register one for torch")
    return convert(_FunctionCall(node.graph, node.source, node.name, tuple(args), kwargs, node=node), *args, **kwargs)
