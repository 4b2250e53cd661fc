"""What a netx network is made of, and what it takes on the chip."""

from __future__ import annotations

import math
from typing import Any

import attrs
import numpy as np
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from typing_extensions import Self

from spikec.backends.netx.contents import Contents
from spikec.backends.netx.sim import IntegerLayer
from spikec.ir.packages import frame
from spikec.ir.templates import table as html_table
from spikec.ir.types import Array

#: Loihi 2's core as it is usually quoted from Intel's technology brief of 2021: up to 8192 neurons, and 192 KB of
#: memory; that synapses and the states of neurons share those is our assumption
CORE_NEURONS, CORE_BYTES = 8192, 192 * 1024
#: of a neuron: current and voltage, 32 bits each
_STATE = 8
_HEADINGS = ("layer", "kind", "shape", "neurons", "synapses", "bits", "bytes", "cores")


@attrs.frozen
class LayerSummary:
    """One layer's row.

    Attributes:
        name, kind, shape: as the layer has them.
        neurons: relays included.
        synapses: connections of a weight that is not zero; those of a kernel count once for each place, padding too.
        bits: that its weights need: even integers with a sign, 8 for 254.
        bytes: of its weights, a kernel's once, and of 8 bytes of state a neuron.
        cores: estimated, see :class:`Summary`.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    neurons: int
    synapses: int
    bits: int
    bytes: int
    cores: int

    @classmethod
    def of(cls, layer: IntegerLayer) -> Self:
        """Count a layer."""
        weights = [layer.weight] if layer.weight_rec is None else [layer.weight, layer.weight_rec]
        neurons, kept = math.prod(layer.shape), int(sum(np.count_nonzero(each) for each in weights))
        bits = max(map(_bits, weights))
        stored = math.ceil(kept * bits / 8)
        is_shared = layer.kind == "conv"
        return cls(
            name=layer.name,
            kind=layer.kind,
            shape=layer.shape,
            neurons=neurons,
            synapses=kept * (math.prod(layer.shape[1:]) if is_shared else 1),
            bits=bits,
            bytes=stored + _STATE * neurons,
            cores=_cores(neurons, stored, is_shared),
        )

    @property
    def row(self) -> tuple[str, ...]:
        """The cells of its line in the table."""
        counts = (self.neurons, self.synapses, self.bits, self.bytes, self.cores)
        return self.name, self.kind, "x".join(map(str, self.shape)), *(f"{count:,}" for count in counts)


def _bits(weight: Array) -> int:
    """Return how many bits even integers take with their sign: [-254, 254] takes 8, [-126, 126] takes 7."""
    return 1 + max(1, math.ceil(math.log2(int(np.abs(weight).max()) / 2 + 1)))


def _cores(neurons: int, stored: int, is_shared: bool) -> int:
    if is_shared and stored < CORE_BYTES:
        by_memory = math.ceil(_STATE * neurons / (CORE_BYTES - stored))
    else:
        by_memory = math.ceil((stored + _STATE * neurons) / CORE_BYTES)
    return max(by_memory, math.ceil(neurons / CORE_NEURONS))


@attrs.frozen(repr=False)
class Summary:
    """Counts for each layer of a network and for all of it; printed, it is a table.

    The number of cores of Loihi 2 is an estimate, and no chip or compiler of Intel's has confirmed it. A layer of n
    neurons whose weights take w bytes takes::

        max(ceil(n / 8192), ceil((w + 8 n) / 196608))          dense: each core holds the weights of its neurons
        max(ceil(n / 8192), ceil(8 n / (196608 - w)))          conv: each core holds the whole kernel

    and no core is shared by two layers. Its inputs: 8192 neurons and 192 KB (196608 bytes) a core, as they are usually
    quoted from Intel's technology brief of 2021; 8 bytes a neuron, for a current and a voltage of 32 bits, and as many
    bits a weight as ``bits`` says, which are assumptions of ours. Routing tables, programs of neurons and buffers of
    delays are left out, so a chip takes more.

    Attributes:
        name: of the network.
        layers: one row each, in order.
    """

    name: str
    layers: tuple[LayerSummary, ...]

    @classmethod
    def of(cls, contents: Contents) -> Self:
        """Count everything."""
        return cls(contents.name, tuple(map(LayerSummary.of, contents.layers)))

    @property
    def neurons(self) -> int:
        """Of all layers."""
        return sum(layer.neurons for layer in self.layers)

    @property
    def synapses(self) -> int:
        """Of all layers."""
        return sum(layer.synapses for layer in self.layers)

    @property
    def bits(self) -> int:
        """The most that the weights of a layer need."""
        return max(layer.bits for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Of all layers."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def cores(self) -> int:
        """Estimated, of Loihi 2."""
        return sum(layer.cores for layer in self.layers)

    @property
    def totals(self) -> str:
        """Everything in one line."""
        return (
            f"{len(self.layers)} layers, {self.neurons:,} neurons, {self.synapses:,} synapses of {self.bits} bits, "
            f"{self.bytes:,} bytes, about {self.cores} cores of Loihi 2"
        )

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame`` with a row for each layer, as :class:`LayerSummary` describes it.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        return frame(_HEADINGS, [attrs.astuple(layer, recurse=False) for layer in self.layers])

    def _repr_html_(self) -> str:
        return html_table(f"{self.name}: {self.totals}", _HEADINGS, [layer.row for layer in self.layers])

    def __rich__(self) -> Group:
        table = Table(title=Text(self.name), title_justify="left")
        for heading in _HEADINGS:
            table.add_column(heading, justify="left" if heading in _HEADINGS[:3] else "right")
        for layer in self.layers:
            table.add_row(*map(Text, layer.row))
        return Group(table, Text(self.totals))

    def __repr__(self) -> str:
        console = Console(width=120, highlight=False, color_system=None)
        with console.capture() as captured:
            console.print(self)
        return captured.get().rstrip()
