"""Pictures with matplotlib, into axes of the user's own or into a figure that is made for them, and into files."""

import functools
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spikec.ir.errors import CompileError
from spikec.ir.files import replacing
from spikec.ir.packages import needed
from spikec.ir.types import Array

#: what a curve of the network itself, and bars and dots of one kind, are drawn in
BLUE = "#4c72b0"


def empty_figure(size: tuple[float, float], purpose: str) -> Any:
    """Return an empty matplotlib figure that needs no display, of that size in inches.

    Raises:
        MissingDependencyError: matplotlib is not installed, which ``purpose`` needs.
    """
    needed("matplotlib.figure", purpose)
    return _figure_class()(figsize=size, layout="constrained")


@functools.cache
def _figure_class() -> Any:
    """Return matplotlib's figure as one that a notebook shows without pyplot."""
    from matplotlib.figure import Figure  # only who draws waits for it

    class Shown(Figure):
        def _repr_png_(self) -> bytes:
            content = io.BytesIO()
            self.savefig(content, format="png", dpi=100)
            return content.getvalue()

    return Shown


def axes_for(ax: Any, purpose: str, rows: int = 1, height: float = 3.5) -> tuple[Sequence[Any], Any]:
    """Return the axes to draw into, one a row, and their figure: the user's, or those of a new one."""
    if ax is not None:
        return [ax], ax.figure
    figure = empty_figure((8, height), purpose)
    return figure.subplots(rows, 1, squeeze=False)[:, 0], figure


def saved(figure: Any, path: str | os.PathLike[str] | None) -> Any:
    """Write a matplotlib figure where there is a path, as .svg or .pdf if it ends so and else as PNG; return it."""
    if path is not None:
        suffix = Path(path).suffix
        with replacing(path) as part:
            figure.savefig(Path(part), dpi=130, format=suffix[1:] if suffix in (".svg", ".pdf") else "png")
    return figure


def plot_accuracy(
    curves: Mapping[str, Any],
    ann: float | None = None,
    *,
    ax: Any = None,
    path: str | os.PathLike[str] | None = None,
) -> Any:
    """Draw accuracies over time: of one network, or of several side by side, such as those of six normalizations.

    Args:
        curves: what :func:`spikec.evaluate` returned, the accuracy after each step, [T], by a name for the legend.
        ann: the accuracy of the ANN, a dashed line.
        ax: matplotlib axes to draw into; without them a figure of its own is made.
        path: to write the figure to: a .svg or .pdf, or else a PNG.

    Returns:
        The matplotlib figure.

    Raises:
        CompileError: a curve is not a row of shares from 0 to 1.
        MissingDependencyError: matplotlib is not installed.

    Examples:
        >>> snn = spikec.compile(model, "spikingjelly", calibration=images, normalization="max")
        >>> curve = spikec.evaluate(snn, [(images, labels)], timesteps=8)
        >>> figure = spikec.plot_accuracy({"max": curve}, ann=0.98, path="accuracy.png")
    """
    (axes,), figure = axes_for(ax, "a picture of accuracies")
    for name, curve in curves.items():
        values = np.asarray(curve, dtype=np.float64)
        if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
            raise CompileError(f"{name} is no row of shares from 0 to 1", hint="give what spikec.evaluate returns")
        axes.plot(np.arange(1, len(values) + 1), 100 * values, label=name)
    if ann is not None:
        axes.axhline(100 * ann, color="black", linestyle="--", linewidth=1, label="ANN")
    axes.set(xlabel="time-steps", ylabel="accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    return saved(figure, path)


def bars_by_kind(
    axes: Any, names: Sequence[str], kinds: Mapping[str, Sequence[float]], colors: Mapping[str, str]
) -> None:
    """Draw for each name a bar of each kind, in %, side by side: for numbers that do not add up."""
    height = 0.8 / len(kinds)
    for place, (kind, shares) in enumerate(kinds.items()):
        rows = np.arange(len(names)) + (place - (len(kinds) - 1) / 2) * height
        axes.barh(rows, [100 * share for share in shares], color=colors[kind], label=kind, height=height)
    axes.set_yticks(np.arange(len(names)), names)
    axes.set_ylabel("layer")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(loc="best", fontsize="small")


def scatter(axes: Any, activation: Array, rate: Array, title: str) -> None:
    """Draw a dot for each neuron, its rate in ANN units over its activation, and the line on which they are equal."""
    axes.plot(activation, rate, ".", markersize=2.5, alpha=0.4, color=BLUE, rasterized=True)
    high = float(max(activation.max(), rate.max(), 1e-12))
    axes.plot([0, high], [0, high], color="black", linewidth=0.8)
    axes.set(xlabel="ANN activation", ylabel="spike rate x scale", title=title)
    axes.title.set_fontsize("medium")
    axes.grid(alpha=0.3)
