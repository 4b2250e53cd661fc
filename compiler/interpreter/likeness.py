"""Whether what two nodes are given, and what they do with it, is the same but for rounding."""

import math

import torch
from torch import Tensor

from spikec.ir.op import Op, Role, StatefulOp, tensor
from spikec.ir.ops import Neuron, Relu, Stream
from spikec.ir.types import Rate, Type

#: allowed difference of a part's results, relative to each by itself, and to the largest of all where terms cancel
PART, CANCELLED = 1e-11, 1e-13
#: allowed difference of the potentials of a neuron that a pass has changed, in thresholds, and for how many steps it is
#: compared with what it was; where it is nearer than that to its threshold, its spikes are left out
POTENTIAL, STEPS = 1e-9, 8
#: what the numbers are multiplied by on which an activation that a pass has changed is compared with what it was
LEVELS = (1.0, -10.0, 100.0)


def known(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Put 0 where both are NaN, as functions are outside of their domain: there is nothing to compare."""
    if math.isfinite(float(one.sum())):
        return one, other
    unknown = one.isnan() & other.isnan()
    return one.masked_fill(unknown, 0.0), other.masked_fill(unknown, 0.0)


def agree(one: Tensor, other: Tensor, rounding: float = 0.0) -> bool:
    """Whether two batches are the same but for rounding, each cell in its own size; NaN and infinity never are."""
    if torch.equal(one, other) and math.isfinite(one.sum()):  # of small parts the rest takes ten times as long
        return True
    sizes = one.abs().amax(0) if one.numel() else one
    allowed = PART * sizes + CANCELLED * (float(sizes.max()) if sizes.numel() else 0.0) + rounding
    return bool(((one - other).abs() <= allowed).all())


def unit(op: Op, counterpart: Op, operand: Type, like: Tensor) -> Tensor | float:
    """Give what turns a node's operand into thresholds, or elsewhere into ANN units."""
    if isinstance(op, Neuron):
        return 1 / tensor(op.v_threshold, like)
    if isinstance(op, Relu) and op.scale is not None and isinstance(counterpart, Neuron):
        return 1 / tensor(op.scale, like)
    return tensor(operand.scale, like) if isinstance(operand.encoding, Rate) else 1.0


def same_meaning(one: Op, other: Op, x: Tensor, y: Tensor, *results: Type) -> bool:
    """Whether two ops that are cut do the same with what corresponds to each other."""
    if isinstance(one, Neuron) and isinstance(other, Neuron):
        return one.strict == other.strict and _same_neurons(one, other, x, y)
    if isinstance(one, StatefulOp) and isinstance(other, StatefulOp):
        steps = max([STEPS, *(len(op.currents) for op in (one, other) if isinstance(op, Stream))])
        a, b = (
            _over_time(op, each, steps) * tensor(result.scale, each)
            for op, each, result in zip((one, other), (x, y), results, strict=True)
        )
        return agree(a, b)
    if one.role is Role.ACTIVATION and other.role is Role.ACTIVATION:
        return all(agree(*known(one.eval(level * x), other.eval(level * y))) for level in LEVELS)
    return True


def _over_time(op: StatefulOp, x: Tensor, steps: int) -> Tensor:
    """Run an op with memory with the samples as steps of time, each sample with another one first: [steps B, ...]."""
    state, given = op.initial(x), []
    for step in range(steps):
        state, result = op.step(state, _at(step, x))
        given.append(result)
    return torch.cat(given)


def _at(step: int, x: Tensor) -> Tensor:
    """Give the samples as they come at a step: each in turn, or a single one with both signs."""
    return x.roll(step, 0) if len(x) > 1 else (-1) ** step * x


def _same_neurons(one: Neuron, other: Neuron, x: Tensor, y: Tensor) -> bool:
    """Whether two neurons have the same potentials, in thresholds, and spikes, with the samples as steps of time."""
    states = one.initial(x), other.initial(y)
    for step in range(STEPS if len(x) > 1 else STEPS // 2):
        now = _at(step, x), _at(step, y)
        same, tie = _near(one.above_threshold(states[0], now[0]), other.above_threshold(states[1], now[1]))
        if not same:
            return False
        (old, spikes), (new, others) = one.step_over(states[0], now[0]), other.step_over(states[1], now[1])
        if not torch.equal(spikes, others):
            return tie
        states = old, new
        del now, old, new, spikes, others  # of large maps each is a megabyte or more
    return True


def _near(ahead: Tensor | None, found: Tensor | None) -> tuple[bool, bool]:
    """Whether two neurons are as far above their thresholds, if they say so, and whether one of them may be a tie."""
    if ahead is None or found is None:
        return True, False
    allowed = ahead.abs().add_(1).mul_(POTENTIAL)
    same = bool(((found - ahead).abs_() <= allowed).all())
    return same, same and bool((ahead.abs() <= allowed).any())
