"""What each NIR node means: an op for a node, or several behind each other, given the type of its operand."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import nir
import numpy as np

from spikec.extend.converters import Converters
from spikec.ir.errors import Hint, Option, TypeMismatchError, UnsupportedOpError
from spikec.ir.op import Op
from spikec.ir.ops import (
    IF,
    LIF,
    AvgPool,
    Conv,
    CubaLIF,
    DelayLine,
    Flatten,
    Input,
    Integrator,
    Linear,
    MultiSpike,
    Output,
    Reshape,
    SumPool,
    Threshold,
)
from spikec.ir.ops.weighted import diagonal
from spikec.ir.spatial import Pairs
from spikec.ir.types import Array, Type, channel_scale, compress, ints, laid_over, span


@attrs.frozen
class Reading:
    """What converters need to know of the graph that a node is from.

    How a neuron resets and starts stands in its own metadata by then: ``reset`` and ``v_init``.

    Attributes:
        dtype: of the signals.
        strict: whether neurons fire above their threshold, or also at it.
        dt: seconds a step; None where nothing says it.
    """

    dtype: str
    strict: bool
    dt: float | None


#: r dt may differ from 1 by this much and still be unit gain; files hold float32
UNIT = 1e-4
#: numbers of a vector up to which a factor for each is a matrix: a million entries
_LONG = 1024

#: called with (node, its name, the type of its operand, the reading), gives an op, or ops that each take the result of
#: the one before; raises UnsupportedOpError
Convert = Callable[[Any, str, Type, Reading], Op | Sequence[Op]]

converter: Converters[Convert] = Converters("converter")


@converter(nir.Input)
def _input(node: Any, name: str, operand: Type, reading: Reading) -> Op:
    shape = node.metadata.get("model_shape", node.input_type["input"])
    return Input(ints(np.ravel(shape)), reading.dtype, rate=True)


@converter(nir.Output)
def _output(node: Any, name: str, operand: Type, reading: Reading) -> Op:
    return Output()


@converter(nir.Affine, nir.Linear)
def _linear(node: Any, name: str, operand: Type, reading: Reading) -> Op:
    scale = channel_scale(operand, -1, "linear")
    return Linear(*_affine(node, 2), in_scale=scale)


def _affine(node: Any, rank: int) -> tuple[Array, Array | None]:
    """Return weight and bias, whose shapes are what they must be for weights of that rank."""
    bias = getattr(node, "bias", None)
    if np.ndim(node.weight) != rank or (bias is not None and np.shape(bias) != node.weight.shape[:1]):
        found = f"weight of shape {np.shape(node.weight)}" + (
            "" if bias is None else f", bias of shape {np.shape(bias)}"
        )
        raise TypeMismatchError(f"{found}: a weight has {rank} axes, and a bias one number for each of the first")
    return node.weight, bias


@converter(nir.Scale)
def _scale(node: Any, name: str, operand: Type, reading: Reading) -> Op | Sequence[Op]:
    """One factor a channel; where they differ within a channel, each cell is made a channel of its own.

    So it is in a long vector, which would take a matrix.
    """
    gain = np.broadcast_to(node.scale, operand.shape).reshape(operand.shape[0], -1)
    is_long = len(operand.shape) == 1 and len(gain) > _LONG
    if (gain == gain[:, :1]).all() and not is_long:
        return diagonal(gain[:, 0], None, len(operand.shape), in_scale=channel_scale(operand, 0, "scale"))
    cells = Reshape((gain.size, 1))
    scale = channel_scale(cells.infer(operand), 0, "scale")
    return cells, diagonal(gain.reshape(-1), None, 2, in_scale=scale), Reshape(operand.shape)


@converter(nir.Conv1d, nir.Conv2d)
def _conv(node: Any, name: str, operand: Type, reading: Reading) -> Op:
    weight, bias = _affine(node, 3 if isinstance(node, nir.Conv1d) else 4)
    kernel = weight.shape[2:]
    stride, dilation = _sizes(node.stride, len(kernel)), _sizes(node.dilation, len(kernel))
    return Conv(
        weight,
        bias,
        stride=stride,
        padding=_padding(node.padding, kernel, dilation, stride),
        dilation=dilation,
        groups=int(node.groups),
        in_scale=channel_scale(operand, 0, "conv"),
    )


@converter(nir.SumPool2d, nir.AvgPool2d)
def _pool(node: Any, name: str, operand: Type, reading: Reading) -> Op:
    kind = SumPool if isinstance(node, nir.SumPool2d) else AvgPool
    return kind(_sizes(node.kernel_size, 2), _sizes(node.stride, 2), _sizes(node.padding, 2))


@converter(nir.Flatten)
def _flatten(node: Any, name: str, operand: Type, reading: Reading) -> Op:
    start = int(node.start_dim)
    return Flatten(start + len(operand.shape) if start < 0 else start, int(node.end_dim))


@converter(nir.IF)
def _if(node: Any, name: str, operand: Type, reading: Reading) -> Op:
    node = _laid_over(node, operand)
    fields, gain = _common(node, operand, reading), _gain(node, reading)
    if _is_multi(node):
        return MultiSpike(gain=compress(gain), **fields)
    if "reset_at" in node.metadata or (gain != 1).any():
        return LIF(tau=np.asarray(np.inf), gain=compress(gain), reset_at=_reset_at(node), **fields)
    return IF(**fields)


def _gain(node: Any, reading: Reading) -> Array:
    """Return ``r dt`` of an integrator: 1 for r = 1, which counts steps whatever they last.

    Raises:
        UnsupportedOpError: nothing says how long a step is.
    """
    if (node.r == 1).all():
        return np.ones(())
    gain = np.asarray(node.r, dtype=np.float64) * _dt(reading, "its r is not 1, so that it counts seconds")
    return np.where(np.isclose(gain, 1, rtol=UNIT, atol=0), 1.0, gain)


@converter(nir.LIF)
def _lif(node: Any, name: str, operand: Type, reading: Reading) -> Op:
    node = _laid_over(node, operand)
    tau = _steps(node, "tau", reading)
    fields = _common(node, operand, reading)
    if _is_multi(node):
        gain = compress(_unit(node.r / tau))
        return MultiSpike(decay=compress(1 - 1 / tau), gain=gain, v_leak=compress(np.asarray(node.v_leak)), **fields)
    plain = bool((node.r == 1).all())
    return LIF(tau=compress(tau), gain=None if plain else compress(_unit(node.r / tau)), **_leak(node), **fields)


@converter(nir.CubaLIF)
def _cuba(node: Any, name: str, operand: Type, reading: Reading) -> Op:
    node = _laid_over(node, operand)
    fields = {**_cuba_fields(node, reading), **_common(node, operand, reading)}
    if _is_multi(node):
        return MultiSpike(v_leak=compress(np.asarray(node.v_leak)), **fields)
    return CubaLIF(**fields, **_leak(node))


def _cuba_fields(node: Any, reading: Reading) -> dict[str, Any]:
    tau_syn, tau_mem = _steps(node, "tau_syn", reading), _steps(node, "tau_mem", reading)
    gain = _unit(node.w_in / tau_syn * (node.r / tau_mem))
    return {"decay_syn": compress(1 - 1 / tau_syn), "decay": compress(1 - 1 / tau_mem), "gain": compress(gain)}


@converter(nir.I)
def _i(node: Any, name: str, operand: Type, reading: Reading) -> Op:
    node = _laid_over(node, operand)
    return Integrator(decay=np.ones(()), gain=compress(_gain(node, reading)), v_init=_v_init(node))


@converter(nir.LI)
def _li(node: Any, name: str, operand: Type, reading: Reading) -> Op:
    node = _laid_over(node, operand)
    tau = _steps(node, "tau", reading)
    decay, gain, leak = 1 - 1 / tau, _unit(node.r / tau), np.asarray(node.v_leak)
    return Integrator(decay=compress(decay), gain=compress(gain), v_leak=compress(leak), v_init=_v_init(node))


@converter(nir.CubaLI)
def _cuba_li(node: Any, name: str, operand: Type, reading: Reading) -> Op:
    node = _laid_over(node, operand)
    return Integrator(**_cuba_fields(node, reading), v_leak=compress(np.asarray(node.v_leak)), v_init=_v_init(node))


@converter(nir.Threshold)
def _threshold(node: Any, name: str, operand: Type, reading: Reading) -> Op:
    threshold = compress(np.asarray(_laid_over(node, operand).threshold))
    return Threshold(threshold, strict=reading.strict, out_scale=np.ones((1,) * len(operand.shape)))


@converter(nir.Delay)
def _delay(node: Any, name: str, operand: Type, reading: Reading) -> Op:
    steps = np.asarray(_laid_over(node, operand).delay, dtype=np.float64) / _dt(reading, "its delay is in seconds")
    whole = np.round(steps)
    if not np.allclose(steps, whole, rtol=UNIT, atol=UNIT):
        odd = np.ravel(steps)[np.argmax(np.abs(steps - whole))]
        raise UnsupportedOpError(
            f"its delay is {odd:g} steps of {reading.dt:g} s",
            hint=Hint("take steps that every delay is a whole number of: ", Option("dt")),
        )
    return DelayLine(compress(whole))


def _is_multi(node: Any) -> bool:
    return str(node.metadata.get("spikes", "binary")) == "multi"


def _reset_at(node: Any) -> str:
    return str(node.metadata.get("reset_at", "spike"))


def _laid_over(node: Any, operand: Type) -> Any:
    """Return neurons whose parameters have the signal's rank; one number stands for all of them."""
    laid = copy.copy(node)
    for field, value in vars(node).items():
        if isinstance(value, (np.ndarray, np.number, float, int)):
            try:
                setattr(laid, field, laid_over(np.asarray(value), operand.shape))
            except TypeMismatchError:
                raise TypeMismatchError(
                    f"its {field} has shape {np.shape(value)}, and its input {operand.shape}",
                    hint="give one number for each neuron, or one for all",
                ) from None
    return laid


def _common(node: Any, operand: Type, reading: Reading) -> dict[str, Any]:
    rank = len(operand.shape)
    soft = node.metadata.get("reset") == "subtract" and not np.any(node.v_reset)
    fields: dict[str, Any] = {
        "v_threshold": compress(np.asarray(node.v_threshold)),
        "v_reset": None if soft else compress(np.asarray(node.v_reset)),
        "v_init": _v_init(node),
        "strict": reading.strict,
        "out_scale": np.ones((1,) * rank),  # a spike is 1, whatever its threshold
    }
    if _is_multi(node) and "v_floor" in node.metadata:
        fields["v_floor"] = compress(laid_over(np.asarray(node.metadata["v_floor"]), operand.shape))
    return fields


def _v_init(node: Any) -> Array:
    return compress(np.asarray(node.metadata.get("v_init", 0.0), dtype=np.float64))


def _leak(node: Any) -> dict[str, Any]:
    return {"v_leak": compress(np.asarray(node.v_leak)), "reset_at": _reset_at(node)}


def _dt(reading: Reading, why: str) -> float:
    """Return seconds a step.

    Raises:
        UnsupportedOpError: nothing says how long a step is.
    """
    if reading.dt is None:
        raise UnsupportedOpError(
            f"{why}, and nothing says how long a step is",
            hint=Hint("state it: ", Option("dt", 1e-4), ' (the usual value), or graph.metadata["dt"] = 1e-4'),
        )
    return reading.dt


def _steps(node: Any, field: str, reading: Reading) -> Array:
    """Return a time constant in steps.

    Raises:
        UnsupportedOpError: nothing says how long a step is, or it is longer than the time constant.
    """
    seconds = np.asarray(getattr(node, field), dtype=np.float64)
    dt = _dt(reading, "its time constants are seconds")
    steps = seconds / dt
    if not (steps >= 1 - UNIT).all():
        raise UnsupportedOpError(
            f"its {field} is {span(seconds)} s, and a step {dt:g} s: a time constant is at least one step",
            hint=Hint("take shorter steps: ", Option("dt", float(seconds.min()))),
        )
    return np.maximum(steps, 1.0)


def _unit(gain: Any) -> Array:
    """Return gains, those as 1 that are 1 but for the rounding of a file in float32."""
    return np.where(np.isclose(gain, 1, rtol=1e-6, atol=0), 1.0, gain)


def _sizes(value: Any, axes: int) -> tuple[int, ...]:
    """Return one number an axis, given one for all or one for each."""
    return ints(np.broadcast_to(value, axes))


def _padding(value: Any, kernel: tuple[int, ...], dilation: tuple[int, ...], stride: tuple[int, ...]) -> Pairs:
    if not isinstance(value, (str, bytes)):
        return tuple((size, size) for size in _sizes(value, len(kernel)))
    text = value.decode() if isinstance(value, bytes) else str(value)
    if text == "valid":
        return ((0, 0),) * len(kernel)
    if text != "same" or set(stride) != {1}:
        raise UnsupportedOpError(f"padding {text!r} with stride {stride}", hint="state the padding in numbers")
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    return tuple((size // 2, size - size // 2) for size in total)


#: time constants and gains, which are float64 whatever the network's numbers are
_TIMED = ("tau", "tau_syn", "tau_mem", "r", "w_in")


def floats(node: Any) -> list[Array]:
    """Return the float arrays of a node that say in which dtype it computes."""
    values = (value for name, value in vars(node).items() if isinstance(value, np.ndarray) and name not in _TIMED)
    return [value for value in values if value.dtype.kind == "f"]
