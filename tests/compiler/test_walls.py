"""The rooms of the house, kept by reading the imports."""

import ast
import importlib.util
from pathlib import Path

import pytest

import spikec
from spikec.loader import backend_named, backends, frontends

ROOT = Path(__file__).parents[2]
ROOMS = ("compiler", "passes", "frontends", "backends")
FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module):
    parts = module.split(".")
    if parts[0] != "spikec":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "compiler"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_the_compiler_and_themselves_only(path):
    room = path.relative_to(ROOT).parts[0]
    allowed = {"compiler", None} if room in ("compiler", "passes") else {"compiler", room, None}
    assert {room_of(module) for module in imports(path)} <= allowed


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_networkx_has_one_owner(path):
    if path.name != "graph.py":
        assert not [module for module in imports(path) if module.split(".")[0] == "networkx"]


def test_the_walls_are_seen_to_fall():
    assert room_of("spikec.passes.normalize") == "passes"
    assert room_of("spikec.graph") == "compiler"
    assert room_of("numpy") is None


def test_the_bare_folders_are_not_importable():
    for room in ROOMS:
        spec = importlib.util.find_spec(room)
        found = list(spec.submodule_search_locations or ()) if spec else []
        assert str(ROOT / room) not in found, f"{room} is importable: set PYTHONSAFEPATH=1"


def test_no_folder_collides_with_a_module_of_the_compiler():
    assert not {f"{room}.py" for room in ROOMS} & {path.name for path in (ROOT / "compiler").iterdir()}


def test_public_names():
    contract = {
        "compile", "Compiler", "Compilation", "load", "run", "evaluate", "check", "save", "targets",
        "Graph", "Op", "Pass", "Pipeline", "Normalization", "Calibration", "Backend",
        "CompileError", "UnsupportedOpError", "TypeMismatchError", "InvalidModelError", "VerificationError",
        "CalibrationError", "MissingDependencyError",
    }  # fmt: skip
    assert contract <= set(spikec.__all__)
    assert all(hasattr(spikec, name) for name in spikec.__all__)


def test_names_are_file_names():
    for name in backends():
        assert backend_named(name).name == name
    for name, frontend in frontends():
        assert not hasattr(frontend, "name") or frontend.name == name


def test_every_public_thing_has_a_docstring():
    assert [name for name in spikec.__all__ if not getattr(spikec, name).__doc__] == []
