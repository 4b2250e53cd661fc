"""Calls a converter, says of whatever it does wrong that the converter did it, and why a call has none."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import nn

from spikec.extend.converters import Mark
from spikec.frontends.torch import frames, moved
from spikec.frontends.torch.call import Call, Missing, Signal, gives_constant, leaves, takes_moved

#: names of arguments that others are read as: those of numpy, which torch's functions take too, of methods beside
#: functions, and of aten
_ALIASES = {
    alias: name
    for name, aliases in (
        *(("input", "x a x1 self tensor"), ("other", "x2 mat2"), ("dim", "axis"), ("keepdim", "keepdims")),
        *(("dim0", "axis0"), ("dim1", "axis1"), ("dims", "repeats"), ("shape", "size"), ("training", "train")),
        ("p", "ord"),
        ("sections", "chunks split_size split_sizes split_size_or_sections indices_or_sections indices"),
    )
    for alias in aliases.split()
}
#: marks a converter of which the second argument may be several: ``x.view((2, 3))`` or ``x.view(2, 3)``
spreads = Mark()
#: what a converter may return beside signals: what a call that asks for a shape, a dtype or a device gives
_ANSWERS = (Signal, Missing, int, float, torch.dtype, torch.device)


def convert(converter: Callable[..., Any], call: Call) -> Any:
    """What a converter makes of a call: signals, or numbers where a function asks for a shape.

    Raises:
        CompileError: the converter refuses the call.
        UnsupportedOpError: it does not take such arguments, it raises, or it returns something else.
    """
    first = None if converter in gives_constant else moved.first_in((*call.args, *call.kwargs.values()))
    if first is not None and call.module is not None and converter not in takes_moved:
        raise first.error
    bound = None if call.module is not None else _bound(converter, call)
    with call.blaming(converter, "(module, call)" if bound is None else "(call, *args, **kwargs)"):
        if first is not None and bound is not None and converter not in takes_moved:
            read = frames.read if frames.takes(converter) else moved.read
            value = read(call, converter, {k: v for k, v in bound.arguments.items() if k != "call"}, first)
        else:
            value = converter(call.module, call) if bound is None else converter(*bound.args, **bound.kwargs)
    if converter in gives_constant:
        return value
    found = list(leaves(value))
    signals = [each for each in found if isinstance(each, Signal)]
    strange = not all(isinstance(each, _ANSWERS) for each in found) or any(s.name not in call.graph for s in signals)
    if strange or not found or (call.module is not None and not signals):
        call.refuse_result(converter, value)
    return value


_signature = functools.cache(inspect.signature)


def parameter_of(converter: Callable[..., Any], argument: str) -> str | None:
    """The name of the converter's parameter for an argument of that name, or None."""
    known = _signature(converter).parameters
    return next((name for name in (argument, _ALIASES.get(argument)) if name in known), None)


def _bound(converter: Callable[..., Any], call: Call) -> inspect.BoundArguments:
    """The arguments of a function's call as its converter takes them."""
    args = call.args
    if converter in spreads and len(args) > 1 and not isinstance(args[1], (tuple, list)):
        args = (args[0], args[1:])
    named = {parameter_of(converter, name) or name: each for name, each in call.kwargs.items()}
    try:
        return _signature(converter).bind(call, *args, **named)
    except TypeError as error:
        call.refuse(
            f"{call.source.kind} with these arguments is not supported: {error}",
            "leave the optional ones out, or put the call into a module that has a converter",
        )


_STEP = "it jumps, and a rate changes steadily with its input"

_AFTER = "leave it out of the model and apply it to the compiled network's output"

#: (names without module, underscores and capitals; why; what to do, with {by} for ``nn.ReLU`` or ``torch.relu``)
_TABLE = (
    ("hardshrink", _STEP, "replace {kind} by {by} and retrain"),
    (
        "multiheadattentionforward transformer transformerdecoder transformerdecoderlayer",
        "it has several inputs and masks",
        "use nn.TransformerEncoder, or nn.MultiheadAttention within a module of your own",
    ),
    (
        "rnn lstm gru rnncell lstmcell grucell",
        "its gates multiply states from step to step of a sequence",
        "use convolutions over time",
    ),
    (
        "embedding embeddingbag",
        "its input is an index, and a spiking network takes numbers",
        "give it what the embedding gives",
    ),
    ("== != sign heaviside round floor ceil bool", _STEP, "use ReLU or clamp"),
    ("argmax argmin topk sort argsort onehot", _STEP, _AFTER),
)
_REASONS = {name: (why, hint) for names, why, hint in _TABLE for name in names.split()}


def reason(kind: str, module: nn.Module | None) -> tuple[str, str]:
    """(why there is no converter, what to do instead), empty where nothing is known of that kind of call."""
    names = [kind.split(".")[-1], *(cls.__name__ for cls in type(module).__mro__ if module is not None)]
    bare = (name.lower().replace("_", "") for name in names)
    why, hint = next((_REASONS[name] for name in bare if name in _REASONS), ("", ""))
    return why, hint.format(kind=kind, by="torch.relu" if module is None and not kind.startswith("nn.") else "nn.ReLU")


def refuse_unknown(call: Call, key: str) -> NoReturn:
    """Refuse a call that has no converter.

    Args:
        call: the call.
        key: what a converter of it would be registered for, as one writes it.

    Raises:
        UnsupportedOpError: always.
    """
    why, instead = reason(call.source.kind, call.module)
    register = f"register a converter: @converter({key}), see frontends/README.md"
    message = f"{call.source.kind} is not supported{': ' if why else ''}{why}"
    call.refuse(message, f"{instead}, or {register}" if instead else register)
