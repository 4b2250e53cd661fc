"""A diagnosis as users meet it: text, JSON and a plot."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs

from spikec.diagnosis.cost import PRICES
from spikec.diagnosis.plot import draw
from spikec.diagnosis.record import KINDS, Findings
from spikec.ir.files import replacing


@attrs.frozen(eq=False, kw_only=True)
class Diagnosis(Findings):
    """Why a spiking network differs from its ANN; ``print`` it, or see the attributes."""

    def json(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_dict`; the file appears whole or not at all."""
        with replacing(path) as part:
            Path(part).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw accuracy over time, the layers' errors by kind, and rates over activations, to a PNG.

        Raises:
            MissingDependencyError: matplotlib is not installed.
        """
        draw(self, path)

    def __str__(self) -> str:
        parts = [self._headline(), *_table(self._ladder()), "", *_table(self._rows()), "", *self._costs()]
        return "\n".join([*parts, "", *self._verdict()])

    def _headline(self) -> str:
        text = f"{self.model}: {self.samples} samples, T={self.timesteps}, agreement with the ANN "
        text += f"{_percent(self.agreement[-1])} %"
        if self.accuracy is not None and self.ann_accuracy is not None:
            text += f", accuracy {_percent(self.accuracy[-1])} % (ANN {_percent(self.ann_accuracy)} %)"
        return text

    def _ladder(self) -> Iterable[Sequence[str]]:
        yield ("", "output error, %", "agreement, %", *(["accuracy, %"] if self.accuracy is not None else []))
        for rung in self.rungs:
            cells = [rung.name, _percent(rung.error), _percent(rung.agreement)]
            yield (*cells, *([] if rung.accuracy is None else [_percent(rung.accuracy)]))

    def _rows(self) -> Iterable[Sequence[str]]:
        shown = [f"{share}, %" for share in ("silent", "saturated", *KINDS, "total", "effect")]
        yield ("layer", "scale", "rate", *shown)
        for layer in self.layers:
            low, high = layer.scale
            span = f"{low:.3g}" if low == high else f"{low:.3g}..{high:.3g}"
            errors = [layer.relative(error) for error in (*(layer.errors[kind] for kind in KINDS), layer.total)]
            shares = [layer.silent, layer.saturated, *errors, layer.effects["own"].rms]
            yield (layer.name, span, f"{layer.rate:.3f}", *map(_percent, shares))

    def _costs(self) -> Iterable[str]:
        cost = self.cost
        snn = f"{_count(cost.spikes)} spikes, {_count(cost.synops)} SynOps and {_count(cost.macs)} MACs"
        yield f"one sample: ANN {_count(cost.ann_macs)} MACs; SNN {snn} in {self.timesteps} steps"
        for price in PRICES:
            before, after = cost.energy(price)
            yield f"  {1e6 * before:.3g} uJ and {1e6 * after:.3g} uJ ({price.source})"

    def _verdict(self) -> Iterable[str]:
        allowed = f"{100 * self.tolerance:g} % off the ANN"
        if self.enough is None:
            yield f"no number of steps up to {self.timesteps} keeps it within {allowed}"
        else:
            yield f"within {allowed} from T={self.enough} on"
        yield self.advice.why
        if self.advice.change:
            yield f"try {self.advice.change}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _count(number: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def _table(rows: Iterable[Sequence[str]]) -> Iterable[str]:
    """Columns side by side, the first one to the left."""
    cells = [list(row) for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    for row in cells:
        rest = (text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))
        yield "  ".join(["", row[0].ljust(widths[0]), *rest]).rstrip()
