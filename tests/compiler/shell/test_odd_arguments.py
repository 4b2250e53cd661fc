"""Odd arguments of the command line, and Ctrl-C: an exit code and lines that say why, never a traceback."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import spikec
from spikec.shell import cli

NETS = """
import sys
from torch import nn

mlp = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
number = 3
nothing = None

def fails():
    raise LookupError("as it does")

def leaves():
    sys.exit(7)

def interrupted():
    raise KeyboardInterrupt
"""
DEEP = "(" * 3000
pytestmark = pytest.mark.slow

ODD = (
    "",
    " ",
    "\n",
    "x",
    "é",
    "-1",
    "0",
    "2.5",
    "nan",
    "inf",
    "1e999",
    "9" * 5000,
    "True",
    "None",
    "()",
    "[1, 2]",
    DEEP,
    "=",
    "=x",
    "x=",
    "dt=nan",
    "dt=" + DEEP,
    "target=nir",
    "timesteps=3",
    "profile=none",
    "max_bytes=1",
    "1,2,,",
    "4,-4",
    "99999999999,99999999",
    "normalize{",
    "normalize{a=" + "9" * 5000 + "}",
    "choose{candidates=" + DEEP,
    "infer-types",
    ":",
    "::",
    "nets.py:",
    ":mlp",
    "nets.py",
    "nets.py:number",
    "nets.py:nothing",
    "nets.py:fails",
    "nets.py:leaves",
    "nets.py:mlp.weight",
    "none.py:mlp",
    "broken.py:mlp",
    "leaving.py:mlp",
    "none.module:mlp",
    ".x:mlp",
    "..:x",
    "a b:c",
    "folder",
    "folder.nir",
    "empty.nir",
    "empty.npz",
    "objects.npz",
    "text.npz",
    "single.npy",
    "good.nir",
    "data.npz",
    "no/such/file.npz",
    "/dev/null",
    "x" * 5000,
)
COMMANDS = {
    "compile": ["nets.py:mlp", "--target", "nir", "-o", "out.nir", "--calibration", "data.npz"],
    "check": ["nets.py:mlp", "--target", "netx", "--calibration", "data.npz"],
    "inspect": ["nets.py:mlp", "--example", "4"],
    "run": ["good.nir", "data.npz", "--timesteps", "2", "-o", "out.npz"],
    "evaluate": ["good.nir", "data.npz", "--timesteps", "2"],
    "diagnose": ["nets.py:mlp", "data.npz", "--timesteps", "2"],
    "dump": ["nets.py:mlp", "--target", "nir", "-o", "dumps", "--calibration", "data.npz"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("odd")
    (path / "nets.py").write_text(NETS)
    (path / "broken.py").write_text("def (")
    (path / "leaving.py").write_text("raise SystemExit('no main guard')")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    spikec.save(spikec.compile(model, "nir", calibration=torch.rand(8, 4)), path / "good.nir")
    for name in ("folder", "folder.nir"):
        (path / name).mkdir()
    for name in ("empty.nir", "empty.npz"):
        (path / name).touch()
    np.savez(path / "data.npz", x=np.random.default_rng(0).random((8, 4), np.float32), labels=np.arange(8) % 3)
    np.savez(path / "objects.npz", x=np.array([{}], dtype=object))
    np.savez(path / "text.npz", x=np.array(["a", "b"]))
    np.save(path / "single.npy", np.ones((4, 4), np.float32))
    return path


def places(command):
    """Argument lists with a hole, None, for each parameter; what ``check`` has too is tried there only."""
    given = COMMANDS[command]
    shared = set() if command == "check" else {p.opts[0] for p in cli.main.commands["check"].params}
    for parameter in cli.main.commands[command].params:
        name = parameter.opts[0]
        if name in shared:
            continue
        if not name.startswith("-"):
            i = [p.opts[0] for p in cli.main.commands[command].params].index(name)
            yield [*given[:i], None, *given[i + 1 :]]
        elif name in given or "-o" in parameter.opts:
            i = given.index(name if name in given else "-o") + 1
            yield [*given[:i], None, *given[i + 1 :]]
        else:
            yield [*given, name, None]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_odd_arguments_end_with_a_reason(command, folder, monkeypatch):
    monkeypatch.chdir(folder)
    wrong, files = [], {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for arguments in places(command):
        for odd in ODD:
            for path, content in files.items():  # one of them may have been the output
                path.write_bytes(content)
            told = [command, *(odd if each is None else each for each in arguments)]
            found = CliRunner().invoke(cli.main, told)
            raw = found.exception is not None and not isinstance(found.exception, SystemExit)
            if raw or found.exit_code not in (0, 1, 2) or (found.exit_code and not found.stderr.strip()):
                wrong.append(f"{' '.join(told)[:150]}: exit {found.exit_code} {found.exception!r}"[:400])
    assert not wrong, "\n".join(wrong)


def test_ctrl_c_ends_with_one_line(folder, monkeypatch):
    monkeypatch.chdir(folder)
    found = CliRunner().invoke(cli.main, ["inspect", "nets.py:interrupted"])
    assert (found.exit_code, found.stderr) == (130, "interrupted\n")
