"""Values that no parameter was meant for: public functions give a result, or a spikec error that names the value."""

import decimal
import fractions
import warnings
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from torch import nn

import spikec
from spikec.backends.netx import NetxNetwork
from spikec.calibration.normalization import Normalization

pytestmark = pytest.mark.slow

torch.manual_seed(0)
MODEL = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
X = torch.rand(16, 4)
LABELS = torch.arange(16) % 3
CALIBRATION = spikec.calibrate(MODEL, X)
COMPILATION = spikec.Compiler("spikingjelly", calibration=CALIBRATION).run(MODEL)
ANN, SNN, MODULE = COMPILATION.stages[0].graph, COMPILATION.graph, COMPILATION.artifact
NET = spikec.compile(MODEL, "netx", calibration=X, timesteps=4)
DIAGNOSIS = spikec.diagnose(COMPILATION, X, 2)
ORDER = spikec.Pipeline.default("nir")

#: by name, made anew for each call where they can be used up
PLAIN = {
    "None": None,
    "an empty text": "",
    "a text": "no such thing",
    "bytes": b"abc",
    "a line break": "\n",
    "a zero byte": "a\0b",
    "-1": -1,
    "0": 0,
    "2.5": 2.5,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "a huge integer": 10**30,
    "a huge float": 1e300,
    "True": True,
    "a complex number": 1 + 2j,
    "a fraction": fractions.Fraction(1, 3),
    "a decimal": decimal.Decimal("0.5"),
    "an empty list": [],
    "an empty tuple": (),
    "an empty dict": {},
    "a list of None": [None],
    "nested lists": [[1, 2], [3]],
    "a dict": {1: 2},
    "a set": {1},
    "a range": range(3),
    "an object": object(),
    "a function": len,
    "a class": int,
    "an ellipsis": ...,
    "a numpy integer": np.int64(3),
    "a numpy float": np.float32(0.5),
    "a numpy truth value": np.bool_(True),
    "a date": np.datetime64("2020-01-01"),
    "an empty array": np.zeros(0),
    "an array of objects": np.array([None, {}], dtype=object),
    "an array of texts": np.array(["a", "b"]),
    "an array of records": np.zeros(2, dtype=[("a", "f4")]),
    "a 0-d array": np.array(3.0),
    "an array read backwards": np.ones((4, 4))[::-1],
    "an array of the other byte order": np.ones((4, 4), ">f4"),
    "a masked array": np.ma.masked_array(np.ones((4, 4)), mask=True),
    "long doubles": np.ones((4, 4), np.longdouble),
    "a 0-d tensor": torch.tensor(1.0),
    "an empty batch": torch.zeros(0, 4),
    "no features": torch.zeros(4, 0),
    "an integer tensor": torch.ones(4, 4, dtype=torch.int64),
    "a complex tensor": torch.ones(4, 4, dtype=torch.complex64),
    "a bool tensor": torch.ones(4, 4, dtype=torch.bool),
    "a float8 tensor": torch.ones(4, 4).to(torch.float8_e4m3fn),
    "a tensor with NaN": torch.full((4, 4), float("nan")),
    "a half tensor": torch.ones(4, 4, dtype=torch.float16),
    "a sparse tensor": torch.eye(4).to_sparse(),
    "a tensor without memory": torch.ones(4, 4, device="meta"),
    "a tensor of another shape": torch.ones(4, 7),
    "a tensor of another rank": torch.ones(2, 3, 4),
    "batches of mixed sizes": [X, X[:3]],
    "batches of mixed shapes": [X, torch.ones(3, 5)],
    "an empty last batch": [X, X[:0]],
    "a tuple of tensors": (X, LABELS),
    "labels below 0": -LABELS - 1,
    "labels of floats": LABELS.float(),
    "labels of mixed kinds": [0, 1.5, "a"],
    "one-hot labels": torch.eye(3)[LABELS],
    "a module": MODEL,
    "a graph": ANN,
    "a compilation": COMPILATION,
    "a calibration": CALIBRATION,
    "a normalization": Normalization(),
    "a state_dict": MODEL.state_dict(),
    "a pass": spikec.pass_named("infer-types"),
    "a dataset": torch.utils.data.TensorDataset(X),
    "a folder": "folder",
    "a folder as a Path": Path("folder"),
    "a folder with a suffix": "folder.nir",
    "an empty file": "empty.nir",
    "an empty onnx file": "empty.onnx",
    "an empty archive": "empty.npz",
    "a path of a missing folder": "no/such/file.nir",
    "a path that is too long": "x" * 5000,
    "a device": "/dev/null",
}
ONCE = {
    "a generator": lambda: (batch for batch in [X, X]),
    "an empty generator": lambda: iter(()),
}
VALUES = [(name, lambda value=value: value) for name, value in PLAIN.items()] + list(ONCE.items())


def compiled(**options):
    return spikec.compile(MODEL, options.pop("target", "spikingjelly"), **{"calibration": CALIBRATION, **options})


#: what is called with the value, by the words of which an error must say one
CALLS = {
    "compile model": (lambda v: spikec.compile(v, "spikingjelly", calibration=X), "model file module forward"),
    "compile target": (lambda v: spikec.compile(MODEL, v, calibration=X), "target"),
    "compile example_input": (lambda v: spikec.compile(MODEL, "nir", example_input=v), "input output"),
    "compile calibration": (lambda v: compiled(calibration=v), "calibration input"),
    "compile normalization": (lambda v: compiled(normalization=v), "normalization"),
    "compile timesteps": (lambda v: compiled(timesteps=v, normalization="max"), "timesteps"),
    "compile pipeline": (lambda v: compiled(pipeline=v), "pipeline pass"),
    "compile verify": (lambda v: compiled(verify=v), "verify"),
    "compile dump_dir": (lambda v: compiled(dump_dir=v), "dump_dir folder"),
    "compile progress": (lambda v: compiled(progress=v), "progress"),
    "compile seed": (lambda v: compiled(seed=v), "seed"),
    "compile counters": (lambda v: compiled(counters=v), "counters"),
    "compile streams": (lambda v: compiled(streams=v, timesteps=4), "streams"),
    "compile events": (lambda v: compiled(events=v), "events"),
    "compile dt": (lambda v: compiled(target="nir", dt=v), "dt"),
    "compile profile": (lambda v: compiled(target="nir", profile=v), "profile"),
    "compile reset": (lambda v: compiled(target="netx", reset=v), "reset"),
    "load model": (spikec.load, "model file module input"),
    "load example_input": (lambda v: spikec.load(MODEL, v), "input"),
    "check model": (lambda v: spikec.check(v, "nir", example_input=X), "model file module"),
    "check target": (lambda v: spikec.check(MODEL, v), "target"),
    "calibrate data": (lambda v: spikec.calibrate(MODEL, v), "data input"),
    "calibrate time_axis": (lambda v: spikec.calibrate(MODEL, X[None], time_axis=v), "time_axis axis weight"),
    "calibrate device": (lambda v: spikec.calibrate(MODEL, X, device=v), "device"),
    "run graph": (lambda v: spikec.run(v, X), "graph file model input"),
    "run x": (lambda v: spikec.run(ANN, v), "input"),
    "run x over time": (lambda v: spikec.run(SNN, v), "input"),
    "run timesteps": (lambda v: spikec.run(SNN, X, v), "timesteps input"),
    "run tap": (lambda v: spikec.run(ANN, X, tap=None if callable(v) else v), "tap"),
    "run nodes": (lambda v: spikec.run(ANN, X, tap=lambda *_: None, nodes=v), "nodes"),
    "evaluate snn": (lambda v: spikec.evaluate(v, [(X, LABELS)], 2), "module graph file model"),
    "evaluate loader": (lambda v: spikec.evaluate(MODULE, v, 2), "loader input"),
    "evaluate x": (lambda v: spikec.evaluate(MODULE, [(v, LABELS)], 2), "input batch"),
    "evaluate labels": (lambda v: spikec.evaluate(MODULE, [(X, v)], 2), "label"),
    "evaluate timesteps": (lambda v: spikec.evaluate(MODULE, [(X, LABELS)], v), "timesteps"),
    "simulate snn": (lambda v: spikec.simulate(v, X, 2), "module graph file model"),
    "simulate x": (lambda v: spikec.simulate(MODULE, v, 2), "input"),
    "simulate x over time": (lambda v: spikec.simulate(SNN, v), "input"),
    "simulate timesteps": (lambda v: spikec.simulate(MODULE, X, v), "timesteps input"),
    "simulate patience": (lambda v: spikec.simulate(MODULE, X, 2, patience=v), "patience"),
    "diagnose compilation": (lambda v: spikec.diagnose(v, X, 2), "compilation"),
    "diagnose x": (lambda v: spikec.diagnose(COMPILATION, v, 2), "x input label"),
    "diagnose timesteps": (lambda v: spikec.diagnose(COMPILATION, X, v), "timesteps"),
    "diagnose labels": (lambda v: spikec.diagnose(COMPILATION, X, 2, v), "label"),
    "diagnose tolerance": (lambda v: spikec.diagnose(COMPILATION, X, 2, tolerance=v), "tolerance"),
    "json": (DIAGNOSIS.json, "path folder file written"),
    "save artifact": (lambda v: spikec.save(v, "saved"), "artifact"),
    "save path": (lambda v: spikec.save(NET, v), "path folder file written"),
    "Calibration.load": (spikec.Calibration.load, "path file calibration"),
    "Calibration.save": (CALIBRATION.save, "path folder file written"),
    "NetxNetwork.load": (NetxNetwork.load, "path file"),
    "NetxNetwork.save": (NET.save, "path folder file written"),
    "NetxNetwork.run x": (lambda v: NET.run(v, 3), "input"),
    "NetxNetwork.run timesteps": (lambda v: NET.run(X, v), "timesteps"),
    "Pipeline passes": (spikec.Pipeline, "pass"),
    "Pipeline start": (lambda v: spikec.Pipeline(["infer-types"], v), "start"),
    "Pipeline timesteps": (lambda v: spikec.Pipeline(["infer-types"], timesteps=v), "timesteps"),
    "Pipeline.default target": (spikec.Pipeline.default, "target"),
    "Pipeline.default normalization": (lambda v: spikec.Pipeline.default("nir", normalization=v), "normalization"),
    "Pipeline.default timesteps": (lambda v: spikec.Pipeline.default("nir", timesteps=v), "timesteps"),
    "Pipeline.parse": (spikec.Pipeline.parse, "pass"),
    "Pipeline.insert_before": (lambda v: ORDER.insert_before(v, "infer-types"), "pass"),
    "Pipeline.insert_after": (lambda v: ORDER.insert_after("normalize", v), "pass"),
    "Pipeline.without": (ORDER.without, "pass"),
    "Pipeline.from_stage": (ORDER.from_stage, "stage"),
    "Pipeline +": (lambda v: ORDER + v, "pass"),
    "pass_named": (spikec.pass_named, "pass"),
    **{
        f"Normalization {field.name}": (lambda v, name=field.name: Normalization(**{name: v}), field.name)
        for field in attrs.fields(Normalization)
    },
    **{
        f"{part.name} {field.name}": (
            lambda v, part=part, name=field.name: str(spikec.pass_named(part.name, **{name: v})),
            field.name,
        )
        for part in spikec.extend.loader.passes()
        for field in attrs.fields(part.load())
    },
}


@pytest.fixture
def odd_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("folder", "folder.nir"):
        (tmp_path / name).mkdir()
    for name in ("empty.nir", "empty.onnx", "empty.npz"):
        (tmp_path / name).touch()


def answer(call, value):
    """The error that a call with this value ends with; None for a result."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call(value)
        except spikec.CompileError as error:
            return error
    return None


@pytest.mark.parametrize("name", CALLS)
def test_odd_values_are_taken_or_refused_by_name(name, odd_folder):
    call, words = CALLS[name]
    wrong = []
    for label, make in VALUES:
        try:
            error = answer(call, make())
        except Exception as raw:  # what a user would see as a traceback
            wrong.append(f"{label}: {type(raw).__name__}: {raw}"[:200])
        else:
            if error is not None and not any(word in str(error).lower() for word in words.split()):
                wrong.append(f"{label}: names none of {words}: {error}"[:200])
    assert not wrong, "\n".join(wrong)
