"""Leaky neurons, and recurrent layers of neurons, as the neuron that Loihi has."""

from typing import Literal

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.errors import CompileError, Problem, UnsupportedOpError
from spikec.ir.graph import Graph, Node
from spikec.ir.ops import (
    IF,
    LIF,
    Add,
    CubaLIF,
    Delay,
    Input,
    Linear,
    LoihiNeuron,
    Neuron,
    Weighted,
)
from spikec.ir.ops.weighted import identity
from spikec.ir.origin import merge
from spikec.ir.rewrite import SHAPES, before_shapes
from spikec.ir.stages import SNN
from spikec.ir.types import Array

_ZERO = np.zeros(())
_TARGET = 'use the target "nir" or "spikingjelly"'


@attrs.frozen
class LoihiNeurons(Pass):
    """Write LIF, CubaLIF, and neurons whose spikes come back a step later, as LoihiNeuron.

    All potentials are counted from where the neuron is reset to, or starts if it is not, and in units of the current
    that it is fed: so gain, v_leak and v_reset go into thresholds and constant currents. A neuron with hard reset keeps
    its decays. One that is reset by subtraction, or never, and has no decaying current, lets the chip's current carry
    its potential u, with
    ``v_threshold`` theta and a decay of beta::

        u(t) = beta u(t-1) + z(t) - c s(t-1)    c = beta theta  where a spike lowers the potential in its own step
                                                c = theta       where it does with the next one (snnTorch)

    Where no layer makes the current, as between two neurons, an identity does.

    The chip has nothing like a decaying current behind which the potential is lowered, nor a reset to a value that
    comes a step late: those neurons are reset to where they start, in the step of the spike, with a warning. Nor can it
    start a neuron off where it is reset to, but for one whose current does not decay: a pulse charges that at step 0.

    Attributes:
        reset: ``hard`` resets all of them so.
    """

    name = "loihi-neurons"
    contract = "approximate"
    needs = SNN

    reset: Literal["auto", "soft", "hard"] = "auto"

    def run(self, graph: Graph, context: Context) -> int:
        """Replace the neurons; a cycle that is no recurrent layer stays, for the backend to refuse."""
        recurrent = {graph.operands(node.name)[0]: node.name for node in graph.match(Delay)}
        changes, problems = 0, list[Problem]()
        for node in graph.match(Neuron):
            if type(node.op) not in (IF, LIF, CubaLIF):
                continue
            try:
                weight = _taken_apart(graph, recurrent[node.name]) if node.name in recurrent else None
                if weight is None and type(node.op) is IF:
                    continue
                _replace(graph, Node(node.name, graph.get(node.name, Neuron)), weight, self.reset == "hard", context)
                changes += 1
            except CompileError as error:
                problems.append(graph.problem(node.name, error.problems[0].message, error.hint))
        if problems:
            raise UnsupportedOpError(problems)
        return changes


def _taken_apart(graph: Graph, delay: str) -> Array | None:
    """Take ``neuron -> delay -> (linear) -> add -> neuron`` out of the graph; return the weights [N, N].

    The bias of the linear op joins that of the layer in front. None where it is another cycle, which stays.
    """
    (neuron,) = graph.operands(delay)
    inner = _only_user(graph, delay)
    linear = inner if isinstance(graph[inner or neuron], Linear) else ""
    total = _only_user(graph, linear) if linear else inner
    is_layer = len(graph.type(neuron).shape) == 1
    if not (is_layer and total and isinstance(graph[total], Add) and _only_user(graph, total) == neuron):
        return None
    others = [each for each in graph.operands(total) if each not in (linear, delay)]
    if not others:
        return None
    weight = np.eye(graph.type(neuron).shape[0])
    origin = merge(graph[neuron].origin, graph[delay].origin, *((graph[linear].origin,) if linear else ()))
    if linear:
        op = graph.get(linear, Linear)
        weight = np.asarray(op.weight, dtype=np.float64)
        if op.shift.any():
            _add_constant(graph, others[0], op.shift)
    if len(others) > 1:
        graph.set_operands(total, *others)
    else:
        origin = merge(origin, graph[total].origin)
        graph.set_operands(neuron, *others)
        graph.remove(total)
    graph.set_op(neuron, attrs.evolve(graph[neuron], origin=origin))
    graph.remove_dead(linear or delay)
    return weight


def _only_user(graph: Graph, name: str) -> str:
    users = graph.users(name)
    return users[0][0] if len(users) == 1 else ""


def _add_constant(graph: Graph, name: str, current: Array) -> None:
    """Add a constant current to what a node gives, as the bias of the layer that makes it."""
    shape = graph.type(name).shape
    while isinstance(graph[name], SHAPES) and len(graph.users(name)) == 1:
        (name,) = graph.operands(name)
    op = graph[name]
    full = np.broadcast_to(current.reshape((1,) * (len(shape) - current.ndim) + current.shape), shape)
    rows = full.reshape(op.out_features, -1) if isinstance(op, Weighted) else full
    if not isinstance(op, Weighted) or len(graph.users(name)) > 1 or not (rows == rows[:, :1]).all():
        raise CompileError(
            "it has a constant current, and no layer of its own that could have it as bias", hint=_TARGET
        )
    graph.set_op(name, op.affine(np.ones(1), rows[:, 0]))


@attrs.frozen
class _Dynamics:
    """A neuron as ``i(t) = decay_syn i(t-1) + gain z(t)`` and ``v(t) = decay v(t-1) + (1 - decay) v_leak + i(t)``."""

    decay_syn: Array
    decay: Array
    gain: Array
    v_leak: Array = _ZERO
    reset_at: str = "spike"

    @classmethod
    def of(cls, op: Neuron) -> "_Dynamics":
        one = np.ones(())
        if isinstance(op, LIF):
            gain = 1 / op.tau if op.gain is None else op.gain
            return cls(_ZERO, 1 - 1 / op.tau, gain, op.v_leak, op.reset_at)
        if isinstance(op, CubaLIF):
            return cls(op.decay_syn, op.decay, op.gain, op.v_leak, op.reset_at)
        return cls(_ZERO, one, one)


def _put_layer(graph: Graph, name: str) -> None:
    """Put an identity in front of a neuron whose current is spikes or the input."""
    if isinstance(graph[before_shapes(graph, name)], (Input, Neuron)):
        (operand,) = graph.operands(name)
        graph.insert_before(name, 0, identity(graph.type(operand)), new=f"{name}_weights")


def _start(op: Neuron, never: bool, one_pole: bool) -> tuple[Array, Array]:
    """Return the potential to which a neuron is reset, and how far above it starts.

    Args:
        op: the neuron.
        never: it is not reset: the first is where it starts.
        one_pole: its current does not decay.

    Raises:
        CompileError: they are not below its threshold, or it cannot be charged to where it starts.
    """
    rest = op.v_init if op.v_reset is None or never else op.v_reset
    above = op.v_init - rest
    if above.any() and not one_pole:
        message = (
            "it starts at another potential than it is reset to, and its current decays: what charged it would stay"
        )
        raise CompileError(message, hint=f"give it a v_init equal to its v_reset, or {_TARGET}")
    if (above < 0).any():
        message = "it starts below the potential that it is reset to, and netx charges neurons upwards only"
        raise CompileError(message, hint=f"give it a v_init not below its v_reset, or {_TARGET}")
    if not ((op.v_threshold > rest) & (op.v_threshold > op.v_init)).all():
        hint = "give it a v_init, and v_reset, below v_threshold"
        raise CompileError("it starts at or above its threshold", hint=hint)
    return rest, above


def _replace(graph: Graph, node: Node[Neuron], weight_rec: Array | None, hard: bool, context: Context) -> None:
    """Write one neuron as LoihiNeuron, with recurrent weights from its layer's spikes; ``hard`` where none is soft."""
    op, how = node.op, _Dynamics.of(node.op)
    _put_layer(graph, node.name)
    if not (how.gain > 0).all():
        raise CompileError("its gain is not positive", hint="give the weights in front of it the sign")
    one_pole = not how.decay_syn.any()
    never, soft = how.reset_at == "never", op.v_reset is None and how.reset_at != "never"
    if never and not one_pole:
        raise CompileError("it is never reset, and its current decays: netx clears potentials", hint=_TARGET)
    carried = one_pole and (never or (soft and not hard))  # by the chip's current
    _warn_of_reset(node, how, soft and not carried, context)
    rest, above = _start(op, never, one_pole)
    constant = (1 - how.decay) * (how.v_leak - rest)
    feedback = op.v_threshold * (1 if how.reset_at == "next" else how.decay) if soft and carried else _ZERO
    made = LoihiNeuron(
        op.v_threshold - rest,
        v_init=above,
        strict=op.strict,
        decay_syn=how.decay if carried else how.decay_syn,
        decay=_ZERO if carried else how.decay,
        feedback=feedback,
        bias=_ZERO if carried else constant,
        out_scale=graph.type(node.name).scale,
        origin=op.origin,
    )
    gain = how.gain.reshape((1,) * (op.v_threshold.ndim - how.gain.ndim) + how.gain.shape)
    if carried and constant.any():
        _add_constant(graph, graph.operands(node.name)[0], constant / gain)
    graph.set_op(node.name, attrs.evolve(made.scale_input(gain), weight_rec=weight_rec))


def _warn_of_reset(node: Node[Neuron], how: _Dynamics, hardened: bool, context: Context) -> None:
    """Say where another reset is written than the model has."""
    lost = ""
    if hardened:
        lost = "is reset by subtraction, and to zero in the file"
    elif how.reset_at == "next" and node.op.v_reset is not None:
        lost = "is reset a step late, losing that step's input, and in the step of the spike in the file"
    elif how.reset_at == "again":
        lost = "is lowered once more where it stays above its threshold, and not in the file"
    if lost:
        context.warn(f"a {node.op.kind} {lost}: other spikes than the model's", node.name)
