"""Networks that bring the batch behind another axis, or join it to one, and back: inputs are [B, 5, 6]."""

import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    """Calls a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


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


class Frames(nn.Module):
    """Convolutions and pools on the frames of a film, all frames of all samples in one batch."""

    def __init__(self):
        super().__init__()
        self.conv, self.deep = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, (3, 1), padding=(1, 0), groups=2)
        self.norm, self.slope, self.back = nn.BatchNorm2d(4), nn.PReLU(4), nn.ConvTranspose2d(4, 3, 2, 2)
        self.line, self.head, self.out = nn.Conv1d(3, 5, 3), nn.BatchNorm1d(5), nn.Linear(5, 3)
        for norm in (self.norm, self.head):
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.running_mean)

    def forward(self, x):
        batch, frames = x.shape[:2]
        y = x.view(batch, frames, 1, 2, 3).flatten(0, 1)
        y = F.relu(self.norm(self.conv(y)))
        y = self.slope(y + self.deep(y))
        y = F.max_pool2d(F.avg_pool2d(self.back(y), (1, 2)), (2, 1))
        y = F.adaptive_avg_pool1d(self.line(y.flatten(2)), 1).flatten(1)
        return self.out(F.relu(self.head(y))).view(batch, frames, -1).mean(1)


class Choosing(nn.Module):
    """What comparisons choose, in front of the batch and joined to it."""

    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = self.embed(x).transpose(0, 1)
        h = torch.where(h > 0, h, 0.1 * h) + h * (h >= 0.2) - h.masked_fill(~(h < 0.2), 0.2)
        y = h.transpose(0, 1).flatten(0, 1)
        y = torch.where(y <= 0, 0.5, y + 0.5)
        return self.out(y).unflatten(0, (-1, 5)).sum(1)


class Windows(nn.Module):
    """Attention in windows that are joined to the batch; what all windows of a sample share is repeated for each."""

    def __init__(self):
        super().__init__()
        self.embed, self.shared, self.out = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.bias, self.same = nn.Parameter(torch.randn(2, 2, 2)), nn.Identity()

    def forward(self, x):
        batch = x.shape[0]
        h = F.pad(self.embed(x), (0, 0, 0, 1))
        w = self.same(F.gelu(h.reshape(-1, 2, 8)))
        shared = self.shared(h.mean(1)).repeat_interleave(w.shape[0] // batch, 0)
        q, k, v = (each.unflatten(-1, (2, 4)).transpose(1, 2) for each in (w, w + shared[:, None], F.pad(w, (1, -1))))
        y = F.scaled_dot_product_attention(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, self.bias)
        y = y.transpose(1, 2).flatten(2).reshape_as(w) + w.mean(1, keepdim=True).expand(-1, 2, -1)
        return self.out(y.reshape(batch, 6, 8)).mean(1)


NETS = {
    "attention": Attention,
    "attention, with weights": lambda: Attention(need_weights=True),
    "sequence first": SequenceFirst,
    "encoder": Encoder,
    "joined": Joined,
    "shifted": Shifted,
    "frames": Frames,
    "choosing": Choosing,
    "windows": Windows,
}


def build(name):
    torch.manual_seed(0)
    return NETS[name]().eval()
