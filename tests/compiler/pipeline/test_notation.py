"""A pass prints as a text that is read back as the same pass."""

import pytest

from spikec import CompileError, Normalization, Pipeline
from spikec.extend.loader import backend_named, names, pass_named
from spikec.ir.stages import IMPORTED, RECEIVED, SPIKING
from spikec.pipeline.pipeline import read_passes

EVERY = [each.replace("_", "-") for each in names("passes")]


@pytest.mark.parametrize("normalization", [None, "99.5%", Normalization(method="ltb", v_init=0.25, per_channel=False)])
@pytest.mark.parametrize(
    ("target", "options", "timesteps"),
    [
        ("spikingjelly", {}, None),
        ("spikingjelly", {"counters": False}, 8),
        ("spikingjelly", {"streams": True}, 8),
        ("nir", {}, None),
        ("nir", {"profile": "spikingjelly"}, 8),
        ("netx", {}, None),
        ("netx", {"reset": "hard"}, 8),
    ],
)
def test_every_default_pipeline_is_read_back(target, options, timesteps, normalization):
    pipeline = Pipeline.default(backend_named(target)(**options), normalization=normalization, timesteps=timesteps)
    assert Pipeline.parse(str(pipeline)).passes == pipeline.passes
    for each in pipeline:
        assert read_passes(str(each)) == [each]


@pytest.mark.parametrize("name", EVERY)
def test_every_pass_is_read_back(name):
    (found,) = read_passes(name)
    assert found == pass_named(name)
    assert str(found) == name


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("strict-threshold{fires='>='}", "strict-threshold", {"fires": ">="}),
        ("strict-threshold{fires=at}", "strict-threshold", {"fires": "at"}),
        (r"strict-threshold{fires='it\'s, {so}'}", "strict-threshold", {"fires": "it's, {so}"}),
        ("strict-threshold{fires='None'}", "strict-threshold", {"fires": "None"}),
        ("strict-threshold{fires='2'}", "strict-threshold", {"fires": "2"}),
        ("reset-netx{ratio=None,reset=hard}", "reset-netx", {"reset": "hard"}),
        ("reset-netx{ratio=-2.5e-3}", "reset-netx", {"ratio": -0.0025}),
        ("reset-netx{ratio=inf}", "reset-netx", {"ratio": float("inf")}),
        ("avgpool-to-sumpool{keep=()}", "avgpool-to-sumpool", {"keep": ()}),
        ("avgpool-to-sumpool { keep = (2, 3), }", "avgpool-to-sumpool", {"keep": (2, 3)}),
        ("fold-pool{affine=True}", "fold-pool", {"affine": True}),
        (
            "choose{candidates=((correct-bias{rounds=1},), ())}",
            "choose",
            {"candidates": ((pass_named("correct-bias", rounds=1),), ())},
        ),
        (
            "normalize{normalization=Normalization{method=max, factor=0.5}}",
            "normalize",
            {"normalization": Normalization(method="max", factor=0.5)},
        ),
    ],
)
def test_values_of_every_kind_are_read_and_written(text, name, options, monkeypatch):
    monkeypatch.setitem(type(pass_named("strict-threshold")).__annotations__, "fires", str)  # else two texts only
    (found,) = read_passes(text)
    assert found == pass_named(name, **options)
    assert read_passes(str(found)) == [found]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("normalize normalize", "on: normalize >>>  normalize"),
        ("infer-types,,infer-types", "on: infer-types, >>> ,infer-types"),
        ("fold-rescale{thresholds=", "on: fold-rescale{thresholds= >>>"),
        ("fold-rescale{thresholds=uniform", "on: fold-rescale{thresholds=uniform >>>"),
        ("strict-threshold{fires=>}", "on: strict-threshold{fires= >>> >}"),
        ("reset-netx{ratio=1.5.2}", "on: reset-netx{ratio= >>> 1.5.2}"),
        ("dither-potential{layerz=all}", "did you mean 'layers'"),
        ("dither-potential{layers=some}", "layers is 'some'"),
        ("fold-batchnrm", "did you mean 'fold-batchnorm'"),
        ("normalize{normalization=Normalization{metod=max}}", "did you mean 'method'"),
        ("normalize, relu-to-if, normalize", "normalize runs on a graph that is folded; here it is imported"),
    ],
)
def test_what_cannot_be_read_is_shown_where_it_is(text, message):
    with pytest.raises(CompileError) as caught:
        Pipeline.parse(text)
    assert message in str(caught.value)


def test_a_pipeline_that_is_read_starts_where_its_passes_may_run():
    assert Pipeline.parse("infer-types").start is IMPORTED
    assert Pipeline.parse("fold-batchnorm, init-potential").start is RECEIVED
    assert Pipeline.parse("init-potential").start is SPIKING
