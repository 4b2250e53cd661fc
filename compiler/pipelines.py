"""The default order of passes. Order is semantics, so it is one list on one page."""

from __future__ import annotations

from collections.abc import Iterator

from spikec.backend import Backend
from spikec.loader import pass_named
from spikec.normalization import Normalization
from spikec.passbase import Pass


def recommended(backend: Backend, normalization: Normalization | None, timesteps: int | None) -> Iterator[Pass | str]:
    """From an imported ANN to what a target can carry.

    A tuned pass is kept only if agreement with the ANN does not fall, so the result is never worse on the calibration
    samples than percentile and v_init. What the user chose stays: with a normalization given, thresholds and
    potentials are not tuned; without timesteps, nothing is that rests on T.
    """
    chosen = normalization or Normalization()
    yield "eliminate-identity"
    yield "infer-types"
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
        yield "correct-bias"
    if timesteps is not None and backend.streams:
        yield "stream-bias"
    yield "avgpool-to-sumpool"
    yield from backend.passes(timesteps)


def _candidates(backend: Backend, timesteps: int | None) -> tuple[tuple[Pass, ...], ...]:
    """What a default pipeline may do to thresholds, potentials and biases."""
    known = timesteps is not None
    thresholds = pass_named("tune-thresholds", normalization=Normalization(method="mmse" if known else "ltb"))
    spread = [pass_named("dither-potential", layers=layers) for layers in ("all", "first")]
    if not backend.potentials:
        bias = pass_named("correct-bias")
        return ((thresholds, bias), (bias,)) if known else ((thresholds,),)
    if not known:
        return ((thresholds,), (thresholds, spread[1]), (spread[1],))
    potentials = pass_named("calibrate-potential")
    return (
        (thresholds, potentials),
        *((thresholds, each, potentials) for each in spread),
    )
