"""Spiking models of real libraries, each in its own Python: set SPIKEC_SJ_PYTHON and SPIKEC_SNNTORCH_PYTHON."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from npz import loaded

SCRIPT = Path(__file__).with_name("spiking_real.py")
PYTHONS = {"spikingjelly": "SPIKEC_SJ_PYTHON", "snntorch": "SPIKEC_SNNTORCH_PYTHON"}
LEAKY = {"spikingjelly": 30, "snntorch": 20}
CASES = {"spikingjelly": 34, "snntorch": 48}


@pytest.mark.parametrize("library", PYTHONS)
def test_no_spike_differs_from_the_models_own(library, tmp_path):
    python = os.environ.get(PYTHONS[library])
    if not python:
        pytest.skip(f"{PYTHONS[library]} names no Python with {library} and spikec")
    command = [python, "-W", "ignore", str(SCRIPT), library, str(tmp_path / "out.npz")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert found.returncode == 0, found.stderr[-3000:]
    results = loaded(tmp_path / "out.npz")
    theirs = [key for key in results if key.endswith("/theirs")]
    assert len(theirs) == CASES[library]
    differing = {}
    for key in theirs:
        case, expected = key.removesuffix("/theirs"), results[key]
        assert expected.std() > 0.1, f"{case} hardly does anything"
        ways = [way for way in results if way.startswith(f"{case}/") and way != key]
        assert len(ways) >= 3
        differing |= {way: count for way in ways if (count := _differing(results[way], expected))}
    assert not differing
    leaky = [key for key in results if key.endswith("/loihi")]
    assert len(leaky) == LEAKY[library]
    imported = [key for key in results if key.endswith("/imported")]
    assert len(imported) == (len(theirs) - 2 if library == "spikingjelly" else 0)


def _differing(found, expected):
    """How many values differ; those of a last layer that does not spike by more than float64 rounds."""
    assert found.shape == expected.shape
    return int((np.abs(found - expected) > 1e-12 * np.abs(expected).max()).sum())


def test_one_spike_is_a_difference():
    spikes = np.zeros((4, 2, 3))
    spikes[1, 1, 1] = 1
    other = spikes.copy()
    other[2, 0, 0] = 1
    assert _differing(other, spikes) == 1
    assert _differing(spikes, spikes) == 0
