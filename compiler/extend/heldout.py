"""Calibration samples in parts, so that what is chosen is judged on samples that did not set it."""

import functools
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import torch

from spikec.calibration.calibration import Calibration, Retained
from spikec.calibration.scales import channel_axis
from spikec.calibration.source import CalibrationSource
from spikec.extend.beginnings import Beginnings
from spikec.extend.passbase import LEAST_SAMPLES, Context, Pass
from spikec.interpreter.results import BATCH, nearness
from spikec.ir.errors import without_warnings
from spikec.ir.graph import Graph
from spikec.ir.ops import Relu
from spikec.ir.rewrite import neurons_by_relu
from spikec.ir.types import Array


@attrs.frozen(eq=False)
class Trial:
    """Tries sequences of passes on a graph, what several begin with once.

    Attributes:
        graph: which stays as it is.
        own: of the samples that thresholds are set by, and all else that the passes tune.
        others: of those that their results are judged on.
    """

    graph: Graph
    own: Context
    others: Context
    _tried: list[tuple[tuple[Pass, ...], Graph]] = attrs.field(factory=list)

    def result(self, passes: tuple[Pass, ...]) -> Graph:
        """Return what the passes make of the graph."""
        begun = [((), self.graph), *(each for each in self._tried if passes[: len(each[0])] == each[0])]
        done, result = max(begun, key=lambda each: len(each[0]))
        for each in passes[len(done) :]:
            result, done = result.copy(), (*done, each)
            each.run(result, self.own)
            self._tried.append((done, result))
        return result

    def nearness(self, passes: tuple[Pass, ...]) -> tuple[float, float]:
        """Return how near to the ANN the passes bring the other samples, as ``nearness`` of the interpreter says."""
        with without_warnings():  # the passes that are chosen run again, and say it then
            return self.others.agreement(self.result(passes))

    def spread(self) -> float:
        """Return how far the ANN's outputs for one of the other samples are from their mean over all of these."""
        wanted = self.others.wanted(self.others.tuning_samples(self.graph))
        return -nearness(wanted, [x.mean(0, keepdim=True).expand_as(x) for x in wanted])[1]

    def clipping(self, passes: tuple[Pass, ...]) -> dict[str, tuple[float, float]]:
        """By ReLU, the share of its values on the other samples above the thresholds, and what is cut over its rms."""
        ann, result = self.own.ann, self.result(passes)
        known = self.others.calibration.gathered
        if ann is None or known is None:
            return {}
        found = {}
        for name, neurons in neurons_by_relu(result, ann).items():
            if neurons and not ann.get(name, Relu).compares:
                values, counts = known.nodes[name].bins()
                most = np.asarray(sum(result.type(each).scale for each in neurons))
                above = np.maximum(values - most.reshape(-1, 1), 0)
                power = float((counts * values**2).sum())
                cut = float((counts * above**2).sum() / power) ** 0.5 if power else 0.0
                found[name] = float(counts[np.broadcast_to(above, counts.shape) > 0].sum() / counts.sum()), cut
        return found


def trials(graph: Graph, context: Context) -> list[Trial]:
    """Part the samples that a graph is tuned on: its second half judges what the first has set.

    Where there are few, each third judges what the other two have set. Thresholds are also set by what else is kept.
    The list is empty where there is a single sample, which nothing can be judged on.
    """
    count = len(context.tuning_samples(graph)[0])
    few = count < LEAST_SAMPLES
    parts = [part for part in np.array_split(np.arange(count), 3 if few else 2) if len(part)]
    if len(parts) == 1:
        return []
    more = np.arange(count, len(context.samples[0]))
    seen = [_seen(context, part) for part in (*parts, more) if len(part)]
    found = []
    for i in range(len(parts)) if few else [1]:
        own = functools.reduce(Calibration.merge, seen[:i] + seen[i + 1 :])
        size = len(parts[i])
        found.append(Trial(graph, _apart(context, own, count - size), _apart(context, seen[i], size)))
    return found


def judged(parted: Sequence[Trial], passes: tuple[Pass, ...]) -> tuple[float, float]:
    """Return how near to the ANN the passes bring samples that had no part in what they did, as a mean over trials."""
    same, error = (float(np.mean(column)) for column in zip(*(each.nearness(passes) for each in parted), strict=True))
    return same, error


def _seen(context: Context, rows: Array) -> Calibration:
    """Gather what is known of these samples alone."""
    inputs = tuple(x[rows] for x in context.samples)
    if context.ann is None:
        return Calibration(shapes=tuple(tuple(x.shape[1:]) for x in inputs), retained=Retained.of(inputs))
    axes = {node.name: channel_axis(context.ann, node.name) for node in context.ann.match(Relu)}
    return Calibration.gather(context.ann, axes, zip(*(torch.split(x, BATCH) for x in inputs), strict=True))


def _apart(context: Context, seen: Calibration, most: int) -> Context:
    """Return a context that knows no other samples, and tunes and judges on so many of these."""
    fresh: dict[str, Any] = {"notes": [], "beside": {}, "begun": Beginnings(), "made": {}}
    fresh |= {"judged": [], "over_time": []}
    return attrs.evolve(context, calibration=CalibrationSource(None, seen), most=most, **fresh)
