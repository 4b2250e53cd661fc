"""Layers: which converter reads one, and how torch's own are read, namely by the functions that they call."""

import contextlib
import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import nn
from torch.fx.node import map_aggregate
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from spikec.extend.converters import Mark, inherited
from spikec.frontends.torch.batch import takes_batch
from spikec.frontends.torch.call import Call, Refused, Signal, converter, leaves, qualified, takes_moved
from spikec.frontends.torch.convert import convert, reason, refuse_unknown
from spikec.frontends.torch.tensor import SignalTensor, from_tensors, to_tensors
from spikec.ir.errors import CompileError, Hint, Option, TypeMismatchError
from spikec.ir.ops import Identity

# ------------------------------------------------------------------ which converter

#: methods of a layer that say nothing about what it computes
_HARMLESS = {"extra_repr", "reset_parameters", "_check_input_dim"}
#: torch's layers whose forward makes states as large as the batch, or takes other ways on other devices
_WHOLE = (
    *(nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention, nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder),
    *(nn.TransformerEncoderLayer, nn.TransformerDecoderLayer),
)


def layer_converter(module: nn.Module) -> Callable[..., Any] | None:
    """The converter of a layer: of its class, or of a base class whose methods no class in between redefines.

    What is registered for a class goes before :func:`torch_layer`, which reads all of torch's own.
    """
    return None if "forward" in vars(module) else _class_converter(type(module))


def _class_converter(kind: type[nn.Module]) -> Callable[..., Any] | None:
    def find(cls: type) -> Callable[..., Any] | None:
        return converter.first((cls, qualified(cls))) or (torch_layer if _is_torchs(cls) else None)

    return inherited(kind, find, _HARMLESS, nn.Module)


def _is_torchs(cls: Any) -> bool:
    """True for a class of torch's that computes something and is no container."""
    room = cls.__module__
    inside = room.startswith("torch.nn.modules.") and not room.endswith((".container", ".module"))
    return inside and cls.forward is not nn.Module.forward and not issubclass(cls, _WHOLE)


# ------------------------------------------------------------------ spiking layers

#: marks the converter of what spikes: a model that has one is a spiking model, and each call of it is a step
fires = Mark()
#: qualified names of classes whose instances keep a state from call to call: they are never traced through
stateful: set[str] = set()


def is_firing(layer: nn.Module) -> bool:
    """True for a layer whose converter is marked with :func:`fires`; what it puts out is a tensor of its own."""
    return layer_converter(layer) in fires


def is_spiking(model: nn.Module) -> bool:
    """True for a model that has such a layer."""
    kinds = {type(module) for module in model.modules() if "forward" not in vars(module)}
    return any(_class_converter(kind) in fires for kind in kinds)


def keeps_state(module: nn.Module) -> bool:
    """True for a layer that goes on from call to call where it left off."""
    return any(qualified(cls) in stateful for cls in type(module).__mro__)


# --------------------------------------------------------------- torch's own layers


@takes_batch
@takes_moved
def torch_layer(module: nn.Module, call: Call, cls: type[nn.Module] | None = None) -> Any:
    """Run a layer's forward on signals: every function in it goes to its converter, in the layer's name.

    Args:
        module: the layer.
        call: the call of the layer.
        cls: the class of torch's whose forward is run, where the layer's own has another.

    Raises:
        UnsupportedOpError: a function has no converter, or its converter refuses it.
        TypeMismatchError: forward itself refuses what it is given.
    """
    functions, result = _run(module, call, cls)
    if len(functions) > 1:  # once more, now that it is known which is the last and has the layer's own name
        for name in reversed(list(call.graph)):
            if call.source in call.graph[name].origin:
                call.graph.remove(name)
        _, result = _run(module, call, cls, [*(f"{call.name}_{each}" for each in functions[:-1]), call.name])
    if result not in call.operands:
        return result
    return attrs.evolve(result, name=call.add(Identity(), Signal(result.name)).name)


def lacks_converter(call: Call) -> bool:
    """True where the first function in a layer's forward has no converter; asked where an operand was refused."""
    found: list[Any] = []

    def look_up(key: Any, args: Any, kwargs: Any) -> Any:
        found.append(converter.first((key, qualified(key))))
        raise LookupError  # one is enough, and there is nothing to go on with

    def stand_in(value: Any) -> Any:
        return SignalTensor("", look_up) if isinstance(value, (Signal, Refused)) else value

    args, kwargs = map_aggregate((call.args, dict(call.kwargs)), stand_in)
    assert call.module is not None
    with contextlib.suppress(Exception):  # whatever forward does with tensors that are none
        call.module.forward(*args, **kwargs)
    return found[:1] == [None]


def _run(
    module: nn.Module, call: Call, cls: type[nn.Module] | None, names: Sequence[str] = ()
) -> tuple[list[str], Any]:
    """Run a layer's forward once; the names of the functions that gave signals, in order, and its result.

    The ops of each of these functions are called as ``names`` says, and as the layer where it is empty.
    """
    functions: list[str] = []

    def convert_function(key: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        found = converter.first((key, qualified(key)))
        if found is None:
            refuse_unknown(call, call.source.kind)
        name = names[len(functions)] if names else call.name
        value = convert(found, Call(call.graph, call.source, name, args, kwargs, outer=call))
        if any(isinstance(each, Signal) for each in leaves(value)):
            functions.append(key[1] if isinstance(key, tuple) else key.__name__)
        return value

    plain = _with_weights(module)
    forward = plain.forward if cls is None else functools.partial(cls.forward, plain)
    args, kwargs = to_tensors((call.args, dict(call.kwargs)), convert_function)
    try:
        with torch.no_grad():
            return functions, from_tensors(forward(*args, **kwargs))
    except CompileError:
        raise
    except Exception as error:
        if reason(call.source.kind, module)[0]:
            refuse_unknown(call, call.source.kind)
        message = f"{call.source.kind} fails: {type(error).__name__}: {error}"
        hint = Hint("give the sizes that the model takes: ", Option("example_input"))
        raise TypeMismatchError(call.problem(message, hint)) from error


def _with_weights(module: nn.Module) -> nn.Module:
    """The layer; where hooks compute its weights, as those of ``weight_norm`` do, a copy that has them by now."""
    computed: dict[str, Any] = {}
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            computed[hook.name] = hook.compute_weight(module)
        elif isinstance(hook, SpectralNorm):
            computed[hook.name] = hook.compute_weight(module, do_power_iteration=False)
    if not computed:
        return module
    plain = copy.copy(module)
    vars(plain).update(computed)
    return plain
