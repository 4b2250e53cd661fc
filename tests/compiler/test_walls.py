"""The rooms of the house, kept by reading the imports: who may import whom is the table on this page."""

import ast
import graphlib
import importlib.util
from pathlib import Path

import pytest

import spikec
from spikec.extend.loader import backend_named, backends

ROOT = Path(__file__).parents[2]
TOPS = {"compiler": "spikec", "passes": "spikec.passes", "frontends": "spikec.frontends", "backends": "spikec.backends"}

#: a room, and the rooms that its files may import besides their own; every line is above those that it names
ARROWS = {
    "ir": "",
    "interpreter": "ir",
    "calibration": "ir interpreter",
    "extend": "ir interpreter calibration",
    "passes": "ir interpreter calibration extend",
    "frontends.torch": "ir interpreter extend",
    "frontends.onnx": "ir interpreter extend frontends.torch",
    "frontends.nir": "ir interpreter extend",
    "frontends": "ir interpreter extend frontends.torch",
    "backends.spikingjelly": "ir interpreter extend",
    "backends.nir": "ir interpreter extend",
    "backends.netx": "ir interpreter extend",
    "backends.lava": "ir interpreter extend backends.netx",
    "backends": "ir interpreter extend",
    "pipeline": "ir interpreter calibration extend",
    "driver": "ir interpreter calibration extend pipeline",
    "diagnosis": "ir interpreter calibration extend pipeline driver",
    "shell": "ir interpreter calibration extend pipeline driver diagnosis",
    "spikec": "ir interpreter calibration extend pipeline driver diagnosis shell",
}
#: the files of ``compiler/`` itself
TOP = {"__init__": "spikec", "__main__": "spikec"}


def modules():
    """Every file of the product by the name that it is imported by."""
    found = {}
    for top, name in TOPS.items():
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = [part for part in path.relative_to(ROOT / top).with_suffix("").parts if part != "__init__"]
            found[".".join([name, *parts])] = path
    return found


MODULES = modules()


def imports(source):
    """Everything that a file imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            held = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (each if each in MODULES else node.module for each in held)


def room_of(module):
    """The room that a module of ours lies in, or None for one that is not ours."""
    first, *parts = module.split(".")
    if first != "spikec":
        return None
    if not parts or parts[0] in ("__main__", "public"):
        return "spikec"
    longest = (".".join(parts[:count]) for count in (2, 1))
    return next((name for name in longest if name in ARROWS), "driver")


def breaches(module, source):
    """Imports of a file that the table does not allow."""
    room = room_of(module)
    allowed = {None, room, *ARROWS[room].split()}
    return sorted({name for name in imports(source) if room_of(name) not in allowed})


def circle(files):
    """Modules that import each other in a circle, or None; ``files`` holds sources by module."""
    arrows = {name: {each for each in imports(source) if each in files} for name, source in files.items()}
    try:
        graphlib.TopologicalSorter(arrows).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return None


@pytest.mark.parametrize("module", MODULES)
def test_imports_are_those_of_the_table(module):
    assert breaches(module, MODULES[module].read_text()) == []


@pytest.mark.slow
def test_no_circle():
    assert circle({name: path.read_text() for name, path in MODULES.items()}) is None


@pytest.mark.slow
def test_networkx_has_one_owner():
    owners = [name for name, path in MODULES.items() if "networkx" in imports(path.read_text())]
    assert owners == ["spikec.ir.wiring"]


def test_a_wall_that_falls_is_seen():
    upward = "def late():\n    from spikec.pipeline.manager import run_pipeline\n"
    assert breaches("spikec.ir.graph", upward) == ["spikec.pipeline.manager"]
    assert breaches("spikec.passes.normalize", "import spikec\n") == ["spikec"]
    across = "from spikec.frontends import torch\n"
    assert breaches("spikec.frontends.nir.frontend", across) == ["spikec.frontends.torch"]
    assert breaches("spikec.passes.normalize", "import numpy, networkx\nfrom spikec.ir import graph\n") == []
    hidden = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from spikec.ir.graph import Graph\n"
    found = circle({"spikec.ir.errors": hidden, "spikec.ir.graph": "from spikec.ir.errors import CompileError\n"})
    assert set(found) == {"spikec.ir.errors", "spikec.ir.graph"}


def test_the_table_names_rooms_that_exist_each_above_what_it_names():
    assert {room_of(module) for module in MODULES} == set(ARROWS)
    graphlib.TopologicalSorter({room: allowed.split() for room, allowed in ARROWS.items()}).prepare()


def test_the_wheel_holds_every_folder():
    tomllib = pytest.importorskip("tomllib", reason="Python has it from 3.11 on")
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert sorted(stated["packages"]) == sorted(name for name, path in MODULES.items() if path.name == "__init__.py")
    assert stated["package-dir"] == {name: top for top, name in TOPS.items()}


def test_the_bare_folders_are_not_importable():
    for top in TOPS:
        spec = importlib.util.find_spec(top)
        found = list(spec.submodule_search_locations or ()) if spec else []
        assert str(ROOT / top) not in found, f"{top} is importable: set PYTHONSAFEPATH=1"


def test_public_names():
    contract = {
        "compile", "Compiler", "Compilation", "load", "run", "evaluate", "check", "save", "targets", "simulate",
        "Graph", "Op", "Pass", "Pipeline", "Normalization", "Calibration", "Backend",
        "CompileError", "UnsupportedOpError", "TypeMismatchError", "InvalidModelError", "VerificationError",
        "CalibrationError", "MissingDependencyError",
    }  # fmt: skip
    assert contract <= set(spikec.__all__)
    assert all(hasattr(spikec, name) for name in spikec.__all__)


def test_targets_are_named_as_their_folders():
    for name in backends():
        assert backend_named(name).name == name


def test_every_public_thing_has_a_docstring():
    assert [name for name in spikec.__all__ if not getattr(spikec, name).__doc__] == []
