"""The best of several ways on, judged on calibration samples that had no part in it."""

import functools
import math
from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from spikec.extend.heldout import Trial, judged, trials
from spikec.extend.passbase import NO_SAMPLES, TELLING, Context, Pass, rounds
from spikec.interpreter.results import agreement_text
from spikec.ir.graph import Graph
from spikec.ir.progress import track
from spikec.ir.stages import SPIKING

#: an error, over the spread of the outputs, with which few answers change; and up to which it falls as 1/T
_SMALL, _LAWFUL = 0.05, 0.25
#: what running the samples for T steps may take of the pass over the calibration data; and how many it may always be
_SHARE, _FEWEST = 0.5, 64
#: by which share the error of a way must be less than that of the one before it, where there are few samples
_CLEARLY = 0.25


@attrs.frozen
class Choose(Pass):
    """Run each sequence of passes on one half of the samples, and keep what is nearest to the ANN on the other half.

    Passes of a sequence are judged together: a threshold that is good only with the bias that goes with it is found,
    where one tuned pass after the other would lose it. To leave the graph as it is is one of the ways. What was chosen
    runs again on all samples.

    Attributes:
        candidates: sequences of passes that stay at one stage.
        start: passes that set again, by half of the samples, what the graph has by all of them: they are tried before
            each way, as the other half has a part in the graph as it is given.
        samples: how many calibration samples all of this is tuned and judged on, if there are more, and if all steps of
            them take at most half as long as the pass over the calibration data; if not, fewer, down to 64.
        large: sequences that are tried in place of the candidates on a net of which still fewer samples are run. The
            nearest is taken, unless the graph as it is is clearly better: the samples are of the kind that set the
            thresholds, so they do not show what these clip of others.
        few: sequences that are tried in place of the candidates where there are too few samples for halves; each is
            taken only if it is clearly better than the one that was kept before it.
    """

    name = "choose"
    contract = "tuned"
    needs = (SPIKING,)
    judges = True

    candidates: tuple[tuple[Pass, ...], ...] = ()
    start: tuple[Pass, ...] = ()
    samples: int = attrs.field(default=96, validator=rounds())
    large: tuple[tuple[Pass, ...], ...] = ()
    few: tuple[tuple[Pass, ...], ...] = ()

    @property
    def most_samples(self) -> int:
        """How many samples it asks for."""
        return self.samples

    def run(self, graph: Graph, context: Context) -> int:
        """Try every candidate; the graph becomes what the best one makes of it."""
        context = attrs.evolve(context, most=min(context.most, _affordable(context)))
        samples = context.tuning_samples(graph)
        if not samples:
            context.note("", NO_SAMPLES)
            return 0
        count, whole = len(samples[0]), min(context.most, len(context.samples[0]))
        parted = trials(graph, context)
        large = self.large if count < whole else ()
        few = self.few if len(parted) > 1 else ()
        candidates = few or large or self.candidates
        if count < min(self.samples, len(context.samples[0])):
            why = "as the net is large" if count < whole else "as long as half a pass over the calibration data, or few"
            context.note("", f"{len(candidates)} ways besides as it is, on {count} samples, {why}")
        if not parted:
            context.note("", "there is one sample, and what it sets cannot be judged on it")
            return 0
        count = sum(len(each.others.tuning_samples(graph)[0]) for each in parted)
        context.note("", f"judged at T={context.steps} on {count} samples that had no part in what was judged")
        found: dict[tuple[Pass, ...], tuple[float, float]] = {}
        for candidate in track(((), *candidates), "ways", current=_names):
            found[candidate] = judged(parted, (*self.start, *candidate))
            text = agreement_text(found[candidate])
            context.note("", f"{' + '.join(map(str, candidate)) or 'as it is'}: {text}")
        if large and not few:
            few = max(large, key=lambda way: found[way][1]), ()
        best = _best(found, count, few)
        nearest = found[best][1]
        context.note("", _clipping(parted, (*self.start, *best)))
        if spread := float(np.mean([each.spread() for each in parted])):
            context.note("", _steps_needed(-nearest / spread, context))
        for said in dict.fromkeys(parted[0].own.notes):
            context.note(said.node, f"tried on a part of the samples: {said.reason}")
        parted.clear()  # with all that they remember, before the best way runs again
        return sum(each.run(graph, context) for each in best)


def _affordable(context: Context) -> int:
    """Return how many samples can be run for T steps in a share of the pass over the calibration data.

    Ways are tuned and judged in about seven such runs in all.
    """
    known = context.calibration.gathered
    return max(_FEWEST, int(_SHARE * known.samples / context.steps) if known is not None else 0)


def _best(
    found: Mapping[tuple[Pass, ...], tuple[float, float]], count: int, few: Sequence[tuple[Pass, ...]] = ()
) -> tuple[Pass, ...]:
    """Choose the way of the least error among those whose answers are as good as the best, as far as one can tell.

    Shares of so many samples tell ways apart that lie more than a standard error from each other (the rule of Breiman
    et al., Classification and Regression Trees, 1984; the share by Laplace's rule of succession), and more than one
    sample. Few samples say nothing by their answers, and by their errors large differences only.

    Args:
        found: (the share of samples that are answered as by the ANN, minus the error of the outputs) by way.
        count: how many samples it was found on.
        few: the ways where these are few, of which the first is kept unless others are clearly better.
    """
    if few:  # errors are negative
        return functools.reduce(lambda a, b: b if found[b][1] > (1 - _CLEARLY) * found[a][1] else a, few)
    most = max(same for same, _ in found.values())
    share = (most * count + 1) / (count + 2)
    noise = max(1.0, math.sqrt(share * (1 - share) * count)) if count >= TELLING else count
    good = [way for way, (same, _) in found.items() if round((most - same) * count) <= noise]
    return max(good, key=lambda way: found[way][1])


def _clipping(parted: Sequence[Trial], passes: tuple[Pass, ...]) -> str:
    """Say what thresholds clip of samples that did not set them."""
    found = [each.clipping(passes) for each in parted]
    cut = {name: np.mean([each[name] for each in found], axis=0) for name in found[0]}
    if not cut:
        return "no thresholds were set"
    above = 100 * np.mean([share for share, _ in cut.values()])
    most = max(cut, key=lambda name: float(cut[name][1]))
    return (
        f"of samples that did not set the thresholds, {above:.2g} % of the values are clipped on average over the "
        f"layers; the most in {most}, which loses {100 * cut[most][1]:.2g} % of its rms"
    )


def _steps_needed(error: float, context: Context) -> str:
    """Say how many steps a small error needs, by the error over the spread that the best way had when it was judged."""
    steps = context.steps // context.speedup
    found = f"after {steps} steps the outputs are off by {error:.2g} of their spread over samples"
    if error > _LAWFUL:
        return f"{found}, too far for the law that it falls as 1/T: it takes many more steps, or neurons="
    needed = math.ceil(steps * error / _SMALL)
    return f"{found}; tuned for T={needed} it would be about {_SMALL}, as it falls as 1/T"


def _names(passes: tuple[Pass, ...]) -> str:
    """Name a way without its options, which take a line each."""
    return " + ".join(each.name for each in passes) or "none"
