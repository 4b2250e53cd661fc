"""One change to recommend, by rules on what was measured."""

from collections.abc import Callable, Mapping, Sequence

import attrs
import numpy as np

from spikec.calibration.statistics import Statistics
from spikec.compilation import Compilation
from spikec.diagnosis.diagnosis import Advice, LayerFindings, Rung
from spikec.ir.errors import Hint, Option
from spikec.ir.ops import Neuron
from spikec.ir.types import Array

#: a percentile helps if it clips at most this share of what is clipped now
_LESS = 0.2
_PERCENTILES = (99.9, 99.99)
#: a threshold this many times the first percentile of a channel costs resolution for nothing
_WIDE = 1.25


@attrs.frozen(eq=False)
class Suspect:
    """What the rules go by: the layer that makes most of the worst kind of error, and its neuron.

    Attributes:
        layer, neuron: as measured, and as the final graph has it.
        scale: of the ReLU, in ANN units.
        statistics: of its ReLU on the calibration data.
        copies: how many neurons share the ReLU.
        charged: whether its neurons start at an initial potential, or did before a pass put it into a bias.
    """

    layer: LayerFindings
    neuron: Neuron
    scale: Array
    charged: bool
    statistics: Statistics | None
    copies: int
    timesteps: int


def advise(
    compilation: Compilation,
    layers: Sequence[LayerFindings],
    makers: Mapping[str, Sequence[str]],
    rungs: Sequence[Rung],
    timesteps: int,
    enough: int | None,
) -> Advice:
    """One change against the kind of error that changes the output most, at the layer that makes most of it.

    ``makers`` are the neurons that stand for a ReLU, by its name.
    """
    if enough is not None:
        fewer = Hint(Option("timesteps", enough)) if enough < timesteps else ""
        return Advice(None, None, fewer, "nothing has to change" + (", fewer steps will do" if fewer else ""))
    kind = max(rungs, key=lambda rung: rung.step).kind
    layer = max(layers, key=lambda each: each.effects[kind].rms)
    neuron = compilation.graph[layer.node]
    assert isinstance(neuron, Neuron)
    scale = compilation.graph.type(layer.node).scale
    relu = next((name for name, neurons in makers.items() if layer.node in neurons), "")
    charged = any(
        node.name in (layer.node, relu) and bool(node.op.v_init.any())
        for record in compilation.stages
        for node in record.graph.match(Neuron)
    )
    share = f"its {kind} moves the output's margin by {100 * layer.effects[kind].rms:.0f} %"
    if compilation.calibration is None:
        change: str = Hint(Option("calibration"), " with a few hundred training samples")
        why = "thresholds follow from the weights alone"
    else:
        known = compilation.calibration.nodes
        copies = len(makers.get(relu, ())) or 1
        change, why = _RULES[kind](Suspect(layer, neuron, scale * copies, charged, known.get(relu), copies, timesteps))
    return Advice(kind, layer.name, change, f"most is lost by {kind}, first of all in {layer.name} ({share}): {why}")


def _clipping(found: Suspect) -> tuple[str, str]:
    layer = found.layer
    why = f"{100 * layer.clipped:.2g} % of its activations are above its threshold"
    known = found.statistics
    if known is not None and found.scale.max() >= float(known.maximum.max()) * (1 - 1e-6):
        why += ", and above all that the calibration data showed"
        return Hint(Option("calibration"), " with data like this"), why
    for percentile in _PERCENTILES:
        if 1 - percentile / 100 <= _LESS * layer.clipped:
            return f"normalization=spikec.Normalization(percentile={percentile})", why
    return 'normalization=spikec.Normalization(method="max")', why


def _quantization(found: Suspect) -> tuple[str, str]:
    if not found.charged:
        return "normalization=spikec.Normalization(v_init=0.5)", "its neurons start at 0, so that every count is cut"
    return _finer(found, f"it can say {found.copies * found.timesteps + 1} different values only")


def _unevenness(found: Suspect) -> tuple[str, str]:
    if found.neuron.v_reset is not None:
        return _longer(found), "its neurons are reset to a fixed value, and lose what was above the threshold"
    return _finer(found, "its current is right on average, but comes too early, too late or in bursts")


def _finer(found: Suspect, why: str) -> tuple[str, str]:
    """Advise smaller thresholds where they are larger than they have to be, else more steps: a spike is scale/T."""
    ratio = _width(found)
    if ratio > _WIDE:
        large = f"its threshold is {ratio:.1f} times what {_PERCENTILES[0]} % of its activations need"
        return Hint(Option("normalization", None), ", ", Option("timesteps", found.timesteps)), f"{why}; {large}"
    return _longer(found), why


def _width(found: Suspect) -> float:
    """The scale over the first percentile of each channel that is not silent, on average; 1 where that is unknown."""
    if found.statistics is None:
        return 1.0
    needed = found.statistics.percentile(_PERCENTILES[0])
    live = needed > 0
    if found.scale.size not in (1, len(needed)) or not live.any():
        return 1.0
    return float(np.broadcast_to(found.scale.reshape(-1), needed.shape)[live].mean() / needed[live].mean())


def _longer(found: Suspect) -> str:
    return Hint(Option("timesteps", 2 * found.timesteps), ", and run as many")


_RULES: dict[str, Callable[[Suspect], tuple[str, str]]] = {
    "clipping": _clipping,
    "quantization": _quantization,
    "unevenness": _unevenness,
}
