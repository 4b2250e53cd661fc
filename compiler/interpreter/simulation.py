"""A network's answers over time: their running mean, when a sample's answer has settled, and how often it is right."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from spikec.interpreter.inputs import as_input, class_numbers, whole_number, within
from spikec.interpreter.interp import outputs_over_time, run
from spikec.interpreter.layerwise import waiting, windows
from spikec.interpreter.processes import of_all_processes
from spikec.interpreter.results import hits, in_ann_units
from spikec.ir.errors import CalibrationError, InvalidModelError, shown
from spikec.ir.graph import Graph
from spikec.ir.op import tensor, tensor_cache
from spikec.ir.progress import track
from spikec.ir.types import Array

#: what part of a batch must have stopped before it is left out, as that copies the states of the others
_WORTHWHILE = 1 / 8
#: how many steps a module is given at a time where nobody looks at it in between
_AHEAD = 16


@attrs.frozen(eq=False, repr=False)
class Simulation:
    """What a network has answered for a batch.

    Attributes:
        means: [T, B, ...], the output's mean up to each step, in ANN units; where a sample has stopped it stays. Where
            each layer waits for a window, [1, B, ...]: there is one mean, at the end of the last window.
        steps: [B] int64, after how many steps each sample stopped: T for one that did not, or T for each window.
        ran: how many steps were computed, summed over the samples.
        windows: how many windows of T steps a sample takes from input to answer: 1 unless layers wait, when it is the
            most layers of neurons in a row. Each window takes in a new sample.

    Examples:
        >>> snn = spikec.compile(model, "spikingjelly", calibration=images, timesteps=8)
        >>> found = spikec.simulate(snn, images, timesteps=8, patience=3)
        >>> found.means.shape, found.answer.shape, found.steps.shape
        (torch.Size([8, 64, 10]), torch.Size([64, 10]), torch.Size([64]))
    """

    means: Tensor
    steps: Tensor
    ran: int
    windows: int = 1

    def __repr__(self) -> str:
        if self.windows > 1:
            return f"<spikec.Simulation {len(self.steps)} samples, {self.windows} windows, {self.steps[0]} steps>"
        return f"<spikec.Simulation {len(self.steps)} samples, T={len(self.means)}, {100 * self.saved:.0f} % saved>"

    @property
    def answer(self) -> Tensor:
        """[B, ...], the mean output of each sample over its steps, in ANN units."""
        return self.means[-1]

    @property
    def saved(self) -> float:
        """The share of the T steps of all samples that was not computed."""
        return 0.0 if self.windows > 1 else 1 - self.ran / (len(self.means) * len(self.steps))


@runtime_checkable
class RunsOverTime(Protocol):
    """A network that runs itself, such as the integers of ``netx``.

    Attributes:
        output_scale: the mean output of a step times this is in ANN units.
    """

    output_scale: Array

    def over_time(self, x: Tensor | Array, timesteps: int | None = None) -> Array:
        """Return the output of every step, [T, B, ...], of inputs as the network takes them."""


#: what answers over time
Network = nn.Module | Graph | RunsOverTime


def simulate(
    snn: Network, x: Tensor | Sequence[Tensor], timesteps: int | None, patience: int | None = None
) -> Simulation:
    """Run a spiking network from its first step on, and average its output over time; see :func:`spikec.simulate`."""
    xs = [as_input(each) for each in (x if isinstance(x, (list, tuple)) else (x,))]
    axis = 0 if timesteps is not None else 1
    if any(each.ndim <= axis or each.shape[: axis + 1] != xs[0].shape[: axis + 1] for each in xs) or not xs:
        found = ", ".join(str(list(each.shape)) for each in xs)
        raise InvalidModelError(
            f"the inputs have the shapes {found}",
            hint="give [B, ...] and timesteps, or [T, B, ...], with one batch size and one number of steps for all",
        )
    total = len(xs[0]) if timesteps is None else whole_number("timesteps", timesteps, 1)
    steps = torch.full((xs[0].shape[axis],), total)
    if patience is None:
        return Simulation(torch.stack(list(_means(snn, xs, timesteps))), steps, int(steps.sum()))
    after = list(_until_settled(snn, xs, timesteps, steps, whole_number("patience", patience, 1)))
    return Simulation(torch.stack([mean for mean, _ in after]), steps, sum(ran for _, ran in after))


def simulate_layerwise(graph: Graph, x: Tensor | Sequence[Tensor], timesteps: int | None) -> Simulation:
    """Run a graph so that each layer fires in the window of T steps after the one in which it was given its input.

    The first layer's input is there from the start, so it needs no window of its own. What a neuron fires follows from
    the mean of what it got, so all of it is one pass.

    Raises:
        InvalidModelError: no graph of a spiking network without recurrence and with one output; no constant inputs.
    """
    if not isinstance(graph, Graph) or not graph.is_spiking or timesteps is None:
        what = "inputs that differ from step to step" if timesteps is None else f"a {type(graph).__name__}"
        raise InvalidModelError(
            f"{what}: layers wait for windows in a spiking graph with constant inputs",
            hint="give timesteps, and of a network of netx its net.to_graph()",
        )
    _of_one_output(graph)
    timesteps, count = whole_number("timesteps", timesteps, 1), windows(graph)
    out = run(waiting(graph, timesteps), x)
    steps = torch.full((len(out),), count * timesteps)
    scaled = out * tensor(graph.type(graph.outputs[0]).scale, out)
    return Simulation(scaled[None], steps, int(steps.sum()), count)


@torch.no_grad()
def _means(snn: Network, xs: Sequence[Tensor], timesteps: int | None) -> Iterator[Tensor]:
    """Yield the output's mean up to each step, [B, ...]."""
    running, mean = _running(snn, ahead=True), torch.zeros(())
    total = len(xs[0]) if timesteps is None else timesteps
    for t, out in enumerate(track(running.over(xs, timesteps), "steps", total)):
        mean = mean + (out - mean) / (t + 1)
        yield mean
    running.reset()


@torch.no_grad()
def _until_settled(
    snn: Network, xs: Sequence[Tensor], timesteps: int | None, steps: Tensor, patience: int
) -> Iterator[tuple[Tensor, int]]:
    """Yield the means after each step, [B, ...], and how many samples were run.

    Args:
        steps: [B], T each; where a sample stops it becomes the number of its steps.
    """
    running, batch, total = _running(snn), len(steps), int(steps[0])
    live = torch.arange(batch)  # the samples that are run; what has an entry for each of them is cut with it
    said, same = torch.full((batch,), -1), torch.zeros(batch, dtype=torch.int64)
    outputs = running.over(xs, timesteps)
    begin = 0  # the step that the inputs over time begin with
    for t in track(range(total), "steps"):
        if len(live):
            out = next(outputs)
            if t == 0:
                mean = first = whole = out
            mean = mean + (out - mean) / (t + 1)
            now = mean.reshape(len(live), -1).argmax(1).cpu()
            moved = (mean != first).reshape(len(live), -1).any(1).cpu()
            same, said = torch.where((now == said) & moved, same + 1, 0), now
            going = steps[live] > t
            whole = whole.clone()
            whole[live[going]] = mean[going]
            steps[live[going & (same >= patience)]] = t + 1
        yield whole, len(live)
        going = steps[live] > t + 1
        if (~going).sum() >= _WORTHWHILE * len(live) > 0 and t + 1 < total:
            live, mean, first, said, same = (x[going] for x in (live, mean, first, said, same))
            xs = [x[going] if timesteps is not None else x[t + 1 - begin :, going] for x in xs]
            begin = t + 1
            running.keep(going)
            outputs = running.over(xs, None if timesteps is None else total - t - 1)
    running.reset()


def _running(snn: Network, ahead: bool = False) -> _RunningGraph | _RunningIntegers | _RunningModule:
    """Return what runs a network; with ``ahead`` it may be further than the step whose output it has given."""
    if isinstance(snn, Graph):
        return _RunningGraph(snn)
    return _RunningIntegers(snn) if isinstance(snn, RunsOverTime) else _RunningModule(snn, ahead)


def _of_one_output(graph: Graph) -> None:
    if len(graph.outputs) != 1:
        message = f"graph {graph.name} has {len(graph.outputs)} outputs, and it takes one"
        raise InvalidModelError(message, hint="make a graph of the output with classes only")


class _RunningGraph:
    """A graph that is run from its first step on."""

    def __init__(self, graph: Graph) -> None:
        _of_one_output(graph)
        self.graph = graph
        self.states: dict[str, Tensor] = {}

    def over(self, xs: Sequence[Tensor], timesteps: int | None) -> Iterator[Tensor]:
        """Yield the output of each step, [B, ...], in ANN units; it goes on from where it was."""
        if not self.graph.is_spiking:
            for now in zip(*xs, strict=True) if timesteps is None else [xs]:
                yield from in_ann_units(self.graph, [run(self.graph, now)]) * (timesteps or 1)
            return
        scale = self.graph.type(self.graph.outputs[0]).scale
        with tensor_cache():
            for (out,) in outputs_over_time(self.graph, xs, timesteps, states=self.states):
                yield out * tensor(scale, out)

    def keep(self, samples: Tensor) -> None:
        """Go on with these samples, a bool for each of the batch."""
        self.states = {name: state[samples] for name, state in self.states.items()}

    def reset(self) -> None:
        """Forget every state."""
        self.states = {}


class _RunningModule:
    """A module that is run from its first step on."""

    def __init__(self, snn: nn.Module, ahead: bool) -> None:
        if not isinstance(snn, nn.Module) or not callable(getattr(snn, "reset", None)):
            raise InvalidModelError(
                f"a {type(snn).__name__} is neither a Graph nor a spiking module with reset()",
                hint="give what compile returned for the target spikingjelly, nir or netx, or a Compilation of any",
            )
        self.snn: Any = snn
        hooked = (part._forward_hooks or part._forward_pre_hooks for part in snn.modules())
        #: hooks see one step at a time, and of a stranger's module it is not known whether it can do several
        self.steps = _AHEAD if ahead and callable(getattr(snn, "keep", None)) and not any(hooked) else 1
        self.reset()

    def over(self, xs: Sequence[Tensor], timesteps: int | None) -> Iterator[Tensor]:
        """Yield the output of each step, [B, ...], in ANN units; it goes on from where it was."""
        like = next((t for t in (*self.snn.parameters(), *self.snn.buffers())), xs[0])
        xs = [x.to(like.device, like.dtype) for x in xs]
        if self.steps > 1:
            over_time = xs if timesteps is None else [x.expand(timesteps, *x.shape) for x in xs]
            yield from self._ahead(over_time)
            return
        for now in zip(*xs, strict=True) if timesteps is None else itertools.repeat(xs, timesteps):
            if getattr(self.snn, "step_mode", "s") == "s":
                yield self._output(now)
            else:
                yield self._output([x[None] for x in now])[0]

    def _ahead(self, xs: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the output of each step of inputs [T, B, ...], of which some steps are run at a time."""
        mode, self.snn.step_mode = self.snn.step_mode, "m"
        try:
            for some in zip(*(torch.split(x, self.steps) for x in xs), strict=True):
                yield from self._output(some)
        finally:
            self.snn.step_mode = mode

    def _output(self, xs: Sequence[Tensor]) -> Tensor:
        out = self.snn(*xs)
        if not isinstance(out, Tensor):
            message = f"the module gives a {type(out).__name__}, and it takes one output"
            raise InvalidModelError(message, hint="wrap it in a module that gives the output with classes only")
        return out

    def keep(self, samples: Tensor) -> None:
        """Go on with these samples, a bool for each of the batch."""
        if not callable(getattr(self.snn, "keep", None)):
            raise _whole_batch(self.snn)
        self.snn.keep(samples)

    def reset(self) -> None:
        """Forget every state."""
        self.snn.reset()


class _RunningIntegers:
    """A network that runs itself over all steps."""

    def __init__(self, network: RunsOverTime) -> None:
        self.network = network

    def over(self, xs: Sequence[Tensor], timesteps: int | None) -> Iterator[Tensor]:
        """Yield the output of each step, [B, ...], in ANN units."""
        yield from torch.from_numpy(self.network.over_time(xs[0], timesteps) * self.network.output_scale)

    def keep(self, samples: Tensor) -> None:
        """Refuse to go on with some samples."""
        raise _whole_batch(self.network)

    def reset(self) -> None:
        """Do nothing: it always starts from its first step."""


def _whole_batch(network: object) -> InvalidModelError:
    return InvalidModelError(
        f"a {type(network).__name__} cannot go on with a part of its batch",
        hint="leave out patience, or give the module of the target spikingjelly, or a graph",
    )


def evaluate(
    snn: Network, loader: Iterable[Any], timesteps: int, *, time_axis: int | None = None, all_reduce: bool = False
) -> Array:
    """Measure top-1 accuracy after each step, [T]; see :func:`spikec.evaluate`."""
    timesteps = whole_number("timesteps", timesteps, 1)
    right, total = np.zeros(timesteps), 0
    if not isinstance(loader, Iterable) or isinstance(loader, (Tensor, np.ndarray)):
        raise CalibrationError(f"loader is {shown(loader)}", hint="give batches (x, labels), such as a DataLoader")
    for batch in track(loader, "batches"):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise CalibrationError("a batch of loader is not a pair (x, labels)", hint="give [(x, labels), ...]")
        x, labels = as_input(batch[0]), class_numbers(batch[1])
        if time_axis is not None:
            x = _time_first(x, time_axis, timesteps)
        samples = len(x) if time_axis is None else x.shape[1]
        if len(labels) != samples:
            raise CalibrationError(
                f"{len(labels)} labels for a batch of {samples} samples", hint="give one class number a sample"
            )
        for t, mean in enumerate(_means(snn, [x], timesteps if time_axis is None else None)):
            if mean.ndim != 2:
                message = f"the output has shape {tuple(mean.shape)}, accuracy needs [B, classes]"
                raise InvalidModelError(message, hint="compare such outputs with spikec.diagnose")
            if t == 0:
                within(labels, mean.shape[1])
            right[t] += hits(mean.cpu(), labels)
        total += len(labels)
    if all_reduce:  # counts, so that the sums are exact
        right, total = (sum(column) for column in zip(*of_all_processes((right, total)), strict=True))
    if total == 0:
        raise CalibrationError("the loader is empty", hint="give at least one batch")
    return right / total


def _time_first(x: Tensor, axis: int, timesteps: int) -> Tensor:
    """Return event data as [T, B, ...]."""
    if not -x.ndim <= axis < x.ndim or x.ndim < 2 or x.shape[axis] != timesteps:
        message = f"a batch of shape {list(x.shape)} has not {timesteps} steps on axis {axis}"
        raise CalibrationError(message, hint="say with time_axis which axis is time, and its length as timesteps")
    return x.movedim(axis, 0)
