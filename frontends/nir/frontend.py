"""Reads NIR: an ``nir.NIRGraph``, or a file of one, as a spiking graph."""

import graphlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import h5py
import nir
import numpy as np
from torch import Tensor

from spikec.extend.frontend import Frontend
from spikec.frontends.nir.converters import Reading, converter, floats
from spikec.ir.errors import CompileError, InvalidModelError, Problem, UnsupportedOpError, warn
from spikec.ir.graph import Graph
from spikec.ir.ops import Add, Neuron, Permute, Reshape, Weighted
from spikec.ir.ops.weighted import diagonal
from spikec.ir.origin import Source
from spikec.ir.types import Array, Type, channel_scale, ints

#: r dt may differ from 1 by this much and still be unit gain; files hold float32
_UNIT = 1e-4


class NirFrontend(Frontend):
    """Graphs of Affine, Linear, Scale, Conv1d, Conv2d, SumPool2d, AvgPool2d, Flatten, IF, LIF and CubaLIF.

    Several edges into a node are summed. IF has unit gain: r = 1, or r = 1/dt throughout. The reset is soft
    where the file has no ``v_reset`` or the metadata of node or graph say ``reset="subtract"`` over zeros, else
    hard. The length of a step is the metadata's ``dt``, or what the gains imply: r = 1/dt of an IF, r = tau/dt of
    a LIF, w_in = tau_syn/dt of a CubaLIF, if they agree.
    """

    takes: ClassVar[str] = "an nir.NIRGraph or a path ending in .nir or .h5"

    def accepts(self, model: Any) -> bool:
        """A NIRGraph, or a Path with NIR's suffixes."""
        return isinstance(model, nir.NIRGraph) or (isinstance(model, Path) and model.suffix in (".nir", ".h5"))

    def input_names(self, model: Any) -> list[str]:
        """Of the Input nodes: as their metadata say the model called them, else of the nodes."""
        source = _read(model)[0] if isinstance(model, Path) else model
        return [_called(name, source.nodes[name]) for name in source.inputs]

    def load(self, model: Any, examples: Sequence[Tensor] | None) -> Graph:
        """The graph, spiking; shapes come from the Input nodes."""
        if isinstance(model, Path):
            source, silent = _read(model)
            return _Loader(source, model.stem, silent).graph()
        return _Loader(model, "nir", frozenset()).graph()


def _read(path: Path) -> tuple[Any, frozenset[str]]:
    """The graph of a file, and the names of its neurons without a stored v_reset."""
    try:
        graph = nir.read(path, type_check=False)
        with h5py.File(path, "r") as file:
            nodes = file["node/nodes"]
            silent = frozenset(name for name in nodes if "v_threshold" in nodes[name] and "v_reset" not in nodes[name])
    except (OSError, KeyError, ValueError, TypeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidModelError(f"{path} cannot be read as NIR: {reason}") from error
    return graph, silent


def _called(name: str, node: Any) -> str:
    return str(node.metadata.get("name", name)) if isinstance(node, (nir.Input, nir.Output)) else name


class _Loader:
    """One graph on its way in."""

    def __init__(self, source: Any, name: str, silent: frozenset[str]) -> None:
        self.source = source
        self.silent = silent
        self.dt = self._dt()
        self.out = Graph(name)
        self.names: dict[str, str] = {}
        self.producers: dict[str, list[str]] = {node: [] for node in source.nodes}
        for start, end in source.edges:
            if start not in source.nodes or end not in source.nodes:
                raise InvalidModelError(f"edge {start!r} -> {end!r} has an end that is not in the graph")
            if start in self.producers[end]:
                raise InvalidModelError(f"edge {start!r} -> {end!r} stands twice in the graph")
            self.producers[end].append(start)

    def graph(self) -> Graph:
        """Convert everything, or raise with everything that cannot be."""
        problems = [problem for name, node in self.source.nodes.items() if (problem := self._unknown(name, node))]
        if problems:
            raise UnsupportedOpError(problems)
        strict = self.source.metadata.get("fire", ">") != ">="
        common = self.source.metadata.get("v_init", 0.0)
        v_init = {name: node.metadata.get("v_init", common) for name, node in self.source.nodes.items()}
        arrays = [array for node in self.source.nodes.values() for array in floats(node)]
        dtype = "float64" if any(array.dtype == np.float64 for array in arrays) else "float32"
        reading = Reading(dtype, self._soft(), v_init, strict, self.dt)
        for name in self._order():
            self._convert(name, reading)
        if not self.out.outputs:
            raise InvalidModelError("the NIR graph has no Output")
        self.out.imported.structure = 0 if len(self.out.outputs) == 1 else tuple(range(len(self.out.outputs)))
        return self.out

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

    def _dt(self) -> float | None:
        """Seconds a step, as stated or as all gains that are not 1 imply."""
        if "dt" in self.source.metadata:
            return float(self.source.metadata["dt"])
        implied = [1 / node.r for node in self._neurons(nir.IF) if (node.r != 1).any()]
        implied += [node.tau / node.r for node in self._neurons(nir.LIF) if (node.r != 1).any()]
        implied += [node.tau_syn / node.w_in for node in self._neurons(nir.CubaLIF) if (node.w_in != 1).any()]
        found = np.concatenate([np.ravel(each) for each in implied]) if implied else np.zeros(0)
        if not found.size or not np.allclose(found, found[0], rtol=_UNIT, atol=0):
            return None
        return float(found[0])

    def _neurons(self, *kinds: Any) -> list[Any]:
        return [node for node in self.source.nodes.values() if isinstance(node, kinds)]

    def _soft(self) -> frozenset[str]:
        """Neurons with soft reset; zeros of unknown meaning are hard, with a warning."""
        neurons = {name: node for name, node in self.source.nodes.items() if hasattr(node, "v_reset")}
        common = self.source.metadata.get("reset")
        modes = {name: node.metadata.get("reset", common) for name, node in neurons.items()}
        zero = {name for name, node in neurons.items() if not np.any(node.v_reset)}
        stated = {name for name in zero if modes[name] == "subtract"}
        if zero <= self.silent | stated:
            return frozenset(zero)
        if any(modes[name] is None for name in zero):
            warn("the NIR graph stores v_reset = 0 and no reset mode: it is read as a reset to zero")
        return frozenset(stated | zero & self.silent)

    def _order(self) -> list[str]:
        """Topological, ties in the order of the file."""
        position = {name: i for i, name in enumerate(self.source.nodes)}
        sorter = graphlib.TopologicalSorter(self.producers)
        try:
            sorter.prepare()
        except graphlib.CycleError as error:
            cycle = " -> ".join(reversed(error.args[1]))
            raise UnsupportedOpError(
                Problem("recurrent graphs cannot be read yet", cycle, hint="unroll the recurrence")
            ) from None
        order: list[str] = []
        ready: list[tuple[int, str]] = []
        while sorter.is_active():
            ready = sorted([*ready, *((position[name], name) for name in sorter.get_ready())], reverse=True)
            order.append(ready.pop()[1])
            sorter.done(order[-1])
        return order

    def _convert(self, name: str, reading: Reading) -> None:
        node = self.source.nodes[name]
        kind = f"nir.{type(node).__name__}"
        origin = (Source(name, name, kind),)
        operands = [self.names[producer] for producer in self.producers[name]]
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
            self.out.type(self.names[name])
        except CompileError as error:
            if error.location:
                raise
            raise type(error)(Problem(error.problems[0].message, name, kind, error.hint)) from None
        if isinstance(node, nir.Output):
            self._check_shape(name, node)

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
            raise InvalidModelError(
                Problem(f"this output is declared as {tuple(map(int, declared))}, and gets {shape}", name, "nir.Output")
            )

    def _sum(self, operands: list[str], name: str) -> str:
        """Fan-in: all operands in the units of the first that is no affine op."""
        fixed = [x for x in operands if not isinstance(self.out[x], Weighted)]
        scale = self.out.type((fixed or operands)[0]).scale
        return self.out.add(Add(), *(self._relabelled(x, scale) for x in operands), name=f"{name}_in")

    def _in_units(self, operand: str, output: str) -> str:
        """The output's operand with the scale that the metadata state."""
        scale = self.source.metadata.get("output_scale")
        if isinstance(scale, dict):
            scale = scale.get(output)
        signal = self.out.type(operand)
        if scale is None:
            return operand
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
