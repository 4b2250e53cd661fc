"""The netx target's artifact: what the file holds, and its simulation."""

from __future__ import annotations

import os
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.backends.netx.file import read, write
from spikec.backends.netx.sim import IntegerLayer, run_layers
from spikec.extend.backend import DataT
from spikec.interpreter.inputs import whole_number
from spikec.ir.errors import Hint, InvalidModelError, Option, shown, warn
from spikec.ir.files import path_of, replacing
from spikec.ir.op import tensor_cache
from spikec.ir.ops import IF
from spikec.ir.types import Array, ints, readonly

#: neurons of a layer, of all samples, that are run at a time: their potentials should fit into the cache
_CHUNK = 1 << 18
#: fields of a model that a file holds under their own names, in ``/spikec``
_FACTS = ("name", "reset", "constants", "pulses", "output_scale", "output_shape", "timesteps")
#: an input further outside of the calibrated range than this share of it is worth a warning
_MARGIN = 0.1


@attrs.frozen(eq=False)
class Encoder:
    """The host's part: it makes spikes of real numbers, by integrate-and-fire neurons with soft reset.

    Attributes:
        shape: of one input sample.
        threshold: a positive number, the largest input that is not clipped.
        v_init: where the neurons start.
        signed: channel c becomes two: 2c of x, 2c + 1 of -x.
    """

    shape: tuple[int, ...] = attrs.field(converter=ints)
    threshold: float
    v_init: float
    signed: bool

    def encode(self, x: Array, timesteps: int) -> Array:
        """Make bool spikes [T, B, C or 2C, ...] of numbers [B, *shape]."""
        z = torch.tensor(np.stack([x, -x], axis=2).reshape(len(x), -1, *self.shape[1:]) if self.signed else x)
        neuron = IF(np.full((1,) * (z.ndim - 1), self.threshold), v_init=np.asarray(self.v_init))
        spikes = np.zeros((timesteps, *z.shape), dtype=bool)
        with torch.no_grad(), tensor_cache():
            state = neuron.initial(z)
            for t in range(timesteps):
                state, fired = neuron.step(state, z)
                spikes[t] = fired.numpy()
        return spikes


@attrs.frozen(eq=False)
class Trace:
    """Everything that a simulation saw.

    Attributes:
        inputs: bool [T, B, ...], what the file's first layer is fed, always-on inputs included.
        spikes: bool [T, B, ...] of each hidden layer, by the neuron's name in the graph, relays left out.
        total: int32 [B, ...], the output layer's voltage after the last step: its summed current.
        overflows: how often a current wrapped or a voltage saturated, anywhere.
    """

    inputs: Array
    spikes: dict[str, Array]
    total: Array
    overflows: int


@attrs.frozen(eq=False)
class NetxModel:
    """An integer model that stock netx runs, and a simulation of it, integer for integer.

    Attributes:
        name: of the model.
        encoder: how inputs become spikes.
        layers: in order; the last one never fires, its voltage is the sum of its current.
        reset: of the hidden neurons, ``soft`` or ``hard``.
        constants: that many inputs behind the encoder's are on at every step; biases are their weights.
        pulses: that many channels behind the encoder's are on at step 0 only; they charge neurons to v_init.
        input_shape: of what the first layer is fed, in torch order.
        output_scale: the mean current of a step times this is the ANN's output.
        output_shape: of one sample.
        timesteps: the T that membranes were made for, or 0.
    """

    name: str
    encoder: Encoder
    layers: tuple[IntegerLayer, ...]
    reset: str
    constants: int
    pulses: int
    input_shape: tuple[int, ...]
    output_scale: Array = attrs.field(converter=readonly)
    output_shape: tuple[int, ...] = attrs.field(converter=ints)
    timesteps: int = 0

    def run(self, x: DataT, timesteps: int | None = None) -> DataT:
        """Simulate the model.

        Args:
            x: [B, ...] real inputs, a tensor or an array; constant over time.
            timesteps: number of steps T; None for the T that the model was compiled for.

        Returns:
            [B, ...] outputs in the ANN's units, the mean over T; float64, of the kind that x is.

        Raises:
            InvalidModelError: x does not fit, or there is no T.
        """
        array = self._checked(x)
        steps = self._steps(timesteps)
        width = max(int(np.prod(layer.shape)) for layer in self.layers)
        size = max(1, _CHUNK // width)
        parts = [self._simulate(array[i : i + size], steps) for i in range(0, len(array), size)]
        self._warn_of_overflows(sum(part.overflows for part in parts), steps)
        result: Array = np.concatenate([part.total for part in parts]) / steps * self.output_scale
        if isinstance(x, Tensor):
            return torch.from_numpy(result).to(x.device)
        return result

    def simulate(self, x: Tensor | Array, timesteps: int | None = None) -> Trace:
        """Simulate as :meth:`run` does, all of the batch at once, and keep every spike."""
        steps = self._steps(timesteps)
        trace = self._simulate(self._checked(x), steps)
        self._warn_of_overflows(trace.overflows, steps)
        return trace

    def encode(self, x: Tensor | Array, timesteps: int | None = None) -> Array:
        """Make the spikes that the first layer is fed, bool [T, B, *input_shape], of inputs [B, ...]."""
        return self._encoded(self._checked(x), self._steps(timesteps))

    def _encoded(self, x: Array, steps: int) -> Array:
        more = self.constants + self.pulses
        spikes = self.encoder.encode(x, steps)
        spikes = spikes.reshape(*spikes.shape[:2], self.input_shape[0] - more, *self.input_shape[1:])
        on = np.ones((*spikes.shape[:2], more, *self.input_shape[1:]), dtype=bool)
        on[1:, :, self.constants :] = False
        return np.concatenate([spikes, on], axis=2)

    def _simulate(self, x: Array, steps: int) -> Trace:
        spikes = self._encoded(x, steps)
        responses = run_layers(self.layers, spikes)
        hidden = {
            layer.name: response.spikes[:, :, : layer.shape[0] - layer.relays]
            for layer, response in zip(self.layers[:-1], responses[:-1], strict=True)
        }
        total = responses[-1].voltage.reshape(len(x), *self.output_shape)
        return Trace(spikes, hidden, total, sum(response.overflows for response in responses))

    def _checked(self, x: Any) -> Array:
        try:  # complex numbers are of another kind, and so are texts and objects
            given = np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x)
            array = given.astype(np.float64, casting="same_kind")
        except (TypeError, ValueError, RuntimeError):
            raise InvalidModelError(f"the input is {shown(x)}", hint="give a tensor or array of real numbers") from None
        if array.shape[1:] != self.encoder.shape or not len(array):
            wanted = ", ".join(map(str, ("B", *self.encoder.shape)))
            raise InvalidModelError(f"the input is [{wanted}], got {list(array.shape)}", hint="give a batch first")
        if not np.isfinite(array).all():
            raise InvalidModelError("an input holds NaN or infinity", hint="mend the data, or leave such samples out")
        limit = self.encoder.threshold * (1 + _MARGIN)
        outside = (array > limit) | (array < (-limit if self.encoder.signed else -_MARGIN * limit))
        if outside.any():
            high = self.encoder.threshold
            warn(
                f"{outside.mean():.2%} of the inputs lie outside of the calibration data's range "
                f"[{-high if self.encoder.signed else 0:g}, {high:g}], and are clipped to it"
            )
        return array

    def _steps(self, timesteps: int | None) -> int:
        return whole_number("timesteps", self.timesteps if timesteps is None else timesteps, 1)

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
        facts = {name: getattr(self, name) for name in _FACTS}
        facts |= {f"encoder_{name}": value for name, value in attrs.asdict(self.encoder).items()}
        with replacing(path) as part:
            write(part, self.input_shape, self.layers, facts)

    @classmethod
    def load(cls, path: str | os.PathLike[str], max_bytes: int | None = None) -> NetxModel:
        """Read what :meth:`save` wrote.

        Args:
            path: of the file.
            max_bytes: what its arrays may take in memory; None for half a gigabyte more than the file takes.

        Raises:
            InvalidModelError: it is no such file, or holds what stock netx would not run as it stands.
        """
        input_shape, layers, facts = read(path_of(path), max_bytes)
        encoder = Encoder(**{name: facts[f"encoder_{name}"] for name in attrs.fields_dict(Encoder)})
        stated = {name: facts[name] for name in _FACTS}
        return cls(encoder=encoder, layers=tuple(layers), input_shape=input_shape, **stated)
