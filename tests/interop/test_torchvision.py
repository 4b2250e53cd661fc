"""torchvision's families, also through ONNX and back.

Set SPIKEC_TORCHVISION_PYTHON to a Python that has torchvision, spikec and onnx.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from families import CARRIED, CONVERTED
from forks import Forks

PYTHON = os.environ.get("SPIKEC_TORCHVISION_PYTHON")
FAMILIES = Path(__file__).parents[2] / "benchmarks" / "families.py"
ONNX = Path(__file__).with_name("torchvision_onnx.py")
DUMP = Path(__file__).with_name("torchvision_dump.py")
#: families with a fixed number of cells behind their last pool, which only images of this side give them
SIDES = {"alexnet": 224, "vgg11": 224, "vgg16_bn": 224, "inception_v3": 96, "vit_b_16": 32}

pytestmark = pytest.mark.skipif(not PYTHON, reason="SPIKEC_TORCHVISION_PYTHON names no Python with torchvision")


@pytest.fixture(scope="module")
def printed():
    """What a script prints last, as JSON; each runs in a process of its own, a fork of one that has torchvision."""
    imports = f"sys.path.append({str(FAMILIES.parent)!r}); import families, onnxscript; families.torchvision_models()"
    with Forks(PYTHON, imports) as forks:

        def run(script, *arguments):
            found = forks.run(script, *arguments)
            assert found.returncode == 0, found.stderr[-3000:]
            return json.loads(found.stdout.splitlines()[-1])

        yield run


@pytest.mark.parametrize("family", CONVERTED)
def test_a_family_converts(family, printed):
    """The compiler itself holds every exact pass to 1e-9 here, and raises where one fails."""
    found = printed(FAMILIES, "--json", "--quick", family)
    assert found["import"] <= 1e-4
    assert {"normalize", "fold-rescale"} <= found["exact"].keys()
    early, late = found["error"]
    assert late < early
    assert "nir" in found["targets"]
    assert not any(found["targets"].values())


@pytest.mark.parametrize("family", sorted(CARRIED.keys() - {"maxvit_t"}))  # which takes longer than all others
def test_a_family_with_attention_is_carried(family, printed):
    """Its products of matrices, norms and softmax have no neurons, its activations have."""
    found = printed(FAMILIES, "--json", "--quick", family)
    assert found["import"] <= 1e-4
    assert found["carried"] > 0
    assert found["neurons"] > 0
    early, late = found["error"]
    assert late < early


@pytest.mark.parametrize("family", [*CONVERTED, "vit_b_16", "swin_t"])
def test_a_family_read_back_from_onnx_is_the_torch_model(family, printed):
    differences = printed(ONNX, family, str(SIDES.get(family, 64)))
    assert set(differences) == {"dynamo", "torchscript"}
    assert max(differences.values()) <= 1e-4, differences


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_the_dump_of_a_resnet50_is_a_page_that_a_browser_shows(tmp_path, printed):
    printed(DUMP, str(tmp_path))
    page = tmp_path / "index.html"
    assert page.stat().st_size < 10e6
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--dump-dom",
        f"{page.as_uri()}#find=layer3.5.conv2",
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert 'role="status">1 found' in shown
    assert 'data-node="layer3_5_conv2"' in shown.split("<template")[0]
