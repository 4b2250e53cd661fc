"""Reads NIR: an ``nir.NIRGraph``, or a file of one, as a spiking graph."""

import difflib
import graphlib
import heapq
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import nir
import numpy as np
from torch import Tensor

from spikec.extend.frontend import Frontend
from spikec.frontends.nir import meaning
from spikec.frontends.nir.converters import Reading, converter, floats
from spikec.frontends.nir.ports import with_ports
from spikec.frontends.nir.recurrence import delayed, inlined, pairs
from spikec.ir.errors import (
    CompileError,
    Hint,
    InvalidModelError,
    Option,
    Problem,
    UnsupportedOpError,
    advising,
    warn,
)
from spikec.ir.graph import Graph
from spikec.ir.ops import Add, Delay, Neuron, Permute, Reshape, Weighted
from spikec.ir.ops.weighted import diagonal
from spikec.ir.origin import Source
from spikec.ir.types import Array, Rate, Type, channel_scale, ints
from spikec.ir.untrusted import SPARE, allowed_bytes, read_hdf5

#: r dt may differ from 1 by this much and still be unit gain; files hold float32
_UNIT = 1e-4
_REFUSAL = "cannot be read as NIR"
_REWRITE = "write it with nir.write"
_MEND = "mend that node, and if it comes from a file, write it again with nir.write"


@attrs.frozen
class _Opened:
    """A NIR graph, and what its user says of it.

    Attributes:
        graph: of nir, unchecked.
        name: of the model.
        dt: seconds a step; None where the graph says it, or nobody.
        max_bytes: that the signals of one sample may take.
    """

    graph: Any
    name: str
    dt: float | None
    max_bytes: int


class NirFrontend(Frontend):
    """Graphs of Affine, Linear, Scale, Conv1d, Conv2d, SumPool2d, AvgPool2d, Flatten, IF, LIF and CubaLIF.

    Graphs in a graph are inlined. Several edges into a node are summed; those back in a cycle are late by one step,
    see :func:`spikec.frontends.nir.recurrence.delayed`. IF has unit gain: r = 1, or r = 1/dt throughout. The reset is
    soft where the metadata of node or graph say ``reset="subtract"`` over a ``v_reset`` of zeros, else hard; nir reads
    zeros where a file has no ``v_reset``. The length of a step is the metadata's ``dt``, or the user's, or what the
    gains imply, with a warning: r = 1/dt of an IF, r = tau/dt of a LIF, w_in = tau_syn/dt of a CubaLIF, if they agree.
    """

    takes: ClassVar[str] = "an nir.NIRGraph or a path ending in .nir or .h5"

    def accepts(self, model: Any) -> bool:
        """A NIRGraph, or a Path with NIR's suffixes."""
        is_file = isinstance(model, Path) and model.suffix in (".nir", ".h5")
        return is_file or isinstance(model, (nir.NIRGraph, _Opened))

    def opened(self, model: Any, dt: float | None = None, max_bytes: int | None = None) -> _Opened:
        """The graph that a file holds, or the one that is given, with what the user says of it.

        Args:
            model: one that ``accepts``.
            dt: seconds a step, where the graph does not say it.
            max_bytes: that the arrays of a file may take in memory, and the signals of one sample; None for half a
                gigabyte more than the file takes.
        """
        if isinstance(model, _Opened):
            return model
        seconds = None if dt is None else meaning.seconds(dt)
        if isinstance(model, Path):
            with advising(_MEND):
                return _Opened(
                    with_ports(_read(model, max_bytes)), model.stem, seconds, allowed_bytes(model, max_bytes)
                )
        return _Opened(with_ports(model), "nir", seconds, SPARE if max_bytes is None else max_bytes)

    def input_names(self, model: Any) -> list[str]:
        """Of the Input nodes: as their metadata say the model called them, else of the nodes."""
        source = self.opened(model).graph
        return [_called(name, source.nodes[name]) for name in source.inputs]

    def load(self, model: Any, examples: Sequence[Tensor] | None) -> Graph:
        """The graph, spiking; shapes come from the Input nodes."""
        with advising(_MEND):
            return _Loader(self.opened(model)).graph()


def _read(path: Path, max_bytes: int | None) -> Any:
    """The graph of a file, node by node as ``nir.read`` makes it."""
    problems: list[Problem] = []
    graph = _graph_of(path, "node", read_hdf5(path, ["node"], _REFUSAL, _REWRITE, max_bytes).get("node"), problems)
    if problems:
        raise InvalidModelError(problems)
    return graph


def _graph_of(path: Path, place: str, tree: Any, problems: list[Problem]) -> Any:
    """The graph that a group of a file holds, or a graph in it; what is wrong with its nodes joins the problems."""
    fields = tree if isinstance(tree, dict) else {}
    held, edges = fields.get("nodes"), fields.get("edges")
    if not isinstance(held, dict) or not isinstance(edges, np.ndarray):
        raise InvalidModelError(f"{path} {_REFUSAL}: it has no {place}/nodes and {place}/edges", hint=_REWRITE)
    if edges.dtype != object or edges.shape != (len(edges), 2):
        raise InvalidModelError(f"{path} {_REFUSAL}: {place}/edges are no pairs of names", hint=_REWRITE)
    nodes: dict[str, Any] = {}
    problems += meaning.check_metadata(fields.get("metadata", {}))
    for name, node in held.items():
        if found := meaning.check_fields(name, node):
            problems += found
        elif node["type"] == "NIRGraph":
            nodes[name] = _graph_of(path, f"{place}/nodes/{name}", node, problems)
        else:
            try:
                nodes[name] = nir.dict2NIRNode(node)
            except Exception as error:  # whatever nir makes of wrong or missing fields
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                problems.append(Problem(f"{path} {_REFUSAL}: {reason}", name, hint=_REWRITE))
    named = [(start, end) for start, end in edges.tolist()]
    return nir.NIRGraph(nodes, named, metadata=fields.get("metadata", {}), type_check=False)


def _called(name: str, node: Any) -> str:
    return str(node.metadata.get("name", name)) if isinstance(node, (nir.Input, nir.Output)) else name


class _Loader:
    """One graph on its way in."""

    def __init__(self, opened: _Opened) -> None:
        self.source = source = inlined(opened.graph)
        self.max_bytes = opened.max_bytes
        self._check_numbers()
        self.dt = self._dt(opened.dt)
        self.out = Graph(opened.name)
        self.out.imported.dt = self.dt
        self.names: dict[str, str] = {}
        self.delays: dict[str, str] = {}
        self.producers: dict[str, dict[str, None]] = {node: {} for node in source.nodes}
        for start, end in pairs(source):
            if start not in source.nodes or end not in source.nodes:
                raise self._without_end(start, end)
            if start in self.producers[end]:
                hint = "leave one out: several edges into a node are summed"
                raise InvalidModelError(f"edge {start!r} -> {end!r} stands twice in the graph", hint=hint)
            self.producers[end][start] = None
        self.late = delayed(source.nodes, self.producers)

    def _without_end(self, start: Any, end: Any) -> InvalidModelError:
        """The error for an edge of which an end is not in the graph, with the node that may be meant."""
        missing = end if start in self.source.nodes else start
        close = difflib.get_close_matches(str(missing), list(map(str, self.source.nodes)), n=1)
        hint = f"name {close[0]!r}, which is in it" if close else "add the node, or leave the edge out"
        return InvalidModelError(f"edge {start!r} -> {end!r} has an end that is not in the graph", hint=hint)

    def _check_numbers(self) -> None:
        problems = meaning.check_metadata(self.source.metadata)
        problems += [problem for name, node in self.source.nodes.items() for problem in meaning.check(name, node)]
        if problems:
            raise InvalidModelError(problems)

    def graph(self) -> Graph:
        """Convert everything, or raise with everything that cannot be."""
        problems = [problem for name, node in self.source.nodes.items() if (problem := self._unknown(name, node))]
        if problems:
            raise UnsupportedOpError(problems)
        strict = self.source.metadata.get("fire", ">") != ">="
        common = self.source.metadata.get("v_init", 0.0)
        v_init = {name: node.metadata.get("v_init", common) for name, node in self.source.nodes.items()}
        reading = Reading(self._dtype(), self._soft(), v_init, strict, self.dt)
        for name in self._order():
            self._convert(name, reading)
        if not self.out.outputs:
            raise InvalidModelError("the NIR graph has no Output", hint="add one: nir.Output(shape)")
        self.out.imported.structure = 0 if len(self.out.outputs) == 1 else tuple(range(len(self.out.outputs)))
        return self.out

    def _dtype(self) -> str:
        """Return float64 where nothing in the graph is less exact than that."""
        arrays = [array for node in self.source.nodes.values() for array in floats(node)]
        return "float64" if arrays and all(array.dtype == np.float64 for array in arrays) else "float32"

    def _unknown(self, name: str, node: Any) -> Problem | None:
        kind = f"nir.{type(node).__name__}"
        if converter.get(type(node)) is None:
            kinds = converter.keys()
            known = ", ".join(sorted(key.__name__ for key in kinds if isinstance(key, type)))
            return Problem(f"{kind} cannot be read", name, kind, f"known nodes: {known}")
        if isinstance(node, nir.IF) and not self._unit_gain(node):
            hint = "give r = 1 everywhere, or r = 1/dt everywhere with dt in the graph's metadata"
            return Problem("the gain r dt of this neuron is not 1", name, kind, hint)
        if not isinstance(node, nir.Input) and not self.producers[name]:
            return Problem("nothing feeds this node", name, kind, "give it an Input")
        return None

    def _unit_gain(self, node: Any) -> bool:
        physical = self.dt is not None and np.allclose(node.r, 1 / self.dt, rtol=_UNIT, atol=0)
        return bool((node.r == 1).all()) or bool(physical)

    def _dt(self, given: float | None) -> float | None:
        """Seconds a step, as stated, as the user says, or as all gains that are not 1 imply, with a warning."""
        stated = None if self.source.metadata.get("dt") is None else np.asarray(self.source.metadata["dt"]).item()
        if stated is not None and given is not None and stated != given:
            raise InvalidModelError(f"dt is {given:g}, and the graph says {stated:g}", hint="leave dt out")
        if stated is not None:
            return float(stated)
        if given is not None:
            return given
        implied = [1 / node.r for node in self._neurons(nir.IF) if (node.r != 1).any() and (node.r > 0).all()]
        implied += [node.tau / node.r for node in self._neurons(nir.LIF) if (node.r != 1).any() and (node.r > 0).all()]
        implied += [node.tau_syn / node.w_in for node in self._neurons(nir.CubaLIF) if (node.w_in != 1).any()]
        found = np.concatenate([np.ravel(each) for each in implied]) if implied else np.zeros(0)
        if not found.size or not np.allclose(found, found[0], rtol=_UNIT, atol=0):
            return None
        dt = float(found[0])
        message = f"the NIR graph does not say how long a step is: dt = {dt:.6g} is what its gains imply; if so, say "
        warn(Hint(message, Option("dt", dt)))
        return dt

    def _neurons(self, *kinds: Any) -> list[Any]:
        return [node for node in self.source.nodes.values() if isinstance(node, kinds)]

    def _soft(self) -> frozenset[str]:
        """Neurons with soft reset; zeros of unknown meaning are hard, with a warning."""
        neurons = {name: node for name, node in self.source.nodes.items() if hasattr(node, "v_reset")}
        common = self.source.metadata.get("reset")
        modes = {name: node.metadata.get("reset", common) for name, node in neurons.items()}
        zero = [name for name, node in neurons.items() if not np.any(node.v_reset)]
        if any(modes[name] is None for name in zero):
            warn(
                "the NIR graph stores v_reset = 0, or none, and no reset mode: it is read as a reset to zero; "
                'metadata reset="subtract" would make it one by subtraction'
            )
        return frozenset(name for name in zero if modes[name] == "subtract")

    def _order(self) -> list[str]:
        """Topological, ties in the order of the file."""
        position = {name: i for i, name in enumerate(self.source.nodes)}
        edges = {end: [x for x in starts if (x, end) not in self.late] for end, starts in self.producers.items()}
        sorter = graphlib.TopologicalSorter(edges)
        sorter.prepare()
        order: list[str] = []
        ready: list[tuple[int, str]] = []
        while sorter.is_active():
            for name in sorter.get_ready():
                heapq.heappush(ready, (position[name], name))
            order.append(heapq.heappop(ready)[1])
            sorter.done(order[-1])
        return order

    def _convert(self, name: str, reading: Reading) -> None:
        node = self.source.nodes[name]
        kind = f"nir.{type(node).__name__}"
        origin = (Source(name, name, kind),)
        operands = [self._operand(producer, name, reading) for producer in self.producers[name]]
        if len(operands) > 1:
            operands = [self._sum(operands, name)]
        like = self.out.type(operands[0]) if operands else Type(())
        convert = converter.get(type(node))
        assert convert is not None
        try:
            op = attrs.evolve(convert(node, name, like, reading), origin=origin)
            if isinstance(node, nir.Output):
                operands = [self._laid_out(self._in_units(operands[0], name), node, node.metadata.get("model_shape"))]
            self.names[name] = self.out.add(op, *operands, name=_called(name, node))
            if isinstance(node, nir.Input):
                self.names[name] = self._laid_out(self.names[name], node, node.input_type["input"])
            self._check_size(self.out.type(self.names[name]))
            if name in self.delays:
                self.out.set_operands(self.delays[name], self.names[name])
        except CompileError as error:
            if error.location:
                raise
            raise type(error)(Problem(error.problems[0].message, name, kind, error.hint)) from None
        except Exception as error:  # fields that contradict each other in a way that nothing above knows, or a plugin
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            ours = convert.__module__.startswith("spikec.")
            what = (
                "its fields make no sense" if ours else f"its converter {convert.__module__}.{convert.__name__} fails"
            )
            raise InvalidModelError(Problem(f"{what} ({reason})", name, kind)) from error
        if isinstance(node, nir.Output):
            self._check_shape(name, node)

    def _operand(self, start: str, end: str, reading: Reading) -> str:
        """What an edge carries: of a neuron that comes later in the order, a register of its spikes."""
        if (start, end) not in self.late:
            return self.names[start]
        if start not in self.delays:
            shape = self.late[start, end]
            signal = Type(shape, reading.dtype, Rate(np.ones((1,) * len(shape))))
            self.delays[start] = self.out.add(Delay(signal), name=f"{start}_before")
        return self.delays[start]

    def _check_size(self, signal: Type) -> None:
        needed = math.prod(signal.shape) * np.dtype(signal.dtype).itemsize
        if needed > self.max_bytes:
            raise InvalidModelError(
                f"its result has shape {signal.shape}, {needed:,} bytes a sample",
                hint=Hint("if it is meant so: ", Option("max_bytes", needed)),
            )

    def _laid_out(self, name: str, node: Any, shape: Any) -> str:
        """The signal transposed and reshaped, where an Input or Output is laid out otherwise than the model's."""
        axes = ints(np.ravel(node.metadata.get("axes", ())))
        rank = len(self.out.type(name).shape)
        if axes and sorted(axes) != list(range(rank)):
            raise InvalidModelError(f"its metadata order axes {axes} of a sample that has {rank}")
        if list(axes) != sorted(axes):
            name = self.out.add(Permute(axes), name)
        if shape is None or ints(np.ravel(shape)) == self.out.type(name).shape:
            return name
        return self.out.add(Reshape(ints(np.ravel(shape))), name)

    def _check_shape(self, name: str, node: Any) -> None:
        declared = node.output_type["output"]
        shape = self.out.type(self.names[next(iter(self.producers[name]))]).shape
        if declared is not None and tuple(np.ravel(declared)) != shape:
            message = f"this output is declared as {ints(np.ravel(declared))}, and gets {shape}"
            hint = f"declare it as nir.Output({shape})"
            raise InvalidModelError(Problem(message, name, "nir.Output", hint))

    def _sum(self, operands: list[str], name: str) -> str:
        """Fan-in: all operands in the units of the first that is no affine op."""
        fixed = [x for x in operands if not isinstance(self.out[x], Weighted)]
        scale = self.out.type((fixed or operands)[0]).scale
        return self.out.add(Add(), *(self._relabelled(x, scale) for x in operands), name=f"{name}_in")

    def _in_units(self, operand: str, output: str) -> str:
        """The output's operand with the scale that the metadata state, or 1: the numbers are what they are."""
        scale = self.source.metadata.get("output_scale", 1.0)
        if isinstance(scale, dict):
            scale = scale.get(output, 1.0)
        signal = self.out.type(operand)
        return self._relabelled(operand, np.reshape(scale, (1,) * len(signal.shape)) if np.size(scale) == 1 else scale)

    def _relabelled(self, name: str, scale: Array) -> str:
        """The same numbers, standing for another ANN value: NIR states no units, so they are chosen here."""
        signal, op = self.out.type(name), self.out[name]
        wanted = signal.with_scale(scale)
        if wanted == signal:
            return name
        if isinstance(op, Neuron) and not self.out.users(name):
            self.out.set_op(name, attrs.evolve(op, out_scale=wanted.scale))
            return name
        if isinstance(op, Weighted) and not self.out.users(name):
            self.out.set_op(name, attrs.evolve(op, out_scale=channel_scale(wanted, op.axis, op.kind)))
            return name
        before, after = channel_scale(signal, 0, "sum"), channel_scale(wanted, 0, "sum")
        unit = diagonal(np.ones(signal.shape[0]), None, len(signal.shape), in_scale=before, out_scale=after)
        return self.out.add(unit, name, name=f"{name}_units")


frontend = NirFrontend()
