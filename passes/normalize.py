"""Every ReLU gets the scale that its neuron's spikes will stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import attrs
import numpy as np

from spikec.calibration.calibration import Calibration
from spikec.calibration.normalization import Normalization
from spikec.extend.passbase import Context, Pass
from spikec.ir.errors import Hint, InvalidModelError, Option, TypeMismatchError
from spikec.ir.graph import Graph, Node
from spikec.ir.op import Op, Role
from spikec.ir.ops import Input, Relu, Weighted
from spikec.ir.stages import CALIBRATED, FOLDED, Stage
from spikec.ir.types import Array, on_axis

#: no channel's scale is below this share of its layer's
FLOOR = 1e-3


@attrs.frozen
class Normalize(Pass):
    """Choose scales by a statistic of each ReLU's values on calibration data, or from the weights alone.

    A scale never exceeds a clip's bound. A channel whose percentile is 0 takes its maximum, a silent one
    its layer's scale, a silent layer 1; no scale is below 1e-3 of its layer's.
    """

    name: ClassVar[str] = "normalize"
    needs: ClassVar[tuple[Stage, ...]] = (FOLDED,)
    gives: ClassVar[Stage | None] = CALIBRATED

    normalization: Normalization = Normalization()

    def run(self, graph: Graph, context: Context) -> int:
        """Set ``scale`` on every ReLU."""
        nodes = graph.match(Relu)
        if self.normalization.method == "model":
            chosen = self._from_weights(graph, context)
        else:
            axes = {node.name: _axis(graph, node.name) for node in nodes}
            chosen = self._from_data(context.gather(graph, axes), context, graph)
        scales = self._laid_out(graph, chosen)
        for node in nodes:
            graph.set_op(node.name, attrs.evolve(node.op, scale=scales[node.name]))
        return len(nodes)

    def scales(self, ann: Graph, context: Context) -> dict[str, Array]:
        """Every ReLU's scale by this normalization, of the sample's rank, from the statistics gathered before."""
        assert context.calibration.gathered is not None
        return self._laid_out(ann, self._from_data(context.calibration.gathered, context, ann))

    def _laid_out(self, graph: Graph, chosen: dict[str, Array]) -> dict[str, Array]:
        found = {}
        for node in graph.match(Relu):
            scale = chosen[node.name]
            if node.op.compares:
                scale = np.maximum(scale, chosen[_compared(graph, node)])
                scale = np.where(scale > 0, scale, 1.0)
            if not np.isfinite(scale).all():
                raise InvalidModelError(graph.problem(node.name, "its values on the calibration data are not finite"))
            scale = np.minimum(scale, np.inf if node.op.cap is None else node.op.cap)
            found[node.name] = on_axis(scale, len(graph.type(node.name).shape), _axis(graph, node.name))
        return found

    def _from_data(self, statistics: Calibration, context: Context, graph: Graph) -> dict[str, Array]:
        found = {}
        for node in graph.match(Relu):
            channels = statistics.nodes[node.name]
            compared = _compared(graph, node) if node.op.compares else node.name
            if compared != node.name and (channels.maximum <= statistics.nodes[compared].maximum).all():
                found[node.name] = np.zeros(1)
                continue
            layer = float(self.normalization.statistic(channels.layer(), context.steps)[0])
            scale = np.array([layer])
            if self.normalization.per_channel:
                scale = self.normalization.statistic(channels, context.steps)
            found[node.name] = self._guarded(scale, layer, node, context)
        return found

    @staticmethod
    def _guarded(scale: Array, layer: float, node: Node[Relu], context: Context) -> Array:
        if layer <= 0 and node.op.compares:
            return np.zeros_like(scale)
        if layer <= 0:
            context.warn(f"%{node.name} is silent on the calibration data; its scale is 1", node.name)
            return np.ones_like(scale)
        return np.maximum(np.where(scale > 0, scale, layer), FLOOR * layer)

    def _from_weights(self, graph: Graph, context: Context) -> dict[str, Array]:
        context.warn(
            Hint(
                "no calibration data: thresholds follow from the weights alone, for inputs in [0, 1] "
                "(Diehl et al. 2015, model-based); expect to need many time-steps, or pass ",
                Option("calibration"),
            )
        )
        bounds = _bounds(graph)
        found = {}
        for node in graph.match(Relu):
            axis = _axis(graph, node.name)
            upper = np.moveaxis(bounds[node.name][1], axis, 0)
            channels = upper.reshape(len(upper), -1).max(1) * self.normalization.factor
            layer = float(channels.max())
            scale = channels if self.normalization.per_channel else np.array([layer])
            found[node.name] = self._guarded(scale, layer, node, context)
        return found


def _compared(graph: Graph, node: Node[Relu]) -> str:
    """The ReLU whose spikes a comparing one compares, so that one spike is one: the nearest with as many channels.

    Where something in between makes differences larger than that ReLU ever is, the comparing one's own scale counts.
    """
    channels = graph.type(node.name).shape[_axis(graph, node.name)]
    seen: set[str] = set()
    todo = list(graph.operands(node.name))
    while todo:
        name = todo.pop(0)
        op = graph[name]
        if isinstance(op, Relu) and not op.compares and graph.type(name).shape[_axis(graph, name)] == channels:
            return name
        seen.add(name)
        todo += [x for x in graph.operands(name) if x not in seen and x not in todo]
    return node.name


def _axis(graph: Graph, name: str) -> int:
    """The axis of a sample that holds a ReLU's channels.

    The feature axis of the affine op before it is marked with a scale that varies, and followed through the
    ops in between by their own type rules.
    """
    between: list[str] = []
    while not isinstance(graph[name], Weighted):
        if graph[name].role is Role.IO:
            return 0
        between.append(name)
        name = graph.operands(name)[0]
    op, signal = graph[name], graph.type(name)
    assert isinstance(op, Weighted)
    axis = op.axis % len(signal.shape)
    marked = signal.with_scale(on_axis(np.arange(1.0, signal.shape[axis] + 1), len(signal.shape), axis))
    for each in reversed(between):
        step = graph[each]
        if step.role is Role.LINEAR:
            try:
                marked = step.infer(*[marked] * len(graph.operands(each)))
            except TypeMismatchError:
                return 0
    varying = [i for i, size in enumerate(marked.scale.shape) if size > 1]
    return varying[0] if len(varying) == 1 else 0


def _bounds(graph: Graph) -> dict[str, tuple[Array, Array]]:
    """Least and greatest value of every signal for inputs in [0, 1]: interval arithmetic through the graph."""
    found: dict[str, tuple[Array, Array]] = {}
    for name in graph:
        op = graph[name]
        if isinstance(op, Input):
            found[name] = np.zeros(op.shape), np.ones(op.shape)
            continue
        lows = [found[x][0] for x in graph.operands(name)]
        highs = [found[x][1] for x in graph.operands(name)]
        if isinstance(op, Weighted):
            positive = attrs.evolve(op, weight=np.maximum(op.weight, 0))
            negative = attrs.evolve(op, weight=np.minimum(op.weight, 0), bias=None)
            found[name] = (
                positive.on_arrays(*lows) + negative.on_arrays(*highs),
                positive.on_arrays(*highs) + negative.on_arrays(*lows),
            )
        elif op.role is Role.LINEAR and not _is_monotone(op, lows):
            raise InvalidModelError(
                graph.problem(
                    name, f"{op.kind} subtracts, so the weights alone do not bound it", "pass calibration data"
                )
            )
        else:
            found[name] = op.on_arrays(*lows), op.on_arrays(*highs)
    return found


def _is_monotone(op: Op, like: Sequence[Array]) -> bool:
    """Whether a linear op gives nothing negative for positive operands, few of which outweigh all others."""
    generator = np.random.default_rng(0)
    for _ in range(3):
        result = op.on_arrays(*(np.exp(4 * generator.standard_normal(x.shape)) for x in like))
        if result.min(initial=0) < -1e-9 * np.abs(result).max(initial=0):
            return False
    return True
