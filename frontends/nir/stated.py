"""What a NIR graph does not say by itself: the length of a step, how neurons fire and reset, and where they start.

The user's word comes first, then the tool's that the user names, then the graph's metadata; nothing is guessed without
a word about it.
"""

from collections.abc import Collection, Mapping
from typing import Any

import attrs
import nir
import numpy as np

from spikec.frontends.nir import meaning, rules
from spikec.frontends.nir.converters import UNIT
from spikec.frontends.nir.doubts import Notes
from spikec.frontends.nir.readers import Reader, reader_named
from spikec.frontends.nir.rules import with_fields
from spikec.ir.errors import CompileError, Hint, InvalidModelError, Option, Problem, UnsupportedOpError, shown
from spikec.ir.types import Array

#: how neurons reset, by what metadata call it
_HOW = {"subtract": "by subtraction", "value": "to v_reset"}
#: nodes that have r and no time constant
_COUNTING = (nir.I, nir.IF)
#: what users say of a reset, and what metadata call it
_RESETS = {"subtract": "subtract", "soft": "subtract", "value": "value", "hard": "value"}


@attrs.frozen
class Stated:
    """What the user says of a graph.

    Attributes:
        dt: seconds a step, or None.
        reset: ``"subtract"``, ``"value"`` or None.
        fire: ``">"``, ``">="`` or None.
        v_init: a potential for all neurons, or for some by name, or None.
        reader: the tool that runs it, or None.
    """

    dt: float | None = None
    reset: str | None = None
    fire: str | None = None
    v_init: Any = None
    reader: Reader | None = None

    @classmethod
    def of(cls, dt: Any, reset: Any, fire: Any, v_init: Any, reader: Any) -> "Stated":
        """Check what the user gives.

        Raises:
            InvalidModelError: one of them makes no sense.
        """
        for name, value, known in (("reset", reset, _RESETS), ("fire", fire, meaning.WORDS["fire"])):
            if value is not None and not (isinstance(value, str) and value in known):
                raise InvalidModelError(f"{name} is {shown(value)}", hint=f"known: {', '.join(known)}")
        for value in v_init.values() if isinstance(v_init, Mapping) else () if v_init is None else (v_init,):
            if wrong := meaning.ANY.wrong("v_init", value):
                raise InvalidModelError(wrong[0], hint=wrong[1] or "give a number, or a dict of numbers by neuron")
        return cls(
            None if dt is None else meaning.seconds(dt),
            None if reset is None else _RESETS[reset],
            fire,
            v_init,
            None if reader in (None, "nir") else reader_named(reader),
        )


@attrs.frozen
class Settled:
    """A graph of which everything is known.

    Attributes:
        graph: whose neurons' metadata say how they reset and start.
        dt: seconds a step, by which the graph's time constants are divided; None where nothing says it.
        seconds: those of a step, or None where the graph or its tool knows no seconds.
        strict: whether neurons fire above their threshold, or also at it.
        notes: what was used, and who says so.
        doubtful: names of neurons of which nothing says whether they reset to 0 or by subtraction.
    """

    graph: Any
    dt: float | None
    seconds: float | None
    strict: bool
    notes: Notes
    doubtful: tuple[str, ...]


def settle(graph: Any, stated: Stated, subtracting: Collection[str] = ()) -> Settled:
    """Settle what a graph without graphs in it does not say.

    Args:
        graph: of nir.
        stated: what the user says of it.
        subtracting: neurons that subtract where nothing else is said, as the version of nir does that wrote them.

    Raises:
        UnsupportedOpError: the reader refuses nodes; with all of them.
    """
    notes = Notes()
    dt = _dt(graph, stated, notes)
    nodes = _as_meant(graph, dt, notes) if stated.reader is None else _as_run(graph, stated.reader, dt)
    common = {key: graph.metadata[key] for key in ("reset", "v_init") if key in graph.metadata and not stated.reader}
    nodes = {name: _as_said(name, node, stated, common) for name, node in nodes.items()}
    doubtful: tuple[str, ...] = ()
    if stated.reader is None:
        _note_clock(graph, dt, notes)
        doubtful = _note_reset(graph, stated, notes)
        for name in subtracting:
            if name in doubtful:
                nodes[name].metadata["reset"] = "subtract"
    else:
        notes.add("; ".join(filter(None, (f"read as {stated.reader.tool} runs it", stated.reader.unsaid))))
    fire = stated.fire or (stated.reader and stated.reader.fire) or graph.metadata.get("fire", ">")
    _note_others(graph, stated, nodes, fire, notes)
    metadata = {key: value for key, value in graph.metadata.items() if key not in ("reset", "v_init", "fire", "dt")}
    made = nir.NIRGraph(nodes, graph.edges, metadata=metadata, type_check=False)
    if stated.reader is not None and stated.reader.steps:
        return Settled(made, 1.0, stated.dt or _stated_dt(graph), fire == ">", notes, doubtful)
    return Settled(made, dt, dt, fire == ">", notes, doubtful)


def _stated_dt(graph: Any) -> float | None:
    found = graph.metadata.get("dt")
    return None if found is None else float(np.asarray(found).item())


def _dt(graph: Any, stated: Stated, notes: Notes) -> float | None:
    """Seconds a step: what the user says, or the reader, or the metadata, or what all gains that are not 1 imply."""
    found, reader = _stated_dt(graph), stated.reader
    if stated.dt is not None:
        if found is not None and found != stated.dt:
            notes.doubt(f"dt = {stated.dt:g} as you say, where the graph says {found:g}")
        else:
            notes.add(f"dt = {stated.dt:g} s a step, as you say")
        return stated.dt
    if reader is not None and not (reader.dt_given and found is not None):
        if not reader.steps:
            notes.add(f"dt = {reader.dt:g} s a step, as {reader.tool} has it")
        return reader.dt
    if found is not None:
        notes.add(f"dt = {found:g} s a step, as the graph's metadata say")
        return found
    return _implied(graph, notes)


def _implied(graph: Any, notes: Notes) -> float | None:
    """Seconds a step by the gains that are not 1, if they agree: 1/r of an IF, tau/r of a LIF, and so on."""
    found: dict[str, Array] = {}
    for name, node in graph.nodes.items():
        for gain, tau in (("r", "tau"), ("r", "tau_mem"), ("w_in", "tau_syn")):
            seconds = 1.0 if isinstance(node, _COUNTING) and tau == "tau" else getattr(node, tau, None)
            gains = np.asarray(getattr(node, gain, 1), dtype=np.float64)
            if seconds is not None and (gains != 1).any() and (gains > 0).all():
                found[name] = np.append(found.get(name, ()), np.ravel(seconds / gains))
    if not found:
        return None
    steps = np.concatenate(list(found.values()))
    if not np.allclose(steps, steps[0], rtol=UNIT, atol=0):
        least, most = (min(found, key=lambda name: how(found[name])) for how in (np.min, lambda each: -np.max(each)))
        several = f"{found[least].min():.6g} s ({least}) to {found[most].max():.6g} s ({most})"
        what = f"nothing says how long a step is, and the gains imply several lengths, of {several}"
        hint = Hint("state it: ", Option("dt", 1e-4), " (the usual value)")
        raise UnsupportedOpError(what, location=next(iter(found)), hint=hint)
    dt = float(steps[0])
    message = f"the NIR graph does not say how long a step is: dt = {dt:.6g} is what its gains imply; if so, say "
    notes.doubt(Hint(message, Option("dt", dt)))
    return dt


def _note_clock(graph: Any, dt: float | None, notes: Notes) -> None:
    """Say whether the length of a step matters, and where some neurons count steps and others seconds."""
    taus = ("tau", "tau_syn", "tau_mem", "delay")
    seconds = [name for name, node in graph.nodes.items() if any(hasattr(node, tau) for tau in taus)]
    integrators = {name: node for name, node in graph.nodes.items() if isinstance(node, _COUNTING)}
    unit = [name for name, node in integrators.items() if (np.asarray(node.r) == 1).all()]
    physical = [name for name in integrators if name not in unit]
    if physical and unit:
        notes.doubt(
            f"{unit[0]} and {len(unit) - 1} more with r = 1 add up their input once a step, {physical[0]} and "
            f"{len(physical) - 1} more by r dt: make them alike, if they are meant so"
        )
    elif unit and seconds:
        notes.add(f"{unit[0]} with r = 1 counts steps, {seconds[0]} seconds")
    if not seconds and not physical:
        notes.add("the length of a step does not matter: nothing in this graph counts seconds")


def _as_meant(graph: Any, dt: float | None, notes: Notes) -> Mapping[str, Any]:
    """Return the nodes as NIR's equations run them: those of a graph that decays exponentially in their terms."""
    nodes: Mapping[str, Any] = graph.nodes
    if dt is None or graph.metadata.get("integrator") != "exponential":
        return nodes
    notes.add("what leaks decays exponentially, as the metadata say")
    return {name: rules.exponential(node, dt) for name, node in nodes.items()}


def _as_run(graph: Any, reader: Reader, dt: float | None) -> dict[str, Any]:
    """Return the nodes as a tool runs them, or raise with all that it refuses."""
    problems: list[Problem] = []
    nodes: dict[str, Any] = {}
    for name, node in graph.nodes.items():
        try:
            nodes[name] = reader.node(node, reader.dt if dt is None else dt)
        except CompileError as error:
            kind = f"nir.{type(node).__name__}"
            problems.append(Problem(error.problems[0].message, name, kind, error.hint))
    if problems:
        raise UnsupportedOpError(problems)
    return nodes


def _as_said(name: str, node: Any, stated: Stated, common: Mapping[str, Any]) -> Any:
    """Return a neuron whose metadata and v_reset are what the user says, or else the whole graph's metadata."""
    if not hasattr(node, "v_threshold"):
        return node
    said: dict[str, Any] = {}
    fields = dict(vars(node))
    if stated.reset is not None:
        said["reset"] = stated.reset
        if stated.reset == "subtract":
            fields["v_reset"] = np.zeros_like(np.asarray(node.v_reset))
            late = stated.reader.late if stated.reader else "spike"
            said |= {"reset_at": late} if late != "spike" and not isinstance(node, nir.IF) else {}
    if isinstance(stated.v_init, Mapping):
        said |= {"v_init": stated.v_init[name]} if name in stated.v_init else {}
    elif stated.v_init is not None:
        said["v_init"] = stated.v_init
    return with_fields(type(node), {**fields, "metadata": {**common, **node.metadata, **said}})


def _note_reset(graph: Any, stated: Stated, notes: Notes) -> tuple[str, ...]:
    """Say how the neurons reset, and who says so; return those whose zeros may mean either way."""
    common = graph.metadata.get("reset")
    neurons = {name: node for name, node in graph.nodes.items() if hasattr(node, "v_reset")}
    if stated.reset is not None:
        notes.add(f"reset {_HOW[stated.reset]}, as you say")
        return ()
    said: dict[str, list[str]] = {}
    for name, node in neurons.items():
        mode = node.metadata.get("reset", common)
        if np.any(node.v_reset):
            said.setdefault("to v_reset, which is not 0", []).append(name)
        elif mode is not None:
            said.setdefault(f"{_HOW[mode]}, as the metadata say", []).append(name)
    for how, names in said.items():
        which = (
            "" if len(names) == len(neurons) else f" of {names[0]}" + f" and {len(names) - 1} more" * (len(names) > 1)
        )
        notes.add(f"reset{which} {how}")
    known = {name for names in said.values() for name in names}
    return tuple(name for name in neurons if name not in known)


def _note_others(graph: Any, stated: Stated, nodes: Mapping[str, Any], fire: str, notes: Notes) -> None:
    """Say where the graph's metadata say otherwise than the user, or the tool that the user names."""
    who = "you say" if stated.reader is None else f"{stated.reader.tool} does"
    if graph.metadata.get("fire", fire) != fire:
        said = "you say" if stated.fire else who
        notes.doubt(f"neurons fire at v {fire} v_threshold, as {said}; the graph says {graph.metadata['fire']!r}")
    for key in ("reset", "v_init"):
        differing = [
            name
            for name, node in nodes.items()
            if hasattr(node, "v_threshold") and _differs(key, node, graph.nodes[name], graph.metadata)
        ]
        if differing:
            said = "you say" if getattr(stated, key) is not None else who
            value = shown(nodes[differing[0]].metadata[key])
            layers = f"{len(differing)} layer(s) of neurons"
            notes.doubt(f"{layers} have {key} = {value}, as {said}, and not as the graph says")


def _differs(key: str, node: Any, before: Any, common: Mapping[str, Any]) -> bool:
    stated, used = before.metadata.get(key, common.get(key)), node.metadata.get(key)
    if stated is None or used is None:
        return False
    return stated != used if isinstance(used, str) else not np.array_equal(np.unique(stated), np.unique(used))
