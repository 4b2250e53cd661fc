"""What ``spikec demo`` says at its end, and the page of its folder: each file, and what to do with it next."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs

from spikec.extend.passbase import Note
from spikec.ir.files import write_text
from spikec.ir.templates import render

#: what the names of its curves stand for
THRESHOLDS = (
    "max, 99.9 %: the largest value, or that percentile, of each layer; 1/3: a third of the largest; "
    "default: what spikec chooses where you say nothing"
)


@attrs.frozen
class Export:
    """An exported file, and how the network in it does when it is read back and run.

    Attributes:
        target: what it was compiled for.
        path: of the file.
        accuracy: the share of ``count`` held-out digits that it gets right.
        agreement: the share of them on which it says what the ANN says.
        count: of the digits.
        notes: what the compiler says about it.
    """

    target: str
    path: Path
    accuracy: float
    agreement: float
    count: int
    notes: tuple[Note, ...]


@attrs.frozen
class File:
    """A file of the demo.

    Attributes:
        name: in the demo's folder.
        about: what it is.
        next: lines to copy, which are commands or Python.
    """

    name: str
    about: str
    next: tuple[str, ...]


def files(steps: int) -> tuple[File, ...]:
    """Return the files that the demo leaves beside its page, with what to do with each."""
    run = f"digits.npz --timesteps {steps}"
    return (
        File("accuracy.png", "accuracy over time-steps, by how thresholds are chosen", ("look at it",)),
        File("digits.npz", "100 held-out digits x, with labels", ("give it to the commands below",)),
        File(
            "mnist.pt",
            "the spiking network as a torch module, to simulate and to fine-tune",
            (f"spikec evaluate mnist.pt {run}", 'torch.load("mnist.pt", weights_only=False)'),
        ),
        File(
            "mnist.nir",
            "the network as a NIR graph, for other simulators",
            (
                f"spikec evaluate mnist.nir {run}",
                'spikingjelly: import_from_nir("mnist.nir", dt=1.0), and v_reset = None on its neurons',
            ),
        ),
        File(
            "mnist.net",
            "the network in integers, which lava-dl's netx loads for Loihi 2",
            (
                "spikec inspect mnist.net",
                f"spikec evaluate mnist.net {run}",
                'in lava: spikec.backends.netx.run_in_lava("mnist.net", images, timesteps)',
            ),
        ),
        File(
            "passes",
            "the graph behind every pass, for each target",
            ("open passes/nir/index.html", "diff passes/nir/00-import.txt passes/nir/*-fold-batchnorm.txt"),
        ),
    )


def why_lower(exports: Sequence[Export]) -> str:
    """Say in words why the network for Loihi 2 is less accurate than the one for simulators, where it is."""
    by_target = {each.target: each for each in exports}
    nir, netx = by_target["nir"], by_target["netx"]
    if netx.accuracy >= nir.accuracy:
        return "Its weights of 8 bits cost the network for netx nothing here."
    hard = any("hard reset" in note.reason for note in netx.notes)
    reset = (
        "Its neurons are reset to zero when they fire, because netx has no other reset for large convolutions: what a "
        "potential has above its threshold is lost, where NIR's neurons keep it. "
    )
    return (
        f"Why mnist.net is right {100 * (nir.accuracy - netx.accuracy):.1f} % less often than mnist.nir: "
        f"{reset if hard else ''}Its weights have 8 bits. Thresholds and biases were tuned to make up for that; "
        "more time-steps help further."
    )


def closing_words(out: Path, steps: int) -> list[str]:
    """Return the lines that the demo ends with: each file, what it is, and what to do with it."""
    lines = [f"The files are in {out.resolve()}. Next:", "", "  index.html    all of this, to open in a browser"]
    for file in files(steps):
        lines.append(f"  {file.name:<13} {file.about}")
        lines += [f"                  {line}" for line in file.next]
    lines += ["", "Your own model: spikec check net.py:model --target nir --example 1,28,28"]
    if shutil.which("spikec") is None:
        lines += ["", f"Your shell does not find spikec by its name: write {sys.executable} -m spikec for it."]
    return lines


def write_page(
    out: Path, exports: Sequence[Export], *, ann: float, trained: int, steps: int, targets: Sequence[str]
) -> None:
    """Write ``index.html``.

    Args:
        out: the demo's folder.
        exports: the files that were run.
        ann: the share of the digits that the ANN gets right.
        trained: how many digits it was trained on.
        steps: that the files were run for.
        targets: those whose passes were dumped.
    """
    text = render(
        "demo.html.j2",
        trained=f"{trained:,}",
        ann=f"{100 * ann:.1f}",
        count=exports[0].count,
        files=files(steps),
        steps=steps,
        exports=exports,
        why=why_lower(exports),
        thresholds=THRESHOLDS,
        targets=targets,
    )
    write_text(out / "index.html", text)
