"""What users hand in as inputs, labels and numbers, checked and brought into one form."""

import numbers
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikec.ir.errors import CalibrationError, CompileError, InvalidModelError


def as_input(x: Any, error: type[CompileError] = InvalidModelError) -> Tensor:
    """Return a floating-point tensor with a batch dimension, or raise that error."""
    if isinstance(x, np.ndarray):
        x = torch.tensor(x)
    if not isinstance(x, Tensor):
        raise error(f"an input is a {type(x).__name__}, not a tensor", hint="give a tensor with a batch first")
    if not x.dtype.is_floating_point:
        raise error(
            f"an input has dtype {str(x.dtype).removeprefix('torch.')}",
            hint="give floating-point numbers, in the range that the model was trained on",
        )
    if x.ndim < 1 or len(x) == 0:
        raise error(f"an input has shape {tuple(x.shape)}, which holds no sample", hint="give a batch first")
    if not bool(torch.isfinite(x).all()):
        raise error("an input holds NaN or infinity")
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
            f"labels are {list(np.shape(labels))} {kind}", hint="give one class number for each sample"
        )
    return found.cpu().long()


def within(labels: Tensor, classes: int) -> None:
    """Hold labels to the number of classes.

    Raises:
        CalibrationError: it is below 0, or not below the number of classes.
    """
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise CalibrationError(f"there is a label {int(wrong[0])}, and the model has the classes 0 to {classes - 1}")


def whole_number(name: str, value: Any, least: int) -> int:
    """Return an integer of any kind, numpy's too, as an int.

    Raises:
        CompileError: it is none, or below ``least``.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise CompileError(f"{name} is {value!r}", hint=f"give an integer, at least {least}")
    return number


def examples(example_input: Any) -> tuple[Tensor, ...] | None:
    """Return the user's example inputs as a tuple of tensors."""
    if example_input is None:
        return None
    items: Iterable[Any] = example_input if isinstance(example_input, (tuple, list)) else (example_input,)
    return tuple(as_input(x) for x in items)
