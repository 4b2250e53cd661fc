"""A diagnosis as users meet it: figures by layer and by source of error, as text, as JSON and as a plot."""

import json
import os
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from spikec.diagnosis.cost import PRICES, Cost
from spikec.diagnosis.pictures import BLUE, axes_for, bars_by_kind, empty_figure, saved, scatter
from spikec.ir.errors import CompileError
from spikec.ir.files import replacing
from spikec.ir.packages import frame
from spikec.ir.templates import table
from spikec.ir.text import columns, count, percent, sentences, terminal_width
from spikec.ir.types import Array

#: what matplotlib is asked for
_PLOT = "the plot of a diagnosis"
#: above the table of layers
_CAPTION = "  silent, saturated: % of the neurons; errors: % of the rms activation; effect: % of the margin"
#: the parts of a layer's error, in the order in which they come about
KINDS = ("clipping", "quantization", "propagated", "unevenness")
#: those that the layer makes itself
OWN = ("clipping", "quantization", "unevenness")
#: layers whose scatter is drawn: those with the largest error
SCATTERS = 4
#: letters that their titles have side by side
_TITLES = 112
_COLORS = {
    "clipping": "#c44e52",
    "quantization": "#4c72b0",
    "propagated": "#b0b0b0",
    "unevenness": "#dd8452",
    "total": "#222222",
}


@attrs.frozen
class Deviation:
    """How far a signal is from the ANN's, over all samples and neurons, in ANN units."""

    mean: float
    rms: float


@attrs.frozen(eq=False, kw_only=True, repr=False)
class LayerFindings:
    """One layer of neurons beside the ReLUs that it stands for.

    With the ANN's current z, its activation a, the current z' that the layer makes of the ANN's activations, the
    mean current m that it really got, and its rate r times its scale, a neuron's error ``r - a`` is the sum of::

        clipping      limit(z) - a              limit(z) = scale clip(z / v_threshold, 0, 1)
        quantization  ideal(z') - limit(z)      ideal(z) = scale/T clip(floor((T z + v_init) / v_threshold), 0, T)
        propagated    ideal(m) - ideal(z')      the layers before it are wrong
        unevenness    r - ideal(m)              the same current, but not the same at every step

    All but ``propagated`` are the layer's own. z' is z, but for what passes put into weights and biases on purpose:
    integers, corrections, an initial potential as a bias. (For neurons that are not integrate-and-fire with soft
    reset, ideal(z) is what the neuron does with a constant current.)

    Attributes:
        name: the user's layer, with its line where it is known.
        node: name in the graph.
        neurons: how many, for one sample.
        scale: smallest and largest value, in ANN units, that a neuron firing at each step stands for.
        rate: mean number of spikes a neuron and step.
        silent: share of the neurons that no sample makes fire.
        saturated: share of the neurons that fire at every step, averaged over the samples.
        clipped: share of the ANN's activations that are above the scale.
        signal: rms of the ANN's activation, in ANN units.
        errors: by kind.
        own, total: the error without, and with what is propagated.
        effects: what each kind of its own error, and all of it (``own``), does to the output to first order: change
            of the margin by which the ANN's first class is ahead of its second (a single number: of itself), as a
            share of the margin's rms.
        residual: largest ``|rate - (mean current - (v(T) - v(0))/T)|`` in thresholds (exact for soft reset);
            None for other neurons.
        points: [2, n]: the ANN's activation, and rate times scale, of some neurons and samples.
    """

    name: str
    node: str
    neurons: int
    scale: tuple[float, float]
    rate: float
    silent: float
    saturated: float
    clipped: float
    signal: float
    errors: dict[str, Deviation]
    own: Deviation
    total: Deviation
    effects: dict[str, Deviation]
    residual: float | None
    points: Array

    def __repr__(self) -> str:
        error = percent(self.relative(self.total))
        return f"<spikec findings {self.name}: {self.neurons} neurons, rate {self.rate:.3g}, error {error} %>"

    def relative(self, error: Deviation) -> float:
        """An rms error as a share of the rms activation, or of the scale where the ANN is silent."""
        return error.rms / (self.signal or self.scale[1])


@attrs.frozen
class Rung:
    """The network with one more source of error than the one before.

    Attributes:
        name: what it is.
        kind: the source that was added.
        step: rms change of the output by it, relative to the output's spread over the samples.
        error: rms difference of the output from the ANN's, likewise relative.
        agreement: share of the samples with the ANN's argmax.
        accuracy: None without labels.
    """

    name: str
    kind: str
    step: float
    error: float
    agreement: float
    accuracy: float | None


@attrs.frozen
class Advice:
    """One change.

    Attributes:
        kind: the kind of error that costs most, or None where nothing has to change.
        layer: name of the layer that makes most of it, or None.
        change: the option to pass, as code; empty where nothing has to change.
        why: a sentence.
    """

    kind: str | None
    layer: str | None
    change: str
    why: str


@attrs.frozen(eq=False, kw_only=True, repr=False)
class Diagnosis:
    """Why a spiking network differs from its ANN; ``print`` it, or see the attributes.

    Attributes:
        model: its name.
        samples: how many were run.
        timesteps: T.
        layers: neurons in order.
        rungs: from the ANN to the spiking network, one source of error after the other. The second of them is the
            layer-synchronous bound: each layer waits for all T steps of the one before.
        agreement: [T], of the running mean up to each step, as in :class:`Rung`.
        error: [T], likewise.
        accuracy: [T], or None without labels.
        ann_accuracy: None without labels.
        cost: operations a sample.
        tolerance: the share of samples that may have another argmax than the ANN; for outputs of a single
            number, the relative error that is allowed.
        enough: the least number of steps from which on it is kept, or None. It holds for this network; one that
            is compiled for fewer steps has other parameters.
        advice: one change to make.

    Examples:
        >>> compilation = spikec.Compiler("spikingjelly", calibration=images, normalization="max").run(model)
        >>> diagnosis = spikec.diagnose(compilation, images, timesteps=4)
        >>> [layer.name for layer in diagnosis.layers], [rung.kind for rung in diagnosis.rungs]
        (['2'], ['clipping', 'quantization', 'unevenness'])
        >>> figure = diagnosis.plot("diagnosis.png")
    """

    model: str
    samples: int
    timesteps: int
    layers: tuple[LayerFindings, ...]
    rungs: tuple[Rung, ...]
    agreement: Array
    error: Array
    accuracy: Array | None
    ann_accuracy: float | None
    cost: Cost
    tolerance: float
    enough: int | None
    advice: Advice

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts; all but the layers' points."""
        found: dict[str, Any] = attrs.asdict(self, filter=lambda field, _: field.name != "points")
        for layer, row in zip(self.layers, found["layers"], strict=True):
            row["relative"] = {kind: layer.relative(layer.errors[kind]) for kind in KINDS}
            row["relative"] |= {"own": layer.relative(layer.own), "total": layer.relative(layer.total)}
        for key in ("agreement", "error", "accuracy"):
            found[key] = None if found[key] is None else found[key].tolist()
        found["cost"]["energy"] = [
            {"source": price.source, **dict(zip(("ann", "snn"), self.cost.energy(price), strict=True))}
            for price in PRICES
        ]
        return found

    def json(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_dict`; the file appears whole or not at all."""
        with replacing(path) as part:
            Path(part).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw accuracy over time, the layers' errors by kind, and rates over activations, in one figure.

        Args:
            path: to write to: a .svg or .pdf, or else a PNG.

        Returns:
            The matplotlib figure, which a notebook shows.

        Raises:
            MissingDependencyError: matplotlib is not installed.
        """
        worst = sorted(self.layers, key=lambda layer: -layer.relative(layer.total))[:SCATTERS]
        shown = [layer for layer in self.layers if layer in worst]
        height = max(4.0, 1.6 + 0.7 * len(self.layers))
        figure = empty_figure((11, height + 3.2), _PLOT)
        upper, lower = figure.subfigures(2, 1, height_ratios=[height, 3.2])
        left, right = upper.subplots(1, 2)
        self.plot_over_time(ax=left)
        self.plot_errors(ax=right)
        for axes, layer in zip(lower.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            self.plot_rates(layer.node, ax=axes)
            axes.set_title(textwrap.fill(layer.name, _TITLES // len(shown)), fontsize="medium")
        figure.suptitle(f"{self.model}: SNN beside ANN, {self.samples} samples, T={self.timesteps}")
        return saved(figure, path)

    def plot_over_time(self, *, ax: Any = None, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw agreement with the ANN, and accuracy where there are labels, in % after each step.

        Args:
            ax: matplotlib axes to draw into; without them a figure of its own is made.
            path: to write the figure to, as for :meth:`plot`.

        Returns:
            The matplotlib figure.
        """
        (axes,), figure = axes_for(ax, _PLOT)
        steps = np.arange(1, self.timesteps + 1)
        axes.plot(steps, 100 * self.agreement, color=BLUE, label="agreement with the ANN")
        if self.accuracy is not None and self.ann_accuracy is not None:
            axes.plot(steps, 100 * self.accuracy, color="#55a868", label="accuracy of the SNN")
            axes.axhline(100 * self.ann_accuracy, color="black", linestyle="--", linewidth=1, label="accuracy, ANN")
        if self.enough is not None:
            label = f"within {100 * self.tolerance:g} % from T={self.enough}"
            axes.axvline(self.enough, color="#b0b0b0", linestyle=":", label=label)
        axes.set(xlabel="time-steps", ylabel="%", title="over time")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
        return saved(figure, path)

    def plot_errors(self, *, ax: Any = None, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw for each layer a bar of each kind of error and one of all together, in % of its rms activation.

        They stand side by side, for rms errors do not add up. The arguments are those of :meth:`plot_over_time`.
        """
        (axes,), figure = axes_for(ax, _PLOT, height=max(3.5, 1.6 + 0.7 * len(self.layers)))
        shares = {kind: [layer.relative(layer.errors[kind]) for layer in self.layers] for kind in KINDS}
        shares["total"] = [layer.relative(layer.total) for layer in self.layers]
        bars_by_kind(axes, [layer.name for layer in self.layers], shares, _COLORS)
        axes.set(xlabel="rms error, % of the rms activation", title="by layer and kind")
        return saved(figure, path)

    def plot_rates(self, layer: str, *, ax: Any = None, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw for some neurons of a layer and some samples the spike rate over the ANN's activation, in its units.

        The other arguments are those of :meth:`plot_over_time`.

        Args:
            layer: its ``node`` or its ``name`` in ``layers``.

        Raises:
            CompileError: there is no such layer.
        """
        found = next((each for each in self.layers if layer in (each.node, each.name)), None)
        if found is None:
            there = ", ".join(each.node for each in self.layers)
            raise CompileError(f"the diagnosis has no layer {layer!r}", hint=f"there are {there}")
        (axes,), figure = axes_for(ax, _PLOT)
        activation, rate = found.points
        scatter(axes, activation, rate, f"layer {found.name}, T={self.timesteps}")
        return saved(figure, path)

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame`` with a row for each layer; errors are shares of its rms activation.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        rows: list[dict[str, Any]] = []
        for layer in self.layers:
            shares = {kind: layer.relative(layer.errors[kind]) for kind in KINDS}
            low, high = layer.scale
            about: dict[str, Any] = {
                "layer": layer.name,
                "node": layer.node,
                "neurons": layer.neurons,
                "scale_min": low,
            }
            about |= {"scale_max": high, "rate": layer.rate, "silent": layer.silent, "saturated": layer.saturated}
            rows.append({**about, **shares, "total": layer.relative(layer.total), "effect": layer.effects["own"].rms})
        return frame(list(rows[0]), [list(row.values()) for row in rows])

    def __repr__(self) -> str:
        return f"<spikec.Diagnosis {self._headline()}>"

    def _repr_html_(self) -> str:
        ladder, layers = ([list(row) for row in rows] for rows in (self._ladder(), self._rows()))
        notes = (*self._costs(), *self._verdict())
        return table(self._headline(), ladder[0], ladder[1:]) + table(_CAPTION, layers[0], layers[1:], notes)

    def __str__(self) -> str:
        width = terminal_width()
        parts = [*sentences([self._headline()], width), *columns(self._ladder(), width), ""]
        parts += [*sentences([_CAPTION], width), *columns(self._rows(), width), ""]
        return "\n".join([*parts, *sentences([*self._costs(), "", *self._verdict()], width)])

    def _headline(self) -> str:
        text = f"{self.model}: {self.samples} samples, T={self.timesteps}, agreement with the ANN "
        text += f"{percent(self.agreement[-1])} %"
        if self.accuracy is not None and self.ann_accuracy is not None:
            text += f", accuracy {percent(self.accuracy[-1])} % (ANN {percent(self.ann_accuracy)} %)"
        return text

    def _ladder(self) -> Iterable[Sequence[str]]:
        yield ("", "error, %", "agreement, %", *(["accuracy, %"] if self.accuracy is not None else []))
        for rung in self.rungs:
            cells = [rung.name, percent(rung.error), percent(rung.agreement)]
            yield (*cells, *([] if rung.accuracy is None else [percent(rung.accuracy)]))

    def _rows(self) -> Iterable[Sequence[str]]:
        yield ("layer", "scale", "rate", "silent", "saturated", *KINDS, "total", "effect")
        for layer in self.layers:
            low, high = layer.scale
            span = f"{low:.3g}" if low == high else f"{low:.3g}..{high:.3g}"
            errors = [layer.relative(error) for error in (*(layer.errors[kind] for kind in KINDS), layer.total)]
            shares = [layer.silent, layer.saturated, *errors, layer.effects["own"].rms]
            yield (layer.name, span, f"{layer.rate:.3f}", *map(percent, shares))

    def _costs(self) -> Iterable[str]:
        cost = self.cost
        snn = f"{count(cost.spikes)} spikes, {count(cost.synops)} SynOps and {count(cost.macs)} MACs"
        yield f"one sample: ANN {count(cost.ann_macs)} MACs; SNN {snn} in {self.timesteps} steps"
        for price in PRICES:
            before, after = cost.energy(price)
            yield f"  energy: ANN {1e6 * before:.3g} uJ, SNN {1e6 * after:.3g} uJ ({price.source})"

    def _verdict(self) -> Iterable[str]:
        allowed = f"{100 * self.tolerance:g} % off the ANN"
        if self.enough is None:
            yield f"no number of steps up to {self.timesteps} keeps it within {allowed}"
        else:
            yield f"within {allowed} from T={self.enough} on"
        yield self.advice.why
        if self.advice.change:
            yield f"try {self.advice.change}"
