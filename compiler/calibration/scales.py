"""From what is known of a ReLU's values to the scale of its neuron's spikes."""

from collections.abc import Callable, Mapping

import numpy as np

from spikec.calibration.calibration import Calibration
from spikec.calibration.casts import Casts
from spikec.calibration.normalization import Normalization
from spikec.ir.affine import Affine, BlockedError
from spikec.ir.errors import InvalidModelError, TypeMismatchError
from spikec.ir.graph import Graph, Node
from spikec.ir.op import Role
from spikec.ir.ops import Relu, Weighted
from spikec.ir.types import Array, on_axis

#: no channel's scale is below this share of its layer's
FLOOR = 1e-3
#: values up to this share of the network's largest are what float64 leaves of differences of equal numbers
NOISE = 1e-13
#: says something to the user: (message, name of a node)
Warn = Callable[[str, str], None]


def from_statistics(
    normalization: Normalization, graph: Graph, statistics: Calibration, timesteps: Mapping[str, int], warn: Warn
) -> dict[str, Array]:
    """The scale of every ReLU by its values on calibration data; of the sample's rank, each axis 1 or full.

    Args:
        normalization: which statistic.
        graph: an ANN.
        statistics: of all of its ReLUs, by name.
        timesteps: the T that a ReLU's scale is for, by name.
        warn: is told of silent layers.

    Raises:
        InvalidModelError: a ReLU's values are not finite.
    """
    found = {}
    noise = NOISE * max((float(each.maximum.max()) for each in statistics.nodes.values()), default=0.0)
    for node in graph.match(Relu):
        channels = statistics.nodes[node.name]
        source = compared(graph, node) if node.op.compares else node.name
        if source != node.name and (channels.maximum <= statistics.nodes[source].maximum).all():
            found[node.name] = np.zeros(1)  # the compared ReLU's own scale will do
            continue
        steps = timesteps[node.name]
        scale = normalization.statistic(channels, steps) if normalization.per_channel else np.zeros(1)
        least = max(noise, FLOOR * channels.maximum.max())
        if normalization.shrink == 0 and (scale > least).all():  # whatever the layer's is, no channel takes it
            found[node.name] = scale
            continue
        layer = normalization.of_layer(channels, steps)
        if not normalization.per_channel:
            scale = np.array([layer])
        if layer <= noise:
            layer, scale = 0.0, np.zeros_like(scale)
        scale = normalization.shrunk(scale, layer)
        found[node.name] = _guarded(scale, layer, node, warn)
    return _laid_out(graph, found, warn)


def from_bounds(normalization: Normalization, graph: Graph, upper: dict[str, Array], warn: Warn) -> dict[str, Array]:
    """As ``from_statistics``, from the greatest value of each of a ReLU's numbers, [...] of the sample's shape."""
    found = {}
    for node in graph.match(Relu):
        rows = np.moveaxis(upper[node.name], channel_axis(graph, node.name), 0)
        channels = rows.reshape(len(rows), -1).max(1) * normalization.factor
        layer = float(channels.max())
        channels = normalization.shrunk(channels, layer)
        found[node.name] = _guarded(channels if normalization.per_channel else np.array([layer]), layer, node, warn)
    return _laid_out(graph, found, warn)


def channel_axis(graph: Graph, name: str) -> int:
    """The axis of a sample that holds a ReLU's channels.

    The feature axis of the affine op before it is marked with a scale that varies, and followed through the ops in
    between by their own type rules.
    """
    between: list[str] = []
    while not isinstance(graph[name], Weighted):
        if graph[name].role is Role.IO:
            return 0
        between.append(name)
        name = graph.operands(name)[0]
    op, signal = graph.get(name, Weighted), graph.type(name)
    axis = op.axis % len(signal.shape)
    if signal.shape[axis] == 1:
        return 0
    if not any(graph[each].role is Role.LINEAR for each in between):
        return axis
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


def _laid_out(graph: Graph, chosen: dict[str, Array], warn: Warn) -> dict[str, Array]:
    """Vectors over the channels laid along their axis, no larger than a clip's bound, and no smaller with levels.

    A comparing ReLU's is not below that of what it compares, so that one spike is one on both sides. Where channels
    cannot carry their own scales, the largest is that of all.
    """
    found = {}
    for node in graph.match(Relu):
        scale = chosen[node.name]
        if node.op.compares:
            scale = np.maximum(scale, chosen[compared(graph, node)])
            scale = np.where(scale > 0, scale, 1.0)
        if not np.isfinite(scale).all():
            message = "its values on the calibration data are not finite"
            hint = "mend the data, or the weights up to this layer"
            raise InvalidModelError(graph.problem(node.name, message, hint))
        cap = np.inf if node.op.cap is None else node.op.cap
        scale = np.full_like(scale, cap) if node.op.levels else np.minimum(scale, cap)
        laid = on_axis(scale, len(graph.type(node.name).shape), channel_axis(graph, node.name))
        if why := _obstacle(graph, node.name, laid):
            warn(f"%{node.name} has one threshold for all of its channels: with one for each, {why}", node.name)
            laid = laid.max(keepdims=True)
        found[node.name] = laid
    return found


def _obstacle(graph: Graph, name: str, scale: Array) -> str:
    """Say why what takes a ReLU's spikes cannot take their scales; empty where it can.

    Along the first axis it always can, by a 1x1 convolution if need be.
    """
    if max(scale.shape[1:], default=1) == 1:
        return ""
    for user, slot in graph.users(name):
        try:
            Casts(graph).into(user, slot, Affine.scaling(1 / scale))
        except BlockedError as why:
            return str(why)
    return ""


def _guarded(scale: Array, layer: float, node: Node[Relu], warn: Warn) -> Array:
    """No scale is zero or tiny: a silent channel takes its layer's, a silent layer 1."""
    if layer <= 0 and node.op.compares:
        return np.zeros_like(scale)  # it takes that of what it compares
    if layer <= 0:
        warn(f"%{node.name} is silent on the calibration data; its scale is 1", node.name)
        return np.ones_like(scale)
    return np.maximum(np.where(scale > 0, scale, layer), FLOOR * layer)


def compared(graph: Graph, node: Node[Relu]) -> str:
    """The ReLU whose spikes a comparing one compares: the nearest in front of it with as many channels.

    Where something in between makes differences larger than that ReLU ever is, the comparing one's own scale counts.
    """
    channels = graph.type(node.name).shape[channel_axis(graph, node.name)]
    for name in graph.before(node.name):
        op = graph[name]
        if isinstance(op, Relu) and not op.compares and graph.type(name).shape[channel_axis(graph, name)] == channels:
            return name
    return node.name
