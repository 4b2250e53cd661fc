"""Small trained-looking models that the tests share: seeded, evaluation mode, no statistic at its default.

``build(name)`` gives a model, ``batch(name)`` an input for it (a tuple where there are several), both
float32 unless told otherwise.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

torch.set_num_threads(1)


class Block(nn.Module):
    """Two convolutions and a skip; an identity skip where the shapes allow it."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """Three residual sums, two of them with identity skips."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(Block(6, 6), Block(6, 6))
        self.layer2 = nn.Sequential(Block(6, 8, stride=2))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class ConcatNet(nn.Module):
    """Two branches side by side, used by a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(2, 3, 3, padding=1)
        self.right = nn.Conv2d(2, 4, (1, 3), padding=(0, 1))
        self.mix = nn.Conv2d(7, 5, 3)
        self.fc = nn.Linear(5 * 4 * 6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], dim=1)
        x = F.relu(self.mix(x))
        return self.fc(x.view(x.size(0), -1))


class Functional(nn.Module):
    """One ReLU and one pool called again and again, everything else by function and method."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.act = nn.ReLU()
        self.fc1 = nn.Linear(4 * 2 * 3, 6)
        self.fc2 = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(self.act(self.conv1(x)), 2)
        x = F.avg_pool2d(self.act(self.conv2(x)), (2, 2))
        x = torch.flatten(x, start_dim=1)
        return self.fc2(self.fc1(F.dropout(x, 0.5, self.training)).relu())


class TwoInputs(nn.Module):
    """Two inputs, summed behind their own layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(5, 6)
        self.b = nn.Linear(3, 6)
        self.fc = nn.Linear(6, 4)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.fc(torch.relu(self.a(left)) + torch.relu(self.b(right)))


class TwoOutputs(nn.Module):
    """A dict of two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.klass = nn.Linear(8, 4)
        self.value = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.body(x)
        return {"klass": self.klass(x), "value": self.value(x)}


def mlp() -> nn.Module:
    """7-9-8-4."""
    return nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 4))


def mlp_batchnorm() -> nn.Module:
    """Batch norm behind a Linear, and behind a ReLU where it must become an affine."""
    return nn.Sequential(
        nn.Linear(7, 9),
        nn.BatchNorm1d(9),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(9, 8),
        nn.ReLU(),
        nn.BatchNorm1d(8),
        nn.Linear(8, 4),
    )


def cnn(width: int = 8, classes: int = 10, size: int = 28) -> nn.Module:
    """The tutorial CNN on 1 x size x size images."""
    layers: list[nn.Module] = []
    channels = 1
    for _ in range(3):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.AvgPool2d(2, 2)]
        channels = width
    side = size // 2 // 2 // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * side * side, classes))


def grouped() -> nn.Module:
    """Non-square kernels, groups, strides, dilation, a map that is not square."""
    return nn.Sequential(
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, (1, 3), padding=(0, 2), dilation=(1, 2), groups=6),
        nn.ReLU6(),
        nn.AvgPool2d((1, 2), (1, 2)),
        nn.Flatten(),
        nn.Linear(6 * 4 * 4, 5),
    )


def conv1d() -> nn.Module:
    """One spatial axis."""
    return nn.Sequential(
        nn.Conv1d(3, 5, 3, padding=1), nn.BatchNorm1d(5), nn.ReLU(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(20, 4)
    )


def conv3d() -> nn.Module:
    """Three spatial axes."""
    return nn.Sequential(
        nn.Conv3d(2, 4, (3, 2, 1), padding=(1, 0, 0)),
        nn.BatchNorm3d(4),
        nn.ReLU(),
        nn.AvgPool3d((2, 1, 2)),
        nn.Flatten(),
        nn.Linear(4 * 2 * 4 * 3, 4),
    )


def maxpool() -> nn.Module:
    """Max-pool behind and in front of ReLU."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3, padding=1),
        nn.MaxPool2d((2, 1)),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * 2 * 4, 3),
    )


def strided() -> nn.Module:
    """Convolutions that shrink the map, no pool, no batch norm; every layer with a bias."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 1 * 2, 3),
    )


def smooth() -> nn.Module:
    """Activations that become sums of ramps, on maps and on vectors."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.SiLU(),
        nn.Conv2d(4, 5, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(5 * 4 * 4, 8),
        nn.Tanh(),
        nn.Linear(8, 3),
    )


#: builder and the shapes of a sample, one an input
ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "mlp": (mlp, ((7,),)),
    "mlp_batchnorm": (mlp_batchnorm, ((7,),)),
    "cnn": (cnn, ((1, 28, 28),)),
    "grouped": (grouped, ((4, 7, 9),)),
    "conv1d": (conv1d, ((3, 8),)),
    "conv3d": (conv3d, ((2, 4, 5, 6),)),
    "strided": (strided, ((2, 8, 10),)),
    "maxpool": (maxpool, ((2, 8, 8),)),
    "resnet": (ResNet, ((3, 8, 10),)),
    "concat": (ConcatNet, ((2, 6, 8),)),
    "functional": (Functional, ((2, 8, 12),)),
    "two_inputs": (TwoInputs, ((5,), (3,))),
    "two_outputs": (TwoOutputs, ((6,),)),
    "smooth": (smooth, ((2, 8, 8),)),
}


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms with statistics and affines far from their defaults, biases away from zero; eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                if module.running_mean is not None and module.running_var is not None:
                    module.running_mean.normal_(0, 0.3, generator=generator)
                    module.running_var.uniform_(0.5, 2, generator=generator)
                if module.affine:
                    module.weight.uniform_(0.5, 1.5, generator=generator)
                    module.bias.normal_(0, 0.3, generator=generator)
            elif isinstance(getattr(module, "bias", None), Tensor):
                module.bias.normal_(0, 0.2, generator=generator)
    return model.eval()


def build(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A model of the zoo; the same weights for the same seed, whatever ran before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return randomize(ZOO[name][0](), seed).to(dtype)


def batch(name: str, count: int = 4, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor | tuple[Tensor, ...]:
    """Uniform inputs in [0, 1) for that model."""
    generator = torch.Generator().manual_seed(seed)
    xs = [torch.rand((count, *shape), generator=generator, dtype=torch.float64).to(dtype) for shape in ZOO[name][1]]
    return xs[0] if len(xs) == 1 else tuple(xs)
