"""Networks with branches, as people have them: small, with random weights, some of them drawn at random."""

import torch
from torch import nn
from torch.nn import functional as F

import nets


class Net(nn.Module):
    """Modules, and a function that wires them."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.parts = nn.ModuleDict(modules)
        self.wiring = forward

    def forward(self, x):
        return self.wiring(x, self.parts)


def residual():
    """A residual sum with an identity, then one with a strided 1x1 convolution, then global pooling."""

    def forward(x, m):
        x = F.relu(m.stem(x))
        x = F.relu(m.c2(F.relu(m.c1(x))) + x)
        x = F.relu(m.d2(F.relu(m.d1(x))) + m.short(x))
        return m.fc(x.mean((2, 3)))

    return Net(forward, stem=conv(2, 4), c1=conv(4, 4), c2=conv(4, 4), d1=conv(4, 6, stride=2), d2=conv(6, 6),
               short=nn.Conv2d(4, 6, 1, stride=2), fc=nn.Linear(6, 3)), (2, 8, 8)  # fmt: skip


def conv(*args, **options):
    return nn.Conv2d(*args, 3, **{"padding": 1, **options})


def long_skip():
    """A skip past two strides, with a kernel of its own."""

    def forward(x, m):
        x = F.relu(m.stem(x))
        y = F.relu(m.c2(F.relu(m.c1(x))))
        return m.fc(F.relu(m.c3(y) + m.short(x)).flatten(1))

    return Net(forward, stem=conv(1, 3), c1=conv(3, 4, stride=2), c2=conv(4, 4, stride=2), c3=conv(4, 5),
               short=nn.Conv2d(3, 5, 3, stride=4, padding=1), fc=nn.Linear(20, 3)), (1, 8, 8)  # fmt: skip


def valid_skip():
    """A skip past a convolution that shrinks the map."""

    def forward(x, m):
        y = F.relu(m.c2(F.relu(m.c1(x))))
        return m.fc(torch.cat([y, F.relu(m.short(x))], 1).flatten(1))

    return Net(forward, c1=nn.Conv2d(1, 3, 3), c2=nn.Conv2d(3, 3, (2, 3)), short=nn.Conv2d(1, 2, (4, 5)),
               fc=nn.Linear(5 * 5 * 4, 3)), (1, 8, 8)  # fmt: skip


def inception():
    """Branches of several depths, a max-pool and an average pool in two of them."""

    def forward(x, m):
        x = F.relu(m.stem(x))
        three = F.relu(m.b3(F.relu(m.b1(x))))
        pooled = F.relu(m.p1(F.max_pool2d(x, 3, 1, 1)))
        mean = F.relu(m.a1(F.avg_pool2d(x, 3, 1, 1)))
        y = torch.cat([F.relu(m.one(x)), three, pooled, mean], 1)
        return m.fc(F.relu(m.last(y)).mean((2, 3)))

    return Net(forward, stem=conv(2, 3), b1=nn.Conv2d(3, 2, 1), b3=conv(2, 3), p1=nn.Conv2d(3, 2, 1),
               a1=nn.Conv2d(3, 2, 1), one=nn.Conv2d(3, 2, 1), last=conv(9, 4),
               fc=nn.Linear(4, 3)), (2, 5, 6)  # fmt: skip


def lenet():
    """Max-pools of 2x2, and a leaky ReLU."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.LeakyReLU(0.2), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3),
    ), (1, 12, 12)  # fmt: skip


def uneven_pools():
    """Max-pools whose windows overlap, reach over the border, or leave cells out."""
    return nn.Sequential(
        conv(1, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(4 * 2 * 1, 3),
    ), (1, 9, 7)  # fmt: skip


def dense():
    """A vector's residual sums and concats."""

    def forward(x, m):
        x = F.relu(m.a(x))
        y = F.relu(m.b(x)) + x
        return m.c(torch.cat([F.leaky_relu(m.d(y), 0.1), x], 1))

    return Net(forward, a=nn.Linear(5, 6), b=nn.Linear(6, 6), d=nn.Linear(6, 4), c=nn.Linear(10, 3)), (5,)


def line():
    """Convolutions over one axis, a max-pool and a residual sum."""

    def forward(x, m):
        x = F.max_pool1d(F.relu(m.a(x)), 2)
        x = F.relu(m.b(x) + x)
        return m.fc(F.relu(m.c(x)).flatten(1))

    return Net(forward, a=nn.Conv1d(2, 4, 5, padding=2), b=nn.Conv1d(4, 4, 3, padding=1),
               c=nn.Conv1d(4, 3, 4, stride=2), fc=nn.Linear(15, 3)), (2, 24)  # fmt: skip


def scales():
    """A classifier that reads maps of several sizes."""

    def forward(x, m):
        a = F.relu(m.a(x))
        b = F.relu(m.b(a))
        c = F.relu(m.c(b))
        return m.fc(torch.cat([a.flatten(1), b.mean((2, 3)), c.flatten(1)], 1))

    return Net(forward, a=nn.Conv2d(1, 2, 3), b=conv(2, 3, stride=2), c=conv(3, 3, stride=2),
               fc=nn.Linear(72 + 3 + 12, 3)), (1, 8, 8)  # fmt: skip


def from_input():
    """The input itself is added, and its values are negative too."""

    def forward(x, m):
        return m.fc(F.relu(m.b(F.relu(m.a(x))) + x).flatten(1))

    return Net(forward, a=conv(2, 4), b=conv(4, 2), fc=nn.Linear(50, 3)), (2, 5, 5)


def unrolled():
    """What is no convolution between convolutions, and a skip past it."""

    def forward(x, m):
        x = F.relu(m.a(x))
        y = F.relu(m.b(F.pad(x, (1, 1, 1, 1), mode="reflect")))
        return m.fc(F.relu(m.c(y) + x).flatten(1))

    return Net(forward, a=conv(1, 3), b=nn.Conv2d(3, 3, 3), c=conv(3, 3), fc=nn.Linear(75, 3)), (1, 5, 5)


ZOO = {
    each.__name__: each
    for each in (residual, long_skip, valid_skip, inception, lenet, uneven_pools, dense, line, scales, from_input,
                 unrolled)
}  # fmt: skip


def build(name, low=0.0, count=12):
    """A network of the zoo, and inputs for it."""
    torch.manual_seed(sum(map(ord, name)))
    model, shape = ZOO[name]()
    return nets.randomize(model), torch.rand(count, *shape) * (1 - low) + low
