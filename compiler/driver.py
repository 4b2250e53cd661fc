"""``compile`` and its parts: the only module that knows all rooms, and by name only."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from spikec.calibration.calibration import Calibration
from spikec.calibration.data import Batches
from spikec.calibration.normalization import Normalization
from spikec.calibration.retained import RETAINED
from spikec.extend import loader
from spikec.extend.backend import Backend
from spikec.extend.passbase import Context, Note, Pass, plain
from spikec.foresee import foresee, readable
from spikec.interpreter.contract import check_shapes
from spikec.interpreter.imported import check_import
from spikec.interpreter.inputs import examples, whole_number
from spikec.interpreter.probe import probe
from spikec.ir.errors import (
    CalibrationError,
    CompileError,
    InvalidModelError,
    Problem,
    SpikecWarning,
    UnsupportedOpError,
    warn,
)
from spikec.ir.files import replacing
from spikec.ir.graph import Graph
from spikec.ir.ledger import Ledger, account
from spikec.ir.stages import CALIBRATED, IMPORTED, RECEIVED, SPIKING, Stage
from spikec.pipeline.manager import Observer, StageRecord, run_pipeline
from spikec.pipeline.observers import Dump, Numbers, Verify, write_ledger
from spikec.pipeline.pipeline import Pipeline
from spikec.pipeline.report import Report
from spikec.reading import Inputs, find_frontend, own

#: holds the imported graph to its model on a probe
_Check = Callable[[Sequence[Tensor]], float]


@attrs.frozen(eq=False)
class Compilation:
    """Everything that one run of the compiler left.

    Attributes:
        artifact: the target's own object.
        graph: the final graph; the interpreter on it is what the artifact is held to.
        stages: the graph after the import and after every pass, with seconds and numeric check.
        ledger: what became of every node of the model.
        report: notes, checks and losses as text.
        output_scale: for each output, what the time-average of the graph's raw output is multiplied by to
            be in ANN units (an array that broadcasts over a sample); one array if there is one output.
        calibration: the statistics that thresholds were chosen from, to ``save`` and to use again for the
            same model; None where there was no data.
    """

    artifact: Any
    graph: Graph
    stages: tuple[StageRecord, ...]
    ledger: Ledger
    report: Report
    calibration: Calibration | None

    @property
    def output_scale(self) -> Any:
        """See the class."""
        scales = tuple(self.graph.type(name).scale for name in self.graph.outputs)
        return scales[0] if len(scales) == 1 else scales


class Compiler:
    """A target with its options; see :func:`compile` for what they mean."""

    def __init__(
        self,
        target: str | Backend,
        *,
        example_input: Inputs | None = None,
        calibration: Any = None,
        normalization: str | float | Normalization | None = None,
        timesteps: int | None = None,
        pipeline: Pipeline | Iterable[Pass | str] | None = None,
        verify: Verify = "end",
        dump_dir: str | os.PathLike[str] | None = None,
        progress: bool | None = None,
        seed: int = 0,
        **target_options: Any,
    ) -> None:
        timesteps = None if timesteps is None else whole_number("timesteps", timesteps, 1)
        if verify not in ("each", "end", "off"):
            raise CompileError(f"verify is {verify!r}", hint='give "each", "end" or "off"')
        if pipeline is not None and normalization is not None:
            raise CompileError(
                "both pipeline and normalization are given",
                hint="say it in the pipeline: Pipeline.default(target, normalization=...)",
            )
        self.backend = _backend(target, target_options)
        self.normalization = None if normalization is None else Normalization.parse(normalization)
        if isinstance(pipeline, str):
            raise CompileError(f"pipeline is the string {pipeline!r}", hint="give a Pipeline, or a list of passes")
        self.pipeline = pipeline if pipeline is None or isinstance(pipeline, Pipeline) else list(pipeline)
        meant = pipeline.timesteps if isinstance(pipeline, Pipeline) else None
        if None not in (timesteps, meant) and timesteps != meant:
            raise CompileError(
                f"timesteps is {timesteps}, and the pipeline was made for {meant}",
                hint="say the same in both, or in one",
            )
        self.example_input = example_input
        self.calibration = calibration
        self.timesteps = timesteps or meant
        self.verify = verify
        self.dump_dir = dump_dir
        self.progress = progress
        self.seed = whole_number("seed", seed, 0)

    def run(self, model: Any) -> Compilation:
        """Compile one model; nothing is emitted before the whole graph is known to fit the target."""
        graph, context, records = self.lower(model)
        own(*(record.graph for record in records))
        return self._emit(graph, context, records)

    def _emit(self, graph: Graph, context: Context, records: Sequence[StageRecord]) -> Compilation:
        final = records[-1].graph
        context.running = self.backend.name
        artifact = self.backend.emit(final, context)
        ledger = self._kept(Ledger.of(graph, final))
        report = Report.of(records, context, self.backend)
        return Compilation(artifact, final, tuple(records), ledger, report, context.statistics)

    def lower(self, model: Any) -> tuple[Graph, Context, list[StageRecord]]:
        """All of :meth:`run` but emitting: the imported graph, the context, the stages.

        Raises:
            CompileError: with every problem of the model and the target that can be known by then, and with the ledger.
        """
        graph: Graph | None = None
        records: list[StageRecord] = []
        try:
            graph, context, check_model, example = self._start(model)
            if self.pipeline is None and context.batches is not None and len(context.batches) != 1:
                self._refuse_early(graph, context.batches)
            observers = self._observers(graph, context, check_model, example)
            records = run_pipeline(graph, self._pipeline(graph, context), context, observers)
            problems = self.backend.check(records[-1].graph)
            if problems:
                raise UnsupportedOpError(problems)
        except CompileError as error:
            if graph is None and error.graph is not None:
                error.add(self._foreseen(error.graph, error.problems))
            account(error, graph, records[-1].graph if records else graph)
            if error.ledger is not None:
                self._kept(error.ledger)
            raise
        return graph, context, records

    def _kept(self, ledger: Ledger) -> Ledger:
        """The ledger, which the dump has too."""
        if self.dump_dir is not None:
            write_ledger(Path(self.dump_dir), ledger)
        return ledger

    def _foreseen(self, read: Graph, known: Sequence[Problem]) -> list[Problem]:
        """What the target refuses of a model that was read in part, at other nodes than those known already."""
        part, end = readable(read)
        if not part.outputs:
            return []
        context = Context(part, timesteps=self.timesteps, seed=self.seed)
        found = foresee(part, self._pipeline(part, context), self.backend, context)
        beside = end.union(*(problem.origin for problem in known))
        return [problem for problem in found if problem.origin and beside.isdisjoint(problem.origin)]

    def _refuse_early(self, graph: Graph, batches: Batches) -> None:
        """Raise what will be refused whatever thresholds are chosen, before all of the data is looked at."""
        context = Context(graph, timesteps=self.timesteps, seed=self.seed)
        found = foresee(graph, self._pipeline(graph, context), self.backend, context)
        if found:
            context = Context(
                graph, timesteps=self.timesteps, seed=self.seed, batches=Batches([batches.first], batches.names)
            )
            again = foresee(graph, self._pipeline(graph, context), self.backend, context)
            problems = [problem for problem in again if problem in found]
            if problems:
                raise UnsupportedOpError(problems)

    def gather(self, model: Any) -> Calibration:
        """Run the passes up to the one that asks for statistics.

        Raises:
            CompileError: no pass does.
        """
        graph, context, *_ = self._start(model)
        pipeline = self._pipeline(graph, context)
        for count, each in enumerate(pipeline, start=1):
            if each.gives is CALIBRATED:
                run_pipeline(graph, Pipeline(pipeline.passes[:count], pipeline.start), context)
        if context.statistics is None:
            raise CompileError("no pass of this pipeline looks at calibration data", hint="normalize does")
        return context.statistics

    def _start(self, model: Any) -> tuple[Graph, Context, _Check | None, Sequence[Tensor] | None]:
        given = self.calibration
        statistics = given if isinstance(given, Calibration) else None
        data = None if statistics is not None else given
        frontend, model = find_frontend(model)
        shapes = example = frontend.batches(model, examples(self.example_input))
        batches = None
        if data is not None:
            batches = data if isinstance(data, Batches) else Batches(data, frontend.input_names(model))
            if shapes is None:
                shapes = batches.first
            elif [x.shape[1:] for x in shapes] != [x.shape[1:] for x in batches.first]:
                found, wanted = _shapes(batches.first), _shapes(shapes)
                raise CalibrationError(f"a sample is {found} in the calibration data, and {wanted} in example_input")
        if shapes is None and statistics is not None:
            shapes = tuple(torch.zeros(1, *shape) for shape in statistics.shapes)
        samples: tuple[Tensor, ...] = ()
        if batches is not None:
            samples = tuple(x[:RETAINED] for x in batches.first)
        elif statistics is not None and statistics.retained is not None:
            samples = statistics.retained.inputs
        graph = frontend.load(model, shapes)
        if batches is not None and _alike(batches.first):
            warn("the samples of the first calibration batch are all the same: thresholds will fit nothing else")
        context = Context(
            graph,
            timesteps=self.timesteps,
            seed=self.seed,
            notes=[Note("import", "", note) for note in graph.notes],
            batches=batches,
            statistics=statistics,
            track=_track if self.progress else plain,
            samples=samples,
        )
        reference = frontend.reference(model)
        layers = functools.partial(frontend.layer_results, model)
        held = None if reference is None else lambda xs: check_import(graph, reference, xs, layers)
        return graph, context, held, example

    def _pipeline(self, graph: Graph, context: Context) -> Pipeline:
        if self.pipeline is not None:
            if isinstance(self.pipeline, Pipeline):
                return self.pipeline
            return Pipeline(self.pipeline, _stage(graph))
        normalization = self.normalization
        if normalization is None and not context.has_data and not graph.is_spiking:
            normalization = Normalization(method="model")
        default = Pipeline.default(self.backend, normalization=normalization, timesteps=self.timesteps)
        if graph.is_spiking:  # its neurons state where they start
            tuned = {each.name for each in default if each.contract == "tuned"}
            return default.from_stage(_stage(graph)).without("init-potential", *tuned)
        return default

    def _observers(
        self, graph: Graph, context: Context, check_model: _Check | None, example: Sequence[Tensor] | None
    ) -> list[Observer]:
        observers: list[Observer] = []
        if self.verify != "off":
            samples = context.batches.first if context.batches is not None else example
            xs = probe(graph, samples, self.seed)
            check_shapes(graph, xs)
            if check_model is not None:
                check_model(xs)
            observers.append(Numbers(graph, xs, each=self.verify == "each", timesteps=self.timesteps))
        if self.dump_dir is not None:
            observers.append(Dump(Path(self.dump_dir), graph))
        return observers


def compile(
    model: Any,
    target: str | Backend,
    *,
    example_input: Inputs | None = None,
    calibration: Any = None,
    normalization: str | float | Normalization | None = None,
    timesteps: int | None = None,
    pipeline: Pipeline | Iterable[Pass | str] | None = None,
    verify: Verify = "end",
    dump_dir: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    seed: int = 0,
    **target_options: Any,
) -> Any:
    """Turn a trained network into a spiking one for a target.

    Args:
        model: a ``torch.nn.Module`` or ``torch.fx.GraphModule``, a ``spikec.Graph``, or what another
            installed frontend reads (a path, for instance).
        target: name of a backend, or an instance of one of your own.
        example_input: tensor [B, ...], or a tuple with one for each input; not needed where the
            calibration data or the model itself gives the shapes.
        calibration: a tensor [N, ...], a DataLoader or any iterable of batches (``x``, ``(x, y)``, or a
            dict by forward's argument names), or a :class:`spikec.Calibration`. Without it thresholds
            follow from the weights alone (Diehl et al. 2015, model-based), with a warning.
        normalization: ``"max"``, a percentile such as ``"99.9%"``, or a float in (0, 1] that multiplies
            the maximum, all per layer; a :class:`spikec.Normalization`. None for the 99.9th percentile of each
            channel, or thresholds and initial potentials that agree better with the ANN on the calibration data.
        timesteps: the T that you mean to run; biases, and what you did not choose, are tuned for it.
        pipeline: passes of your own; see :meth:`spikec.Pipeline.default`.
        verify: hold exact passes to their contract one by one (``"each"``), each run of them as a whole
            (``"end"``), or not (``"off"``). Types and structure are always checked.
        dump_dir: write the graph after every pass there.
        progress: show a progress bar.
        seed: of everything random.
        target_options: the fields of the target's backend.

    Returns:
        The target's own object: a ``torch.nn.Module`` for ``spikingjelly``, an ``nir.NIRGraph`` for
        ``nir``, an integer model with ``save`` and ``run`` for ``netx``.

    Raises:
        CompileError: one of its subclasses, with every problem located in the model.
    """
    compiler = Compiler(
        target,
        example_input=example_input,
        calibration=calibration,
        normalization=normalization,
        timesteps=timesteps,
        pipeline=pipeline,
        verify=verify,
        dump_dir=dump_dir,
        progress=progress,
        seed=seed,
        **target_options,
    )
    graph, context, records = compiler.lower(model)
    own(records[-1].graph)  # the other stages go
    return compiler._emit(graph, context, records).artifact


def calibrate(
    model: Any,
    data: Any,
    target: str | Backend = "spikingjelly",
    *,
    time_axis: int | None = None,
    device: str | torch.device | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Calibration:
    """The statistics that :func:`compile` would gather, to save, to merge, and to give to it as ``calibration``.

    Under ``torch.distributed`` each process calibrates on its own part of the data, and
    :meth:`Calibration.all_reduce` makes one of all.

    Args:
        model: see :func:`compile`; ``data`` gives the shapes.
        data: as ``calibration`` of :func:`compile`.
        target: what the model will be compiled for.
        time_axis: of event data, the axis of each input that is time (0 for [T, B, ...]); the ANN then sees the
            average over it, which is what a rate stands for.
        device: where the ANN runs; None for where the data is.
        progress: show a progress bar.
        options: any of :func:`compile`.
    """
    frontend, model = find_frontend(model)
    batches = Batches(data, frontend.input_names(model), time_axis=time_axis, device=device)
    return Compiler(target, calibration=batches, progress=progress, **options).gather(model)


def check(model: Any, target: str | Backend, **options: Any) -> list[Problem]:
    """Every problem that :func:`compile` would raise, without emitting anything; empty if there is none.

    Args:
        model, target, options: as for :func:`compile`.
    """
    compiler = Compiler(target, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpikecWarning)  # about accuracy, which is not the question
        try:
            compiler.lower(model)
        except CompileError as error:
            return list(error.problems)
    return []


def save(artifact: Any, path: str | os.PathLike[str]) -> None:
    """Write an artifact of any target; the file appears whole or not at all.

    Args:
        artifact: what :func:`compile` returned.
        path: where to; its folder must exist. A link is followed.

    Raises:
        InvalidModelError: it is no target's artifact, or the folder does not exist.
    """
    if not Path(path).parent.is_dir():
        raise InvalidModelError(f"the folder {Path(path).parent} does not exist", hint="make it first")
    if Path(path).is_dir():
        raise InvalidModelError(f"{path} is a folder", hint="name a file in it")
    for backend in loader.known_backends():
        if backend.owns(artifact):
            if backend.suffix and Path(path).suffix != backend.suffix:
                warn(f"{Path(path).name} does not end in {backend.suffix}, by which spikec knows such a file again")
            with replacing(path) as part:
                backend.save(artifact, part)
            return
    raise InvalidModelError(
        f"a {type(artifact).__name__} is not an artifact of any target",
        hint=f"targets: {', '.join(loader.backends())}; a backend of your own says what it owns, and saves it",
    )


def _stage(graph: Graph) -> Stage:
    """Where an imported graph stands."""
    if not graph.is_spiking:
        return IMPORTED
    return RECEIVED if SPIKING.problems(graph) else SPIKING


def _alike(xs: Sequence[Tensor]) -> bool:
    return len(xs[0]) > 1 and all(bool((x == x[:1]).all()) for x in xs)


def _shapes(xs: Sequence[Tensor]) -> str:
    return " and ".join(str(list(x.shape[1:])) for x in xs)


def _backend(target: str | Backend, options: Mapping[str, Any]) -> Backend:
    if isinstance(target, Backend):
        if options:
            raise CompileError(f"options {', '.join(options)} for a target that is an instance already")
        return target
    if not isinstance(target, str):
        raise CompileError(f"target is a {type(target).__name__}", hint="give a name, or an instance of a Backend: B()")
    return loader.built(f"target {target}", loader.backend_named(target), options)


def _track(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
    from rich.progress import track

    return track(items, description, total or None)
