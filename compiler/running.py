"""``run``, ``simulate`` and ``evaluate``, of graphs and of what else runs in time: compiled networks, and files."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spikec.compilation import Compilation
from spikec.extend.backend import SpikingModule
from spikec.interpreter import interp, simulation
from spikec.interpreter.interp import Tap
from spikec.interpreter.simulation import Simulation
from spikec.ir.errors import CompileError, InvalidModelError
from spikec.ir.errors import shown as named
from spikec.ir.graph import Graph
from spikec.ir.progress import Progress, shown
from spikec.ir.types import Array
from spikec.reading import find_frontend, is_netx, load


def run(
    graph: Any,
    x: Tensor | Sequence[Tensor],
    timesteps: int | None = None,
    *,
    tap: Tap | None = None,
    nodes: Collection[str] | None = None,
    **options: Any,
) -> Any:
    """Run a graph by the reference interpreter, or a network of ``netx`` by its integers.

    Args:
        graph: an ANN or an SNN, what :func:`spikec.compile` or ``Compiler.run`` returned, or the path of a file that
            spikec reads, such as a .nir or .net; what is no graph and no network of ``netx`` is read as a graph before.
        x: one tensor an input. ANN: [B, ...]. SNN: [B, ...], fed at each of ``timesteps`` steps, or with
            ``timesteps=None`` time-major [T, B, ...]. Its dtype is the dtype of the arithmetic. A network of ``netx``
            takes what its ``run`` does.
        timesteps: number of steps T of an SNN.
        tap: called after every node of every step of a graph.
        nodes: those that ``tap`` wants, if not all; others may then be overwritten by what is made of them.
        options: on how a file or a NIR graph is read, as :func:`spikec.load` takes them.

    Returns:
        ANN: [B, ...]. SNN: [T, B, ...] in the graph's own units (times the output's scale it is in ANN
        units). One tensor, or a tuple with one an output.

    Raises:
        InvalidModelError: timesteps for an ANN, no step at all, or inputs that do not fit.

    Examples:
        >>> spikec.run(spikec.load(model, images[:1]), images).shape    # the ANN
        torch.Size([64, 10])
        >>> graph = spikec.Compiler("nir", calibration=images, timesteps=8).run(model).graph
        >>> spikec.run(graph, images, timesteps=8).shape
        torch.Size([8, 64, 10])
    """
    model = _opened(graph, options)
    if isinstance(model, SpikingModule):
        model = load(model)
    if not is_netx(model):
        return interp.run(model, x, timesteps, tap=tap, nodes=nodes)
    if tap is not None:
        message = "a network of netx has no nodes to tap"
        raise InvalidModelError(message, hint="tap its graph, net.to_graph(); simulate gives every spike")
    return torch.from_numpy(model.over_time(x, timesteps))


def simulate(
    snn: Any,
    x: Tensor | Sequence[Tensor],
    timesteps: int | None = None,
    *,
    patience: int | None = None,
    schedule: Literal["steps", "layers"] = "steps",
    progress: bool | Callable[[Progress], None] | None = None,
    **options: Any,
) -> Simulation:
    """Run a spiking network from its first step on, and average its output over time.

    Args:
        snn: a spiking torch module, which is reset before and after, a Graph, or whatever else :func:`run` takes; with
            one output.
        x: one tensor an input: [B, ...], fed at each of ``timesteps`` steps, or with ``timesteps=None`` time-major,
            [T, B, ...].
        timesteps: T.
        patience: stop with a sample once its answer, the index of its largest mean, has stayed the same for that many
            steps; they count from where its output first changes, as no spike has come through before.
        schedule: ``"steps"``: all layers run at each step, as in every target. ``"layers"``: each layer waits for a
            window of T steps and fires in the one after it, the first layer at once. No current is uneven then, a
            sample takes T steps a layer (:attr:`Simulation.windows`), and each window takes in a new sample. This is
            for simulation only, with constant inputs: the least error that T steps of each layer leave.
        progress: as in :func:`spikec.compile`.
        options: on how a file or a NIR graph is read, as :func:`spikec.load` takes them.

    Returns:
        Means over time, [T, B, ...], and what stopping has saved.

    Raises:
        InvalidModelError: not a model with a single output, or inputs that do not fit; a model that cannot go on with
            a part of its batch, which ``patience`` needs; a recurrent one, whose layers cannot wait.
        CompileError: ``timesteps`` or ``patience`` is no whole number above 0, or there is no such schedule.

    Examples:
        >>> snn = spikec.compile(model, "spikingjelly", calibration=images, timesteps=8)
        >>> spikec.simulate(snn, images, timesteps=8)
        <spikec.Simulation 64 samples, T=8, 0 % saved>
        >>> spikec.simulate(snn, images, timesteps=8, schedule="layers").windows
        1
    """
    if schedule not in ("steps", "layers"):
        raise CompileError(f"schedule is {named(schedule)}", hint='give "steps" or "layers"')
    with shown(progress):
        model = _opened(snn, options)
        if schedule == "steps":
            return simulation.simulate(model, x, timesteps, patience)
        if patience is not None:
            raise CompileError("patience is given, and layers that wait answer once", hint="leave one of both out")
        return simulation.simulate_layerwise(load(model) if isinstance(model, SpikingModule) else model, x, timesteps)


def evaluate(
    snn: Any,
    loader: Iterable[Any],
    timesteps: int,
    *,
    time_axis: int | None = None,
    all_reduce: bool = False,
    progress: bool | Callable[[Progress], None] | None = None,
    **options: Any,
) -> Array:
    """Measure top-1 accuracy after each time-step, of the output's running mean up to that step.

    Args:
        snn: a spiking torch module, a Graph with one output (an ANN graph gives the same accuracy at every step), or
            whatever else :func:`run` takes.
        loader: batches ``(x [B, ...], labels [B])``.
        timesteps: number of steps T; x is fed at each of them.
        time_axis: of event data, the axis of x that is time, of length T (0 for [T, B, ...]).
        all_reduce: of the samples of all processes of a ``torch.distributed`` group, each of which calls this with
            batches of its own, or with none; all of them return what one process would for all batches.
        progress: as in :func:`spikec.compile`.
        options: on how a file or a NIR graph is read, as :func:`spikec.load` takes them.

    Returns:
        [T] accuracies in [0, 1].

    Raises:
        CalibrationError: the loader is empty, its batches are no pairs, its labels no classes of the model, or
            processes are to be summed over and this one is in no group.
        InvalidModelError: not a model with a single output.

    Examples:
        >>> snn = spikec.compile(model, "spikingjelly", calibration=images, timesteps=8)
        >>> spikec.evaluate(snn, [(images, labels)], timesteps=8).shape
        (8,)
    """
    with shown(progress):
        return simulation.evaluate(_opened(snn, options), loader, timesteps, time_axis=time_axis, all_reduce=all_reduce)


def _opened(model: Any, options: Mapping[str, Any]) -> Any:
    """Return what runs: a graph, a module, or a network of ``netx``.

    Raises:
        CompileError: options on how a model is read, which this one is already, or that its frontend has not.
    """
    if isinstance(model, Compilation):
        runs_itself = isinstance(model.artifact, SpikingModule) or is_netx(model.artifact)
        model = model.artifact if runs_itself else model.graph
    if isinstance(model, (Graph, nn.Module)) or is_netx(model):
        for name in options:
            hint = f"say it where the model is read: spikec.load(..., {name}=...)"
            raise CompileError(f"{name} is no option of running a {type(model).__name__}", hint=hint)
        return model
    frontend, opened = find_frontend(model, options)
    return opened if is_netx(opened) else frontend.load(opened, None)
