"""From a module to a torch.fx graph whose every node knows the user's line."""

from __future__ import annotations

import operator
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import _symbolic_trace
from torch.fx.node import map_arg

from spikec.frontends.torch.call import Signal, Stacked, leaves
from spikec.frontends.torch.layers import keeps_state, layer_converter
from spikec.frontends.torch.reader import Reader
from spikec.frontends.torch.shadow import snapshot
from spikec.frontends.torch.traced import LAYER, LINE, Traced, required, untraceable
from spikec.ir.errors import InvalidModelError
from spikec.ir.origin import is_user_file


class _Proxy(fx.Proxy):
    """A number, or a tuple of them, while forward is traced: it may be used as what it stands for.

    ``x += y`` changes x in torch, where fx would record a sum.
    """

    tracer: _Tracer

    def __getattr__(self, k: str) -> Any:
        if k in ("T", "mT", "H", "mH"):
            return self.tracer.create_proxy("call_function", getattr, (self, k), {})
        return self.tracer.fact(self, k) if k in ("dtype", "device") else _Attribute(self, k)

    def __getattribute__(self, name: str) -> Any:
        """``__class__`` is what ``isinstance`` goes by."""
        return self.tracer.class_of(self) if name == "__class__" else super().__getattribute__(name)

    def __int__(self) -> int:
        return int(self.tracer.number(self))

    def __index__(self) -> int:
        return operator.index(self.tracer.number(self))

    def __float__(self) -> float:
        return float(self.tracer.number(self))

    def __len__(self) -> int:
        return self.tracer.length(self)

    def __abs__(self) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", torch.abs, (self,), {})


class _TensorProxy(_Proxy, Tensor):  # type: ignore[misc]
    """A tensor while forward is traced, which ``isinstance`` must know: a model that asks takes another branch else.

    To claim it by ``__class__`` is not enough: torch believes that too, and looks for a tensor's memory in it. So there
    is an empty tensor behind it, and whatever belongs to that is hidden.
    """

    def __new__(cls, *args: Any) -> Any:
        return Tensor._make_subclass(cls, torch.empty(0, device="meta"))

    def __getattribute__(self, name: str) -> Any:
        return self.__getattr__(name) if name in _HIDDEN else object.__getattribute__(self, name)

    def __setitem__(self, index: Any, value: Any) -> None:
        if not all(isinstance(each, (int, slice, type(None), type(...))) for each in leaves(index)):
            raise TypeError("a proxy does not support item assignment")  # what lists and tensors pick is a copy
        write = self[index].copy_ if isinstance(value, Tensor) else self[index].fill_
        write(value)


#: what belongs to the empty tensor
_HIDDEN = {name for name in dir(Tensor) if not name.startswith("__")} - set(dir(fx.Proxy))


#: methods and functions that ask a tensor for numbers
_ASKING = (getattr, "size", "dim", "ndimension", "numel", "nelement", "is_floating_point", torch.is_floating_point)


class _Attribute(fx.proxy.Attribute, _Proxy):
    """``x.shape`` and its like, and the method before it is called."""


def _in_place(function: Any) -> Any:
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


for _name in ("iadd", "isub", "imul", "itruediv"):
    setattr(_Proxy, f"__{_name}__", _in_place(getattr(operator, _name)))


def _version(tensor: Tensor) -> tuple[int, int]:
    """What tells a tensor from others, and from itself as it was before it was changed in place."""
    return id(tensor), 0 if tensor.is_inference() else tensor._version


#: held by the thread that traces: torch's tracers patch classes of the whole process
TRACING = threading.RLock()


class _Tracer(fx.Tracer):
    """Layers that a converter reads as a whole are leaves, torch's own among them; all others are traced through.

    Arguments of forward that have a default value keep it. Forward runs on a :func:`shadow` of the module, so that the
    user's own never holds what stands for tensors meanwhile. Tensors that forward makes itself, or changed before it
    used them, are kept in ``constants``. Torch lets a tracer see the calls of all modules in the process: those in
    other threads are left alone.

    Attributes:
        reader: has read all nodes so far, so that it is known what they stand for; None where no size is known.
        failed_in: path of the module whose forward raised.
    """

    def __init__(self, model: nn.Module, shapes: Sequence[tuple[int, ...]] | None, dtype: str) -> None:
        """``shapes``: of a sample of each input, or None where they are not known yet."""
        super().__init__()
        self.constants: dict[str, Tensor] = {}
        self.failed_in = ""
        self.reader: Reader | None = None
        self._model = model
        self._shapes = shapes
        self._dtype = dtype
        self._thread = threading.get_ident()
        self._names: dict[tuple[int, int], str] = {}  # of tensors, by their identities and versions
        self._held: list[Tensor] = []  # whose identities no other tensor may take over
        self._buffers: dict[int, str] = {}  # of the shadow, by their identities
        self._numbers: set[fx.Node] = set()
        self._is_reading = False

    # ------------------------------------------------------------------ recorded

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return "forward" not in vars(m) and (
            layer_converter(m) is not None or keeps_state(m) or super().is_leaf_module(m, module_qualified_name)
        )

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        names = required(self._model)
        paths = self.submodule_paths = {}
        for module in (self._model, self.root):  # a closure may know the user's own
            paths.update({each: name for name, each in module.named_modules()})
            held = (*module.named_parameters(), *module.named_buffers())
            self._names.update({_version(each): name for name, each in held})
        self._buffers = {id(each): name for name, each in self.root.named_buffers()}
        forward = self._replayed if isinstance(self.root, fx.GraphModule) else lambda root, *xs: root.forward(*xs)
        return forward, [
            self.root,
            *(self.create_proxy("placeholder", name, (), {}) for name in names),
        ]

    def _replayed(self, root: fx.GraphModule, *xs: Any) -> Any:
        """Record the nodes of a graph once more, with all that is known of them, but go through what is no leaf."""
        left = iter(xs)
        values: dict[fx.Node, Any] = {}
        for node in root.graph.nodes:
            args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
            if node.op == "output":
                return args[0]
            if node.op == "placeholder":
                values[node] = args[0] if args else next(left)
            elif node.op == "call_module" and not self.is_leaf_module(layer := root.get_submodule(node.target), ""):
                values[node] = layer(*args, **kwargs)
            else:
                values[node] = self.create_proxy(node.op, node.target, args, kwargs, name=node.name)
                meta = values[node].node.meta
                del meta[LINE]  # is where this was called
                meta.update(node.meta)
        raise AssertionError("a graph without an output")

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self) if self.is_number(node) else _TensorProxy(node, self)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta[LINE] = _users_line()
        if node.op == "call_module":
            layer = self.root.get_submodule(str(node.target))
            if self._buffers:
                self._expect_unchanged(*layer.buffers())
            node.meta[LAYER] = snapshot(layer) if self._shapes is None else layer  # which is read at once
        return node

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, fx.Proxy):  # first of all, because it also says that it is a Tensor
            return a.node
        if not isinstance(a, Tensor):
            return super().create_arg(a)
        self._expect_unchanged(a)
        name = self._names.setdefault(_version(a), f"constant {len(self.constants)}")
        if name.startswith("constant "):
            self.constants.setdefault(name, a.detach().clone())
            self._held.append(a)
        return self.create_node("get_attr", name, (), {}, name=name.split()[0])

    def _expect_unchanged(self, *used: Tensor) -> None:
        for each in used:
            if id(each) in self._buffers and each._version:
                name = self._buffers[id(each)]
                raise fx.proxy.TraceError(
                    f"the buffer {name} is used as forward changed it, and is another in each call"
                )

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._is_reading or threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed_in = self.failed_in or next((n for n, each in self.root.named_modules() if each is m), "")
            raise

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        is_recorded = not self._is_reading and threading.get_ident() == self._thread
        if not is_recorded or not isinstance(attr_val, nn.Parameter) or _version(attr_val) not in self._names:
            return attr_val
        name = self._names[_version(attr_val)]
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    # ------------------------------------------------------------------ asked

    def _ask(self, question: Callable[[Reader], Any]) -> Any:
        """Ask the reader; meanwhile modules are called and looked into as they are, and nothing is recorded."""
        if self._shapes is None:
            raise fx.proxy.TraceError("sizes are not known without an example_input")
        if self.reader is None:
            self.reader = Reader(Traced(self._model, self.graph, self.constants), self._shapes, self._dtype)
        before, self._is_reading = self._is_reading, True
        try:
            return question(self.reader)
        finally:
            self._is_reading = before

    def is_number(self, node: fx.Node) -> bool:
        """True for what is known to be no tensor."""
        if node.op in ("placeholder", "get_attr"):
            return False
        if self._shapes is None:
            inputs = node.all_input_nodes
            found = node.target in _ASKING or (bool(inputs) and self._numbers.issuperset(inputs))
        else:
            value = self._ask(lambda reader: reader.peek(node))
            found = not isinstance(value, (Signal, Tensor, Stacked))
        if found:
            self._numbers.add(node)
        return found

    def value(self, proxy: fx.Proxy) -> Any:
        """What a proxy stands for: a Signal, or numbers; raises a TraceError where that is not known."""
        return self._ask(lambda reader: reader.value(proxy.node))

    def fact(self, proxy: fx.Proxy, name: str) -> Any:
        """A dtype or device as it is, where it is known: torch takes nothing that stands for one."""
        asked = self.create_proxy("call_function", getattr, (proxy, name), {})
        value = None if self._shapes is None else self._ask(lambda reader: reader.peek(asked.node))
        return value if isinstance(value, (torch.dtype, torch.device)) else asked

    def number(self, proxy: fx.Proxy) -> Any:
        """A size, or a constant tensor of one element, as a plain number."""
        value = self.value(proxy)
        if isinstance(value, Signal):
            raise fx.proxy.TraceError("numbers of a signal are not known before it runs")
        return value.item() if isinstance(value, Tensor) else value

    def class_of(self, proxy: fx.Proxy) -> type:
        """The class of a number, or of a tuple of them; a proxy's own where that is not known."""
        try:
            value = self.value(proxy)
        except fx.proxy.TraceError:
            return fx.Proxy
        return fx.Proxy if isinstance(value, (Signal, Tensor, Stacked)) else type(value)

    def length(self, proxy: fx.Proxy) -> int:
        """Length of a shape."""
        value = self.value(proxy)
        if isinstance(value, Signal):
            raise fx.proxy.TraceError("the length of a tensor is the batch size, which is not fixed")
        return len(value)

    def to_bool(self, obj: fx.Proxy) -> bool:
        value = self.value(obj)
        return super().to_bool(obj) if isinstance(value, Signal) else bool(value)

    def iter(self, obj: Any) -> Iterator[Any]:
        value = self.value(obj)
        return super().iter(obj) if isinstance(value, Signal) else iter([obj[i] for i in range(len(value))])


def trace(
    model: nn.Module, own: nn.Module, shapes: Sequence[tuple[int, ...]] | None, dtype: str
) -> tuple[Traced, Reader | None]:
    """Trace a module; a GraphModule is taken as it is where a converter reads each module that it calls.

    Args:
        model: the module.
        own: its :func:`shadow`, whose forward is run.
        shapes: of a sample of each input, which forward may use as numbers and in conditions; None if not known.
        dtype: of the inputs.

    Returns:
        The trace, and its reader, which has read it so far; None where that has not begun.

    Raises:
        InvalidModelError: its forward cannot be traced, with the line where that ends.
    """
    tracer = _Tracer(model, shapes, dtype)
    if isinstance(model, fx.GraphModule):
        called = [model.get_submodule(node.target) for node in model.graph.nodes if node.op == "call_module"]
        if all(tracer.is_leaf_module(each, "") for each in called):
            return Traced(model, model.graph, {}), None
    if tracer.is_leaf_module(model, ""):
        return Traced(model, _single(model), {}), None
    try:
        with TRACING, torch.no_grad():
            graph = _traced(tracer, own)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        raise InvalidModelError(untraceable(error, tracer.failed_in, frames)) from error
    return Traced(model, graph, tracer.constants), tracer.reader


def _traced(tracer: _Tracer, own: nn.Module) -> fx.Graph:
    """Trace; where an interrupt meets torch.fx while it puts back what it has patched, put back the rest of it."""
    before = _symbolic_trace.CURRENT_PATCHER
    try:
        return tracer.trace(own)
    except KeyboardInterrupt:
        patcher = _symbolic_trace.CURRENT_PATCHER
        if patcher is not None and patcher is not before:
            patcher.__exit__(None, None, None)
        raise


def _users_line() -> tuple[str, int]:
    """(file, line) of the innermost of the user's frames inside of :func:`trace`."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code is not trace.__code__:
        if is_user_file(frame.f_code.co_filename):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return "", 0


def _single(model: nn.Module) -> fx.Graph:
    """The graph of a model that is one layer."""
    graph = fx.Graph()
    inputs = tuple(graph.placeholder(name) for name in required(model))
    graph.output(graph.create_node("call_module", "", inputs, {}, name=type(model).__name__.lower()))
    return graph
