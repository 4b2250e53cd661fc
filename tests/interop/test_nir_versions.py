"""Our NIR files under every version of nir: set SPIKEC_NIR_PYTHONS to Pythons that have one, separated by colons."""

import os
import subprocess

import nir
import pytest

import nets
import spikec
from spikec.backends.nir.profiles import PROFILES

PYTHONS = os.environ.get("SPIKEC_NIR_PYTHONS", "").split(":")
NETS = ("mlp", "cnn", "resnet", "grouped")
READ = "import sys, nir; print(nir.version); [nir.read(path) for path in sys.argv[1:]]"
#: nir 1.0.5 infers no types of pools, and then finds none: "post node ... has no input type"
POOLS = {"1.0.5": (nir.SumPool2d, nir.AvgPool2d)}

pytestmark = [
    pytest.mark.skipif(PYTHONS == [""], reason="SPIKEC_NIR_PYTHONS names no Pythons with nir"),
    pytest.mark.filterwarnings("ignore::spikec.SpikecWarning"),  # of tools that reset otherwise
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """(path, the kinds of its nodes) of every net and profile that takes it."""
    made = []
    for name in NETS:
        model, x = nets.build(name), nets.batch(name)
        for profile in PROFILES:
            try:
                graph = spikec.compile(model, "nir", profile=profile, calibration=[x], timesteps=16)
            except spikec.UnsupportedOpError:
                continue
            path = tmp_path_factory.mktemp("files") / f"{name}-{profile}.nir"
            spikec.save(graph, path)
            made.append((path, {type(node) for node in graph.nodes.values()}))
    assert len(made) == 33  # all, but for maps in rockpool
    return made


@pytest.mark.parametrize("python", PYTHONS)
def test_a_version_reads_all_that_it_can(python, files):
    version = subprocess.run([python, "-c", READ], capture_output=True, text=True, check=True).stdout.strip()
    refused = [path for path, kinds in files if kinds & set(POOLS.get(version, ()))]
    taken = [path for path, _ in files if path not in refused]
    found = subprocess.run([python, "-W", "ignore", "-c", READ, *taken], capture_output=True, text=True, check=False)
    assert found.returncode == 0, f"nir {version}: {found.stderr[-2000:]}"
    for path in refused:
        found = subprocess.run([python, "-W", "ignore", "-c", READ, path], capture_output=True, text=True, check=False)
        assert "has no input type" in found.stderr, "nir reads it now"
    assert refused or version != "1.0.5"
