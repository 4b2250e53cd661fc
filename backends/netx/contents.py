"""What a netx file holds, its layers apart: how inputs become spikes, and what the output stands for."""

import attrs
import numpy as np
import torch

from spikec.backends.netx.sim import IntegerLayer
from spikec.ir.op import tensor_cache
from spikec.ir.ops import IF
from spikec.ir.types import Array, ints, readonly


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
        """Make bool spikes [T, B, C or 2C, ...] of numbers [B, *shape], or [B, T, *shape] where they change."""
        over_time = x.ndim > 1 + len(self.shape)
        if self.signed:
            axis = 2 + over_time
            x = np.stack([x, -x], axis=axis).reshape(*x.shape[: axis - 1], -1, *self.shape[1:])
        steps = [torch.tensor(x[:, t] if over_time else x) for t in range(timesteps if over_time else 1)]
        neuron = IF(np.full((1,) * len(steps[0].shape[1:]), self.threshold), v_init=np.asarray(self.v_init))
        spikes = np.zeros((timesteps, *steps[0].shape), dtype=bool)
        with torch.no_grad(), tensor_cache():
            state = neuron.initial(steps[0])
            for t in range(timesteps):
                state, fired = neuron.step(state, steps[t % len(steps)])
                spikes[t] = fired.numpy()
        return spikes


@attrs.frozen(eq=False, repr=False)
class Contents:
    """What a netx file holds: an integer network, and what the host must know to feed and read it.

    Attributes:
        name: of the model.
        encoder: how inputs become spikes; None where they are spikes.
        layers: in order; the output is the spikes of the last one, or the current of one that never fires, which its
            voltage sums.
        reset: ``soft`` if any hidden neurons have that, else ``hard``.
        constants: that many inputs behind the encoder's are on at every step; biases are their weights.
        pulses: that many channels behind the encoder's are on at step 0 only; they charge neurons to v_init.
        input_shape: of what the first layer is fed, in torch order.
        output_scale: the mean output of a step times this is the ANN's output.
        output_shape: of one sample.
        timesteps: the T that membranes were made for, or 0.
    """

    name: str
    encoder: Encoder | None
    layers: tuple[IntegerLayer, ...]
    reset: str
    constants: int
    pulses: int
    input_shape: tuple[int, ...]
    output_scale: Array = attrs.field(converter=readonly)
    output_shape: tuple[int, ...] = attrs.field(converter=ints)
    timesteps: int = 0

    @property
    def fed_shape(self) -> tuple[int, ...]:
        """The shape of a sample's spikes, always-on inputs left out."""
        return (self.input_shape[0] - self.constants - self.pulses, *self.input_shape[1:])
