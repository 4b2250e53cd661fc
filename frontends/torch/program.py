"""An exported program as a trace: aten calls behind the converters of torch's functions, parameters as values."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.fx.node import map_arg
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from spikec.frontends.torch.batch import BATCH
from spikec.frontends.torch.call import Call, converter
from spikec.frontends.torch.check import numbers, refuse_all
from spikec.frontends.torch.convert import parameter_of
from spikec.frontends.torch.traced import Traced
from spikec.ir.errors import InvalidModelError, Problem
from spikec.ir.origin import Source

#: arguments of aten that say how a result is stored or computed, and not what it is
_HOW = {"cudnn_enabled", "memory_format", "layout", "device", "pin_memory", "non_blocking", "half_to_float"}
#: torch's functions that aten has under another name
_SAME = {
    "_native_batch_norm_legit_no_training": "batch_norm",
    "constant_pad_nd": "pad",
    "feature_dropout": "dropout",
    "native_dropout": "dropout",
    "log_sigmoid": "logsigmoid",
    **dict.fromkeys(("alias", "lift_fresh", "lift_fresh_copy"), "detach"),
}
#: modules of torch whose functions aten has with the module's name in front
_ROOMS = ("special", "linalg", "fft")
#: higher-order calls that do nothing but run their body
_BODIES = ("wrap_with_set_grad_enabled",)
#: calls without a result, which state what torch found out about sizes
_ASSERTIONS = ("_assert_", "sym_constrain_range")
#: calls of whose results only the first has a spiking form
_FIRST_OF = (
    "max_pool2d_with_indices.default",
    "max_pool3d_with_indices.default",
    "_native_batch_norm_legit_no_training.default",
    "native_dropout.default",
)


@attrs.frozen(eq=False)
class Program(Traced):
    """The graph of an exported program, its first axis being the batch whatever size it was exported with.

    Attributes:
        shapes: of a sample of each input, by name; None for a size that the program leaves open.
    """

    shapes: dict[str, tuple[int | None, ...]] = attrs.field(kw_only=True)

    @property
    def name(self) -> str:
        """The class of the module that was exported."""
        stacks = (node.meta.get("nn_module_stack") for node in self.graph.nodes)
        path = next((str(_class(next(iter(stack.values()))[1])) for stack in stacks if stack), "Program")
        return path.rsplit(".", 1)[-1]

    def kind(self, node: fx.Node) -> str:
        """``nn.Conv2d`` for a call inside of one of torch's layers, else the function of torch."""
        if not isinstance(node.target, torch._ops.OpOverload):
            return super().kind(node)
        return _layer(node) or _spelling(node.target)

    def key(self, node: fx.Node) -> str:
        """The function or method of torch that an overload is read as."""
        if not isinstance(node.target, torch._ops.OpOverload):
            return super().key(node)
        spelling = _spelling(node.target)
        return f'("method", "{spelling[7:]}")' if spelling.startswith("Tensor.") else spelling

    def op_name(self, node: fx.Node, source: Source) -> str:
        """The module path of a layer; for a call outside of layers, as for a function."""
        if not _layer(node) or not source.path:
            return super().op_name(node, source)
        return f"{_layer(node).removeprefix('nn.').lower()}_{source.path}" if source.path[0].isdigit() else source.path

    def converter(self, node: fx.Node) -> Callable[..., Any] | None:
        """A converter of the overload itself, else that of torch's function or method of its name."""
        if not isinstance(node.target, torch._ops.OpOverload):
            return super().converter(node)
        return _of_overload(node.target) or converter.first(key for _, key in _spellings(node.target))

    def adapted(self, node: fx.Node, call: Call, found: Callable[..., Any]) -> Call:
        """The call of an overload as one of torch's function: the arguments by the names that this has for them."""
        if not isinstance(node.target, torch._ops.OpOverload) or _of_overload(node.target) is not None:
            return call
        defaults = {each.name: each.default_value for each in node.target._schema.arguments if each.has_default_value()}

        def says_something(name: str, value: Any) -> bool:
            return name not in _HOW and (isinstance(value, Tensor) or name not in defaults or value != defaults[name])

        given = _by_name(node.target, call.args, call.kwargs)
        kept = {name: x for name, x in given.items() if parameter_of(found, name) or says_something(name, x)}
        return attrs.evolve(call, args=(), kwargs=kept, outer=call)


def _class(entry: Any) -> str:
    """The qualified name of a class on a module stack, which is either."""
    return f"{entry.__module__}.{entry.__qualname__}" if isinstance(entry, type) else str(entry)


def _layer(node: fx.Node) -> str:
    """``nn.Conv2d`` where the innermost module around a call is one of torch's, which have no forward of the user."""
    stack = node.meta.get("nn_module_stack") or {}
    cls = _class(list(stack.values())[-1][1]) if stack else ""
    if not cls.startswith("torch.nn.modules.") or cls.startswith("torch.nn.modules.container."):
        return ""
    return f"nn.{cls.rsplit('.', 1)[-1]}"


# ----------------------------------------------------------------- converters


def _of_overload(overload: torch._ops.OpOverload) -> Callable[..., Any] | None:
    return converter.first((overload, overload.overloadpacket))


def _spelling(overload: torch._ops.OpOverload) -> str:
    return next((spelling for spelling, _ in _spellings(overload)), f"torch.ops.{overload}")


def _spellings(overload: torch._ops.OpOverload) -> Iterator[tuple[str, Any]]:
    """How users may have called what became an overload, and the key of its converter, the likeliest first.

    ``F.gelu``, ``torch.cat`` or ``Tensor.view``; aten marks variants that compute the same in their names.
    """
    if overload.namespace != "aten":
        return
    name = _SAME.get(overload.overloadpacket.__name__, overload.overloadpacket.__name__)
    plain = re.sub(r"^_+(unsafe_)?|_copy$", "", name)
    for stem in dict.fromkeys((name, plain, plain.rstrip("_"))):
        for prefix, room in (("torch", torch), ("F", F), ("Tensor", Tensor)):
            if hasattr(room, stem):
                yield f"{prefix}.{stem}", ("method", stem) if room is Tensor else getattr(room, stem)
        room_name, _, stem = stem.partition("_")  # special_expit is torch.special.expit
        if room_name in _ROOMS and hasattr(getattr(torch, room_name), stem):
            yield f"torch.{room_name}.{stem}", getattr(getattr(torch, room_name), stem)


def _by_name(overload: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call of an overload by their names."""
    return {**dict(zip((each.name for each in overload._schema.arguments), args, strict=False)), **kwargs}


# ------------------------------------------------------------------- programs


def program(exported: ExportedProgram) -> Program:
    """The trace of a program.

    Raises:
        InvalidModelError: it trains, draws random numbers, changes its buffers, or its inputs are no batches.
    """
    refuse_all(numbers({**exported.state_dict, **exported.constants}.items()))
    values, names = _inputs(exported)
    graph = fx.Graph()
    results = _copied(exported.graph_module, graph, {})
    outputs = zip(results, exported.graph_signature.output_specs, strict=True)
    kept = [result for result, spec in outputs if spec.kind is OutputKind.USER_OUTPUT]
    assert exported.call_spec.out_spec is not None
    graph.output(pytree.tree_unflatten(kept, exported.call_spec.out_spec))
    inputs = [node for node in graph.nodes if node.op == "placeholder" and node.target in names]
    sizes = {str(node.target): node.meta["val"].shape for node in inputs}
    batch = _batch_size(sizes)
    if batch is not None:
        _open_batch(graph, inputs, batch)
    shapes = {name: tuple(_number(size) for size in shape[1:]) for name, shape in sizes.items()}
    result = Program(exported.graph_module, graph, {}, values, shapes=shapes)
    refuse_all(_randomness(result))
    refuse_all(_changed_buffers(exported, result))
    return result


def _inputs(exported: ExportedProgram) -> tuple[dict[str, Any], list[str]]:
    """Constants by the names of their placeholders, and the placeholders of inputs that are tensors."""
    values: dict[str, Any] = {}
    names: list[str] = []
    for spec in exported.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, TensorArgument):
            names.append(spec.arg.name)
        elif spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, ConstantArgument):
            values[spec.arg.name] = spec.arg.value
        elif spec.target in exported.constants:
            values[spec.arg.name] = exported.constants[spec.target]
        else:
            values[spec.arg.name] = exported.state_dict[str(spec.target)].detach()
    return values, names


def _copied(module: fx.GraphModule, graph: fx.Graph, known: dict[fx.Node, Any]) -> Any:
    """Copy a module's nodes behind those of a graph, the bodies of calls that only run them included; its results."""
    for node in module.graph.nodes:
        if node in known:
            continue
        if node.op == "output":
            return map_arg(node.args[0], known.__getitem__)
        name = _name(node)
        first = node.args[0] if node.args else None
        if name in _BODIES:
            body = getattr(module, str(node.args[1].target))
            inner = [each for each in body.graph.nodes if each.op == "placeholder"]
            known[node] = _copied(body, graph, {a: known[b] for a, b in zip(inner, node.args[2:], strict=True)})
        elif isinstance(first, fx.Node) and isinstance(known[first], (tuple, list)):
            known[node] = known[first][node.args[1]]
        elif isinstance(first, fx.Node) and _name(first) in _FIRST_OF and node.args[1:] == (0,):
            known[node] = known[first]
            known[node].meta = {**known[node].meta, "val": node.meta["val"]}
        elif node.op == "get_attr" and all(_name(user) in _BODIES for user in node.users):
            known[node] = None
        elif not name.startswith(_ASSERTIONS):
            known[node] = graph.node_copy(node, known.__getitem__)
            if name == "sym_size.int":  # torch put it there, whatever its trace says
                known[node].meta = {"val": node.meta["val"]}
    raise AssertionError("a graph without an output")


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", ""))


# ----------------------------------------------------------------- batch axis


def _batch_size(sizes: dict[str, torch.Size]) -> int | None:
    """The size of the first axis of all inputs, or None if the program leaves it open."""
    shown = ", ".join(f"{name}: {list(map(str, size))}" for name, size in sizes.items()).replace("'", "")
    if not sizes:
        raise InvalidModelError(
            "the program has no input that is a tensor", hint="export it with tensors: torch.export.export(model, (x,))"
        )
    if not all(sizes.values()):
        raise InvalidModelError(f"an input has no axis ({shown})", hint="export it with a batch first in all inputs")
    firsts = {_number(size[0]) for size in sizes.values()}
    if len(firsts) > 1:
        raise InvalidModelError(
            f"the inputs have different batch sizes ({shown})", hint="export it with the same for all"
        )
    return firsts.pop()


def _number(size: Any) -> int | None:
    return size if isinstance(size, int) else None


def _open_batch(graph: fx.Graph, inputs: list[fx.Node], batch: int) -> None:
    """Give the sizes of tensors that depend on a program's inputs, where it has one batch size, in full.

    A first size that is the batch's becomes that of any batch, and one that is left open becomes a number.
    """
    depending: set[fx.Node] = set()
    for node in graph.nodes:
        if node not in inputs and depending.isdisjoint(node.all_input_nodes):
            continue
        depending.add(node)
        if len(node.args) < 2 or not isinstance(node.args[1], (list, tuple)):
            continue
        operand, sizes = node.args[0], node.args[1]
        names = [each.name for each in getattr(getattr(node.target, "_schema", None), "arguments", ())[:2]]
        if names not in (["self", "size"], ["self", "shape"]):
            continue
        whole = isinstance(operand, fx.Node) and operand in depending and operand.meta["val"].shape[:1] == (batch,)
        if -1 in sizes and None not in map(_number, node.meta["val"].shape):
            sizes = [*node.meta["val"].shape]
        node.update_arg(1, [BATCH, *sizes[1:]] if whole and sizes[:1] == [batch] else sizes)


# --------------------------------------------------------------------- checks


def _randomness(traced: Program) -> Iterator[Problem]:
    """Layers in training mode, and whatever else gives another result on every call.

    Weights may be standardized by a batch norm that trains, which gives the same each time.
    """
    given_inputs: set[fx.Node] = set()
    for node in traced.graph.nodes:
        is_input = node.op == "placeholder" and node.target in traced.inputs
        if is_input or not given_inputs.isdisjoint(node.all_input_nodes):
            given_inputs.add(node)
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        defaults = {each.name: each.default_value for each in node.target._schema.arguments}
        given = {**defaults, **_by_name(node.target, node.args, node.kwargs)}
        source = traced.source(node)
        mode = given.get("training", given.get("train"))
        if mode and given.get("p") != 0 and ("p" in given or node in given_inputs):
            hint = "call model.eval() before torch.export.export"
            yield Problem(f"{source.kind} was exported in training mode", str(source), hint=hint)
        elif mode is None and given.get("dropout_p", 1) != 0 and torch.Tag.nondeterministic_seeded in node.target.tags:
            hint = "take it out of forward, or call model.eval() before torch.export.export"
            yield Problem(f"{source.kind} draws random numbers; a compiled network has none", str(source), hint=hint)


def _changed_buffers(exported: ExportedProgram, traced: Program) -> Iterator[Problem]:
    hint = "a compiled network has no such state: take it out of forward"
    for node in traced.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            changed = node.args[0]
            if isinstance(changed, fx.Node) and changed.target in traced.parameters:
                yield Problem(f"{node.target} changes {changed.target}", str(traced.source(node)), hint=hint)
    for spec in exported.graph_signature.output_specs:
        if spec.kind is OutputKind.BUFFER_MUTATION:
            yield Problem("the model changes its buffer while it runs", str(spec.target), hint=hint)
