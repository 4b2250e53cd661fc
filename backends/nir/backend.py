"""The target ``nir``: an ``nir.NIRGraph`` that every importer reads the same way."""

import io
import re
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import attrs
import nir
import numpy as np

from spikec.backends.nir.converters import in_seconds, written
from spikec.backends.nir.layout import Layout, layouts
from spikec.backends.nir.profiles import PROFILES, Profile
from spikec.extend.backend import Backend
from spikec.extend.loader import unknown
from spikec.extend.passbase import Context, rounds
from spikec.ir.errors import CompileError, Hint, InvalidModelError, Option, Problem, UnsupportedOpError
from spikec.ir.graph import Graph
from spikec.ir.op import Op
from spikec.ir.ops import Add, Delay, Input, Neuron, Output, Weighted
from spikec.ir.stages import FINAL


def _known_profile(_: Any, __: Any, value: str) -> None:
    if value not in PROFILES:
        raise unknown("profile of NIR", value, PROFILES)


def _positive(_: Any, __: Any, value: Any) -> None:
    if not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise CompileError(f"dt is {value!r}", hint="give the length of a time-step in seconds, such as 1e-4")


def _reset(value: Any) -> Any:
    """Return what the frontend of NIR calls otherwise in the target's words."""
    return {"subtract": "soft", "value": "hard"}.get(value, value) if isinstance(value, str) else value


@attrs.frozen
class Nir(Backend):
    """Emits an ``nir.NIRGraph``: IF, LIF, CubaLIF, Affine, Conv1d, Conv2d, SumPool2d or AvgPool2d, and Flatten.

    Attributes:
        dt: seconds a time-step: the unit of time constants; an IF with r = 1 counts steps.
        profile: for which reader, see :data:`spikec.backends.nir.profiles.PROFILES`.
        reset: ``"hard"``: for a reader that resets every neuron to zero; the network is tuned as it runs it, for
            ``timesteps``. Otherwise neurons reset by subtraction, or as the model's own do. Of a NIR model it says how
            that one's neurons reset, too.
        neurons: for each value of a ReLU, with ``reset="hard"``: the more, the nearer to the ANN.
    """

    name: ClassVar[str] = "nir"
    suffix: ClassVar[str] = ".nir"
    order: ClassVar[str] = "nir"
    thresholds: ClassVar[str] = "uniform"
    artifacts: ClassVar[tuple[type, ...]] = (nir.NIRGraph,)
    shared: ClassVar[tuple[str, ...]] = ("dt", "reset")

    dt: float = attrs.field(default=1e-4, validator=_positive)
    profile: str = attrs.field(default="portable", validator=_known_profile)
    reset: str = attrs.field(default="auto", converter=_reset, validator=attrs.validators.in_(("auto", "soft", "hard")))
    neurons: int = attrs.field(default=1, validator=rounds())

    @property
    def averages(self) -> tuple[int, ...]:
        """AvgPool2d, where the reader has it."""
        return (2,) if self._profile.averages else ()

    @property
    def fires(self) -> str:
        """As the reader's neurons do."""
        return self._profile.fires

    @property
    def reader(self) -> str:
        """SpikingJelly, whose profile it is; the portable one is nobody's."""
        return self.profile if self.profile == "spikingjelly" else ""

    @property
    def _profile(self) -> Profile:
        return PROFILES[self.profile]

    def check(self, graph: Graph) -> list[Problem]:
        """List every op that has no node in portable NIR, and every sum that is no fan-in."""
        problems = FINAL.problems(graph)
        problems += [
            graph.problem(name, "an input that nothing uses", "remove it from the model")
            for name in graph.inputs
            if not graph.users(name)
        ]
        moved = _moved(layouts(graph))
        for name in (name for name in graph if name not in moved):
            try:
                self._checked(graph, name)
            except CompileError as error:
                problems.append(graph.problem(name, error.problems[0].message, error.hint))
        return problems

    def _checked(self, graph: Graph, name: str) -> None:
        if isinstance(graph[name], Delay):
            _check_back_edge(graph, name)
            return
        if not isinstance(graph[name], Add):
            self._readable(graph[name])
            self._readable(_written(graph, name, name)[0])
            return
        users = [graph[user] for user, _ in graph.users(name)]
        operands = graph.operands(name)
        if not all(isinstance(op, (Weighted, Neuron)) for op in users) or len(set(operands)) < len(operands):
            raise UnsupportedOpError("a sum that is not the fan-in of a layer", hint="run legalize-nir before")

    def _readable(self, op: Op) -> None:
        """Raise a CompileError where the profile's reader does not take a neuron."""
        if isinstance(op, Neuron):
            if op.strict != (self._profile.fires == ">"):
                here, there = ("above", "at") if op.strict else ("at", "above")
                message = f"a neuron that fires {here} its threshold; those of the reader fire {there} it"
                raise CompileError(message, hint="run strict-threshold")
            if found := self._profile.problem(op):
                hint = Hint("use ", Option("profile", "portable"))
                raise UnsupportedOpError(f"{self.profile} does not read {found}", hint=hint)

    def emit(self, graph: Graph, context: Context) -> Any:
        """Make the graph, which nir type-checks."""
        found = layouts(graph)
        names = _names(graph, _moved(found))
        nodes = {names[name]: _written(graph, name, found[name].inner if name in found else name)[1] for name in names}
        for node in nodes.values():
            in_seconds(node, self.dt, self._profile.gain == "physical")
        for terminal in (*graph.inputs, *graph.outputs):
            nodes[names[terminal]].metadata["name"] = terminal
            _lay_out(graph, terminal, found[terminal], nodes[names[terminal]], context)
        _note_losses({name: nodes[names[name]] for name in names}, context)
        metadata = self._metadata(graph, names, found, context)
        for key in ("v_init", "reset"):
            metadata.update(_shared(key, nodes.values()))
        return nir.NIRGraph(nodes=nodes, edges=_edges(graph, names, found), metadata=metadata)

    def _metadata(
        self, graph: Graph, names: dict[str, str], found: dict[str, Layout], context: Context
    ) -> dict[str, Any]:
        """Return what NIR has no field for, and what holds for the whole graph."""
        units = {names[name]: graph.type(found[name].inner).scale for name in graph.outputs}
        scales = {name: float(scale.item()) if scale.size == 1 else np.array(scale) for name, scale in units.items()}
        metadata: dict[str, Any] = {
            "dt": self.dt,
            "fire": self._profile.fires,
            "spikes": "binary",
            "gain": self._profile.gain,
            "output_scale": scales if len(scales) > 1 else next(iter(scales.values())),
            "producer": f"spikec {version('spikec')}",
        }
        if context.timesteps is not None:
            metadata["timesteps"] = context.timesteps
        return metadata

    def save(self, artifact: Any, path: Path) -> None:
        """Write the file, by ``nir.write`` to memory: HDF5 ends the process where the disk is full."""
        buffer = io.BytesIO()
        try:
            nir.write(buffer, artifact)
        except (TypeError, ValueError) as error:  # a graph of the user's own
            hint = "its fields and metadata must be arrays of at least one axis, numbers, texts or dicts of these"
            raise InvalidModelError(f"nir cannot write this graph: {error}", hint=hint) from error
        path.write_bytes(buffer.getvalue())


def _shared(key: str, nodes: Iterable[Any]) -> dict[str, Any]:
    """Take from the nodes that have it the metadata that is the same in all; nothing where they differ."""
    holders = [node.metadata for node in nodes if key in node.metadata]
    values = {value for metadata in holders for value in np.ravel(metadata[key]).tolist()}
    if len(values) != 1:
        return {}
    for metadata in holders:
        del metadata[key]
    return {key: values.pop()}


def _note_losses(nodes: dict[str, Any], context: Context) -> None:
    """Note what a reader that goes by the fields of nodes alone will do otherwise."""
    neurons = {name: node for name, node in nodes.items() if "reset" in node.metadata}
    soft = [name for name, node in neurons.items() if node.metadata["reset"] == "subtract"]
    late = [name for name, node in neurons.items() if "reset_at" in node.metadata]
    if soft and any(not isinstance(nodes[name], nir.IF) or name not in soft for name in neurons):
        context.note(
            soft[0],
            f"{len(soft)} of {len(neurons)} layer(s) reset by subtraction, which is metadata: a reader that goes by "
            "v_reset resets them to zero",
        )
    if late:
        context.note(
            late[0],
            f"{len(late)} layer(s) do not reset with their spike, which is metadata (reset_at): a reader that does "
            "not know it gives other spikes",
        )


def _written(graph: Graph, name: str, inner: str) -> tuple[Op, Any]:
    """Return what :func:`written` does for a node whose result in the file is that of ``inner``."""
    result = graph.type(inner)
    operand = graph.type(graph.operands(name)[0]) if graph.operands(name) else result
    return written(graph[name], operand, result)


def _check_back_edge(graph: Graph, name: str) -> None:
    """Raise a CompileError where a register is not on the way back of a cycle: there readers take a step anyway."""
    (source,) = graph.operands(name)
    if name not in graph.before(source) or not isinstance(graph[source], Neuron):
        message = "a delay that does not lead spikes of neurons back to them"
        raise UnsupportedOpError(message, hint='leave it out, or use the target "spikingjelly"')


_NUMBER = re.compile(r"n\d+_")


def _moved(found: dict[str, Layout]) -> set[str]:
    """Return the nodes that inputs and outputs of another layout stand for."""
    return {name for layout in found.values() for name in layout.moved}


def _lay_out(graph: Graph, terminal: str, layout: Layout, node: Any, context: Context) -> None:
    """Say of an input or output that has another layout in the file than in the model how one comes of the other."""
    shape, model = graph.type(layout.inner).shape, graph.type(terminal).shape
    if not layout.moved:
        return
    which = "input" if isinstance(graph[terminal], Input) else "output"
    node.metadata |= {"axes": np.array(layout.axes), "model_shape": np.array(model)}
    way = f".transpose{layout.axes}.reshape{shape if which == 'input' else model}"
    here, there = ("the file's", "the model's") if which == "input" else ("the model's", "the file's")
    context.note(terminal, f"{here} {which} is {there}{way}, as its metadata say (axes, model_shape)")


def _names(graph: Graph, moved: set[str]) -> dict[str, str]:
    """Choose NIR names, whose alphabetical order, in which files are read back, is topological.

    Terminals are ``input`` and ``output`` (``input_0``, ... if there are several); the others have a number
    in front, which replaces that of a file that was written like this.
    """
    names: dict[str, str] = {}
    inner = [name for name in graph if not isinstance(graph[name], (Input, Output, Add, Delay)) and name not in moved]
    numbered = all(_NUMBER.match(name) for name in inner)
    for kind, group in (("input", graph.inputs), ("output", graph.outputs)):
        width = len(str(len(group) - 1))
        names.update({name: f"{kind}_{i:0{width}d}" if len(group) > 1 else kind for i, name in enumerate(group)})
    width = len(str(len(inner) - 1))
    for i, name in enumerate(inner):
        bare = _NUMBER.sub("", name, count=1) if numbered else name
        names[name] = f"n{i:0{width}d}_{re.sub(r'[^0-9A-Za-z_]', '_', bare)}"
    return {name: names[name] for name in graph if name in names}


def _edges(graph: Graph, names: dict[str, str], found: dict[str, Layout]) -> list[tuple[str, str]]:
    """List the edges, main branches first: some readers take the last edge into a node for a skip."""
    givers = names | {found[name].inner: names[name] for name in graph.inputs}
    givers |= {node.name: givers[graph.operands(node.name)[0]] for node in graph.match(Delay)}  # edges back
    main: list[tuple[str, str]] = []
    skips: list[tuple[str, str]] = []
    for name in names:
        operands = (found[name].inner,) if isinstance(graph[name], Output) else graph.operands(name)
        if operands and isinstance(graph[operands[0]], Add):
            operands = graph.operands(operands[0])  # a fan-in is several edges into the node
        for slot, operand in enumerate(operands):
            (skips if slot else main).append((givers[operand], names[name]))
    return main + skips


backend = Nir
