"""Calls a converter, and says of whatever it does wrong that the converter did it."""

import inspect
import os
from collections.abc import Callable
from typing import Any

import torch

from spikec.frontends.torch.call import Call, Missing, Signal, leaves
from spikec.ir.errors import CompileError, UnsupportedOpError

#: names of arguments as numpy has them, which torch's functions take too
_NUMPY = {"axis": "dim", "keepdims": "keepdim", "x": "input", "a": "input", "x1": "input", "x2": "other"}
#: what a converter may return beside signals: what a call that asks for a shape, a dtype or a device gives
_ANSWERS = (Signal, Missing, int, float, torch.dtype, torch.device)


def convert(converter: Callable[..., Any], call: Call) -> Any:
    """What a converter makes of a call: signals, or numbers where a function asks for a shape.

    Raises:
        CompileError: the converter refuses the call.
        UnsupportedOpError: it does not take such arguments, it raises, or it returns something else.
    """
    bound = None if call.module is not None else _bound(converter, call)
    try:
        value = converter(call.module, call) if bound is None else converter(*bound.args, **bound.kwargs)
    except CompileError:
        raise
    except Exception as error:
        form = "(module, call)" if bound is None else "(call, *args, **kwargs)"
        message = f"its converter {_place(converter)} raises {type(error).__name__}: {error}"
        raise UnsupportedOpError(call.problem(message, f"mend it; it is called as {form}")) from error
    found = list(leaves(value))
    strange = [each for each in found if not isinstance(each, _ANSWERS) or _is_unknown(call, each)]
    needs_signal = call.module is not None and not any(isinstance(each, Signal) for each in found)
    if strange or not found or needs_signal:
        call.refuse(f"its converter {_place(converter)} returns {value!r}", "return what call.add gives: a Signal")
    return value


def _bound(converter: Callable[..., Any], call: Call) -> inspect.BoundArguments:
    """The arguments of a function's call as its converter takes them."""
    signature = inspect.signature(converter)
    named = {key if key in signature.parameters else _NUMPY.get(key, key): each for key, each in call.kwargs.items()}
    try:
        return signature.bind(call, *call.args, **named)
    except TypeError as error:
        call.refuse(f"{call.source.kind} with these arguments is not supported: {error}")


def _is_unknown(call: Call, value: Any) -> bool:
    return isinstance(value, Signal) and value.name not in call.graph


def _place(converter: Callable[..., Any]) -> str:
    """``name (file.py:12)`` of a converter."""
    code = inspect.unwrap(converter).__code__
    return f"{converter.__name__} ({os.path.basename(code.co_filename)}:{code.co_firstlineno})"
