"""What each op of a final graph becomes in NIR, in the form that every reader takes."""

from collections.abc import Callable
from typing import Any

import nir
import numpy as np

from spikec.extend.converters import Converters
from spikec.ir.errors import CompileError, UnsupportedOpError
from spikec.ir.op import Op
from spikec.ir.ops import (
    IF,
    LIF,
    AvgPool,
    Conv,
    CountingMaxPool,
    CubaLIF,
    DelayLine,
    Flatten,
    Input,
    Integrator,
    Leaky,
    Linear,
    MultiSpike,
    Neuron,
    Output,
    Permute,
    Reshape,
    SumPool,
    Threshold,
)
from spikec.ir.types import Type

#: called with (op, the type of its operand, the type of its result), gives a node, or an op that does the same and has
#: a converter; raises UnsupportedOpError
Convert = Callable[[Any, Type, Type], Any]

converter: Converters[Convert] = Converters("converter")


class ShapesError(UnsupportedOpError):
    """A layer takes shapes that NIR has no node for; ``lower-shapes`` makes a matrix over vectors of it."""


#: every op has a module in torch
_ELSEWHERE = ', or use the target "spikingjelly"'
_HINTS = {
    "concat": "NIR has no concat; only one along the channels can be folded into the next layer",
    "avgpool": "NIR readers have no average pool with these options: use ceil_mode=False, count_include_pad=True",
    "adaptiveavgpool": "choose an output size that divides the input's",
    "pad": "only zero padding in front of a convolution or sum-pool goes into NIR",
    **dict.fromkeys(
        ("upsample", "interpolate"), "make the map smaller by a whole number, or put a Flatten and a Linear behind it"
    ),
    "reshape": "NIR has Flatten only, and other reshapes only directly behind an input or in front of an output",
    "permute": "NIR has transpositions only directly behind an input or in front of an output",
    "countingmaxpool": CountingMaxPool.hint,
    "runningdifference": "it stands for no neurons; leave the pass accumulate out",
    "delay": "write the recurrent layer by hand in NIR",
    "multispike": "no reader of NIR has it but sinabs and rockpool",
}


def written(op: Op, operand: Type, result: Type) -> tuple[Op, Any]:
    """Return (the op itself, or the one that its converter gives for it; the NIR node of that).

    Raises:
        UnsupportedOpError: there is none.
    """
    convert = converter.for_class(type(op))
    if convert is None:
        hint = _HINTS.get(op.kind, "register a converter for it, or replace the layer")
        refusal = ShapesError if isinstance(op, Reshape | Permute) else UnsupportedOpError
        raise refusal(f"portable NIR has no {op.kind}", hint=hint + _ELSEWHERE)
    made = convert(op, operand, result)
    return written(made, operand, result) if isinstance(made, Op) else (op, made)


@converter(Input)
def _input(op: Input, operand: Type, result: Type) -> Any:
    return nir.Input(input_type={"input": np.array(result.shape)})


@converter(Output)
def _output(op: Output, operand: Type, result: Type) -> Any:
    return nir.Output(output_type={"output": np.array(result.shape)})


@converter(Linear)
def _linear(op: Linear, operand: Type, result: Type) -> Any:
    if len(operand.shape) != 1:
        raise ShapesError(
            f"Affine in NIR takes a vector, this layer takes samples of shape {operand.shape}",
            hint="flatten before it, or use a convolution with a kernel of 1" + _ELSEWHERE,
        )
    return nir.Affine(weight=np.array(op.weight), bias=np.array(_bias(op)))


def _bias(op: Linear | Conv) -> Any:
    if op.bias is None:
        raise CompileError("an affine op without a bias", hint="run legalize-nir before")
    return op.bias


@converter(Conv)
def _conv(op: Conv, operand: Type, result: Type) -> Any:
    axes = len(op.kernel)
    if axes > 2:
        raise ShapesError(f"NIR has no {axes}d convolution", hint="use Conv1d or Conv2d" + _ELSEWHERE)
    if len(set(op.kernel)) > 1 or any(before != after for before, after in op.padding):
        raise CompileError("a convolution with uneven padding or sides", hint="run legalize-nir before")
    fields = {"stride": op.stride, "padding": tuple(before for before, _ in op.padding), "dilation": op.dilation}
    make, size = (nir.Conv2d, operand.shape[1:]) if axes == 2 else (nir.Conv1d, operand.shape[1])
    return make(
        input_shape=size,
        weight=np.array(op.weight),
        bias=np.array(_bias(op)),
        groups=op.groups,
        **{key: value if axes == 2 else value[0] for key, value in fields.items()},
    )


@converter(SumPool)
def _sum_pool(op: SumPool, operand: Type, result: Type) -> Any:
    if len(op.kernel) != 2:
        raise ShapesError(f"NIR has no {len(op.kernel)}d pool", hint="use a 1d or 2d pool" + _ELSEWHERE)
    if any(side for pair in op.padding for side in pair):
        raise CompileError("a sum-pool with padding, which readers ignore", hint="run legalize-nir before")
    return nir.SumPool2d(
        kernel_size=np.array(op.kernel), stride=np.array(op.stride), padding=np.zeros(2, dtype=np.int64)
    )


@converter(Flatten)
def _flatten(op: Flatten, operand: Type, result: Type) -> Any:
    if len(result.shape) != 1:
        raise ShapesError(
            "readers disagree about a Flatten of some axes", hint="flatten the whole sample: x.flatten(1)" + _ELSEWHERE
        )
    # axes from the end: some readers count a batch among the axes, and others do not
    return nir.Flatten(input_type={"input": np.array(operand.shape)}, start_dim=-len(operand.shape), end_dim=-1)


@converter(AvgPool)
def _avg_pool(op: AvgPool, operand: Type, result: Type) -> Any:
    if len(op.kernel) != 2 or op.ceil_mode or (any(op.padding) and not op.count_include_pad):
        raise UnsupportedOpError("NIR has no avgpool with these options", hint=_HINTS["avgpool"])
    sizes = {"kernel_size": op.kernel, "stride": op.stride, "padding": op.padding}
    return nir.AvgPool2d(**{name: np.array(size) for name, size in sizes.items()})


@converter(IF)
def _if(op: IF, operand: Type, result: Type) -> Any:
    return _neuron(nir.IF, op, result, r=np.ones(()))


@converter(LIF)
def _lif(op: LIF, operand: Type, result: Type) -> Any:
    if np.isinf(op.tau).all() and op.gain is not None:
        return _neuron(nir.IF, op, result, r=op.gain)
    if np.isinf(op.tau).any():
        raise UnsupportedOpError("some neurons of a layer leak and some do not", hint="give all a finite tau")
    r = np.ones(()) if op.gain is None else op.gain * op.tau
    return _neuron(nir.LIF, op, result, tau=op.tau, r=r, v_leak=op.v_leak)


@converter(CubaLIF)
def _cuba(op: CubaLIF, operand: Type, result: Type) -> Any:
    if (op.decay_syn == 1).any() or (op.decay == 1).any():
        raise UnsupportedOpError("a current or potential that does not decay", hint="NIR's time constants are finite")
    tau_syn, tau_mem = 1 / (1 - op.decay_syn), 1 / (1 - op.decay)
    return _neuron(
        nir.CubaLIF, op, result, tau_syn=tau_syn, tau_mem=tau_mem, r=tau_mem, v_leak=op.v_leak, w_in=op.gain * tau_syn
    )


@converter(MultiSpike)
def _multi_spike(op: MultiSpike, operand: Type, result: Type) -> Any:
    tau = _steps(op.decay)
    if not op.decay_syn.any() and (op.decay == 1).all():
        node = _neuron(nir.IF, op, result, r=op.gain)
    elif not op.decay_syn.any():
        node = _neuron(nir.LIF, op, result, tau=tau, r=op.gain * tau, v_leak=op.v_leak)
    else:
        syn = _steps(op.decay_syn)
        fields = {"tau_syn": syn, "tau_mem": tau, "r": tau, "w_in": op.gain * syn}
        node = _neuron(nir.CubaLIF, op, result, v_leak=op.v_leak, **fields)
    node.metadata["spikes"] = "multi"
    if op.v_floor is not None:
        node.metadata["v_floor"] = np.array(np.broadcast_to(op.v_floor, result.shape))
    return node


@converter(Integrator)
def _integrator(op: Integrator, operand: Type, result: Type) -> Any:
    """Make an I, a LI, or a CubaLI, with time constants in steps."""
    tau = _steps(op.decay)
    if op.decay_syn.any():
        syn = _steps(op.decay_syn)
        fields = {"tau_syn": syn, "tau_mem": tau, "r": tau, "w_in": op.gain * syn}
        node = nir.CubaLI(**_full(result, True, **fields), **_full(result, False, v_leak=op.v_leak))
    elif (op.decay == 1).all():
        node = nir.I(**_full(result, False, r=op.gain))
    else:
        timed = _full(result, True, tau=tau, r=op.gain * tau)
        node = nir.LI(**timed, **_full(result, False, v_leak=op.v_leak))
    if op.v_init.any():
        node.metadata["v_init"] = np.array(np.broadcast_to(op.v_init, result.shape))
    return node


@converter(Threshold)
def _threshold(op: Threshold, operand: Type, result: Type) -> Any:
    return nir.Threshold(**_full(result, False, threshold=op.v_threshold))


@converter(DelayLine)
def _delay_line(op: DelayLine, operand: Type, result: Type) -> Any:
    return nir.Delay(**_full(result, True, delay=op.late))


def _steps(decay: Any) -> Any:
    """Return the time constants, in steps, of what keeps so much in a step.

    Raises:
        UnsupportedOpError: some decay, and some do not.
    """
    if (decay == 1).any() and not (decay == 1).all():
        raise UnsupportedOpError("some neurons of a layer leak and some do not", hint="give all a finite tau")
    return np.ones(decay.shape) if (decay == 1).all() else 1 / (1 - decay)


def _full(result: Type, timed: bool, **fields: Any) -> dict[str, Any]:
    """Return fields of a node at their full shape: in float64 those that count time, else in the graph's dtype."""
    dtype = np.float64 if timed else result.dtype
    return {name: np.array(np.broadcast_to(value, result.shape), dtype) for name, value in fields.items()}


def _neuron(make: Any, op: Neuron, result: Type, **fields: Any) -> Any:
    """Make a node whose time constants are in steps; :mod:`spikec.backends.nir.nodes` changes them.

    NIR has no field for an initial potential, nor for how a spike resets: they are metadata.
    """
    fields["v_threshold"] = op.v_threshold
    fields["v_reset"] = np.zeros(()) if op.v_reset is None else op.v_reset
    for name, value in fields.items():
        dtype = np.float64 if name in _TIMED and make is not nir.IF else result.dtype
        fields[name] = np.array(np.broadcast_to(value, result.shape), dtype)
    node = make(**fields)
    node.metadata["v_init"] = np.array(np.broadcast_to(op.v_init, result.shape))
    node.metadata["reset"] = "subtract" if op.v_reset is None else "value"
    if isinstance(op, Leaky) and op.reset_at != "spike":
        node.metadata["reset_at"] = op.reset_at
    return node


#: fields that are float64 in a leaky neuron: the readers compare them with dt, which float32 misses by 1e-8
_TIMED = ("tau", "tau_syn", "tau_mem", "r", "w_in")
