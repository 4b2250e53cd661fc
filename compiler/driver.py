"""``compile`` and its parts; frontends, passes and backends are found by name."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_type_hints, overload

import attrs
import torch
from torch import Tensor, nn

from spikec.calibration.calibration import Calibration
from spikec.calibration.normalization import Normalization
from spikec.calibration.source import Batches, CalibrationSource
from spikec.compilation import Compilation
from spikec.dry_run import refuse_early, refused_beside, run_dry
from spikec.extend.backend import Backend, IntegerModel, SpikingModule
from spikec.extend.frontend import Frontend
from spikec.extend.passbase import Context, Note
from spikec.interpreter.contract import check_shapes
from spikec.interpreter.imported import check_import
from spikec.interpreter.inputs import check_types, examples, whole_number
from spikec.interpreter.probe import probe
from spikec.ir.errors import (
    CompileError,
    Hint,
    Option,
    Problem,
    UnsupportedOpError,
)
from spikec.ir.files import path_of
from spikec.ir.graph import Graph
from spikec.ir.ledger import Ledger, account
from spikec.ir.progress import showing, track
from spikec.ir.stages import CALIBRATED, IMPORTED, RECEIVED, SPIKING, Stage
from spikec.options import (
    OWN,
    AnyOptions,
    NetxOptions,
    NirOptions,
    Options,
    SpikingJellyOptions,
    backend_of,
    timesteps_of,
)
from spikec.pipeline.manager import Observer, Report, StageRecord, looks_back, run_pipeline, stages
from spikec.pipeline.observers import Dump, Numbers, Verify, finish_dump
from spikec.pipeline.pipeline import Pipeline, as_passes
from spikec.readers import warn_of_reader
from spikec.reading import detach_from_model, find_frontend, keeping_grad_mode, reading_options

if TYPE_CHECKING:
    import nir
    from typing_extensions import Unpack

_TYPES = get_type_hints(Options)
#: holds the imported graph to its model on a probe
_Check = Callable[[Sequence[Tensor]], float]


class Compiler:
    """A target with its options; see :func:`compile` for what they mean.

    Examples:
        >>> spikec.Compiler("netx", calibration=images, timesteps=8).run(model).artifact
        <NetxNetwork Sequential: 2 layers, ... neurons, ... synapses of 8 bits, ... bytes, about ... cores of Loihi 2>
    """

    def __init__(self, target: str | Backend, **options: Unpack[AnyOptions]) -> None:
        others: dict[str, Any] = {name: value for name, value in options.items() if name not in OWN}
        self.backend = backend_of(target, others)
        of_target = {field.name for field in attrs.fields(type(self.backend))}.difference(self.backend.shared)
        self.reading = {name: others[name] for name in others if name in reading_options() - of_target}
        normalization, pipeline = options.get("normalization"), options.get("pipeline")
        if pipeline is not None and normalization is not None:
            raise CompileError(
                "both pipeline and normalization are given",
                hint=Hint("leave one out: it is an option of the pass normalize in ", Option("pipeline")),
            )
        check_types({name: options[name] for name in ("verify", "dump_dir", "progress") if name in options}, _TYPES)
        self.normalization = None if normalization is None else Normalization.parse(normalization)
        if pipeline is not None and not isinstance(pipeline, Pipeline):
            pipeline = as_passes(pipeline, "pipeline")
        self.pipeline = pipeline
        self.timesteps = timesteps_of(options.get("timesteps"), self.pipeline)
        self.verify: Verify = options.get("verify", "end")
        self.seed = whole_number("seed", options.get("seed", 0), 0, 2**63 - 1)
        self.example_input = options.get("example_input")
        self.calibration = options.get("calibration")
        self.progress = options.get("progress")
        dump_dir = options.get("dump_dir")
        self.dump_dir = None if dump_dir is None else path_of(dump_dir, "dump_dir")

    def __repr__(self) -> str:
        steps = "any T" if self.timesteps is None else f"T={self.timesteps}"
        return f"<spikec.Compiler for {self.backend}, {steps}, verify={self.verify!r}, seed={self.seed}>"

    def run(self, model: Any) -> Compilation:
        """Compile one model: import it, run the passes, ask the target, and emit.

        Where there is more than one batch of data, the passes run dry before, on none and on the first one, so that a
        model is refused before all of the data is looked at. Nothing is emitted before the target has no objection.
        """
        context, records = self.lower(model)
        detach_from_model(*(record.graph for record in records))
        return self.emit(context, records)

    @showing
    @keeping_grad_mode
    def lower(self, model: Any, *, whole: bool = True, proved: bool = True) -> tuple[Context, Sequence[StageRecord]]:
        """All of :meth:`run` but emitting: what backends may know, and the graph after the import and every pass.

        Args:
            model: see :func:`compile`.
            whole: keep all graphs and the statistics of the data, or else the last graph only.
            proved: hold the passes to their contracts, as ``verify`` says, and not only what was read to the model.

        Raises:
            CompileError: with every problem of the model and the target that can be known by then, and with the ledger.
        """
        context: Context | None = None
        records: list[StageRecord] = []
        observers: list[Observer] = []
        try:
            context, example, check_model = self._import(model)
            graph, calibration = context.reference, context.calibration
            if self.pipeline is None and calibration.is_long:
                refuse_early(graph, calibration, self._run_dry)
            first = example if calibration.batches is None else calibration.batches.first
            observers = self._observers(graph, first, check_model, proved)
            records = self._run_passes(graph, context, observers, whole=whole)
            if problems := self.backend.check(records[-1].graph):
                if self.pipeline is not None and not records[-1].graph.is_spiking:
                    hint = f"put relu-to-if in it; spikec.Pipeline.default({self.backend.name!r}) has all that it takes"
                    problems = [Problem("the pipeline leaves a graph that does not spike", hint=hint), *problems]
                raise UnsupportedOpError(problems)
        except CompileError as error:
            imported = None if context is None else context.reference
            if imported is None and error.graph is not None:
                error.add(refused_beside(error.graph, error.problems, self._run_dry))
            account(error, imported, records[-1].graph if records else imported)
            read = imported or error.graph
            seen = next((each.stages for each in observers if isinstance(each, Dump)), None)
            left = seen or ([StageRecord("import", read)] if read is not None else [])
            self._finish_dump(left, context.notes if context else (), error.ledger, str(error))
            raise
        return context, records

    def _run_passes(
        self, graph: Graph, context: Context, observers: Sequence[Observer], *, whole: bool
    ) -> list[StageRecord]:
        pipeline = self._pipeline(graph, context.calibration)
        records: deque[StageRecord] = deque(maxlen=None if whole else 1)
        for count, record in enumerate(stages(graph, pipeline, context, observers)):
            records.append(record)
            if not whole and not looks_back(pipeline.passes[count:]):
                context.calibration.gathered = None
        return list(records)

    @keeping_grad_mode
    def emit(self, context: Context, records: Sequence[StageRecord]) -> Compilation:
        """Make the artifact, and gather everything that the run has left."""
        final = records[-1].graph
        own = attrs.evolve(context, running=self.backend.name)
        artifact = self.backend.emit(final, own)
        warn_of_reader(self.backend, artifact, final, own)
        ledger = Ledger.of(context.reference, final)
        self._finish_dump(records, context.notes, ledger)
        report = Report(self.backend.name, tuple(records), tuple(context.notes))
        gathered = context.calibration.gathered
        return Compilation(artifact, final, tuple(records), ledger, report, gathered, self.dump_dir)

    @showing
    @keeping_grad_mode
    def gather(self, model: Any) -> Calibration:
        """Run the passes up to the one that asks for statistics.

        Raises:
            CompileError: no pass does.
        """
        context, *_ = self._import(model)
        pipeline = self._pipeline(context.reference, context.calibration)
        for count, each in enumerate(pipeline, start=1):
            if each.gives is CALIBRATED:
                run_pipeline(context.reference, Pipeline(pipeline.passes[:count], pipeline.start), context)
        if context.calibration.gathered is None:
            raise CompileError("no pass of this pipeline looks at calibration data", hint="normalize does")
        return context.calibration.gathered

    def open(self, model: Any) -> tuple[Frontend, Any]:
        """The frontend that reads the model, and the model as it opens it."""
        of_target = [field.name for field in attrs.fields(type(self.backend))]
        return find_frontend(model, self.reading, of_target)

    def _import(self, model: Any) -> tuple[Context, Sequence[Tensor] | None, _Check | None]:
        """The model as a graph, in the context of its passes; the user's example; what holds the graph to the model."""
        frontend, model = self.open(model)
        example = frontend.batches(model, examples(self.example_input))
        calibration = CalibrationSource.of(self.calibration, frontend.input_names(model))
        graph = frontend.load(model, calibration.examples(example))
        calibration.warn_if_alike()
        notes = [Note("import", "", note) for note in graph.imported.notes]
        reference = frontend.reference(model)
        layers = functools.partial(frontend.layer_results, model)
        check = None if reference is None else lambda xs: check_import(graph, reference, xs, layers)
        return Context(graph, self.timesteps, self.seed, calibration, notes), example, check

    def _observers(
        self, graph: Graph, example: Sequence[Tensor] | None, check_model: _Check | None, proved: bool
    ) -> list[Observer]:
        """Who watches the passes; an imported graph that is not the model is refused here."""
        observers: list[Observer] = []
        if self.verify != "off":
            for _ in track(("what was read, beside the model",), "checks", current=str):
                xs = probe(graph, example, self.seed)
                check_shapes(graph)
                if check_model is not None:
                    check_model(xs)
            if proved:
                observers.append(Numbers(graph, xs, each=self.verify == "each", timesteps=self.timesteps))
        if self.dump_dir is not None:
            observers.append(Dump(self.dump_dir, graph))
        return observers

    def _pipeline(self, graph: Graph, calibration: CalibrationSource) -> Pipeline:
        """The passes for an imported graph, with thresholds chosen as the calibration allows."""
        if self.pipeline is not None:
            given = self.pipeline
            return given if isinstance(given, Pipeline) else Pipeline(given, _stage(graph))
        normalization = self.normalization
        if normalization is None and not calibration and not graph.is_spiking:
            normalization = Normalization(method="model")
        default = Pipeline.default(self.backend, normalization=normalization, timesteps=self.timesteps)
        if graph.is_spiking:  # its neurons state where they start
            tuned = {each.name for each in default if each.contract == "tuned"}
            return default.from_stage(_stage(graph)).without("init-potential", *tuned)
        return default

    def _run_dry(self, graph: Graph, calibration: CalibrationSource) -> list[Problem]:
        """What is refused of an imported graph, with thresholds chosen from this calibration."""
        context = Context(graph, self.timesteps, self.seed, calibration)
        return run_dry(graph, self._pipeline(graph, calibration), self.backend, context)

    def _finish_dump(
        self, records: Sequence[StageRecord], notes: Sequence[Note], ledger: Ledger | None, error: str = ""
    ) -> None:
        if self.dump_dir is not None:
            name = records[0].graph.name if records else "model"
            finish_dump(self.dump_dir, f"{name} -> {self.backend.name}", records, notes, ledger, error)


@overload
def compile(model: Any, target: Literal["spikingjelly"], **options: Unpack[SpikingJellyOptions]) -> SpikingModule: ...
@overload
def compile(model: Any, target: Literal["nir"], **options: Unpack[NirOptions]) -> nir.NIRGraph: ...
@overload
def compile(model: Any, target: Literal["netx"], **options: Unpack[NetxOptions]) -> IntegerModel: ...
@overload
def compile(model: Any, target: Literal["lava"], **options: Unpack[NetxOptions]) -> nn.Sequential: ...
@overload
def compile(model: Any, target: str | Backend, **options: Unpack[Options]) -> Any: ...
def compile(model: Any, target: str | Backend, **options: Any) -> Any:
    """Turn a trained network into a spiking one for a target.

    Args:
        model: a ``torch.nn.Module`` or ``torch.fx.GraphModule``, a ``spikec.Graph``, or what another
            installed frontend reads (a path, for instance).
        target: name of a backend, or an instance of one of your own.
        dt: seconds a step of a NIR model; the target ``nir`` writes it (1e-4 where not given).
        reset: how the neurons of a NIR model reset, see :func:`spikec.load`; of a target that has an option of that
            name, it is the target's.
        fire: whether the neurons of a NIR model fire above their threshold (``">"``) or also at it (``">="``).
        v_init: the potential before step 0 of the neurons of a NIR model.
        reader: the tool whose way of running a NIR model is meant, see :func:`spikec.load`.
        max_bytes: what the arrays of a file may take in memory (if not stated, half a gigabyte more than the file).
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
        verify: hold exact passes to their contract one by one, whatever it costs (``"each"``), each run of them as a
            whole, within a budget (``"end"``), or not (``"off"``). Types and structure are always checked.
        dump_dir: write the graph after every pass there.
        progress: show how far it is on stderr, as bars, or as a line now and then where that is no terminal; or a
            function that is given a :class:`spikec.Progress` whenever something is done.
        seed: of everything random.
        target_options: the fields of the target's backend.

    Returns:
        The target's own object: a ``torch.nn.Module`` for ``spikingjelly``, an ``nir.NIRGraph`` for
        ``nir``, an integer model with ``save`` and ``run`` for ``netx``, lava-dl blocks for ``lava``.

    Raises:
        CompileError: one of its subclasses, with every problem located in the model.

    Examples:
        >>> snn = spikec.compile(model, "spikingjelly", calibration=images, timesteps=8)
        >>> with torch.no_grad():
        ...     outputs = torch.stack([snn(images) for _ in range(8)])    # [T, B, 10], in the ANN's units
        >>> snn.reset()
    """
    compiler = Compiler(target, **options)
    context, records = compiler.lower(model, whole=compiler.dump_dir is not None)
    detach_from_model(records[-1].graph)  # the other stages go
    return compiler.emit(context, records).artifact


def calibrate(
    model: Any,
    data: Any,
    target: str | Backend = "spikingjelly",
    *,
    time_axis: int | None = None,
    device: str | torch.device | None = None,
    all_reduce: bool = False,
    **options: Unpack[AnyOptions],
) -> Calibration:
    """The statistics that :func:`compile` would gather, to save, to merge, and to give to it as ``calibration``.

    Under ``torch.distributed`` each process calibrates on its own part of the data.

    Args:
        model: see :func:`compile`.
        data: as ``calibration`` of :func:`compile`; it gives the shapes.
        target: see :func:`compile`.
        time_axis: of event data, the axis of each input that is time (0 for [T, B, ...]); the ANN then sees the
            average over it, which is what a rate stands for.
        device: where the ANN runs; None for where the data is.
        all_reduce: of the samples of all processes of the default ``torch.distributed`` group, each of which calls this
            with batches of its own; as many each, where smooth functions or products of signals are fitted to them.
        options: see :func:`compile`.

    Raises:
        CompileError: the model or the data do not fit, as for :func:`compile`.
        CalibrationError: all_reduce is asked for, and the process is in no group.

    Examples:
        >>> halves = [spikec.calibrate(model, images[:32]), spikec.calibrate(model, images[32:])]
        >>> halves[0].merge(halves[1]).samples
        64
    """
    compiler = Compiler(target, **options)
    frontend, model = compiler.open(model)
    names = frontend.input_names(model)
    compiler.calibration = Batches(data, names, "data", time_axis=time_axis, device=device, all_reduce=all_reduce)
    return compiler.gather(model)


def _stage(graph: Graph) -> Stage:
    """Return the stage that an imported graph has reached."""
    if not graph.is_spiking:
        return IMPORTED
    return RECEIVED if SPIKING.problems(graph) else SPIKING
