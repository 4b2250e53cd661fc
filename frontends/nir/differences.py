"""What a tool does with a NIR graph otherwise than the graph says: node by node, in the terms of the file."""

from typing import Any

import attrs
import nir
import numpy as np

from spikec.frontends.nir.files import File
from spikec.frontends.nir.loader import Loader
from spikec.frontends.nir.readers import Reader
from spikec.frontends.nir.rules import Rule
from spikec.frontends.nir.stated import Stated
from spikec.ir.errors import CompileError, Hint, Option, Problem, without_warnings
from spikec.ir.graph import Graph
from spikec.ir.ops import LIF, MultiSpike, Neuron
from spikec.ir.types import Array, span

#: what is compared of two neurons
_CALLED = {
    "v_threshold": "v_threshold",
    "v_leak": "v_leak",
    "v_init": "the potential before step 0",
    "decay": "what a step leaves of the potential (tau, tau_mem)",
    "decay_syn": "what a step leaves of the current (tau_syn)",
    "gain": "the gain of the input (r, w_in)",
}


def differences(file: File, name: str, stated: Stated, max_bytes: int) -> list[Problem]:
    """List everything that the reader refuses, leaves out, or computes otherwise.

    The graph's own meaning is that of its fields and metadata, and of what the user says besides the reader; where
    nothing says how long a step is, the reader's step counts.

    Args:
        file: the graph, and what its file says beside it.
        name: of the model.
        stated: with a reader.
        max_bytes: that the signals of one sample may take.
    """
    reader = stated.reader
    assert reader is not None
    found: list[Problem] = []
    run: Graph | None = None
    with without_warnings():
        for each in (reader, attrs.evolve(reader, graphs={}), _lenient(reader)):
            try:
                run = Loader(file, name, attrs.evolve(stated, reader=each), max_bytes).graph()
                break
            except CompileError as error:
                found += (problem for problem in error.problems if problem not in found)
        own = attrs.evolve(stated, reader=None)
        for said in (own, attrs.evolve(own, dt=reader.dt)):
            try:
                meant = Loader(file, name, said, max_bytes).graph()
                break
            except CompileError as error:
                unread = error.problems
        else:
            return [*found, *(problem for problem in unread if problem not in found)]
    if run is None:
        return found
    refused = {problem.location for problem in found}
    neurons = [node.name for node in meant.match(Neuron) if node.name not in refused]
    return found + [each for name in neurons for each in _of_neuron(reader.tool, meant, run, name)]


def _lenient(reader: Reader) -> Reader:
    """The reader if it took every node, those that it refuses as they are."""

    def lenient(rule: Rule) -> Rule:
        def taken(node: Any, dt: float) -> Any:
            try:
                return rule(node, dt)
            except CompileError:
                return node

        return taken

    neurons = {kind: lenient(rule) for kind, rule in reader.neurons.items()}
    kinds = (each for each in vars(nir).values() if isinstance(each, type) and issubclass(each, nir.NIRNode))
    return attrs.evolve(reader, neurons=neurons, layers=tuple(kinds), functions={}, drops=(), graphs={})


def _of_neuron(tool: str, meant: Graph, run: Graph, name: str) -> list[Problem]:
    """List how a tool runs a neuron otherwise than it is meant."""
    op, other = meant.get(name, Neuron), run.get(name, Neuron)
    found: list[tuple[str, str | Hint]] = []
    if isinstance(other, MultiSpike) and not isinstance(op, MultiSpike):
        several = "a neuron fires as often in a step as its threshold goes into its potential"
        found.append((f"{several}, and not once", "keep the currents of a step below the threshold"))
    if op.strict != other.strict:
        signs = [">" if each.strict else ">=" for each in (op, other)]
        found.append((f"it fires at v {signs[1]} v_threshold, and not at v {signs[0]} v_threshold", _repair(tool)))
    if op.subtracts != other.subtracts:
        here, there = ("by subtraction", "to v_reset") if op.subtracts else ("to v_reset", "by subtraction")
        hint = Hint("tune the network for it: ", Option("reset", "hard")) if op.subtracts else ""
        found.append((f"a spike resets the potential {there}, and not {here}", hint))
    ours, theirs = _numbers(op), _numbers(other)
    for field, called in _CALLED.items():
        if not _equal(ours[field], theirs[field]):
            found.append((f"{called} is {span(theirs[field])}, and not {span(ours[field])}", _repair(tool)))
    kind = op.origin[0].kind if op.origin else op.kind
    return [Problem(f"{tool}: {message}", name, kind, hint) for message, hint in found]


def _numbers(op: Neuron) -> dict[str, Array]:
    """Return what is compared, under the same names for each kind of neuron."""
    fields = {name: value for name, value in op.parameters().items() if isinstance(value, np.ndarray)}
    found = {"v_leak": np.zeros(()), "decay": np.ones(()), "decay_syn": np.zeros(()), "gain": np.ones(())}
    if isinstance(op, LIF):
        found |= {"decay": 1 - 1 / op.tau, "gain": 1 / op.tau}
    return {name: np.asarray(value) for name, value in {**found, **fields}.items()}


def _repair(tool: str) -> str:
    return f"spikec repair writes a file that means the same to {tool}"


def _equal(one: Array, other: Array) -> bool:
    return bool(np.allclose(one, other, rtol=1e-6, atol=1e-9))
