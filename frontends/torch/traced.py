"""A traced module: its torch.fx graph, and where in the user's model each node of it stands."""

import functools
import inspect
import operator
import re
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from spikec.frontends.torch.call import Call, converter, qualified, tensors
from spikec.frontends.torch.layers import is_spiking, layer_converter
from spikec.ir.errors import Hint, Option, Problem
from spikec.ir.origin import Source, is_user_file

#: the name in ``node.meta`` of the (file, line) of the user's that a node was recorded at
LINE = "spikec_line"
#: the name in ``node.meta`` of a layer as it was when it was called, where forward may have changed it since
LAYER = "spikec_layer"
#: a frame of a stack trace as torch writes it into nodes that others recorded
_FRAME = re.compile(r'File "(.+?)", line (\d+)')
#: what ``+=`` and its like call
AUGMENTED = (operator.iadd, operator.isub, operator.imul, operator.itruediv)


@attrs.frozen(eq=False)
class Traced:
    """A module and what it does.

    Attributes:
        root: the user's module.
        graph: its fx graph.
        constants: tensors that are no attribute of the module, by the target of their ``get_attr``.
        parameters: values of the placeholders that are no inputs.
    """

    root: nn.Module
    graph: fx.Graph
    constants: dict[str, Tensor]
    parameters: dict[str, Any] = attrs.field(factory=dict)

    @property
    def name(self) -> str:
        """What the graph will be called."""
        return type(self.root).__name__

    @property
    def device(self) -> str:
        """Where the parameters are, as torch writes it."""
        held = (*self.root.parameters(), *self.root.buffers(), *tensors(self.parameters))
        return str(next((tensor.device for tensor in held), "cpu"))

    @property
    def inputs(self) -> list[str]:
        """Names of the model's inputs: the placeholders without a value."""
        return [name for name in placeholders(self.graph) if name not in self.parameters]

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
        if node.op != "call_module":
            return None
        found: nn.Module = node.meta.get(LAYER) or self.root.get_submodule(str(node.target))
        return found

    def source(self, node: fx.Node) -> Source:
        """Where a node stands in the user's model."""
        module = self.module(node)
        stack = node.meta.get("nn_module_stack") or {}
        path = str(node.target) if module is not None else next((str(v[0]) for v in reversed(stack.values())), "")
        file, line = node.meta.get(LINE) or _last_line(node.stack_trace or "")
        return Source(node.name, path, self.kind(node), file, line)

    def kind(self, node: fx.Node) -> str:
        """What the user wrote."""
        return kind(node, self.module(node))

    def converter(self, node: fx.Node) -> Callable[..., Any] | None:
        """The converter of a node, called as :data:`spikec.frontends.torch.call.converter` says, or None."""
        module = self.module(node)
        if module is not None:
            return layer_converter(module)
        if node.op == "call_method":
            return converter.get(("method", node.target))
        return converter.first((node.target, qualified(node.target)))

    def adapted(self, node: fx.Node, call: Call, found: Callable[..., Any]) -> Call:
        """The call of a node as its converter takes it."""
        return call

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


def _last_line(stack: str) -> tuple[str, int]:
    """(file, line) of the innermost frame of a stack trace that is in a file of the user's."""
    frames = reversed(_FRAME.findall(stack))
    return next(((file, int(line)) for file, line in frames if is_user_file(file)), ("", 0))


def placeholders(graph: fx.Graph) -> list[str]:
    """Names of a graph's placeholders without a default value."""
    return [str(node.target) for node in graph.nodes if node.op == "placeholder" and not node.args]


def required(model: nn.Module) -> list[str]:
    """Names of the arguments that forward must be given: the model's inputs. ``*xs`` alone is one.

    Where forward could be called without any, its first one is the input if it may be None, as ``x=None`` says.
    """
    if isinstance(model, fx.GraphModule):
        return placeholders(model.graph)
    declared = list(inspect.signature(model.forward).parameters.values())
    parameters = [p for p in declared if p.default is p.empty]
    named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    variadic = [p.name for p in parameters if p.kind is p.VAR_POSITIONAL]
    return named or variadic or [p.name for p in declared[:1] if p.default is None and p.kind is not p.KEYWORD_ONLY]


def untraceable(error: Exception, path: str, frames: Sequence[traceback.FrameSummary]) -> Problem:
    """What ended a trace, at the innermost of the user's frames.

    Args:
        error: what was raised.
        path: of the module whose forward it was raised in, or ``""``.
        frames: the error's, from the tracer on.
    """
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode  # brings sympy: a third of a second

    frames = [frame for frame in frames if is_user_file(frame.filename)]
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


_SIGNS: dict[Any, str] = {
    getattr(operator, name): sign
    for name, sign in (
        *(("add", "+"), ("iadd", "+="), ("sub", "-"), ("isub", "-="), ("mul", "*"), ("imul", "*="), ("neg", "-")),
        *(("truediv", "/"), ("itruediv", "/="), ("floordiv", "//"), ("matmul", "@"), ("pow", "**"), ("getitem", "[]")),
        *(("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="), ("eq", "=="), ("ne", "!=")),
    )
}
