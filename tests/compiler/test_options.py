"""Options that cannot be meant are refused or warned of, at the line that gave them."""

import warnings

import numpy as np
import pytest
import torch

import nets
import spikec
from spikec import CalibrationError, CompileError, Compiler, Normalization, Pipeline, SpikecWarning

X = nets.batch("mlp", 40)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "foo"}, "no normalization method 'foo'"),
        ({"method": None}, "no normalization method None"),
        ({"percentile": "99"}, "percentile is 99"),
        ({"percentile": 0}, "percentile is 0"),
        ({"factor": 2}, "factor is 2"),
        ({"factor": True}, "factor is True"),
        ({"v_init": float("nan")}, "v_init is nan"),
    ],
)
def test_a_normalization_that_does_not_exist_is_refused(options, message):
    with pytest.raises(CompileError, match=message):
        Normalization(**options)


def test_a_pipelines_timesteps_hold_for_the_compiler():
    pipeline = Pipeline.default("nir", timesteps=8).insert_after("choose", "replicate-neurons").without("detach-head")
    assert Compiler("nir", pipeline=pipeline).timesteps == 8
    assert Compiler("nir", pipeline=pipeline, timesteps=8).timesteps == 8
    assert Compiler("nir", pipeline=Pipeline.default("nir"), timesteps=8).timesteps == 8
    said = spikec.compile(nets.build("mlp"), "nir", calibration=X, pipeline=pipeline)
    assert said.metadata["timesteps"] == 8
    with pytest.raises(CompileError, match="timesteps is 16, and the pipeline was made for 8"):
        Compiler("nir", pipeline=pipeline, timesteps=16)
    with pytest.raises(CompileError, match="timesteps"):
        Pipeline.default("nir", timesteps=0)


def test_streams_without_timesteps_are_refused():
    with pytest.raises(CompileError, match="stream a bias for each step, and timesteps is not given"):
        spikec.compile(nets.build("mlp"), "spikingjelly", calibration=X, streams=True)


def test_samples_that_are_all_the_same_are_warned_of():
    with pytest.warns(SpikecWarning, match="all the same"):
        spikec.compile(nets.build("mlp"), "spikingjelly", calibration=torch.full((20, 7), 0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error", SpikecWarning)
        spikec.compile(nets.build("mlp"), "spikingjelly", calibration=X)


@pytest.mark.parametrize(("wrong", "shown"), [(-1, "-1"), (4, "4"), (99, "99")])
def test_a_label_that_is_no_class_is_refused(wrong, shown):
    c = Compiler("spikingjelly", calibration=X).run(nets.build("mlp"))
    labels = torch.zeros(40, dtype=torch.long)
    labels[7] = wrong
    message = f"there is a label {shown}, and the model has the classes 0 to 3"
    with pytest.raises(CalibrationError, match=message):
        spikec.diagnose(c, X, 4, labels)
    for snn in (c.artifact, c.graph):
        with pytest.raises(CalibrationError, match=message):
            spikec.evaluate(snn, [(X, labels)], 4)
    labels[7] = 3
    spikec.diagnose(c, X, 4, labels)
    assert spikec.evaluate(c.graph, [(X, labels)], 4).shape == (4,)


def test_a_name_by_which_the_file_is_not_known_again_is_warned_of(tmp_path):
    graph = spikec.compile(nets.build("mlp"), "nir", calibration=X)
    with pytest.warns(SpikecWarning, match=r"net.h5 does not end in \.nir"):
        spikec.save(graph, tmp_path / "net.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("error", SpikecWarning)
        spikec.save(graph, tmp_path / "net.nir")


def test_a_warning_points_at_the_line_that_called_spikec():
    with pytest.warns(SpikecWarning) as caught:
        spikec.compile(nets.build("mlp"), "spikingjelly", example_input=X)
    assert caught[0].filename == __file__
    with pytest.warns(SpikecWarning) as caught:
        spikec.compile(nets.build("mlp"), "spikingjelly", calibration=np.full((20, 7), 0.5, np.float32))
    assert {each.filename for each in caught} == {__file__}
