"""One change to recommend, by rules on what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from spikec.calibration import Calibration
from spikec.diagnose_record import Advice, Layer, Rung
from spikec.driver import Compilation
from spikec.ops import Neuron

#: a percentile helps if it clips at most this share of what is clipped now
_LESS = 0.2
_PERCENTILES = (99.9, 99.99)


@attrs.frozen(eq=False)
class Findings:
    """What the rules go by: the layer that makes most of the worst kind of error, and its neuron.

    Attributes:
        charged: whether its neurons start at an initial potential, or did before a pass put it into a bias.
    """

    layer: Layer
    neuron: Neuron
    charged: bool
    calibration: Calibration | None
    timesteps: int


def advise(
    compilation: Compilation, layers: Sequence[Layer], rungs: Sequence[Rung], timesteps: int, enough: int | None
) -> Advice:
    """Against the kind of error that changes the output most, at the layer that makes most of it."""
    if enough is not None:
        fewer = f"timesteps={enough}" if enough < timesteps else ""
        return Advice(None, None, fewer, "nothing has to change" + (", fewer steps will do" if fewer else ""))
    kind = max(rungs, key=lambda rung: rung.step).kind
    layer = max(layers, key=lambda each: each.relative(each.errors[kind]))
    neuron = compilation.graph[layer.node]
    assert isinstance(neuron, Neuron)
    charged = any(
        node.name == layer.node and bool(node.op.v_init.any())
        for record in compilation.stages
        for node in record.graph.match(Neuron)
    )
    change, why = _RULES[kind](Findings(layer, neuron, charged, compilation.calibration, timesteps))
    share = f"{100 * layer.relative(layer.errors[kind]):.1f} % of its activation (rms)"
    return Advice(kind, layer.name, change, f"most is lost by {kind}, most of it in {layer.name} ({share}): {why}")


def _clipping(found: Findings) -> tuple[str, str]:
    layer = found.layer
    why = f"{100 * layer.clipped:.2g} % of its activations are above its threshold"
    known = None if found.calibration is None else found.calibration.nodes.get(layer.node)
    if known is not None and layer.scale[1] >= float(known.maximum.max()) * (1 - 1e-6):
        return "calibration= with data like this", f"{why}, and above all that the calibration data showed"
    for percentile in _PERCENTILES:
        if 1 - percentile / 100 <= _LESS * layer.clipped:
            return f"normalization=spikec.Normalization(percentile={percentile})", why
    return 'normalization=spikec.Normalization(method="max")', why


def _quantization(found: Findings) -> tuple[str, str]:
    if not found.charged:
        return "normalization=spikec.Normalization(v_init=0.5)", "its neurons start at 0, so that every count is cut"
    low, high = found.layer.scale
    if low == high and found.layer.neurons > 1 and found.layer.rate < 1 / found.timesteps:
        why = "all its channels share one threshold, and spike less than once"
        return "normalization=spikec.Normalization(per_channel=True)", why
    return _longer(found), f"it can say {found.timesteps + 1} different values only"


def _unevenness(found: Findings) -> tuple[str, str]:
    if found.neuron.v_reset is not None:
        return _longer(found), "its neurons are reset to a fixed value, and lose what was above the threshold"
    return _longer(found), "its current is right on average, but comes too early, too late or in bursts"


def _longer(found: Findings) -> str:
    return f"timesteps={2 * found.timesteps}, and run as many"


_RULES: dict[str, Callable[[Findings], tuple[str, str]]] = {
    "clipping": _clipping,
    "quantization": _quantization,
    "unevenness": _unevenness,
}
