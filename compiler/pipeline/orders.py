"""The orders of passes of all targets. Order is semantics, so all of it stands on this page."""

from collections.abc import Sequence

from spikec.calibration.normalization import Normalization
from spikec.extend.backend import Backend
from spikec.extend.loader import pass_named, unknown
from spikec.extend.passbase import Pass
from spikec.ir.errors import CompileError, Hint, Option

Order = Sequence[Pass | str]

#: how many values above the largest thresholds reckon with, where samples are few or the net is large
_UNSEEN = 4.0


def order_for(backend: Backend, normalization: Normalization | None, timesteps: int | None) -> Order:
    """The passes from an imported ANN to what a target can carry.

    A tuned pass is kept only if agreement with the ANN does not fall, on few samples only if the error does not rise.
    Thresholds, potentials and biases are chosen on samples that did not set them, also from a plain percentile of each
    channel or layer and the maximum of each layer.
    What the user chose stays: with a normalization given, thresholds and potentials are not tuned; without timesteps,
    nothing is that rests on T.

    Args:
        backend: the target; it names its order, and the capabilities that the passes go by.
        normalization: the user's choice, or None.
        timesteps: the T that the user means to run, or None.
    """
    chosen = normalization or Normalization()
    spikes: Order = (
        "eliminate-identity",
        "infer-types",
        "cancel-permutes",
        "detach-head",
        "drop-levels",
        "join-functions",
        *(("accumulate",) if backend.accumulates else ()),
        pass_named("lower-norms", counters=backend.counters),
        pass_named("lower-products", neuron_budget=backend.neuron_budget),
        "canonicalize-activations",
        pass_named("lower-maxpool", counters=backend.counters),
        "lower-adaptive-pool",
        "lower-functions",
        "fold-batchnorm",
        pass_named("normalize", normalization=chosen),
        "relu-to-if",
        pass_named("init-potential", fraction=chosen.v_init),
    )
    tuned = _tuned(backend, normalization, timesteps)
    hard = "lower-v-init", pass_named("hard-reset", neurons=int(backend.neurons))
    avgpool = pass_named("avgpool-to-sumpool", keep=backend.averages)
    rescale = pass_named("fold-rescale", thresholds=backend.thresholds)
    if (own := backend.passes(timesteps)) is not None:
        return *spikes, *tuned, *own

    def integers(reset: str) -> tuple[Pass, ...]:
        tunes = normalization is None and timesteps and not backend.takes_spikes
        quantize = pass_named("quantize-netx", spikes=backend.takes_spikes)
        return pass_named("reset-netx", reset=reset), quantize, *((pass_named("tune-netx"),) if tunes else ())

    orders: dict[str, Order] = {
        "default": (*spikes, *tuned, avgpool, rescale, "cast-parameters"),
        "nir": (
            *spikes,
            *(hard if backend.reset == "hard" else tuned),
            "plain-readout",
            "lower-movement",
            avgpool,
            "lower-concat",
            rescale,
            "fold-pool{pools=False}",
            pass_named("lower-v-init", kept=backend.potentials),
            *(() if timesteps is None or backend.potentials else (*backend.as_read, "correct-bias")),
            *backend.forms,
            "cast-parameters",
            pass_named("strict-threshold", fires=backend.fires),
        ),
        "netx": (
            *spikes,
            pass_named("loihi-neurons", reset=backend.reset),
            # before the passes that tune, because they must see what the encoder does
            pass_named("encode-input", spikes=backend.takes_spikes),
            *tuned,
            "plain-readout",
            "lower-movement",
            avgpool,
            rescale,
            "pool-neurons",
            "fold-pool{affine=True}",
            "linearize-netx",
            pass_named("legalize-netx", reset=backend.reset),
            "fold-pool{affine=True}",
            *(() if backend.reset != "soft" else (pass_named("fall-back-netx", passes=integers("hard")),)),
            *integers(backend.reset),
        ),
    }
    if backend.order not in orders:
        raise unknown("order of passes", backend.order, orders)
    return orders[backend.order]


def _tuned(backend: Backend, normalization: Normalization | None, timesteps: int | None) -> Order:
    """What is tuned on calibration samples, by what the user left open and by what the target can carry."""
    if backend.streams and timesteps is None:
        raise CompileError(
            f"target {backend.name} is to stream a bias for each step, and timesteps is not given",
            hint=Hint("say how many steps you will run: ", Option("timesteps", 8)),
        )
    if backend.streams and backend.neurons != 1:
        raise CompileError(
            "a bias for each step is tuned for one neuron, and neurons is given",
            hint=Hint("leave out one of ", Option("streams"), " and ", Option("neurons")),
        )
    several = () if backend.neurons == 1 else (pass_named("replicate-neurons", copies=backend.neurons),)
    readout = ("weigh-readout",) if backend.weighs else ()
    if normalization is None:
        again = (pass_named("tune-thresholds", normalization=Normalization()),)
        return *several, _choice(backend, timesteps, again), *readout
    if timesteps is None:
        return several
    return *several, "stream-bias" if backend.streams else "correct-bias", *readout


def _choice(backend: Backend, timesteps: int | None, start: tuple[Pass, ...]) -> Pass:
    """Choose among ways; of few samples among those that reckon with what these do not show.

    A large net is tried with the maximum of each layer and with what reckons with more than samples show: what clips
    more is nearer on samples of the kind that set it, and further off on others (benchmarks/README.md, settled.py).
    Values above the largest come together, several of one sample, and what is clipped of them adds up where rounding
    averages out: so four are reckoned with. Two to eight give nearly the same (benchmarks/README.md, few.py).
    """
    ways = _candidates(backend, timesteps)
    channel, layer = (
        pass_named("tune-thresholds", normalization=Normalization(method="mmse", unseen=_UNSEEN, per_channel=each))
        for each in (True, False)
    )
    others = ways if timesteps is None else ((channel, *ways[2][1:]), (layer, *ways[2][1:]))
    few = (channel,), (layer,), *others
    return pass_named("choose", candidates=ways, start=start, large=(ways[0], ways[2]), few=few)


def _candidates(backend: Backend, timesteps: int | None) -> tuple[tuple[Pass, ...], ...]:
    """Thresholds, potentials and biases that go together: what agrees best with the ANN is chosen.

    The first of them to be tuned for T reckon with values that samples do not show. They are drawn half-way to their
    layers' as well, since a layer shows more than a channel does.
    """
    known = timesteps is not None
    thresholds = pass_named("tune-thresholds", normalization=Normalization(method="mmse" if known else "ltb"))
    unseen = Normalization(method="mmse", shrink=0.5, unseen=_UNSEEN)
    wider = pass_named("tune-thresholds", normalization=unseen)
    layer = tuple(
        (pass_named("tune-thresholds", normalization=Normalization.parse(mode)),) for mode in ("max", "99.9%")
    )
    bias, potentials = pass_named("correct-bias"), pass_named("calibrate-potential")
    first = pass_named("dither-potential", layers="first")
    if not known:
        return *layer, (thresholds,), *(((first,), (thresholds, first)) if backend.potentials else ())
    if not backend.potentials:
        return *layer, (wider, bias), (thresholds, bias), (bias,)
    ways = (wider, potentials), (thresholds, potentials), (thresholds, first, potentials)
    if not backend.streams:
        return *layer, *ways
    stream = pass_named("stream-bias")
    return *layer, (thresholds, stream), *((*way, stream) for way in ways)
