"""What the neurons of a network did: spikes and membrane potentials over time, as arrays and as pictures."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.compilation import Compilation
from spikec.diagnosis.pictures import BLUE, axes_for, saved
from spikec.interpreter.inputs import whole_number
from spikec.interpreter.interp import run
from spikec.ir.errors import CompileError, InvalidModelError
from spikec.ir.graph import Graph
from spikec.ir.ops import Neuron
from spikec.ir.origin import distinct, label
from spikec.ir.types import Array

#: rows of the histograms, in inches
_ROW = 1.6
#: what matplotlib is asked for
_PICTURES = "pictures of spikes"


@attrs.frozen(eq=False, repr=False)
class LayerRecord:
    """The neurons of one layer over time.

    Attributes:
        name: the user's name of the layer, with the node where several have it.
        spikes: [T, B, ...], 1 where a neuron fired, also more or less where spikes are graded.
        potentials: [T, B, ...], before the reset, in thresholds: a neuron fires at 1; None for neurons that do not say.
        scale: a neuron's rate times this is in ANN units; it broadcasts over a sample.
    """

    name: str
    spikes: Array
    potentials: Array | None
    scale: Array

    @property
    def rates(self) -> Array:
        """The spikes a step of each neuron, [B, ...]."""
        return np.asarray(self.spikes.mean(0, dtype=np.float64))

    def __repr__(self) -> str:
        return f"<spikec layer {self.name}: {' x '.join(map(str, self.spikes.shape))}, rate {self.rates.mean():.3g}>"


@attrs.frozen(eq=False, repr=False)
class Recording:
    """What :func:`record` saw.

    Attributes:
        model: the network's name.
        layers: the record of each layer of neurons by its name, in order.
        outputs: [T, B, ...] of each output, in ANN units.

    Examples:
        >>> compilation = spikec.Compiler("spikingjelly", calibration=images, normalization="max").run(model)
        >>> recording = spikec.record(compilation, images[:2], timesteps=8)
        >>> recording["2"].spikes.shape, recording.outputs[0].shape
        ((8, 2, 8, 6, 6), (8, 2, 10))
        >>> figure = recording.raster("2", sample=0, path="raster.png")
    """

    model: str
    layers: Mapping[str, LayerRecord]
    outputs: tuple[Array, ...]

    def __repr__(self) -> str:
        steps, samples = self.outputs[0].shape[:2]
        return f"<spikec.Recording {self.model}: {len(self.layers)} layers, {steps} steps, {samples} samples>"

    def __getitem__(self, name: str) -> LayerRecord:
        """Return the record of a layer by its name.

        Raises:
            CompileError: there is none of that name.
        """
        if name not in self.layers:
            raise CompileError(f"no layer {name!r} was recorded", hint=f"there are {', '.join(self.layers)}")
        return self.layers[name]

    def raster(self, layer: str, sample: int = 0, *, ax: Any = None, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw a dot for each spike of a layer: time to the right, its neurons, flattened, from the bottom.

        Args:
            layer: its name in ``layers``.
            sample: of the batch.
            ax: matplotlib axes to draw into; without them a figure of its own is made.
            path: to write the figure to: a .svg or .pdf, or else a PNG.

        Returns:
            The matplotlib figure.
        """
        record = self[layer]
        spikes = self._of(record.spikes, sample)
        axes, figure = axes_for(ax, _PICTURES)
        times, neurons = np.nonzero(spikes)
        axes[0].plot(times, neurons, "|", color=BLUE, markersize=float(np.clip(600 / spikes.shape[1], 1.5, 6)))
        axes[0].set(xlabel="time-step", ylabel=f"neuron of layer {record.name}", xlim=(-0.5, len(spikes) - 0.5))
        axes[0].set_title(f"{len(times)} spikes of {spikes.shape[1]} neurons")
        return saved(figure, path)

    def membrane(
        self,
        layer: str,
        neurons: Sequence[int] = (0, 1, 2),
        sample: int = 0,
        *,
        ax: Any = None,
        path: str | os.PathLike[str] | None = None,
    ) -> Any:
        """Draw the membrane potentials of some neurons of a layer, with their threshold; see :meth:`raster`.

        Args:
            layer: its name in ``layers``.
            neurons: which, counted in the flattened layer.
            sample: of the batch.
            ax: as in :meth:`raster`.
            path: as in :meth:`raster`.

        Raises:
            CompileError: the neurons of that layer do not say their potential.
        """
        record = self[layer]
        if record.potentials is None:
            raise CompileError(f"the neurons of {layer} do not say their potential", hint="draw its raster")
        potentials = self._of(record.potentials, sample)
        axes, figure = axes_for(ax, _PICTURES)
        for neuron in neurons:
            number = whole_number("neurons", neuron, 0, potentials.shape[1] - 1)
            axes[0].plot(potentials[:, number], marker=".", label=f"neuron {number}")
        axes[0].axhline(1, color="black", linestyle="--", linewidth=0.8, label="threshold")
        axes[0].set(xlabel="time-step", ylabel=f"potential in layer {record.name}, thresholds")
        axes[0].legend(loc="best", fontsize="small")
        return saved(figure, path)

    def rates(self, layer: str | None = None, *, ax: Any = None, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw a histogram of the rates of each layer's neurons over all samples, in spikes a step.

        Args:
            layer: its name in ``layers``, to draw that alone; None for all of them below each other.
            ax: as in :meth:`raster`; it takes one layer.
            path: as in :meth:`raster`.

        Returns:
            The matplotlib figure.

        Raises:
            CompileError: there is no such layer, or none is named for ``ax``.
        """
        if ax is not None and layer is None:
            raise CompileError("ax takes the histogram of one layer", hint=f"name it: {', '.join(self.layers)}")
        shown = list(self.layers.values()) if layer is None else [self[layer]]
        axes, figure = axes_for(ax, _PICTURES, len(shown), max(_ROW * len(shown), 3.5))
        for each, record in zip(axes, shown, strict=True):
            rates = record.rates.reshape(-1)
            each.hist(rates, bins=np.linspace(0, max(1.0, float(rates.max())), 33), color=BLUE)
            each.set(yscale="log", ylabel="neurons")
            each.set_title(f"layer {record.name}: mean {rates.mean():.3f}, silent {100 * np.mean(rates == 0):.1f} %")
        axes[-1].set_xlabel("spikes a step")
        return saved(figure, path)

    def _of(self, values: Array, sample: int) -> Array:
        """Return [T, neurons] of one sample."""
        number = whole_number("sample", sample, 0, values.shape[1] - 1)
        return values[:, number].reshape(len(values), -1)


def record(network: Compilation | Graph, x: Tensor | Sequence[Tensor], timesteps: int | None = None) -> Recording:
    """Run a spiking network by the interpreter, and keep what its neurons do.

    Args:
        network: a compilation, or a graph that spikes.
        x: as :func:`spikec.run` takes it. All neurons of all samples are kept for all steps: give few samples.
        timesteps: number of steps T; None for inputs [T, B, ...].

    Raises:
        InvalidModelError: the graph does not spike, or the inputs do not fit.

    Examples:
        >>> graph = spikec.Compiler("nir", calibration=images, normalization="max").run(model).graph
        >>> spikec.record(graph, images[:2], timesteps=8)
        <spikec.Recording Sequential: 1 layers, 8 steps, 2 samples>
    """
    graph = network.graph if isinstance(network, Compilation) else network
    if isinstance(graph, Graph) and not graph.is_spiking:
        raise InvalidModelError(f"graph {graph.name} has no neurons to record", hint="compile it first")
    neurons = {node.name: node.op for node in graph.match(Neuron)} if isinstance(graph, Graph) else {}
    spikes: dict[str, list[Tensor]] = {name: [] for name in neurons}
    potentials: dict[str, list[Tensor | None]] = {name: [] for name in neurons}

    def tap(name: str, value: Tensor, state: Tensor | None, operands: Sequence[Tensor]) -> None:
        assert state is not None  # a neuron has one
        above = neurons[name].above_threshold(state, *operands)
        potentials[name].append(None if above is None else above + 1)
        spikes[name].append(value.clone())

    found = run(graph, x, timesteps, tap=tap, nodes=list(neurons))
    outputs = found if isinstance(found, tuple) else (found,)
    layers = {}
    for name, shown in distinct({name: label(op.origin) or name for name, op in neurons.items()}).items():
        known = [each for each in potentials[name] if each is not None]
        kept = torch.stack(known).numpy() if len(known) == len(spikes[name]) else None
        layers[shown] = LayerRecord(shown, torch.stack(spikes[name]).numpy(), kept, graph.type(name).scale)
    scales = (graph.type(name).scale for name in graph.outputs)
    return Recording(graph.name, layers, tuple(out.numpy() * scale for out, scale in zip(outputs, scales, strict=True)))
