"""Options that cannot be meant are refused or warned of, at the line that gave them."""

import functools
import warnings

import numpy as np
import pytest
import torch

import nets
import spikec
from spikec import CalibrationError, CompileError, Compiler, Normalization, Pipeline, SpikecWarning
from spikec.ir.ops import Neuron

X = nets.batch("mlp", 40)


@functools.cache
def compiled():
    return Compiler("spikingjelly", calibration=X).run(nets.build("mlp"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "foo"}, "no normalization method 'foo'"),
        ({"method": None}, "no normalization method None"),
        ({"percentile": "99"}, "percentile is '99'"),
        ({"v_init": -0.5}, r"v_init is -0.5, it must be in \[0, 1\]"),
        ({"per_channel": "no"}, "per_channel is 'no'"),
        ({"percentile": 0}, "percentile is 0"),
        ({"factor": 2}, "factor is 2"),
        ({"factor": True}, "factor is True"),
        ({"v_init": float("nan")}, "v_init is nan"),
    ],
)
def test_a_normalization_that_does_not_exist_is_refused(options, message):
    with pytest.raises(CompileError, match=message):
        Normalization(**options)


@pytest.mark.slow
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


@pytest.mark.slow
def test_samples_that_are_all_the_same_are_warned_of():
    with pytest.warns(SpikecWarning, match="all the same"):
        spikec.compile(nets.build("mlp"), "spikingjelly", calibration=torch.full((20, 7), 0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error", SpikecWarning)
        spikec.compile(nets.build("mlp"), "spikingjelly", calibration=X)


@pytest.mark.slow
@pytest.mark.parametrize(("wrong", "shown"), [(-1, "-1"), (4, "4"), (99, "99")])
def test_a_label_that_is_no_class_is_refused(wrong, shown):
    c = compiled()
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


@pytest.mark.slow
def test_a_name_by_which_the_file_is_not_known_again_is_warned_of(tmp_path):
    graph = spikec.compile(nets.build("mlp"), "nir", calibration=X)
    with pytest.warns(SpikecWarning, match=r"net.hdf5 does not end in \.nir"):
        spikec.save(graph, tmp_path / "net.hdf5")
    with warnings.catch_warnings():
        warnings.simplefilter("error", SpikecWarning)
        spikec.save(graph, tmp_path / "net.nir")
        spikec.save(graph, tmp_path / "net.h5")


@pytest.mark.slow
def test_a_warning_points_at_the_line_that_called_spikec():
    with pytest.warns(SpikecWarning) as caught:
        spikec.compile(nets.build("mlp"), "spikingjelly", example_input=X)
    assert caught[0].filename == __file__
    with pytest.warns(SpikecWarning) as caught:
        spikec.compile(nets.build("mlp"), "spikingjelly", calibration=np.full((20, 7), 0.5, np.float32))
    assert {each.filename for each in caught} == {__file__}


def test_numbers_of_numpy_are_numbers():
    assert Normalization(factor=np.float32(0.5), v_init=np.float64(0)).factor == 0.5
    assert Normalization.parse(np.float32(0.5)).factor == 0.5


@pytest.mark.parametrize("labels", [["a"] * 40, np.array(["a"] * 40, object), np.zeros(40, complex), [[0]] * 40, 3])
def test_labels_that_are_no_numbers_are_refused(labels):
    c = compiled()
    with pytest.raises(CalibrationError, match="labels are"):
        spikec.diagnose(c, X, 4, labels)
    with pytest.raises(CalibrationError, match="labels are"):
        spikec.evaluate(c.graph, [(X, labels)], 4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_labels_of_every_whole_kind_are_taken(dtype):
    c = compiled()
    assert spikec.diagnose(c, X, 4, np.zeros(40, dtype)).accuracy is not None
    assert spikec.evaluate(c.graph, [(X, np.zeros(40, dtype))], 4).shape == (4,)


@pytest.mark.parametrize("steps", [0, -1, "4", None, True])
def test_a_number_of_steps_that_is_none_is_refused(steps):
    graph = compiled().graph
    with pytest.raises(CompileError, match="timesteps is"):
        spikec.evaluate(graph, [(X, torch.zeros(40, dtype=torch.long))], steps)


@pytest.mark.parametrize("tolerance", ["x", None, 0, 1])
def test_a_tolerance_that_is_no_share_is_refused(tolerance):
    c = compiled()
    with pytest.raises(CompileError, match="tolerance is"):
        spikec.diagnose(c, X, 4, tolerance=tolerance)


@pytest.mark.parametrize("value", [np.array([0.5, 0.5]), [0.5], True, "maximum"])
def test_what_is_no_normalization_is_refused(value):
    with pytest.raises(CompileError, match="normalization is"):
        Compiler("spikingjelly", normalization=value)


def test_a_default_pipeline_without_data_says_what_needs_none():
    with pytest.raises(CalibrationError, match='method="model"'):
        spikec.compile(nets.build("mlp"), "nir", pipeline=Pipeline.default("nir"))


@pytest.mark.slow
def test_potentials_become_biases_for_the_timesteps_of_the_compiler_too():
    c = Compiler("nir", calibration=X, timesteps=4, pipeline=Pipeline.default("nir")).run(nets.build("mlp"))
    assert not any("compile with timesteps=" in note.reason for note in c.report.notes)
    assert not any(node.op.v_init.any() for node in c.graph.match(Neuron))


@pytest.mark.slow
def test_advice_for_neurons_that_share_a_relu_is_that_of_the_relu():
    net = torch.nn.Sequential(torch.nn.Linear(7, 30), torch.nn.ReLU(), torch.nn.Linear(30, 1)).eval()
    x, advice = nets.batch("mlp", 60), []
    for copies in (1, 2):
        pipeline = Pipeline.default("spikingjelly", normalization=Normalization(method="max", factor=0.1))
        if copies > 1:
            pipeline = pipeline.insert_after("init-potential", "replicate-neurons")
        c = Compiler("spikingjelly", calibration=x, pipeline=pipeline).run(net)
        advice.append(spikec.diagnose(c, x, 16, tolerance=1e-9).advice)
    assert advice[0].kind == advice[1].kind == "clipping"
    assert advice[0].change == advice[1].change
