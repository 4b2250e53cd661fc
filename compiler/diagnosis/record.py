"""What a diagnosis finds: figures by layer and by source of error, and the sums that they are made of."""

import math

import attrs
import torch
from torch import Tensor

from spikec.ir.types import Array

#: the parts of a layer's error, in the order in which they come about
KINDS = ("clipping", "quantization", "propagated", "unevenness")
#: those that the layer makes itself
OWN = ("clipping", "quantization", "unevenness")


@attrs.frozen
class Deviation:
    """How far a signal is from the ANN's, over all samples and neurons, in ANN units."""

    mean: float
    rms: float


@attrs.define(eq=False)
class Moments:
    """The first two moments of what came in batches [N, ...], element by element of a sample."""

    count: int = 0
    total: Tensor = attrs.field(factory=lambda: torch.zeros((), dtype=torch.float64))
    squares: Tensor = attrs.field(factory=lambda: torch.zeros((), dtype=torch.float64))

    def add(self, values: Tensor) -> None:
        """Take a batch [N, ...]."""
        self.count += len(values)
        self.total = self.total + values.sum(0)
        self.squares = self.squares + values.square().sum(0)

    @property
    def mean(self) -> float:
        """The mean of single numbers."""
        return float(self.total) / self.count

    @property
    def rms(self) -> float:
        """The root mean square of single numbers."""
        return math.sqrt(float(self.squares) / self.count)

    @property
    def spread(self) -> float:
        """The sum over elements and samples of squared distances from the elements' means."""
        return float((self.squares - self.total.square() / self.count).clamp(min=0).sum())

    def deviation(self, unit: float = 1.0) -> Deviation:
        """Mean and root mean square of single numbers, in that unit."""
        return Deviation(self.mean / unit, self.rms / unit)


@attrs.frozen(eq=False, kw_only=True)
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
