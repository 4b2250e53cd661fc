"""Blocks of ours and the target ``lava``, beside real slayer in its own Python: set SPIKEC_SLAYER_PYTHON to it."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from npz import loaded
from spikec.backends.netx import lava_script

PYTHON = os.environ.get("SPIKEC_SLAYER_PYTHON")
NETX = os.environ.get("SPIKEC_LAVA_PYTHON")
HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(
    not PYTHON, reason="SPIKEC_SLAYER_PYTHON names no Python with lava-dl, torch and spikec"
)


def ran(*command):
    """A command that may import what lies in ``tests``."""
    places = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(HERE.parent))))
    environment = {**os.environ, "PYTHONPATH": places}
    command = list(map(str, command))
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


def drive(*command):
    found = ran(*command)
    assert found.returncode == 0, found.stdout + found.stderr[-3000:]
    return found.stdout


def test_blocks_neurons_synapses_and_the_target_are_slayers_spike_for_spike(tmp_path):
    told = drive(PYTHON, HERE / "slayer_real.py", tmp_path)
    assert told.count(": 0 of ") > 35
    assert told.endswith("nothing is wrong\n")
    for made, arrays in (("trained", 4), ("own_mlp", 3), ("own_cnn", 4), ("own_recurrent", 3)) if NETX else ():
        script = Path(lava_script.__file__)
        drive(NETX, script, tmp_path / f"{made}.net", tmp_path / f"{made}.npz", tmp_path / "lava.npz")
        ours, theirs = loaded(tmp_path / f"{made}.npz"), loaded(tmp_path / "lava.npz")
        assert len(theirs) == arrays
        for name in theirs:
            assert ours[name].any()
            assert np.array_equal(ours[name].reshape(theirs[name].shape), theirs[name]), (made, name)


def test_a_block_that_is_not_slayers_is_seen(tmp_path):
    """Seen red: the comparison fails for a threshold that is a unit off."""
    script = (HERE / "slayer_real.py").read_text()
    broken = script.replace(
        "theirs = block.to_lava_block()", "theirs = block.to_lava_block(); theirs.neuron._threshold += 1 / 64"
    )
    assert broken != script
    (tmp_path / "broken.py").write_text(broken)
    found = ran(PYTHON, tmp_path / "broken.py", tmp_path)
    assert found.returncode == 1
    assert "WRONG: dense if" in found.stdout
