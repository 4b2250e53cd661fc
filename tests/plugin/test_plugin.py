"""Plugins: another package's parts are used as spikec's own, and what is wrong with one fails under its name."""

import importlib.metadata
import os
import subprocess
import sys
import warnings
from pathlib import Path

import nir
import numpy as np
import pytest
import torch
from click.testing import CliRunner

import spikec
from spikec.extend import loader
from spikec.shell.cli import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SOURCE = Path(__file__).parent
NET = """
import torch
from torch import nn
from spikec_gates.layer import Gate

torch.manual_seed(0)
net = nn.Sequential(
    nn.Linear(4, 6), nn.ReLU(), Gate(torch.tensor([1, 0, 1, 1, 0, 1])), nn.Linear(6, 3), Gate(torch.ones(3))
).eval()
"""


def install(site, name, version, plugins):
    """Write what pip leaves of an installed distribution: its metadata and its entry points."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"{key} = {value}" for key, value in plugins.items()]
    (info / "entry_points.txt").write_text("\n".join(["[spikec.plugins]", *lines, ""]))


def install_gates(site):
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
    install(site, project["name"], project["version"], project["entry-points"]["spikec.plugins"])
    (site / "spikec_gates").symlink_to(SOURCE / "spikec_gates")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An empty folder that packages are installed to; what is imported from it is forgotten."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(loader, "_imported", None)
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")) or name == "net":
            del sys.modules[name]


@pytest.fixture
def gates(site):
    install_gates(site)
    return site


def net():
    scope = {}
    exec(NET, scope)
    return scope["net"]


X = torch.rand(64, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
def test_its_layer_goes_through_its_op_into_its_converters(gates):
    model = net()
    run = spikec.Compiler("spikingjelly", calibration=X, timesteps=64, verify="each").run(model)
    from spikec_gates.layer import Gate

    kept = [module for module in run.artifact.modules() if isinstance(module, Gate)]
    assert [gate.mask.tolist() for gate in kept] == [[1, 0, 1, 1, 0, 1], [1, 1, 1]]
    run.artifact.step_mode = "m"
    with torch.no_grad():
        rate, ann = run.artifact(X.expand(64, *X.shape)).mean(0), model(X)
    assert (rate - ann).abs().max() < 0.05 * (ann - ann.mean(0)).abs().max()
    scales = [n for n in spikec.compile(model, "nir", calibration=X).nodes.values() if isinstance(n, nir.Scale)]
    assert [np.asarray(each.scale).tolist() for each in scales] == [[1, 0, 1, 1, 0, 1], [1, 1, 1]]


@pytest.mark.slow
def test_its_pass_and_its_target_have_names(gates):
    assert "thresholds" in spikec.targets()
    assert spikec.pass_named("open-gates", least=0.5).least == 0.5
    pipeline = spikec.Pipeline.default("thresholds").insert_after("fold-batchnorm", "open-gates")
    run = spikec.Compiler("thresholds", digits=1, calibration=X, pipeline=pipeline).run(net())
    assert {stage.name: stage.changes for stage in run.stages}["open-gates"] == 1
    assert run.artifact.startswith("6 ")
    assert [len(line.split(".")[1]) for line in run.artifact.splitlines()] == [1]
    spikec.save(run.artifact, gates / "net.txt")
    assert (gates / "net.txt").read_text() == run.artifact


def test_its_frontend_reads_files(gates):
    (gates / "small.dense").write_text("1 -2\n0.5 0\n")
    graph = spikec.load(gates / "small.dense")
    assert spikec.run(graph, torch.tensor([[3.0, 1.0]], dtype=torch.float64)).tolist() == [[1.0, 1.5]]


@pytest.mark.slow
def test_in_the_shell(gates):
    """A process that knows of the package by its metadata alone."""
    Path("net.py").write_text(NET)
    np.savez("data.npz", x=X.numpy())
    path = os.pathsep.join(filter(None, [str(gates), os.environ.get("PYTHONPATH")]))
    passes = "open-gates{least=0.5}, fold-batchnorm, normalize, relu-to-if, fold-rescale"
    command = ["compile", "net.py:net", "--target", "thresholds", "--option", "digits=1", "--passes", passes]
    command += ["-o", "net.txt", "--calibration", "data.npz"]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "spikec", *command]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert f"passes: {passes}" in done.stdout
    assert Path("net.txt").read_text().startswith("6 ")


def row(command, name):
    table = CliRunner().invoke(main, [command], env={"COLUMNS": "200"}).stdout.splitlines()
    return next(line for line in table if line.split()[1:2] == [name])


@pytest.mark.slow
def test_listings_say_where_things_come_from(gates):
    assert "spikec-gates 1.2" in row("passes", "open-gates")
    assert "Gates that are open throughout are removed." in row("passes", "open-gates")
    assert "spikec-gates 1.2" in row("targets", "thresholds")
    assert "│ spikec " in row("targets", "nir")


CLASH = """
import attrs
import spikec

@attrs.frozen
class Mine(spikec.Pass):
    name = {name!r}
"""


@pytest.mark.parametrize(
    ("name", "other"),
    [("open-gates", r"spikec-gates 1.2 \(spikec_gates.parts\)"), ("normalize", r"spikec \(spikec.passes.normalize\)")],
)
def test_a_name_that_two_packages_give_names_both(gates, name, other):
    (gates / "rival.py").write_text(CLASH.format(name=name))
    install(gates, "spikec-rival", "0.1", {"rival": "rival"})
    assert spikec.pass_named("relu-to-if")
    with pytest.raises(spikec.CompileError, match=rf"{name!r} names more than one pass") as caught:
        spikec.Pipeline([name])
    assert caught.match(other)
    assert caught.match(r"spikec-rival 0.1 \(rival\)")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "why"),
    [
        (None, "ModuleNotFoundError: No module named 'rival'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("backend = 3", "the backend in rival is no subclass of spikec.Backend"),
        ("frontend = 3", "the frontend in rival is no instance of a Frontend"),
    ],
)
def test_a_broken_plugin_is_left_out_with_a_warning_and_named_where_a_name_is_missing(gates, code, why):
    if code is not None:
        (gates / "rival.py").write_text(code)
    install(gates, "spikec-rival", "0.1", {"mine": "rival"})
    with pytest.warns(spikec.SpikecWarning) as said:
        assert "thresholds" in spikec.targets()
    (warning,) = said
    assert str(warning.message).startswith("plugin 'mine' of the package spikec-rival cannot be used: ")
    assert why in str(warning.message)
    assert "pip uninstall spikec-rival" in str(warning.message)
    assert warning.filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        spikec.compile(net(), "nir", calibration=X)
    for ask in (lambda: spikec.pass_named("theirs"), lambda: spikec.compile(net(), "theirs"), lambda: spikec.load(3)):
        with pytest.raises(spikec.CompileError) as caught:
            ask()
        assert why in str(caught.value)


@pytest.mark.slow
def test_a_broken_plugin_is_a_line_in_the_shell(gates):
    install(gates, "spikec-rival", "0.1", {"mine": "rival"})
    Path("net.py").write_text(NET)
    done = CliRunner().invoke(main, ["check", "net.py:net", "--target", "nir", "--example", "4"])
    assert done.exit_code == 0, done.output
    assert done.stderr.startswith("warning: plugin 'mine' of the package spikec-rival cannot be used")
    done = CliRunner().invoke(main, ["check", "net.py:net", "--target", "theirs"])
    assert done.exit_code == 2
    assert "plugin 'mine'" in done.stderr


@pytest.mark.parametrize(
    ("key", "other"),
    [("torch.relu", r"spikec\.frontends\.torch.*"), ("Gate", r"spikec_gates\.gate .*gate\.py:\d+\)")],
)
def test_two_converters_for_one_layer_name_both(gates, key, other):
    code = f"""
import torch
from spikec.frontends.torch import converter
from spikec_gates.layer import Gate

@converter({key})
def mine(*args):
    return args[-1].operand
"""
    (gates / "rival.py").write_text(code)
    install(gates, "spikec-rival", "0.1", {"rival": "rival"})
    with pytest.warns(spikec.SpikecWarning, match=rf"two .*converters for .*: {other} and rival \(.*rival\.py:6\)"):
        assert spikec.targets()


def test_without_plugins_nothing_is_loaded(site):
    assert not importlib.metadata.entry_points(group="spikec.plugins")
    assert {part.package for part in loader.passes() + loader.targets()} == {"spikec"}
