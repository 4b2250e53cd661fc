"""The options of the compiler: a misspelt one is told what was meant, by mypy and when it runs."""

import inspect
import re
import subprocess
import sys
from typing import get_args

import attrs
import pytest

import build
import nets
import spikec
from spikec import CompileError
from spikec.extend.loader import backend_named
from spikec.options import NetxOptions, NirOptions, Options, ReadingOptions, SpikingJellyOptions
from spikec.reading import reading_options

SETTINGS = """
[mypy]
strict = true
follow_imports = silent
cache_dir = cache
[mypy-torch.*,numpy.*,networkx.*,nir.*,rich.*,matplotlib.*,h5py.*]
follow_imports = skip
"""

GOOD = """
import torch
import spikec
from spikec.backends.netx import NetxNetwork
from spikec.extend.backend import IntegerModel

def use(model: torch.nn.Module, x: torch.Tensor, target: str, own: spikec.Backend) -> None:
    snn = spikec.compile(model, "spikingjelly", calibration=x, timesteps=8, counters=True)
    snn.step_mode = "m"
    snn.reset()
    reveal_type(snn)
    spikec.compile(model, "nir", dt=1e-3, profile="portable", seed=1, pipeline=["infer-types"])
    net = spikec.compile(model, "netx", reset="soft", normalization=0.5)
    net.save("x.net")
    reveal_type(net)
    spikec.compile(model, target, calibration=x)
    spikec.compile(model, own, verify="each", dump_dir="x")
    spikec.Compiler("nir", dt=1e-3, calibration=x).run(model)
    spikec.check(model, "netx", reset="hard")
    spikec.calibrate(model, x, time_axis=0, timesteps=8)

def emitted(net: NetxNetwork) -> IntegerModel:
    return net
"""

BAD = """
import torch
import spikec

def misuse(model: torch.nn.Module, x: torch.Tensor) -> None:
    spikec.compile(model, "nir", timestep=8)  # did you mean "timesteps"
    spikec.compile(model, "nir", calib=x)  # Unexpected keyword argument "calib"
    spikec.compile(model, "nir", counters=True)  # No overload variant
    spikec.compile(model, "netx", reset="firm")  # No overload variant
    spikec.compile(model, "spikingjelly", timesteps="8")  # No overload variant
    spikec.Compiler("nir", calib=x)  # Unexpected keyword argument "calib"
    spikec.check(model, "nir", timestep=8)  # did you mean "timesteps"
    spikec.compile(model, "netx", calibration=x).reset()  # "IntegerModel" has no attribute "reset"
"""


@pytest.mark.slow
def test_mypy_sees_the_artifacts_type_and_a_misspelt_option(tmp_path):
    pytest.importorskip("mypy")
    for name, text in (("mypy.ini", SETTINGS), ("good.py", GOOD), ("bad.py", BAD)):
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "mypy", "good.py", "bad.py"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    errors = re.findall(r"^bad\.py:(\d+): error: (.*)", said, re.MULTILINE)
    wanted = {str(i): line.partition("  # ")[2] for i, line in enumerate(BAD.splitlines(), start=1) if "  # " in line}
    assert {line for line, _ in errors} == wanted.keys(), said
    for line, message in wanted.items():
        assert any(line == found and message in text for found, text in errors), said
    assert "good.py" not in re.sub(r"good\.py:\d+: note: Revealed.*", "", said), said
    assert re.findall(r'Revealed type is "[\w.]*?(\w+)"', said) == ["SpikingModule", "IntegerModel"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timestep": 8}, "did you mean 'timesteps'"),
        ({"calib": nets.batch("mlp")}, "did you mean 'calibration'"),
        ({"profil": "portable"}, "there is no option of target nir 'profil'"),
        ({"counters": True}, "there is no option of target nir 'counters'"),
    ],
)
def test_a_misspelt_option_is_told_what_was_meant(options, message):
    for refuse in (spikec.compile, spikec.check):
        with pytest.raises(CompileError, match=message):
            refuse(nets.build("mlp"), "nir", **options)
    with pytest.raises(CompileError, match=message):
        spikec.Compiler("nir", **options)
    with pytest.raises(CompileError, match=message):
        spikec.calibrate(nets.build("mlp"), nets.batch("mlp"), "nir", **options)


def test_also_where_the_target_is_an_instance():
    with pytest.raises(CompileError, match=r"an instance already, 'timestep': did you mean 'timesteps'"):
        spikec.compile(nets.build("mlp"), build.GraphTarget(), timestep=8)


@pytest.mark.parametrize(
    ("target", "stated"), [("spikingjelly", SpikingJellyOptions), ("nir", NirOptions), ("netx", NetxOptions)]
)
def test_the_options_that_mypy_knows_are_the_targets_fields(target, stated):
    fields = {field.name: field.type for field in attrs.fields(backend_named(target))}
    also_read = ReadingOptions.__annotations__
    own = {name: kind for name, kind in stated.__annotations__.items() if name not in Options.__annotations__}
    assert own == {name: kind for name, kind in fields.items() if name not in also_read}
    read = {name: kind for name, kind in fields.items() if name in also_read}
    assert all(
        kind == also_read[name] or {*get_args(kind)} < {*get_args(also_read[name])} for name, kind in read.items()
    )


def test_the_options_on_reading_are_those_of_the_frontends():
    assert set(ReadingOptions.__annotations__) == reading_options()


def test_every_option_is_explained():
    explained = re.findall(r"^    (\w+): ", inspect.getdoc(spikec.compile), re.MULTILINE)
    assert explained[:2] == ["model", "target"]
    assert explained[2:] == [*Options.__annotations__, "target_options", "CompileError"]


def test_a_hint_names_every_option_once():
    with pytest.raises(CompileError, match="no option of target nir 'dtt'") as error:
        spikec.compile(nets.build("mlp"), "nir", dtt=1e-4)
    names = error.value.hint.removeprefix("one of: ").split(", ")
    assert {"dt", "reset", "profile", "calibration"} < set(names)
    assert len(names) == len(set(names))
