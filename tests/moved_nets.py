"""Networks that bring the batch behind another axis, or join it to one, and back: inputs are [B, 5, 6]."""

import torch
from torch import nn
from torch.nn import functional as F


def encoder(batch_first, layers=1, norm_first=False):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first, norm_first=norm_first)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False) if layers > 1 else layer


class Attention(nn.Module):
    """An attention whose own forward has the sequence first."""

    def __init__(self, need_weights=False):
        super().__init__()
        self.need_weights = need_weights
        self.embed, self.out = nn.Linear(6, 8), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        h = self.embed(x)
        return self.out((h + self.attention(h, h, h, need_weights=self.need_weights)[0]).mean(1))


class SequenceFirst(nn.Module):
    """Layers that take the sequence before the samples."""

    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Linear(6, 8), nn.Linear(8, 3)
        self.attention, self.encoder = nn.MultiheadAttention(8, 2), encoder(False, 2, norm_first=True)

    def forward(self, x):
        h = self.embed(x).transpose(0, 1)
        h = h + self.attention(h, h, h, need_weights=False)[0]
        return self.out(self.encoder(h).mean(0))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out, self.encoder = nn.Linear(6, 8), nn.Linear(8, 3), encoder(True)

    def forward(self, x):
        return self.out(self.encoder(self.embed(x)).mean(1))


class Joined(nn.Module):
    """Cells of all samples in one row, as code that has layers for matrices only writes it."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.out = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        batch, length, width = x.shape
        y = self.norm(torch.relu(self.embed(x.reshape(-1, width))))
        return self.out(y).view(batch, length, -1).amax(1)


class Shifted(nn.Module):
    """Parts of a sequence in front of the samples, a constant beside each of them."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.out = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)
        self.shift = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x):
        h = self.norm(self.embed(x)).transpose(0, 1)
        q = F.gelu(h) * 2 + self.shift
        q = q[1:] - h[:-1]
        return self.out(torch.cat([q, h], 0)[-1] + q.sum(0))


NETS = {
    "attention": Attention,
    "attention, with weights": lambda: Attention(need_weights=True),
    "sequence first": SequenceFirst,
    "encoder": Encoder,
    "joined": Joined,
    "shifted": Shifted,
}


def build(name):
    torch.manual_seed(0)
    return NETS[name]().eval()
