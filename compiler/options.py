"""The options of the compiler, stated once for ``compile``, ``Compiler``, ``calibrate``, ``check`` and the shell."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypedDict

import attrs

from spikec.calibration.normalization import Normalization
from spikec.extend import loader
from spikec.extend.backend import Backend
from spikec.extend.passbase import Pass
from spikec.interpreter.inputs import whole_number
from spikec.ir.errors import CompileError
from spikec.ir.progress import Progress
from spikec.pipeline.observers import Verify
from spikec.pipeline.pipeline import Pipeline
from spikec.reading import Inputs, reading_options


class ReadingOptions(TypedDict, total=False):
    """Options on how a model is read, for the frontends that have them; the target ``nir`` has ``dt`` as well."""

    dt: float | None
    reset: Literal["auto", "soft", "hard", "subtract", "value"]
    fire: Literal[">", ">="]
    v_init: Any
    reader: str
    max_bytes: int | None


class Options(ReadingOptions, total=False):
    """Options for every target; :func:`spikec.compile` says what they mean."""

    example_input: Inputs | None
    calibration: Any
    normalization: str | float | Normalization | None
    timesteps: int | None
    pipeline: Pipeline | Iterable[Pass | str] | None
    verify: Verify
    dump_dir: str | os.PathLike[str] | None
    progress: bool | Callable[[Progress], None] | None
    seed: int


class SpikingJellyOptions(Options, total=False):
    """With those of the target ``spikingjelly``."""

    counters: bool
    streams: bool
    events: bool
    accumulate: bool
    neurons: float
    neuron_budget: int


class NirOptions(Options, total=False):
    """With those of the target ``nir``, but for ``dt`` and ``reset``, which the frontend of NIR has too."""

    profile: str
    neurons: float


class NetxOptions(Options, total=False):
    """With those of the targets ``netx`` and ``lava``, but for ``reset``, which the frontend of NIR has too."""

    input: Literal["values", "spikes"]
    neurons: float


class AnyOptions(SpikingJellyOptions, NirOptions, NetxOptions, total=False):
    """With those of every target: which of them has which is known when it runs."""


#: the options of ``compile`` itself, which neither target nor frontend has
OWN = Options.__annotations__.keys() - ReadingOptions.__annotations__.keys()


def timesteps_of(given: int | None, pipeline: Pipeline | tuple[Pass, ...] | None) -> int | None:
    """The user's T, from the option or from the pipeline that was made for it; from here on it is the context's."""
    stated = None if given is None else whole_number("timesteps", given, 1)
    meant = pipeline.timesteps if isinstance(pipeline, Pipeline) else None
    if None not in (stated, meant) and stated != meant:
        raise CompileError(
            f"timesteps is {stated}, and the pipeline was made for {meant}", hint="say the same in both, or in one"
        )
    return stated or meant


def backend_of(target: str | Backend, options: Mapping[str, Any]) -> Backend:
    """The target with its own options, out of those that are not of ``compile`` itself.

    Raises:
        CompileError: there is no such target, or no such option, be it the target's or anybody's.
    """
    if isinstance(target, Backend):
        kind, what = type(target), "option of compile, where the target is an instance already,"
    elif isinstance(target, str):
        kind, what = loader.backend_named(target), f"option of target {target}"
    else:
        raise CompileError(f"target is a {type(target).__name__}", hint="give a name, or an instance of a Backend: B()")
    fields = [] if isinstance(target, Backend) else [field.name for field in attrs.fields(kind)]
    for name in options:
        if name not in fields and name not in (reading := reading_options()):
            raise loader.unknown(what, name, {*fields, *reading, *OWN})
    if isinstance(target, Backend):
        return target
    return kind(**{name: value for name, value in options.items() if name in fields})
