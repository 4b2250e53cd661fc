"""The plots of a diagnosis."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from spikec.diagnosis.record import KINDS, Findings, LayerFindings
from spikec.extend.loader import missing_package
from spikec.ir.files import replacing

#: layers whose scatter is drawn: those with the largest error
SCATTERS = 4
_COLORS = {"clipping": "#c44e52", "quantization": "#4c72b0", "propagated": "#b0b0b0", "unevenness": "#dd8452"}


def draw(diagnosis: Findings, path: str | os.PathLike[str]) -> None:
    """Accuracy over time, errors by layer and kind, rate over activation, as one PNG.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise missing_package("matplotlib", "the plot of a diagnosis") from error
    worst = sorted(diagnosis.layers, key=lambda layer: -layer.relative(layer.total))[:SCATTERS]
    shown = [layer for layer in diagnosis.layers if layer in worst]
    height = max(4.0, 1.6 + 0.32 * len(diagnosis.layers))
    figure = Figure(figsize=(11, height + 3.2), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=[height, 3.2])
    upper, lower = halves
    left, right = upper.subplots(1, 2)
    _over_time(left, diagnosis)
    _by_kind(right, diagnosis)
    for axes, layer in zip(lower.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        _scatter(axes, layer, diagnosis.timesteps)
    figure.suptitle(f"{diagnosis.model}: SNN beside ANN, {diagnosis.samples} samples, T={diagnosis.timesteps}")
    with replacing(path) as part:
        figure.savefig(Path(part), dpi=130, format="png")


def _over_time(axes: Any, diagnosis: Findings) -> None:
    steps = np.arange(1, diagnosis.timesteps + 1)
    axes.plot(steps, 100 * diagnosis.agreement, color="#4c72b0", label="agreement with the ANN")
    if diagnosis.accuracy is not None and diagnosis.ann_accuracy is not None:
        axes.plot(steps, 100 * diagnosis.accuracy, color="#55a868", label="accuracy of the SNN")
        axes.axhline(100 * diagnosis.ann_accuracy, color="black", linestyle="--", linewidth=1, label="accuracy, ANN")
    if diagnosis.enough is not None:
        label = f"within {100 * diagnosis.tolerance:g} % from T={diagnosis.enough}"
        axes.axvline(diagnosis.enough, color="#b0b0b0", linestyle=":", label=label)
    axes.set(xlabel="time-steps", ylabel="%", title="over time")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")


def _by_kind(axes: Any, diagnosis: Findings) -> None:
    layers = diagnosis.layers
    rows = np.arange(len(layers))
    start = np.zeros(len(layers))
    for kind in KINDS:
        width = np.array([100 * layer.relative(layer.errors[kind]) for layer in layers])
        axes.barh(rows, width, left=start, color=_COLORS[kind], label=kind, height=0.7)
        start += width
    total = [100 * layer.relative(layer.total) for layer in layers]
    axes.plot(total, rows, "kD", markersize=4, label="all together")
    axes.set_yticks(rows, [layer.name for layer in layers])
    axes.invert_yaxis()
    axes.set(xlabel="rms error, % of the rms activation", title="by layer and kind")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="best", fontsize="small")


def _scatter(axes: Any, layer: LayerFindings, timesteps: int) -> None:
    activation, rate = layer.points
    axes.plot(activation, rate, ".", markersize=2.5, alpha=0.4, color="#4c72b0", rasterized=True)
    high = float(max(activation.max(), rate.max(), 1e-12))
    axes.plot([0, high], [0, high], color="black", linewidth=0.8)
    axes.set(xlabel="ANN activation", ylabel="spike rate x scale", title=f"{layer.name}, T={timesteps}")
    axes.title.set_fontsize("medium")
    axes.grid(alpha=0.3)
