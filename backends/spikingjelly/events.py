"""A linear layer that is driven by events: it adds up the weights of what fired, where few did."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikec.backends.spikingjelly.modules import is_free

#: share of the operands that fire up to which events win; measured with benchmarks/speed.py, which puts it near 0.3
SPARSE = 0.2
#: multiply-accumulates of a call below which they do not win at any rate
LEAST = 2**20


class EventLinear(nn.Linear):
    """A torch ``Linear`` that adds up columns of its weight where at most ``SPARSE`` of its operands are not 0.

    The sums are rounded in another order then. Where a gradient is asked for, or on a GPU, it is torch's layer.
    """

    @classmethod
    def of(cls, linear: nn.Linear) -> "EventLinear":
        """Return the layer with the same parameters."""
        made = cls(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        made.weight, made.bias = nn.Parameter(linear.weight.detach().t().contiguous().t()), linear.bias
        return made

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x W^T + b`` of [B, in]."""
        if not is_free() or x.device.type != "cpu" or x.ndim != 2 or x.dtype != self.weight.dtype:
            return super().forward(x)
        if x.numel() * self.out_features < LEAST:
            return super().forward(x)
        most = SPARSE * x.numel()
        if float(x.sum()) > most:  # of spikes, which are at least 1 each, this is no less than their number
            return super().forward(x)
        samples, fired = x.nonzero(as_tuple=True)
        if len(fired) > most:
            return super().forward(x)
        starts = torch.searchsorted(samples, torch.arange(len(x)))
        columns = self.weight.t()  # contiguous, as the layer was made
        y = F.embedding_bag(fired, columns, starts, mode="sum", per_sample_weights=x[samples, fired])
        return y if self.bias is None else y.add_(self.bias)
