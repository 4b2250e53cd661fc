"""Every target's whole order of passes, by its capabilities or its own."""

from typing import ClassVar

import attrs
import pytest

import nets
import spikec
from spikec import CompileError, Normalization, Pipeline
from spikec.extend.loader import backend_named, backends

T = 8
TO_SPIKES = [
    "eliminate-identity", "infer-types", "cancel-permutes", "detach-head", "drop-levels", "join-functions",
    "lower-norms", "lower-products", "canonicalize-activations", "lower-maxpool", "lower-adaptive-pool",
    "lower-functions", "fold-batchnorm", "normalize", "relu-to-if", "init-potential",
]  # fmt: skip
COUNTING = [f"{each}{{counters=True}}" if each in ("lower-norms", "lower-maxpool") else each for each in TO_SPIKES]
SHAPELESS = ["lower-products{neuron_budget=0}" if each == "lower-products" else each for each in TO_SPIKES]
WHOLE = {
    "spikingjelly": [
        *COUNTING, "correct-bias", "weigh-readout", "avgpool-to-sumpool", "fold-rescale", "cast-parameters",
    ],
    "nir": [
        *SHAPELESS, "correct-bias", "plain-readout", "lower-movement", "avgpool-to-sumpool", "lower-concat",
        "fold-rescale{thresholds=uniform}", "fold-pool{pools=False}", "lower-v-init", "correct-bias",
        "legalize-nir", "chain-sums", "legalize-nir", "cast-parameters", "strict-threshold",
    ],
    "netx": [
        *SHAPELESS, "loihi-neurons", "encode-input", "correct-bias", "plain-readout", "lower-movement",
        "avgpool-to-sumpool", "fold-rescale{thresholds=uniform}", "pool-neurons", "fold-pool{affine=True}",
        "linearize-netx", "legalize-netx", "fold-pool{affine=True}", "reset-netx", "quantize-netx",
    ],
}  # fmt: skip
WHOLE["lava"] = WHOLE["netx"]


@pytest.mark.parametrize("target", backends())
def test_the_whole_order_of_each_target(target):
    pipeline = Pipeline.default(target, normalization=Normalization(), timesteps=T)
    assert [str(each) for each in pipeline] == WHOLE[target]
    chosen = Pipeline.default(target, timesteps=T)
    assert "choose" in [each.name for each in chosen]


def test_options_of_a_target_reach_the_passes():
    for name in ("spikingjelly", "nir", "netx"):
        assert "replicate-neurons{copies=1.5}" in str(Pipeline.default(backend_named(name)(neurons=1.5)))
    shown = str(Pipeline.default(backend_named("netx")(reset="hard")))
    assert "legalize-netx{reset=hard}, fold-pool{affine=True}, reset-netx{reset=hard}" in shown
    shown = str(Pipeline.default(backend_named("nir")(profile="spikingjelly")))
    assert "avgpool-to-sumpool{keep=(2,)}" in shown
    assert "strict-threshold{fires='>='}" in shown
    assert "lower-v-init, lower-shapes, legalize-nir, cast-parameters" in shown
    shown = str(Pipeline.default(backend_named("nir")(profile="full"), normalization=Normalization(), timesteps=T))
    assert "fold-pool{pools=False}, lower-v-init{kept=True}, lower-shapes, legalize-nir" in shown
    shown = str(Pipeline.default(backend_named("nir")(profile="snn-mlir")))
    legal = "legalize-nir{dilates=False}"
    assert f"fit-neurons{{gain=one, zero=True}}, {legal}, carry-skips, {legal}, cast-parameters" in shown


@attrs.frozen
class Able(spikec.Backend):
    """No order of its own."""

    name = "able"
    thresholds: ClassVar[str] = "uniform"
    averages: ClassVar[tuple[int, ...]] = (2,)
    potentials: ClassVar[bool] = True

    def emit(self, graph, context):
        return graph


@attrs.frozen
class Particular(Able):
    """With an order of its own."""

    name = "particular"

    def passes(self, timesteps):
        return "lower-movement", "avgpool-to-sumpool{keep=(1, 2)}", "fold-rescale"


@attrs.frozen
class Lost(Able):
    name = "lost"
    order = "nirr"


def test_a_target_of_ones_own_gets_the_default_order_by_its_capabilities_or_brings_its_own():
    shown = str(Pipeline.default(Able(), timesteps=T))
    assert shown.endswith(", avgpool-to-sumpool{keep=(2,)}, fold-rescale{thresholds=uniform}, cast-parameters")
    assert "calibrate-potential" in shown
    shown = str(Pipeline.default(Particular(), normalization=Normalization()))
    assert shown.endswith(", init-potential, lower-movement, avgpool-to-sumpool{keep=(1, 2)}, fold-rescale")
    with pytest.raises(CompileError, match="no order of passes 'nirr'.*did you mean 'nir'"):
        Pipeline.default(Lost())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*hard reset in")
@pytest.mark.parametrize("target", backends())
def test_a_report_is_replayed(target):
    if target == "lava":
        pytest.importorskip("lava.lib.dl.slayer", exc_type=Exception)
    x = nets.batch("cnn", 16)
    try:
        first = spikec.Compiler(target, calibration=x, timesteps=T).run(nets.build("cnn"))
    except spikec.MissingDependencyError as error:
        pytest.skip(error.problems[0].message)
    assert str(first.report).endswith(f"\n  passes: {first.report.passes}")
    pipeline = Pipeline.parse(first.report.passes)
    again = spikec.Compiler(target, calibration=x, timesteps=T, pipeline=pipeline).run(nets.build("cnn"))
    assert str(again.graph) == str(first.graph)
    assert again.report.passes == first.report.passes


@pytest.mark.slow
def test_a_report_of_a_spiking_model_is_replayed():
    graph = spikec.Compiler("spikingjelly", calibration=nets.batch("mlp", 16)).run(nets.build("mlp")).graph
    first = spikec.Compiler("nir", timesteps=T).run(graph)
    again = spikec.Compiler("nir", timesteps=T, pipeline=Pipeline.parse(first.report.passes)).run(graph)
    assert str(again.graph) == str(first.graph)
