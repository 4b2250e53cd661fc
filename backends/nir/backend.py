"""The target ``nir``: an ``nir.NIRGraph`` in the forms that its reader takes."""

import io
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import attrs
import nir
import numpy as np

from spikec.backends.nir import wiring
from spikec.backends.nir.converters import ShapesError, written
from spikec.backends.nir.feedback import with_feedback
from spikec.backends.nir.layout import Layout, layouts
from spikec.backends.nir.losses import note_losses
from spikec.backends.nir.nodes import dense, dense_bytes, typed, without_zero_v_reset
from spikec.backends.nir.profiles import DENSE, PROFILES, Profile
from spikec.extend.backend import NEURON_BUDGET, Backend, at_least_one
from spikec.extend.loader import pass_named, unknown
from spikec.extend.passbase import Context, Pass
from spikec.ir.errors import CompileError, Hint, InvalidModelError, Option, Problem, UnsupportedOpError
from spikec.ir.graph import Graph
from spikec.ir.op import Op
from spikec.ir.ops import Add, Delay, Flatten, Input, Integrator, Neuron, Weighted
from spikec.ir.stages import FINAL

#: seconds a step where nobody says it: the value of the NIR paper
DT = 1e-4


def _known_profile(_: Any, __: Any, value: str) -> None:
    if value not in PROFILES:
        raise unknown("profile of NIR", value, PROFILES)


def _positive(backend: "Nir", __: Any, value: Any) -> None:
    if value is not None and (not isinstance(value, (int, float)) or not 0 < value < float("inf")):
        raise CompileError(f"dt is {value!r}", hint="give the length of a time-step in seconds, such as 1e-4")
    profile = PROFILES[backend.profile]
    if value is not None and profile.dt is not None and value != profile.dt:
        counts = "counts steps, and takes time constants for numbers of them" if profile.dt == 1 else "knows no other"
        raise CompileError(
            f"dt is {value:g}, and {profile.reader} has {profile.dt:g}: it {counts}", hint="leave dt out"
        )


def _neurons(backend: "Nir", attribute: Any, value: Any) -> None:
    at_least_one(backend, attribute, value)
    if backend.reset == "hard" and value != int(value):
        raise CompileError(f'neurons is {value}, with reset="hard"', hint="give a whole number")


def _reset(value: Any) -> Any:
    """Return what the frontend of NIR calls otherwise in the target's words."""
    return {"subtract": "soft", "value": "hard"}.get(value, value) if isinstance(value, str) else value


@attrs.frozen
class Nir(Backend):
    """Emits an ``nir.NIRGraph`` for a reader: in the nodes, units and wiring that it takes.

    Attributes:
        profile: the tool that is to read it, see :data:`spikec.backends.nir.profiles.PROFILES`.
        dt: seconds a time-step: the unit of time constants; an IF with r = 1 counts steps. None for the reader's own,
            or else what the model says, or else 1e-4.
        reset: ``"hard"``: for a reader that resets every neuron to zero; the network is tuned as it runs it, for
            ``timesteps``. Otherwise neurons reset by subtraction, or as the model's own do. Of a NIR model it says how
            that one's neurons reset, too.
        neurons: for each value of a ReLU: the more, the nearer to the ANN. With a fraction, such as 1.5, how many times
            as many neurons there may be, see ``replicate-neurons``; with ``reset="hard"`` it is a whole number.
    """

    name: ClassVar[str] = "nir"
    suffix: ClassVar[str] = ".nir"
    aliases: ClassVar[tuple[str, ...]] = (".h5",)
    order: ClassVar[str] = "nir"
    thresholds: ClassVar[str] = "uniform"
    artifacts: ClassVar[tuple[type, ...]] = (nir.NIRGraph,)
    shared: ClassVar[tuple[str, ...]] = ("dt", "reset")

    profile: str = attrs.field(default="portable", validator=_known_profile, metadata={"values": tuple(PROFILES)})
    dt: float | None = attrs.field(default=None, validator=_positive)
    reset: str = attrs.field(default="auto", converter=_reset, validator=attrs.validators.in_(("auto", "soft", "hard")))
    neurons: float = attrs.field(default=1, validator=_neurons)

    @property
    def potentials(self) -> bool:
        """Where a reset by subtraction is written in nodes: one of them is the threshold, which is lower instead."""
        return self._profile.feedback and self.reset != "hard"

    @property
    def averages(self) -> tuple[int, ...]:
        """AvgPool2d, where the reader has it."""
        return (2,) if self._profile.averages else ()

    @property
    def neuron_budget(self) -> int:
        """None for readers that do not sum right in every graph: the squares of a product of matrices are many sums."""
        return NEURON_BUDGET if self._vectors else 0

    @property
    def fires(self) -> str:
        """As the reader's neurons do."""
        return self._profile.fires

    @property
    def forms(self) -> Sequence[Pass | str]:
        """The passes that the profile asks for."""
        profile, passes = self._profile, list[Pass | str]()
        if (profile.gain, profile.zero) != ("any", False):
            passes.append(pass_named("fit-neurons", gain=profile.gain, zero=profile.zero))
        legal = pass_named("legalize-nir", dilates=profile.dilates)
        sums = {"walk": ("chain-sums", legal), "some": ("chain-sums", legal), "none": ("carry-skips", legal), "any": ()}
        vectors = ("lower-shapes",) if self._vectors else ()
        return *passes, *vectors, legal, *sums[profile.sums]

    @property
    def as_read(self) -> Sequence[Pass | str]:
        """Several spikes a step, and a floor, where the reader has them."""
        profile = self._profile
        return (pass_named("several-spikes", floor=profile.floors),) if profile.several else ()

    @property
    def reader(self) -> str:
        """The tool whose profile it is; what several have in common is nobody's."""
        return self.profile if self._profile.reader else ""

    def mends(self, graph: Graph) -> str:
        """Return what loads the file of a graph there so that its neurons subtract, where there is such code."""
        code = self._profile.code(self._dt(graph)) if self._profile.mends else ""
        return "\n".join(f"    {line}" for line in code.splitlines())

    @property
    def _vectors(self) -> bool:
        """Whether layers over tokens are written, as matrices over vectors: for readers that sum right everywhere."""
        return self._profile.sums == "any"

    @property
    def _profile(self) -> Profile:
        return PROFILES[self.profile]

    def check(self, graph: Graph) -> list[Problem]:
        """List every op that the reader has no node for, and every sum that is no fan-in."""
        problems = FINAL.problems(graph)
        problems += [
            graph.problem(name, "an input that nothing uses", "remove it from the model")
            for name in graph.inputs
            if not graph.users(name)
        ]
        found = layouts(graph, self._profile.takes(Flatten))
        left_out = wiring.moved(found)
        for name in (name for name in graph if name not in left_out):
            try:
                self._checked(graph, name)
            except CompileError as error:
                hint: str = error.hint
                if isinstance(error, ShapesError) and not self._vectors:
                    hint = Hint("use ", Option("profile", "full"), ", which has it as a matrix over vectors; or ", hint)
                problems.append(graph.problem(name, error.problems[0].message, hint))
        return problems or self._unwired(graph, found)

    def _unwired(self, graph: Graph, found: dict[str, Layout]) -> list[Problem]:
        """List what the reader runs otherwise than it is wired."""
        profile, problems = self._profile, list[Problem]()
        hint = _elsewhere(self.profile)
        ends = [("inputs", graph.inputs), ("outputs", graph.outputs)]
        for what, names in ends if not profile.ports else ():
            if len(names) > 1:
                reason = f"{self.profile} has one of the {what} only"
                problems.append(graph.problem(names[1], reason, hint))
        if profile.sums == "walk" and not problems:
            problems += [
                graph.problem(name, f"{profile.reader} runs this before %{operand}, which it sums", hint)
                for name, operand in dict(wiring.too_early(graph, found)).items()
            ]
        if profile.sums == "none":
            back = {(node.name, user) for node in graph.match(Delay) for user, _ in graph.users(node.name)}
            for node in graph.match(Op):
                users = {user for user, _ in graph.users(node.name) if not isinstance(graph[user], Delay)}
                if len(users) > 1 or (isinstance(node.op, Add) and not back):
                    problems.append(graph.problem(node.name, f"{profile.reader} runs chains, without branches", hint))
        return problems

    def _checked(self, graph: Graph, name: str) -> None:
        if isinstance(graph[name], Delay):
            _check_back_edge(graph, name)
        if not isinstance(graph[name], Add):
            self._readable(graph[name])
            if not isinstance(graph[name], Delay):
                self._readable(_written(graph, name, name)[0])
            return
        users = [graph[user] for user, _ in graph.users(name)]
        operands = graph.operands(name)
        if not all(isinstance(op, (Weighted, Neuron, Integrator)) for op in users) or len(set(operands)) < len(
            operands
        ):
            raise UnsupportedOpError("a sum that is not the fan-in of a layer", hint="run legalize-nir before")

    def _readable(self, op: Op) -> None:
        """Raise a CompileError where the profile's reader does not take an op."""
        if isinstance(op, Neuron) and op.strict != (self._profile.fires == ">"):
            here, there = ("above", "at") if op.strict else ("at", "above")
            message = f"a neuron that fires {here} its threshold; those of the reader fire {there} it"
            raise CompileError(message, hint="run strict-threshold")
        if found := self._profile.problem(op):
            raise UnsupportedOpError(f"{self.profile} does not read {found}", hint=_elsewhere(self.profile))

    def emit(self, graph: Graph, context: Context) -> Any:
        """Make the graph, which nir type-checks."""
        profile, dt = self._profile, self._dt(graph)
        found = layouts(graph, profile.takes(Flatten))
        names = wiring.names(graph, found)
        nodes: dict[str, Any] = {}
        for name, new in names.items():
            node = _written(graph, name, found[name].inner if name in found else name)[1]
            node = profile.node(node, dt)
            nodes[new] = node if profile.v_reset else without_zero_v_reset(node)
        nodes = self._with_groups(nodes, names, context)
        ports: dict[str, Any] = {}
        for terminal in (*graph.inputs, *graph.outputs):
            ports[names[terminal]] = {"name": terminal} | _laid_out(graph, terminal, found[terminal], context)
        edges = [(names[start], names[end]) for start, end in wiring.edges(graph, found)]
        if profile.feedback:
            nodes, edges = with_feedback(nodes, edges, dt)
        note_losses(profile, {name: nodes[names[name]] for name in names}, context)
        metadata = self._metadata(graph, names, found, context) | {"dt": dt, "ports": ports}
        for key in ("v_init", "reset"):
            metadata.update(_shared(key, nodes.values()))
        return nir.NIRGraph(nodes=nodes, edges=edges, metadata=metadata)

    def _with_groups(self, nodes: dict[str, Any], names: dict[str, str], context: Context) -> dict[str, Any]:
        """Leave convolutions their groups where the profile has them and they save much, and note it."""
        size = sum(map(dense_bytes, nodes.values()))
        if not self._profile.groups or size <= DENSE:
            return {name: dense(node) for name, node in nodes.items()}
        first = next(name for name, new in names.items() if dense_bytes(nodes[new]))
        message = f"convolutions have groups, without which they are {size / 1e9:.1f} GB more"
        context.note(first, f"{message}: nir.read takes the file with type_check=False")
        return {name: typed(node) for name, node in nodes.items()}

    def _dt(self, graph: Graph) -> float:
        """Return the seconds of a step."""
        return self.dt or self._profile.dt or graph.imported.dt or DT

    def _metadata(
        self, graph: Graph, names: dict[str, str], found: dict[str, Layout], context: Context
    ) -> dict[str, Any]:
        """Return what NIR has no field for, and what holds for the whole graph."""
        units = {names[name]: graph.type(found[name].inner).scale for name in graph.outputs}
        scales = {name: float(scale.item()) if scale.size == 1 else np.array(scale) for name, scale in units.items()}
        metadata: dict[str, Any] = {
            "fire": self._profile.fires,
            "spikes": "multi" if self._profile.several else "binary",
            "gain": "physical" if self._profile.physical else "unit",
            "output_scale": scales if len(scales) > 1 else next(iter(scales.values())),
            "producer": f"spikec {version('spikec')}",
        }
        if self._profile.decays:
            metadata["integrator"] = "exponential"
        if context.timesteps is not None:
            metadata["timesteps"] = context.timesteps
        return metadata

    def save(self, artifact: Any, path: Path) -> None:
        """Write the file, by ``nir.write`` to memory: HDF5 ends the process where the disk is full."""
        buffer = io.BytesIO()
        try:
            nir.write(buffer, _OneByOne(artifact))
        except (TypeError, ValueError) as error:  # a graph of the user's own
            hint = "its fields and metadata must be arrays of at least one axis, numbers, texts or dicts of these"
            raise InvalidModelError(f"nir cannot write this graph: {error}", hint=hint) from error
        path.write_bytes(buffer.getvalue())


@attrs.frozen
class _OneByOne:
    """A graph whose nodes nir writes one after the other: a graph's own ``to_dict`` copies all of them, twice."""

    graph: Any

    def to_dict(self) -> dict[str, Any]:
        graph = self.graph
        nodes = _Nodes(graph.nodes)
        return {"metadata": graph.metadata, "nodes": nodes, "edges": graph.edges, "type": type(graph).__name__}


class _Nodes(dict[str, Any]):
    def items(self) -> Any:
        """Give each node as the dict that it becomes, which is there only as long as it is looked at."""
        return ((name, node.to_dict()) for name, node in super().items())


def _shared(key: str, nodes: Iterable[Any]) -> dict[str, Any]:
    """Take from the neurons that have it the metadata that is the same in all; nothing where they differ."""
    holders = [node.metadata for node in nodes if hasattr(node, "v_threshold") and key in node.metadata]
    values = {value for metadata in holders for value in np.ravel(metadata[key]).tolist()}
    if len(values) != 1:
        return {}
    for metadata in holders:
        del metadata[key]
    return {key: values.pop()}


def _written(graph: Graph, name: str, inner: str) -> tuple[Op, Any]:
    """Return what :func:`written` does for a node whose result in the file is that of ``inner``."""
    result = graph.type(inner)
    operand = graph.type(graph.operands(name)[0]) if graph.operands(name) else result
    return written(graph[name], operand, result)


def _check_back_edge(graph: Graph, name: str) -> None:
    """Raise a CompileError where a register is not on the way back of a cycle: there readers take a step anyway.

    Weights without a bias may be in front of it, which give nothing of silent neurons.
    """
    (source,) = graph.operands(name)
    op, firing = graph[source], source
    if isinstance(op, Weighted) and not op.shift.any():
        (firing,) = graph.operands(source)
    if name not in graph.before(source) or not isinstance(graph[firing], Neuron):
        message = "a delay that does not lead spikes of neurons back to them"
        raise UnsupportedOpError(message, hint='leave it out, or use the target "spikingjelly"')


def _elsewhere(profile: str) -> Hint:
    return Hint("use ", Option("profile", "full" if profile == "portable" else "portable"))


def _laid_out(graph: Graph, terminal: str, layout: Layout, context: Context) -> dict[str, Any]:
    """Say of an input or output that has another layout in the file than in the model how one comes of the other."""
    shape, model = graph.type(layout.inner).shape, graph.type(terminal).shape
    if not layout.moved:
        return {}
    which = "input" if isinstance(graph[terminal], Input) else "output"
    moves = list(layout.axes) != sorted(layout.axes)
    way = (f".transpose{layout.axes}" if moves else "") + f".reshape{shape if which == 'input' else model}"
    here, there = ("the file's", "the model's") if which == "input" else ("the model's", "the file's")
    context.note(terminal, f"{here} {which} is {there}{way}, as its metadata say (axes, model_shape)")
    return {"axes": np.array(layout.axes), "model_shape": np.array(model)}


backend = Nir
