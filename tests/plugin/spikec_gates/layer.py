"""A torch layer that needs no spikec."""

import torch
from torch import Tensor, nn


class Gate(nn.Module):
    """``y = mask * x`` switches cells of a sample on (1) and off (0)."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = nn.Parameter(mask.to(torch.float32), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask
