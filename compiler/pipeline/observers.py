"""What may look at a step of the pipeline: numeric checks and dumps."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import attrs
from torch import Tensor

from spikec.extend.passbase import Note
from spikec.interpreter.contract import check_exact, check_rates, check_shapes
from spikec.interpreter.parts import check_parts
from spikec.interpreter.probe import affordable, in_own_dtype, within_budget
from spikec.interpreter.results import EXACT, difference, outputs
from spikec.ir.errors import CompileError, VerificationError
from spikec.ir.files import write_text
from spikec.ir.graph import Graph
from spikec.ir.ledger import Ledger
from spikec.ir.printer import diff
from spikec.pipeline.manager import Observer, StageRecord, Step
from spikec.pipeline.page import Page

Verify = Literal["each", "end", "off"]


class Numbers(Observer):
    """Holds passes to their contracts on a probe batch.

    Args:
        start: the imported graph.
        xs: the probe, see :func:`spikec.interpreter.probe.probe`.
        each: check every exact pass by itself, whatever it costs, or each run of exact passes as a whole.
        timesteps: the T at which inexact passes are measured: ``rate`` against the ANN, others against the
            graph before; None for as many as a graph of its size affords.
    """

    looks_at: ClassVar[str] = "numbers"

    def __init__(self, start: Graph, xs: Sequence[Tensor], *, each: bool, timesteps: int | None) -> None:
        self.anchor = start
        self.ann: Graph | None = start  # None once a graph was too large to be measured: so are those to come
        self.xs = xs
        self.each = each
        self._since = "" if each else " up to here"
        self._unchecked: list[Step] = []
        self.timesteps = timesteps
        self._ran: list[tuple[Graph, int, list[Tensor]]] = []

    def __call__(self, step: Step) -> str | None:
        """The check or the measurement of one step."""
        found: list[str] = []
        if step.changes:
            check_shapes(step.after, step.before)
            self._unchecked.append(step)
        if step.by.contract == "exact":
            if self.each or _ends_run(step):
                found += self._exact(step.after)
        elif step.changes:
            found += self._exact(step.before)
            self.anchor = step.after
            self._unchecked = []
            if step.by.contract == "rate":
                check_parts(step.before, step.after, self.xs, same_neurons=False)
                check_rates(step.after)
            found.append(f"{step.by.contract}: {self._measured(step)}")
        if self.ann is not None and not step.after.is_spiking:
            self.ann = step.after
        return "; ".join(found) or None

    def _blame(self) -> None:
        """Check the exact passes of a run one by one: the error names the one that fails, and is about it."""
        for step in self._unchecked:
            if step.by.contract == "exact":
                try:
                    check_exact(step.before, step.after, self.xs, whole=self.each)
                except VerificationError as error:
                    by = f"pass {step.by}: "
                    blames = VerificationError([attrs.evolve(p, message=by + p.message) for p in error.problems])
                    blames.step = step
                    raise blames from None

    def _measured(self, step: Step) -> str:
        """How far an inexact pass has moved the output; what was run for the last one is not run again."""
        runs = affordable(step.after)
        chosen, within = within_budget(runs, self.xs)
        xs, steps = in_own_dtype(step.after, chosen), self.timesteps or within
        if not self.each and runs < len(xs[0]) * (steps if step.after.is_spiking else 1):
            self.ann = None
        if self.ann is None:
            return "not measured, which would cost more than checks may: verify='each' does it"
        against = self.ann if step.by.contract == "rate" else step.before
        ran: list[tuple[Graph, int, list[Tensor]]] = []
        for graph in (against, step.after, self.ann):
            alike = (out for other, t, out in self._ran if t == steps and other.same_as(graph))
            known = next((out for out in alike if len(out[0]) == len(xs[0])), None)
            ran.append((graph, steps, outputs(graph, xs, steps) if known is None else known))
        self._ran = ran
        before, after, ann = (out for _, _, out in ran)
        return f"{difference(before, after, ann):.1e} of the ANN's spread at T={steps}"

    def _exact(self, last: Graph) -> list[str]:
        """Check the run of exact passes that ends here."""
        if last.same_as(self.anchor):
            return []
        try:
            found = check_exact(self.anchor, last, self.xs, whole=self.each)
        except VerificationError:
            if not self.each:
                self._blame()
            raise
        self._unchecked = []
        self.anchor = last
        result = "not checked, the net stays silent" if found is None else f"{found:.1e}"
        if found is not None and found > EXACT:
            result += ", as a spike at a tie is earlier or later: a potential that is 1e-9 from its threshold"
        return [f"exact{self._since}: {result}"]


def _ends_run(step: Step) -> bool:
    """Whether what exact passes have done is to be checked behind this one.

    An approximate pass over an ANN has them checked itself if it changes something, which it does in few networks.
    """
    if step.next is None or step.next.contract == "exact":
        return step.next is None
    return step.next.contract != "approximate" or step.after.is_spiking


class Dump(Observer):
    """Writes ``NN-pass.txt`` and ``NN-pass.diff`` for each pass that changed something, and ``index.tsv``.

    So it does for a pass that failed, whose row says ``failed`` in place of the number of changes, and why.

    Args:
        folder: made if it is missing; dumps of an earlier run in it are overwritten.
        start: the imported graph.

    Attributes:
        stages: the graph after the import and after every pass, that which failed included.
    """

    looks_at: ClassVar[str] = "dump"
    _HEAD = ("pass", "changes", "ops before", "ops after", "seconds", "check", "not done, because")

    def __init__(self, folder: Path, start: Graph) -> None:
        self.folder = folder
        make_folder(folder)
        self._remove_earlier()
        write_text(folder / "00-import.txt", str(start))
        self.rows: list[tuple[str, ...]] = [("00-import", "", "", str(len(start)), "", "", "")]
        self.stages = [StageRecord("import", start)]
        self._write()

    def __call__(self, step: Step) -> None:
        """Write one step."""
        self._add(step, str(step.after) if step.changes else None, str(step.changes), step.check)

    def failed(self, step: Step, error: Exception) -> None:
        """Write the graph as the pass left it, which may be one without types, or with a cycle.

        What passes behind it have written is removed: they went on from a graph that is wrong.
        """
        self._remove(row[0] for row in self.rows[step.index :])
        del self.rows[step.index :], self.stages[step.index :]
        self._add(step, str(step.after), "failed", f"{type(error).__name__}: {error}")

    def _add(self, step: Step, text: str | None, changes: str, check: str) -> None:
        stem = f"{step.index:02d}-{step.by.name}"
        if text is not None:
            write_text(self.folder / f"{stem}.txt", text)
            write_text(self.folder / f"{stem}.diff", diff(str(step.before), text))
        why = " | ".join(f"%{note.node}: {note.reason}" if note.node else note.reason for note in step.notes)
        sizes = str(len(step.before)), str(len(step.after))
        self.rows.append((stem, changes, *sizes, f"{step.seconds:.3f}", check, why))
        failed = changes == "failed"
        self.stages.append(StageRecord(step.by.name, step.after, step.changes, step.seconds, check, step.by, failed))
        self._write()

    def _remove_earlier(self) -> None:
        """Remove the dumps that an index.tsv of ours lists, and nothing else."""
        index = self.folder / "index.tsv"
        lines = index.read_text(encoding="utf-8", errors="replace").splitlines() if index.is_file() else []
        if lines and lines[0].split("\t") == list(self._HEAD):
            stems = (line.split("\t")[0] for line in lines[1:])
            self._remove(stem for stem in stems if stem == Path(stem).name)  # and nothing in another folder

    def _remove(self, stems: Iterable[str]) -> None:
        for stem in stems:
            for suffix in ("txt", "diff"):
                (self.folder / f"{stem}.{suffix}").unlink(missing_ok=True)

    def _write(self) -> None:
        lines = ["\t".join(row).replace("\n", " ") for row in (self._HEAD, *self.rows)]
        write_text(self.folder / "index.tsv", "\n".join([*lines, ""]))


def finish_dump(
    folder: Path,
    title: str,
    stages: Sequence[StageRecord],
    notes: Sequence[Note],
    ledger: Ledger | None,
    error: str = "",
) -> None:
    """Write ``ledger.txt`` beside the dumps, and the page of all: ``index.html``, and the same as ``index.json``."""
    make_folder(folder)
    if ledger is not None:
        write_text(folder / "ledger.txt", f"{ledger}\n")
    if stages:
        Page(title, stages, notes, ledger, error).write(folder)


def make_folder(folder: Path, hint: str = "") -> None:
    """Make a folder with those above it, where it is missing.

    Raises:
        CompileError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CompileError(f"the folder {folder} cannot be made: {error.strerror}", hint=hint) from None
