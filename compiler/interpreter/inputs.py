"""What users hand in as inputs, labels and numbers, checked and brought into one form."""

import contextlib
import numbers
import operator
import os
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import torch
from torch import Tensor

from spikec.ir.errors import CalibrationError, CompileError, InvalidModelError, shown

#: dtypes that inputs may have
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
#: how many steps may be asked for, as 32 bits count them
_MOST = 2**31 - 1


def as_input(x: Any, error: type[CompileError] = InvalidModelError, what: str = "an input") -> Tensor:
    """Return a floating-point tensor with a batch dimension, or raise that error about ``what``."""
    if isinstance(x, np.ndarray) and x.dtype.kind in "biufc" and not isinstance(x, np.ma.MaskedArray):
        with contextlib.suppress(TypeError, ValueError):  # numbers that torch has not, such as long doubles
            x = torch.tensor(np.ascontiguousarray(x, x.dtype.newbyteorder("=")))
    if not isinstance(x, Tensor):
        kind = f"{type(x).__name__} of {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
        raise error(f"{what} is a {kind}, not a tensor", hint="give a tensor with a batch first")
    if x.is_nested or x.layout != torch.strided or x.is_meta:
        kind = "nested" if x.is_nested else "on the device meta" if x.is_meta else str(x.layout).removeprefix("torch.")
        raise error(f"{what} is a tensor that is {kind}", hint="give a dense one that holds numbers: x.to_dense()")
    if x.dtype not in _FLOATS:
        raise error(
            f"{what} has dtype {str(x.dtype).removeprefix('torch.')}",
            hint="give floating-point numbers, in the range that the model was trained on",
        )
    if x.ndim < 1 or x.numel() == 0:
        raise error(f"{what} has shape {tuple(x.shape)}, which holds no sample", hint="give a batch first")
    if not bool(torch.isfinite(x).all()):
        raise error(f"{what} holds NaN or infinity", hint="mend the data, or leave such samples out")
    return x.detach()


def is_number(value: Any) -> bool:
    """Whether a value is a real number of any kind, numpy's too, and no truth value."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def class_numbers(labels: Any) -> Tensor:
    """Return labels as [N] int64 on the CPU.

    Raises:
        CalibrationError: they are no whole numbers, or not one a sample.
    """
    try:
        found = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        found = torch.empty(())
    if found.ndim != 1 or found.dtype.is_floating_point or found.dtype.is_complex:
        kind = str(getattr(labels, "dtype", type(labels).__name__)).removeprefix("torch.")
        raise CalibrationError(
            f"labels are {list(getattr(labels, 'shape', ()))} {kind}", hint="give one class number for each sample"
        )
    return found.cpu().long()


def within(labels: Tensor, classes: int) -> None:
    """Hold labels to the number of classes.

    Raises:
        CalibrationError: it is below 0, or not below the number of classes.
    """
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise CalibrationError(
            f"there is a label {int(wrong[0])}, and the model has the classes 0 to {classes - 1}",
            hint="give labels as class numbers from 0 on",
        )


def whole_number(name: str, value: Any, least: int, most: int = _MOST) -> int:
    """Return an integer of any kind, numpy's too, as an int.

    Raises:
        CompileError: it is none, below ``least``, or above ``most``.
    """
    try:
        number = operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        number = least - 1
    if not least <= number <= most or isinstance(value, bool):
        limit = f", at most {most}" if number > most else ""
        raise CompileError(f"{name} is {shown(value)}", hint=f"give an integer, at least {least}{limit}")
    return number


def check_types(values: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Hold values to their annotated types, as far as those say something when the program runs.

    Raises:
        CompileError: one is of another type; a number of numpy's is a number.
    """
    for name, value in values.items():
        if not _fits(value, wanted[name]):
            raise CompileError(f"{name} is {shown(value)}", hint=f"give {_described(wanted[name])}")


def _fits(value: Any, wanted: Any) -> bool:
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in inner)
    if origin is tuple and isinstance(value, tuple):
        kinds = [inner[0]] * len(value) if inner[-1] is ... else list(inner)
        return len(kinds) == len(value) and all(map(_fits, value, kinds))
    if origin in (tuple, os.PathLike, Iterable, Callable):
        return isinstance(value, origin)
    if wanted is bool:
        return isinstance(value, (bool, np.bool_))
    if wanted is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if wanted is float:
        return is_number(value) and value == value
    return not isinstance(wanted, type) or isinstance(value, wanted)


def _described(wanted: Any) -> str:
    """Return what to give for an annotated type, in words."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin is Literal:
        return " or ".join(f'"{each}"' if isinstance(each, str) else str(each) for each in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(_described(each) for each in inner)
    if origin is Callable:
        return "a function"
    if origin is not None:
        parts = ", ".join(_described(each) for each in inner if each is not ...)
        return f"{'a path' if origin is os.PathLike else f'a {origin.__name__.lower()} of {parts}'}"
    words = {bool: "True or False", int: "an integer", float: "a number", str: "a text", type(None): "None"}
    return words.get(wanted) or f"a {getattr(wanted, '__name__', wanted)}"


def examples(example_input: Any) -> tuple[Tensor, ...] | None:
    """Return the user's example inputs as a tuple of tensors."""
    if example_input is None:
        return None
    items: Iterable[Any] = example_input if isinstance(example_input, (tuple, list)) else (example_input,)
    return tuple(as_input(x, what="an example_input") for x in items)
