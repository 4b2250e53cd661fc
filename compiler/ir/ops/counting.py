"""Max-pooling of spike trains."""

import attrs
import torch
from torch import Tensor
from typing_extensions import Self

from spikec.ir.errors import TypeMismatchError
from spikec.ir.op import Role, StatefulOp
from spikec.ir.ops.activation import MaxPool
from spikec.ir.types import Array, Rate, Type, channel_scale, on_axis


@attrs.frozen(eq=False)
class CountingMaxPool(StatefulOp):
    """Gives what the largest count in each window rises by::

        n(t) = n(t-1) + x(t)                n(-1) = 0
        y(t) = max n(t) - max n(t-1)        over the window

    The rate of the result is the largest of the window's rates at every t ("lateral inhibition pooling", Li and Zeng
    2022, eq. 14), where a maximum of the spikes themselves would not converge to it. Of a neuron's spikes it gives
    spikes.

    Attributes:
        pool: the windows.
    """

    kind = "countingmaxpool"
    role = Role.LINEAR
    channelwise = True

    pool: MaxPool

    def infer(self, *operands: Type) -> Type:
        """Keep the scale of each channel, and refuse one that varies within a channel."""
        (x,) = operands
        if not isinstance(x.encoding, Rate):
            raise TypeMismatchError("a counting max-pool of a real signal", hint="an ANN graph has MaxPool")
        shape = self.pool.shape_of(x)
        return Type(shape, x.dtype, Rate(on_axis(channel_scale(x, 0, self.kind), len(shape), 0)))

    def initial(self, *xs: Tensor) -> Tensor:
        """Return counts of 0."""
        return torch.zeros_like(xs[0])

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Add to the counts, and return what the largest in each window rises by."""
        counts = state + xs[0]
        return counts, self.pool.eval(counts) - self.pool.eval(state)

    def divided(self, factor: Array) -> Self:
        """Return the op itself: what it gives is in the units of what it takes."""
        return self
