"""What each op of a final graph is in a netx file: a layer's weights, a layer's neurons, or nothing."""

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np

from spikec.extend.converters import Converters
from spikec.ir.errors import CompileError, UnsupportedOpError
from spikec.ir.op import Op
from spikec.ir.ops import IF, Conv, Flatten, Linear, LoihiNeuron, Reshape
from spikec.ir.ops.neuron_loihi import GRAIN
from spikec.ir.types import Array, Type

QUANTIZE = 'put "quantize-netx" at the end of the pipeline'
SINGLE = "a layer's neurons have one threshold and one v_init, even integers"


@attrs.frozen(eq=False)
class LayerNeurons:
    """The neurons of one layer, which have one threshold, in the units of its integer weights.

    Attributes:
        threshold: an integer, even if not ``strict``; a neuron fires when its potential reaches it, or exceeds it where
            ``strict``.
        v_init: an even integer, what the potential has at step 0 before that step's input, once it has leaked.
        soft: a spike takes the threshold off the potential, which does not leak; else it clears the potential.
        decay: what part of its potential a neuron loses in a step, of 4096; only where a spike clears it. One number,
            or one for each neuron, of the sample's shape.
        current_decay: what part of its current it loses, likewise.
        bias: even integers that are added to the potential at every step, likewise.
        weight_rec: [N, N] even integers, from the layer's spikes to its currents a step later, or None.
    """

    threshold: float
    v_init: float = 0
    soft: bool = False
    strict: bool = False
    decay: int | Array = 0
    current_decay: int | Array = 4096
    bias: int | Array = 0
    weight_rec: Array | None = None

    @property
    def recurs(self) -> bool:
        """Whether spikes come back to their layer: it is a ``dense_rec``."""
        return self.soft or self.weight_rec is not None


#: called with (op, the type of its operand, the type of its result), gives one of these, or an op that does the same
#: and has a converter; raises a CompileError where netx has no such thing
Convert = Callable[[Any, Type, Type], "Linear | Conv | LayerNeurons | Op | None"]

converter: Converters[Convert] = Converters("converter")


def part_for(op: Op, operand: Type, result: Type) -> Linear | Conv | LayerNeurons | None:
    """Return what an op is in the file; None where it is nothing.

    Raises:
        CompileError: netx has no such thing.
    """
    convert = converter.for_class(type(op))
    if convert is None:
        raise UnsupportedOpError(f"netx has no {op.kind}", hint="register a converter for it")
    made = convert(op, operand, result)
    return part_for(made, operand, result) if isinstance(made, Op) and not isinstance(made, (Linear, Conv)) else made


@converter(Linear, Conv)
def _affine(op: Linear | Conv, operand: Type, result: Type) -> Linear | Conv:
    return op


@converter(Flatten, Reshape)
def _layout(op: Flatten | Reshape, operand: Type, result: Type) -> None:
    """A dense layer of netx reads a map as a vector by itself."""


@converter(IF)
def _if(op: IF, operand: Type, result: Type) -> LayerNeurons:
    if op.v_threshold.size > 1 or op.v_init.size > 1:
        raise CompileError(SINGLE, hint=QUANTIZE)
    if op.v_reset is not None and op.v_reset.any():
        raise CompileError("hard reset in netx is to zero", hint='put "reset-netx" in the pipeline')
    return LayerNeurons(op.v_threshold.item(), op.v_init.item(), soft=op.v_reset is None, strict=op.strict)


@converter(LoihiNeuron)
def _loihi(op: LoihiNeuron, operand: Type, result: Type) -> LayerNeurons:
    if op.v_threshold.size > 1 or not op.strict or op.grain.item() != GRAIN:
        raise CompileError("its numbers are not those of the chip yet", hint=QUANTIZE)
    if op.v_reset is None or op.v_reset.any() or (op.v_init.any() and op.decay_syn.any()):
        message = "the chip's neurons are reset to 0, and start there where their current decays"
        raise CompileError(message, hint='put "loihi-neurons" first')
    charge = np.trunc(op.decay * op.v_init / GRAIN) * GRAIN  # what the first step leaves of v_init
    if charge.min() != charge.max():
        raise CompileError(SINGLE, hint=QUANTIZE)
    weight_rec = op.weight_rec
    if op.feedback.any():
        back = np.diag(np.broadcast_to(op.feedback, result.shape).reshape(-1))
        weight_rec = -back if weight_rec is None else weight_rec - back
    return LayerNeurons(
        op.v_threshold.item(),
        float(charge.flat[0]),
        strict=True,
        decay=_lost(op.decay, result),
        current_decay=_lost(op.decay_syn, result),
        bias=np.broadcast_to(op.bias, result.shape),
        weight_rec=weight_rec,
    )


def _lost(kept: Array, result: Type) -> int | Array:
    """Return what a decay takes in a step, of 4096."""
    lost = np.round(4096 * (1 - kept)).astype(np.int64)
    return int(lost.flat[0]) if (lost == lost.flat[0]).all() else np.broadcast_to(lost, result.shape)
