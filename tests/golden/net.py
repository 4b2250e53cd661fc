"""The two nets behind the golden files; their line numbers stand in the files, so a line added here shows there."""

import torch
from torch import nn
from torch.nn import functional as F


def weights(*shape):
    """Multiples of 1/8 from -5/8 to 5/8: the same on every machine, and no sum of them is rounded."""
    count = torch.Size(shape).numel()
    return ((torch.arange(count) * 7 % 11 - 5) / 8).reshape(shape)


class Net(nn.Module):
    """A bit of everything that leaves a trace: a fold, a pool, a skip, a layer that does nothing, a head."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.drop = nn.Dropout()
        self.mix = nn.Conv2d(4, 4, 1)
        self.pool = nn.AvgPool2d(2)
        self.fc = nn.Linear(36, 3)
        for parameter in self.parameters():
            parameter.data = weights(*parameter.shape)

    def forward(self, x):
        x = F.relu(self.bn(self.conv(x)))
        x = self.drop(x + F.relu(self.mix(x)))
        return F.softmax(self.fc(self.pool(x).flatten(1)), dim=1)


class Refused(nn.Module):
    """Three layers that cannot be read, one behind another of them."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.act = nn.Hardshrink()
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        x = self.act(self.norm(x))
        return torch.cdist(self.fc(x), self.fc(x))
