"""The default order of passes. Order is semantics, so it is one list on one page."""

from __future__ import annotations

from collections.abc import Iterator

from spikec.calibration.normalization import Normalization
from spikec.extend.backend import Backend
from spikec.extend.loader import pass_named
from spikec.extend.passbase import Pass
from spikec.ir.errors import CompileError


def recommended(backend: Backend, normalization: Normalization | None, timesteps: int | None) -> Iterator[Pass | str]:
    """From an imported ANN to what a target can carry.

    A tuned pass is kept only if agreement with the ANN does not fall, so the result is never worse on the calibration
    samples than percentile and v_init. What the user chose stays: with a normalization given, thresholds and
    potentials are not tuned; without timesteps, nothing is that rests on T.
    """
    if backend.streams and timesteps is None:
        raise CompileError(
            f"target {backend.name} is to stream a bias for each step, and timesteps is not given",
            hint="say how many steps you will run: timesteps=8",
        )
    chosen = normalization or Normalization()
    yield "eliminate-identity"
    yield "infer-types"
    yield "cancel-permutes"
    yield "detach-head"
    yield "canonicalize-activations"
    yield pass_named("lower-maxpool", counters=backend.counters)
    yield "lower-adaptive-pool"
    yield "fold-batchnorm"
    yield pass_named("normalize", normalization=chosen)
    yield "relu-to-if"
    yield pass_named("init-potential", fraction=chosen.v_init)
    yield from backend.before_tuning(timesteps)
    if normalization is None:
        yield pass_named("choose", candidates=_candidates(backend, timesteps))
    elif timesteps is not None:
        yield "stream-bias" if backend.streams else "correct-bias"
    yield from backend.passes(timesteps)


def _candidates(backend: Backend, timesteps: int | None) -> tuple[tuple[Pass, ...], ...]:
    """What a default pipeline may do to thresholds, potentials and biases."""
    known = timesteps is not None
    thresholds = pass_named("tune-thresholds", normalization=Normalization(method="mmse" if known else "ltb"))
    bias, potentials = pass_named("correct-bias"), pass_named("calibrate-potential")
    everywhere, first = (pass_named("dither-potential", layers=layers) for layers in ("all", "first"))
    if not known:
        return ((thresholds,), *(((first,), (thresholds, first)) if backend.potentials else ()))
    if not backend.potentials:
        return (bias,), (thresholds, bias)
    ways = (thresholds, potentials), (thresholds, first, potentials), (thresholds, everywhere, potentials)
    if not backend.streams:
        return ways
    stream = pass_named("stream-bias")
    return (thresholds, stream), *((*way, stream) for way in ways)
