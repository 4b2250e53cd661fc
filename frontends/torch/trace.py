"""From a module to a torch.fx graph whose every node knows the user's line."""

from __future__ import annotations

import builtins
import contextlib
import functools
import inspect
import operator
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.nn import functional as F

from spikec.frontends.torch.call import Signal, converter, is_spiking, keeps_state, layer_rule, qualified
from spikec.ir.errors import Hint, InvalidModelError, Option, Problem
from spikec.ir.origin import Source, is_user_file

#: where a proxy is known to be one
_TRACERS = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(__file__) + os.sep)
_user_file = functools.cache(is_user_file)
_FRAME = re.compile(r'File "(.+?)", line (\d+)')
#: some versions of torch record the callers of the tracer too
_OUTSIDE = re.compile(r'\A.*torch_fx_trace\.py", line \d+, in trace\n', re.DOTALL)


class _Proxy(fx.Proxy):
    """A tensor or size while forward is traced.

    ``x += y`` changes x in torch, where fx would record a sum. A size may be used as a plain number.
    """

    tracer: _Tracer

    def __getattr__(self, k: str) -> fx.proxy.Attribute:
        attribute = _Attribute(self, k)
        if k in ("T", "mT", "H", "mH"):
            _ = attribute.node  # is made when it is first asked for: now, on the user's line
        return attribute

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


class _Attribute(fx.proxy.Attribute, _Proxy):
    """``x.shape`` and its like, and the method before it is called."""


def _in_place(function: Any) -> Any:
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


for _name in ("iadd", "isub", "imul", "itruediv"):
    setattr(_Proxy, f"__{_name}__", _in_place(getattr(operator, _name)))


class _Tracer(fx.Tracer):
    """Layers that have a converter are leaves, and so are torch's own; everything else is traced through.

    Arguments of forward that have a default value keep it. Tensors that forward makes itself are kept in
    ``constants`` and not on the user's module.
    """

    record_stack_traces = True

    def __init__(self, known: Known | None) -> None:
        super().__init__()
        self._known = known
        self._untraced = {name: getattr(nn.Module, name) for name in ("__call__", "__getattr__")}
        self.constants: dict[str, Tensor] = {}
        self.failed_in = ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return "forward" not in vars(m) and (
            layer_rule(m) is not None or keeps_state(m) or super().is_leaf_module(m, module_qualified_name)
        )

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        names = required(self.root)
        return lambda root, *xs: root.forward(*xs), [
            self.root,
            *(self.create_proxy("placeholder", name, (), {}) for name in names),
        ]

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def value(self, proxy: fx.Proxy) -> Any:
        """What a proxy stands for: a Signal, or numbers; raises a TraceError where that is not known."""
        if self._known is None:
            raise fx.proxy.TraceError("sizes are not known without an example_input")
        traced = Traced(self.root, self.graph, self.constants)
        patches = {name: getattr(nn.Module, name) for name in self._untraced}
        try:
            _patch(self._untraced)
            return self._known(traced, proxy.node)
        finally:
            _patch(patches)

    def number(self, proxy: fx.Proxy) -> Any:
        """A size, or a constant tensor of one element, as a plain number."""
        value = self.value(proxy)
        if isinstance(value, Signal):
            raise fx.proxy.TraceError("numbers of a signal are not known before it runs")
        return value.item() if isinstance(value, Tensor) else value

    def class_of(self, proxy: fx.Proxy) -> type:
        """The class of what a proxy stands for; a tensor where that is not known."""
        try:
            value = self.value(proxy)
        except fx.proxy.TraceError:
            return Tensor
        return Tensor if isinstance(value, Signal) else type(value)

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

    def create_arg(self, a: Any) -> Any:
        if not isinstance(a, Tensor):
            return super().create_arg(a)
        for name, known in (*self.root.named_parameters(), *self.root.named_buffers(), *self.constants.items()):
            if known is a:
                return self.create_node("get_attr", name, (), {})
        name = f"constant {len(self.constants)}"
        self.constants[name] = a
        return self.create_node("get_attr", name, (), {}, name="constant")

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed_in = self.failed_in or next((n for n, each in self.root.named_modules() if each is m), "")
            raise


@contextlib.contextmanager
def _isinstance() -> Iterator[None]:
    """While forward runs, ``isinstance`` in a model's code is answered for what a proxy stands for.

    It would say that an input is no tensor, and the trace would be that of another branch.
    """
    plain = builtins.isinstance

    def answered(thing: Any, kind: Any) -> bool:
        if not issubclass(type(thing), _Proxy) or sys._getframe(1).f_code.co_filename.startswith(_TRACERS):
            return plain(thing, kind)
        classes = [each for each in (kind if plain(kind, tuple) else (kind,)) if plain(each, type)]
        return issubclass(thing.tracer.class_of(thing), tuple(classes))

    builtins.isinstance = answered
    try:
        yield
    finally:
        builtins.isinstance = plain


def _patch(methods: dict[str, Any]) -> None:
    """While fx traces, it holds some methods of nn.Module replaced by its own."""
    for name, method in methods.items():
        setattr(nn.Module, name, method)


@attrs.frozen(eq=False)
class Traced:
    """A module and what it does.

    Attributes:
        root: the user's module.
        graph: its fx graph.
        constants: tensors that are no attribute of the module, by the target of their ``get_attr``.
    """

    root: nn.Module
    graph: fx.Graph
    constants: dict[str, Tensor]

    @property
    def name(self) -> str:
        """What the graph will be called."""
        return type(self.root).__name__

    @property
    def device(self) -> str:
        """Where the parameters are, as torch writes it."""
        return str(next((p.device for p in (*self.root.parameters(), *self.root.buffers())), "cpu"))

    @property
    def inputs(self) -> list[str]:
        """Names of the model's inputs: the placeholders without a default value."""
        return [str(node.target) for node in self.graph.nodes if node.op == "placeholder" and not node.args]

    @property
    def parameters(self) -> dict[str, Any]:
        """Values of the placeholders that are no inputs."""
        return {}

    @property
    def spiking(self) -> bool:
        """Whether it runs in time, as a spiking network."""
        return is_spiking(self.root)

    def attribute(self, target: str) -> Any:
        """What a ``get_attr`` node stands for."""
        if target in self.constants:
            return self.constants[target]
        return functools.reduce(getattr, target.split("."), self.root)

    def module(self, node: fx.Node) -> nn.Module | None:
        """The layer that a node calls, or None."""
        return self.root.get_submodule(str(node.target)) if node.op == "call_module" else None

    def source(self, node: fx.Node) -> Source:
        """Where a node stands in the user's model."""
        module = self.module(node)
        stack = node.meta.get("nn_module_stack") or {}
        path = str(node.target) if module is not None else next((str(v[0]) for v in reversed(stack.values())), "")
        frames = _FRAME.findall(_OUTSIDE.sub("", node.stack_trace or ""))
        file, line = next(((f, int(n)) for f, n in reversed(frames) if _user_file(f)), ("", 0))
        return Source(node.name, path, self.kind(node), file, line)

    def kind(self, node: fx.Node) -> str:
        """What the user wrote."""
        return kind(node, self.module(node))

    def rule(self, node: fx.Node) -> Callable[..., Any] | None:
        """The converter of a node, called as :data:`spikec.frontends.torch.call.converter` says, or None."""
        module = self.module(node)
        if module is not None:
            return layer_rule(module)
        if node.op == "call_method":
            return converter.get(("method", node.target))
        return converter.first((node.target, qualified(node.target)))

    def key(self, node: fx.Node) -> str:
        """What a converter of the node would be registered for."""
        if node.op == "call_method":
            return f'("method", "{node.target}")'
        if getattr(node.target, "__module__", "") == "_operator":
            return f"operator.{getattr(node.target, '__name__', '')}"
        return self.kind(node)

    def op_name(self, node: fx.Node, source: Source) -> str:
        """The module path; for a function, the path of the module that calls it and fx's name."""
        module = self.module(node)
        if module is None or not node.target:
            stem = re.sub(r"_\d+$", "", node.name)
            stem = stem[1:] if node.target in AUGMENTED else stem
            return f"{source.path}_{stem}" if source.path and module is None else stem
        path = str(node.target)
        return f"{type(module).__name__.lower()}_{path}" if path[0].isdigit() else path


#: the value of a node of a graph that is still being traced
Known = Callable[[Traced, fx.Node], Any]


def trace(model: nn.Module, known: Known | None = None) -> Traced:
    """Trace a module; a GraphModule is taken as it is.

    Args:
        model: the module.
        known: asked where forward uses a size as a plain number or in a condition; None if no size is known.

    Raises:
        InvalidModelError: its forward cannot be traced, with the line where that ends.
    """
    if isinstance(model, fx.GraphModule):
        return Traced(model, model.graph, {})
    tracer = _Tracer(known)
    if tracer.is_leaf_module(model, ""):
        return Traced(model, _single(model), {})
    try:
        with torch.no_grad(), _isinstance():
            graph = tracer.trace(model)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        raise InvalidModelError(untraceable(error, tracer.failed_in, frames)) from error
    return Traced(model, graph, tracer.constants)


def required(model: nn.Module) -> list[str]:
    """Names of the arguments that forward must be given: the model's inputs. ``*xs`` alone is one."""
    if isinstance(model, fx.GraphModule):
        return [str(node.target) for node in model.graph.nodes if node.op == "placeholder" and not node.args]
    parameters = [p for p in inspect.signature(model.forward).parameters.values() if p.default is p.empty]
    named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return named or [p.name for p in parameters if p.kind is p.VAR_POSITIONAL]


def _single(model: nn.Module) -> fx.Graph:
    """The graph of a model that is one layer."""
    graph = fx.Graph()
    inputs = tuple(graph.placeholder(name) for name in required(model))
    graph.output(graph.create_node("call_module", "", inputs, {}, name=type(model).__name__.lower()))
    return graph


def untraceable(error: Exception, path: str, frames: Sequence[traceback.FrameSummary]) -> Problem:
    """What ended a trace, at the innermost of the user's frames.

    Args:
        error: what was raised.
        path: of the module whose forward it was raised in, or ``""``.
        frames: the error's, from the tracer on.
    """
    frames = [frame for frame in frames if _user_file(frame.filename)]
    where = Source(path or "forward", path)
    if frames:
        where = attrs.evolve(where, file=frames[-1].filename, line=frames[-1].lineno or 0)
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    line = (frames[-1].line or "") if frames else ""
    if isinstance(error, (fx.proxy.TraceError, GuardOnDataDependentSymNode)):
        if not isinstance(error, fx.proxy.TraceError):
            reason = "a condition on numbers of a signal, which are not known before it runs"
        return Problem(
            f"what the model does depends on its data or its shape: {reason}",
            str(where),
            line,
            Hint(
                "a compiled network does the same on every input and batch size: take the condition or loop out of "
                "forward, or decide it in __init__; for one on a size pass ",
                Option("example_input"),
            ),
        )
    return Problem(
        f"forward cannot be traced: {type(error).__name__}: {reason}",
        str(where),
        line,
        "write forward with tensor operations only, or put this part into a module that has a converter",
    )


def kind(node: fx.Node, module: nn.Module | None) -> str:
    """What the user wrote: ``nn.Conv2d``, ``F.relu``, ``torch.cat``, ``Tensor.view``, ``+``."""
    if module is not None:
        cls = type(module)
        return f"nn.{cls.__name__}" if cls.__module__.startswith("torch.nn.modules") else cls.__name__
    if node.op == "call_method":
        return f"Tensor.{node.target}"
    if node.target is getattr:
        return f"Tensor.{node.args[1]}"
    if node.target in _SIGNS:
        return _SIGNS[node.target]
    for prefix, room in (("torch", torch), ("F", F)):
        for name in (getattr(node.target, "__name__", ""), re.sub(r"_\d+$", "", node.name)):
            if getattr(room, name, None) is node.target:
                return f"{prefix}.{name}"
    return qualified(node.target)


#: what ``+=`` and its like call
AUGMENTED = (operator.iadd, operator.isub, operator.imul, operator.itruediv)

_SIGNS: dict[Any, str] = {
    operator.add: "+",
    operator.iadd: "+=",
    operator.sub: "-",
    operator.isub: "-=",
    operator.mul: "*",
    operator.imul: "*=",
    operator.truediv: "/",
    operator.itruediv: "/=",
    operator.floordiv: "//",
    operator.matmul: "@",
    operator.neg: "-",
    operator.pow: "**",
    operator.getitem: "[]",
    operator.gt: ">",
    operator.ge: ">=",
    operator.lt: "<",
    operator.le: "<=",
    operator.eq: "==",
    operator.ne: "!=",
}
