"""How a spiking network, or its file in the tool that reads it, answers beside its ANN."""

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.compilation import Compilation
from spikec.diagnosis.batches import batches_of
from spikec.interpreter.inputs import whole_number, within
from spikec.interpreter.interp import outputs_over_time
from spikec.interpreter.processes import of_all_processes
from spikec.interpreter.results import RunningMean, cells, hits, outputs
from spikec.ir.errors import CalibrationError, CompileError, Hint, InvalidModelError, Option, Problem, without_warnings
from spikec.ir.graph import Graph
from spikec.ir.op import tensor_cache
from spikec.ir.progress import Progress, shown, track
from spikec.ir.types import Array
from spikec.readers import differences
from spikec.reading import load


@attrs.frozen(eq=False, kw_only=True, repr=False)
class Forecast:
    """What a spiking network answers, or a file of one as a tool runs it, beside its ANN.

    Attributes:
        reader: the tool, or ``""`` for the network as it is meant.
        problems: what the tool does otherwise than the file says.
        timesteps: T.
        samples: how many were run.
        agreement: [T], the share of samples with the ANN's answer, of the mean output up to each step.
        accuracy: [T], the share of right answers, and that of the ANN; None without labels.
        ann_accuracy: None without labels.

    Examples:
        >>> graph = spikec.compile(model, "nir", calibration=images, timesteps=8)
        >>> spikec.diagnose(model, graph, images, timesteps=8)
        <spikec.Forecast 64 samples, T=8, ... % as the ANN>
    """

    reader: str
    problems: tuple[Problem, ...]
    timesteps: int
    samples: int
    agreement: Array
    accuracy: Array | None
    ann_accuracy: float | None

    def __repr__(self) -> str:
        who = f" in {self.reader}" if self.reader else ""
        agreement = 100 * self.agreement[-1]
        return f"<spikec.Forecast{who} {self.samples} samples, T={self.timesteps}, {agreement:.1f} % as the ANN>"

    def to_dict(self) -> dict[str, Any]:
        """Return all figures, as JSON takes them."""
        return {
            "reader": self.reader,
            "problems": list(map(str, self.problems)),
            "timesteps": self.timesteps,
            "samples": self.samples,
            "agreement": self.agreement.tolist(),
            "accuracy": None if self.accuracy is None else self.accuracy.tolist(),
            "ann_accuracy": self.ann_accuracy,
        }

    def __str__(self) -> str:
        """Return the figures at some steps, and what the tool does otherwise."""
        who = f"as {self.reader} runs it" if self.reader else "as the network is meant"
        lines = [f"{self.samples} samples, {who}"]
        steps = [t for t in (1, 2, 4, 8, 16, 32, 64, 128, 256) if t < self.timesteps] + [self.timesteps]
        for t in steps:
            line = f"  T={t:<4} {100 * self.agreement[t - 1]:6.2f} % as the ANN"
            lines.append(line if self.accuracy is None else f"{line}, {100 * self.accuracy[t - 1]:6.2f} % right")
        if self.ann_accuracy is not None:
            lines.append(f"  ANN    {100 * self.ann_accuracy:6.2f} % right")
        return "\n".join([*lines, *map(str, self.problems)])


def forecast(
    model: Any,
    snn: Any,
    data: Any,
    labels: Any = None,
    *,
    timesteps: int | None = None,
    reader: str = "",
    all_reduce: bool = False,
    progress: bool | Callable[[Progress], None] | None = None,
) -> Forecast:
    """Run a spiking network, or a file as the tool that reads it does, beside the ANN that it was made of.

    Args:
        model: the ANN, as for :func:`spikec.compile`.
        snn: what ``compile`` or ``Compiler.run`` returned, the path of a .nir, .net or .pt, or a Graph.
        data: a tensor [N, ...], or an iterable of batches as for :func:`spikec.diagnose`; fed at each step.
        labels: [N] class numbers; not needed where batches hold them.
        timesteps: T; None for what the network says.
        reader: of a NIR file or graph, see :func:`spikec.load`; ``""`` for the network as it is meant.
        all_reduce: as in :func:`spikec.diagnose`.
        progress: as in :func:`spikec.compile`.

    Raises:
        UnsupportedOpError: the tool refuses nodes of the file, or leaves them out.
        CompileError: nothing says how many steps.
        CalibrationError: processes are to be summed over and this one is in no group, or only some have labels.
    """
    snn = snn.graph if isinstance(snn, Compilation) else snn
    is_read = isinstance(snn, Graph)
    problems = differences(snn, reader) if reader and not is_read else []
    with without_warnings():  # what they say is in the problems
        net = snn if is_read else load(snn, reader=reader) if reader else load(snn)
    steps = net.imported.timesteps if timesteps is None else whole_number("timesteps", timesteps, 1)
    if steps is None:
        hint = Hint("say how many steps to run: ", Option("timesteps", 32))
        raise CompileError("neither the network nor you say how many steps it is run", hint=hint)
    if not net.is_spiking:
        raise InvalidModelError(
            "the network that stands beside the ANN does not spike", hint="give the ANN as the model"
        )
    ann: Graph | None = None
    samples, right, outs, labelled = 0, 0, len(net.outputs), False
    agreed, correct = np.zeros((2, steps), dtype=np.int64)
    with shown(progress):
        for xs, truth in track(batches_of(data, net.inputs, labels), "batches"):
            fed = [x.to(torch.float32) for x in xs]
            ann = ann or load(model, tuple(fed))
            wanted = outputs(ann, fed, 1)
            samples += len(fed[0])
            if truth is not None:
                labelled = True
                within(truth, cells(wanted[0]).shape[1])
                right += hits(wanted[0], truth)
            for t, said in enumerate(_over_time(net, fed, steps)):
                agreed[t] += sum(hits(a, cells(b).argmax(1)) for a, b in zip(said, wanted, strict=True))
                correct[t] += 0 if truth is None else hits(said[0], truth)
    if all_reduce:  # counts, so that the sums are exact
        found = of_all_processes((samples, right, agreed, correct, labelled))
        samples, right, agreed, correct, having = map(sum, zip(*found, strict=True))
        if having not in (0, len(found)):
            raise CalibrationError("some processes have labels, and some have none", hint="give (x, labels) in all")
    return Forecast(
        reader=reader,
        problems=tuple(problems),
        timesteps=steps,
        samples=samples,
        agreement=agreed / outs / samples,
        accuracy=correct / samples if labelled else None,
        ann_accuracy=right / samples if labelled else None,
    )


def _over_time(net: Graph, xs: Sequence[Tensor], timesteps: int) -> list[list[Tensor]]:
    """Return the mean outputs up to each step."""
    mean, found = RunningMean(net), []
    with torch.no_grad(), tensor_cache():
        for step in outputs_over_time(net, xs, timesteps):
            mean.add(step)
            found.append(mean.outputs())
    return found
