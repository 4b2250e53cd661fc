import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import spikec
from spikec.shell.cli import main

NETS = """
import torch
from torch import nn

torch.manual_seed(0)
mlp = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
smooth = nn.Sequential(nn.Linear(4, 8), nn.Hardshrink(), nn.Linear(8, 3)).eval()
"""


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with a model in Python, one of each kind of file, and data."""
    folder = tmp_path_factory.mktemp("shell")
    (folder / "own.py").write_text(NETS)
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.rand(300, 4)
    with torch.no_grad():
        labels = mlp(x).argmax(1).numpy()
    np.savez(folder / "data.npz", x=x.numpy(), labels=labels)
    np.savez(folder / "unlabelled.npz", x=x.numpy())
    np.savez(folder / "uneven.npz", x=x.numpy(), labels=labels[:-1])
    for target, suffix in (("spikingjelly", "pt"), ("nir", "nir"), ("netx", "net")):
        spikec.save(spikec.compile(mlp, target, calibration=x, timesteps=32), folder / f"mlp.{suffix}")
    torch.export.save(torch.export.export(mlp, (x,)), folder / "mlp.pt2")
    torch.save(mlp.state_dict(), folder / "weights.pt")
    return folder


@pytest.fixture
def shell(made, monkeypatch):
    """Runs a command in that folder."""
    monkeypatch.chdir(made)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own", raising=False)

    def call(*arguments, code=0):
        done = CliRunner().invoke(main, [str(each) for each in arguments])
        assert done.exit_code == code, (done.output, done.exception)
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return done

    yield call
    sys.modules.pop("own", None)
