"""One NIR graph on its way in."""

import difflib
import graphlib
import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import nir
import numpy as np

from spikec.extend.frontend import without_unused
from spikec.frontends.nir import meaning
from spikec.frontends.nir.converters import Reading, converter, floats
from spikec.frontends.nir.doubts import Notes, note_reset
from spikec.frontends.nir.files import File
from spikec.frontends.nir.readers import features
from spikec.frontends.nir.recurrence import back_edges, delayed, inlined, pairs, silent
from spikec.frontends.nir.rules import with_fields
from spikec.frontends.nir.stated import Stated, settle
from spikec.ir.errors import CompileError, Hint, InvalidModelError, Option, Problem, UnsupportedOpError, warn
from spikec.ir.graph import Graph
from spikec.ir.op import Op
from spikec.ir.ops import Add, Delay, DelayLine, Input, Neuron, Permute, Reshape, Weighted
from spikec.ir.ops.weighted import diagonal
from spikec.ir.origin import Source
from spikec.ir.types import Array, Rate, Type, channel_scale, ints


def called(name: str, node: Any) -> str:
    """Return what the model called an input or output, which stands in its metadata; of others the name."""
    return str(node.metadata.get("name", name)) if isinstance(node, (nir.Input, nir.Output)) else name


def check(source: Any) -> list[Problem]:
    """List what is wrong with the numbers, texts and edges of a graph without graphs in it."""
    problems = meaning.check_metadata(source.metadata)
    problems += [problem for name, node in source.nodes.items() for problem in meaning.check(name, node)]
    names, seen = source.nodes, set[Any]()
    for start, end in pairs(source):
        missing = [name for name in (start, end) if name not in names]
        for name in missing:
            close = difflib.get_close_matches(str(name), list(map(str, names)), n=3)
            hint = f"name {' or '.join(map(repr, close))}" if close else "add the node, or leave the edge out"
            which = "starts" if name == start else "ends"
            what = f"edge {start!r} -> {end!r} {which} at {name!r}, which is not in the graph"
            problems.append(Problem(what, hint=hint))
        if (start, end) in seen:
            hint = "leave one out: several edges into a node are summed"
            problems.append(Problem(f"edge {start!r} -> {end!r} stands twice in the graph", hint=hint))
        seen.add((start, end))
    return problems


#: how many axes a sample has in front of a node
_RANKS = {nir.Affine: 1, nir.Linear: 1, nir.Conv1d: 2, nir.Conv2d: 3, nir.SumPool2d: 3, nir.AvgPool2d: 3}


def without_ones(shape: tuple[int, ...], rank: int | None) -> tuple[int, ...]:
    """Return a shape without the axes of 1 in front that it has too many for a rank."""
    extra = 0 if rank is None else len(shape) - rank
    return shape[extra:] if extra > 0 and set(shape[:extra]) == {1} else shape


class Loader:
    """One graph on its way in."""

    def __init__(self, file: File, name: str, stated: Stated, max_bytes: int) -> None:
        source = inlined(file.graph)
        self.max_bytes = max_bytes
        if problems := check(source):
            raise InvalidModelError(problems)
        self.out = Graph(name)
        self.names: dict[str, str] = {}
        self.delays: dict[str, str] = {}
        self.producers: dict[str, dict[str, None]] = {node: {} for node in source.nodes}
        for start, end in source.edges:
            self.producers[end][start] = None
        self.bias_first = stated.reader is None or stated.reader.bias_first
        back = back_edges(source.nodes, self.producers)
        self.late = delayed(source.nodes, self.producers, back, self.bias_first)
        if stated.reader and (problems := stated.reader.problems(features(file.graph, source, back, self.late))):
            raise UnsupportedOpError(problems)
        settled = settle(source, stated, file.subtracting)
        self.source, self.settled, self.file = settled.graph, settled, file
        self.reading = Reading(self._dtype(), settled.strict, settled.dt)
        self._strip_inputs(settled.notes)
        self.out.imported.dt = settled.seconds
        self.out.imported.timesteps = meaning.steps(source.metadata)

    def graph(self) -> Graph:
        """Convert everything, or raise with everything that cannot be."""
        self._convert_all()
        if self.bias_first:
            for start, delay in self.delays.items():
                first = silent(self.out, self.names[start])
                self.out.set_op(delay, attrs.evolve(self.out.get(delay, Delay), first=first if first.any() else None))
        without_unused(self.out, "NIR graph")
        self._say()
        self.out.imported.structure = 0 if len(self.out.outputs) == 1 else tuple(range(len(self.out.outputs)))
        return self.out

    def _convert_all(self) -> None:
        nodes = self.source.nodes
        unknown = {name: problem for name, node in nodes.items() if (problem := self._unknown(name, node))}
        errors: list[CompileError] = [UnsupportedOpError(problem) for problem in unknown.values()]
        if not any(isinstance(node, nir.Output) for node in nodes.values()):
            errors.append(InvalidModelError("the NIR graph has no Output", hint="add one: nir.Output(shape)"))
        for name in self._order():
            on_time = [start for start in self.producers[name] if (start, name) not in self.late]
            if name in unknown or any(start not in self.names for start in on_time):
                continue
            try:
                self._convert(name)
            except CompileError as error:
                errors.append(error)
                self.names.pop(name, None)
                self._stand_in(name, on_time)
        if errors:
            kinds = {type(error) for error in errors}
            kind = kinds.pop() if len(kinds) == 1 else UnsupportedOpError if unknown else InvalidModelError
            raise kind([problem for error in errors for problem in error.problems])

    def _stand_in(self, name: str, behind: Sequence[str]) -> None:
        """Let what is behind a wrong node be looked at too, where the shape of its result is known."""
        node = self.source.nodes[name]
        if isinstance(node, (nir.Affine, nir.Linear)):
            shape = ints(np.shape(node.weight)[:1])
        elif any(hasattr(node, field) for field in ("r", "threshold", "delay", "scale")) and behind:
            shape = self.out.type(self.names[behind[0]]).shape
        else:
            return
        self.names[name] = self.out.add(Input(shape, self.reading.dtype, rate=True), name=f"{name}_wrong")

    def _say(self) -> None:
        """Note how the graph was read, and warn of what the user may not want."""
        notes = self.settled.notes
        if doubtful := [name for name in self.settled.doubtful if self.names[name] in self.out]:
            note_reset(self.out, doubtful, self.file, notes)
        for doubt in notes.doubts:
            warn(doubt)
        self.out.imported.notes += notes.all

    def _strip_inputs(self, notes: Notes) -> None:
        """Take axes of 1 in front of a sample from inputs that have them for the batch, and say so."""
        users: dict[str, list[str]] = {name: [] for name in self.source.nodes}
        for start, end in self.source.edges:
            users[start].append(end)
        for name, node in list(self.source.nodes.items()):
            if isinstance(node, nir.Input) and "model_shape" not in node.metadata:
                shape = ints(np.ravel(node.input_type["input"]))
                sample = without_ones(shape, self._rank(name, users))
                if sample != shape:
                    fields = {**vars(node), "input_type": {"input": np.array(sample)}}
                    self.source.nodes[name] = with_fields(nir.Input, fields)
                    notes.add(
                        f"input {name!r} of shape {shape} is read as {sample}: axes of 1 in front count the batch"
                    )

    def _rank(self, start: str, users: Mapping[str, list[str]]) -> int | None:
        """Return how many axes a sample has, by the first node behind it that takes only so many."""
        seen, queue = {start}, [start]
        while queue:
            for user in users[queue.pop(0)]:
                kind = type(self.source.nodes[user])
                if kind in _RANKS:
                    return _RANKS[kind]
                if user not in seen and kind is not nir.Flatten:
                    seen.add(user)
                    queue.append(user)
        return None

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
        if not isinstance(node, nir.Input) and not self.producers[name]:
            return Problem("nothing feeds this node", name, kind, "give it an Input")
        return None

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

    def _convert(self, name: str) -> None:
        node = self.source.nodes[name]
        kind = f"nir.{type(node).__name__}"
        origin = (Source(name, name, kind),)
        operands = [self._operand(producer, name) for producer in self.producers[name]]
        if len(operands) > 1:
            operands = [self._sum(operands, name)]
        like = self.out.type(operands[0]) if operands else Type(())
        convert = converter.get(type(node))
        assert convert is not None
        try:
            made = convert(node, name, like, self.reading)
            *before, op = (attrs.evolve(each, origin=origin) for each in ((made,) if isinstance(made, Op) else made))
            for each in before:
                operands = [self.out.add(each, *operands, name=f"{name}_{each.kind}")]
            if isinstance(node, nir.Output):
                operands = [self._laid_out(self._in_units(operands[0], name), node, node.metadata.get("model_shape"))]
            self.names[name] = self.out.add(op, *operands, name=called(name, node))
            if isinstance(node, nir.Input):
                self.names[name] = self._laid_out(self.names[name], node, node.input_type["input"])
            self._check_size(
                self.out.type(self.names[name]), int(op.late.max()) + 1 if isinstance(op, DelayLine) else 1
            )
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

    def _operand(self, start: str, end: str) -> str:
        """What an edge carries: of a node that comes later in the order, a register of what it gave."""
        if (start, end) not in self.late:
            return self.names[start]
        if start not in self.delays:
            shape = self._late_shape(start, end)
            signal = Type(shape, self.reading.dtype, Rate(np.ones((1,) * len(shape))))
            self.delays[start] = self.out.add(Delay(signal), name=f"{start}_before")
        return self.delays[start]

    def _late_shape(self, start: str, end: str) -> tuple[int, ...]:
        """Return the shape of a signal that is not there yet: that of what comes beside it, or of its neurons."""
        for beside in self.producers[end]:
            if (beside, end) not in self.late:
                return self.out.type(self.names[beside]).shape
        node = self.source.nodes[end]
        if isinstance(node, (nir.Affine, nir.Linear)):
            return ints(np.shape(node.weight)[1:])
        source = self.source.nodes[start]
        shape = np.shape(getattr(source, "v_threshold", getattr(source, "threshold", ())))
        if not shape:
            kind = f"nir.{type(source).__name__}"
            hint = "give its parameters one number for each neuron"
            raise UnsupportedOpError(Problem("the shape of a signal on the way back is not known", start, kind, hint))
        return ints(shape)

    def _check_size(self, signal: Type, copies: int) -> None:
        needed = copies * math.prod(signal.shape) * np.dtype(signal.dtype).itemsize
        if needed > self.max_bytes:
            kept = f" and is kept for {copies - 1:,} steps" if copies > 1 else ""
            raise InvalidModelError(
                f"its result has shape {signal.shape}{kept}, {needed:,} bytes a sample",
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
        if declared is not None and without_ones(ints(np.ravel(declared)), len(shape)) != shape:
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
