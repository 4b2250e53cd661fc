"""The netx target's artifact: what the file holds, and its simulation."""

from __future__ import annotations

import os
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.backends.netx.contents import Contents, Encoder
from spikec.backends.netx.file import Held, write
from spikec.backends.netx.graph import graph_of
from spikec.backends.netx.reader import read
from spikec.backends.netx.sim import run_layers
from spikec.backends.netx.summary import Summary
from spikec.extend.backend import DataT
from spikec.interpreter.inputs import whole_number
from spikec.ir.errors import Hint, InvalidModelError, Option, shown, warn
from spikec.ir.files import path_of, replacing
from spikec.ir.graph import Graph
from spikec.ir.types import Array

#: neurons of a layer, of all samples, that are run at a time: their potentials should fit into the cache
_CHUNK = 1 << 18
#: fields of a network that a file holds under their own names, in ``/spikec``
_FACTS = ("name", "reset", "constants", "pulses", "output_scale", "output_shape", "timesteps")
#: an input further outside of the calibrated range than this share of it is worth a warning
_MARGIN = 0.1


@attrs.frozen(eq=False, repr=False)
class Trace:
    """Everything that a simulation saw.

    Attributes:
        inputs: bool [T, B, ...], what the file's first layer is fed, always-on inputs included.
        spikes: bool [T, B, ...] of each layer that fires, by the neuron's name in the graph, relays left out.
        steps: [T, B, ...], the output at each step: the spikes of the last layer, or the current of one that never
            fires, an integer.
        output: float64 [B, ...], in the ANN's units: the mean over T.
        overflows: how often a current wrapped or a voltage saturated, anywhere.
    """

    inputs: Array
    spikes: dict[str, Array]
    steps: Array
    output: Array
    overflows: int

    def __repr__(self) -> str:
        steps, samples = self.steps.shape[:2]
        return f"<spikec netx trace: {len(self.spikes)} layers, {steps} steps, {samples} samples>"

    @property
    def total(self) -> Array:
        """The output's summed current, or its number of spikes, integers [B, ...]."""
        return np.asarray(self.steps.sum(0))


@attrs.frozen(eq=False, repr=False)
class NetxNetwork(Contents):
    """An integer network that stock netx runs, and a simulation of it, integer for integer.

    Attributes:
        fall_back: of a network with soft reset behind convolutions, which needs our loader: the one with hard reset
            that its file holds for stock netx. None where there is no other.
    """

    fall_back: NetxNetwork | None = None

    def __repr__(self) -> str:
        return f"<NetxNetwork {self.name}: {self.summary().totals}>"

    def summary(self) -> Summary:
        """Return what the layers are and cost on the chip, a table when printed; see :class:`Summary`."""
        return Summary.of(self)

    def to_graph(self, rounded: bool = False) -> Graph:
        """Return the network as a spiking graph, that rounds decays as netx does if ``rounded``; see :func:`graph_of`.

        Raises:
            UnsupportedOpError: the file has something that the graph has not; the problem names its layer.
        """
        return graph_of(self, rounded)

    def run(self, x: DataT, timesteps: int | None = None) -> DataT:
        """Simulate the network.

        Args:
            x: [B, ...] real inputs, a tensor or an array, constant over time; or [T, B, ...], one for each step. A
                network without an encoder takes spikes, 0 and 1, [T, B, ...].
            timesteps: number of steps T; None for the T that the network was compiled for, or that of the inputs.

        Returns:
            [B, ...] outputs in the ANN's units, the mean over T; float64, of the kind that x is.

        Raises:
            InvalidModelError: x does not fit, or there is no T.
        """
        result = np.concatenate([part.output for part in self._parts(x, timesteps)])
        if isinstance(x, Tensor):
            return torch.from_numpy(result).to(x.device)
        return result

    def over_time(self, x: Tensor | Array, timesteps: int | None = None) -> Array:
        """Simulate as :meth:`run` does, and return the output of every step, [T, B, ...]; see :class:`Trace`."""
        return np.concatenate([part.steps for part in self._parts(x, timesteps)], axis=1)

    def simulate(self, x: Tensor | Array, timesteps: int | None = None) -> Trace:
        """Simulate as :meth:`run` does, all of the batch at once, and keep every spike."""
        (trace,) = self._parts(x, timesteps, at_once=True)
        return trace

    def encode(self, x: Tensor | Array, timesteps: int | None = None) -> Array:
        """Make the spikes that the first layer is fed, bool [T, B, *input_shape], of inputs as :meth:`run` takes."""
        return self._encoded(*self._checked(x, timesteps))

    def _parts(self, x: Any, timesteps: int | None, at_once: bool = False) -> list[Trace]:
        """Simulate so many samples at a time that the potentials of a layer fit into the cache, or all at once."""
        array, steps = self._checked(x, timesteps)
        width = max(int(np.prod(layer.shape)) for layer in self.layers)
        size = len(array) if at_once else max(1, _CHUNK // width)
        parts = [self._simulate(array[i : i + size], steps) for i in range(0, len(array), size)]
        self._warn_of_overflows(sum(part.overflows for part in parts), steps)
        return parts

    def _encoded(self, x: Array, steps: int) -> Array:
        spikes = np.moveaxis(x, 1, 0) > 0 if self.encoder is None else self.encoder.encode(x, steps)
        spikes = spikes.reshape(*spikes.shape[:2], *self.fed_shape)
        on = np.ones((*spikes.shape[:2], self.constants + self.pulses, *self.input_shape[1:]), dtype=bool)
        on[1:, :, self.constants :] = False
        return np.concatenate([spikes, on], axis=2)

    def _simulate(self, x: Array, steps: int) -> Trace:
        spikes = self._encoded(x, steps)
        responses = run_layers(self.layers, spikes)
        seen = {
            layer.name: response.spikes[:, :, : layer.shape[0] - layer.relays]
            for layer, response in zip(self.layers, responses, strict=True)
            if layer.fires
        }
        last = responses[-1]
        out = last.spikes if self.layers[-1].fires else np.diff(last.voltages, axis=0, prepend=0)
        out = out.reshape(steps, len(x), *self.output_shape)
        mean: Array = out.sum(0) / steps * self.output_scale
        return Trace(spikes, seen, out, mean, sum(response.overflows for response in responses))

    def _checked(self, x: Any, timesteps: int | None) -> tuple[Array, int]:
        """Return inputs [B, ...], or [B, T, ...] of those that change over time, in float64, and T."""
        try:  # complex numbers are of another kind, and so are texts and objects
            given = np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x)
            array = given.astype(np.float64, casting="same_kind")
        except (TypeError, ValueError, RuntimeError):
            raise InvalidModelError(f"the input is {shown(x)}", hint="give a tensor or array of real numbers") from None
        shape = self.fed_shape if self.encoder is None else self.encoder.shape
        over_time = self.encoder is None or array.ndim == 2 + len(shape)
        axes = ("T", "B") if over_time else ("B",)
        if len(shape) == 1 and self.encoder is None:  # a map, of which the first layer reads a vector
            array = array.reshape(*array.shape[:2], -1) if array.size else array
        if array.shape[len(axes) :] != shape or not array.size:
            wanted = ", ".join(map(str, (*axes, *shape)))
            raise InvalidModelError(f"the input is [{wanted}], got {list(given.shape)}", hint="give a batch first")
        if not np.isfinite(array).all():
            raise InvalidModelError("an input holds NaN or infinity", hint="mend the data, or leave such samples out")
        if self.encoder is not None:
            self._warn_of_clipping(array, self.encoder)
        elif ((array != 0) & (array != 1)).any():
            message = "this network takes spikes, and an input is neither 0 nor 1"
            raise InvalidModelError(message, hint="encode real numbers first, for example at random by their size")
        if not over_time:
            return array, whole_number("timesteps", self.timesteps if timesteps is None else timesteps, 1)
        if timesteps is not None and whole_number("timesteps", timesteps, 1) != len(array):
            message = f"timesteps is {timesteps}, and the input [T, B, ...] has {len(array)} steps"
            raise InvalidModelError(message, hint="leave timesteps out: the input says it")
        return np.moveaxis(array, 0, 1), len(array)

    @staticmethod
    def _warn_of_clipping(array: Array, encoder: Encoder) -> None:
        limit = encoder.threshold * (1 + _MARGIN)
        outside = (array > limit) | (array < (-limit if encoder.signed else -_MARGIN * limit))
        if outside.any():
            high = encoder.threshold
            warn(
                f"{outside.mean():.2%} of the inputs lie outside of the calibration data's range "
                f"[{-high if encoder.signed else 0:g}, {high:g}], and are clipped to it"
            )

    def _warn_of_overflows(self, overflows: int, steps: int) -> None:
        if overflows:
            warn(
                Hint(
                    f"{overflows} currents wrapped or voltages saturated within {steps} steps, as they would on the "
                    "chip; compile with ",
                    Option("timesteps", steps),
                    " and typical calibration data",
                )
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the HDF5 file; it appears whole or not at all.

        Raises:
            InvalidModelError: the file cannot be written.
        """
        with replacing(path) as part:
            write(part, self._held, None if self.fall_back is None else self.fall_back._held)

    @property
    def _held(self) -> Held:
        facts = {name: getattr(self, name) for name in _FACTS}
        if self.encoder is not None:
            facts |= {f"encoder_{name}": value for name, value in attrs.asdict(self.encoder).items()}
        return Held(self.input_shape, self.layers, facts)

    @classmethod
    def load(cls, path: str | os.PathLike[str], max_bytes: int | None = None) -> NetxNetwork:
        """Read what :meth:`save` wrote, or lava-dl's own file, whose inputs are spikes.

        Args:
            path: of the file.
            max_bytes: what its arrays may take in memory; None for half a gigabyte more than the file takes.

        Raises:
            InvalidModelError: it is no such file, or holds what stock netx would not run as it stands.
        """
        held, fall_back = read(path_of(path), max_bytes)
        return cls._of(held, None if fall_back is None else cls._of(fall_back))

    @classmethod
    def _of(cls, held: Held, fall_back: NetxNetwork | None = None) -> NetxNetwork:
        facts = held.facts
        encoder = {name: facts[f"encoder_{name}"] for name in attrs.fields_dict(Encoder) if f"encoder_{name}" in facts}
        stated = {name: facts[name] for name in _FACTS}
        made = Encoder(**encoder) if encoder else None
        return cls(encoder=made, layers=tuple(held.layers), input_shape=held.input_shape, fall_back=fall_back, **stated)


#: the name that it had before it could be loaded from files of others
NetxModel = NetxNetwork
