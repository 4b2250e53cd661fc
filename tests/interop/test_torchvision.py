"""torchvision's families: set SPIKEC_TORCHVISION_PYTHON to a Python that has torchvision and spikec."""

import json
import os
import subprocess
from pathlib import Path

import pytest

PYTHON = os.environ.get("SPIKEC_TORCHVISION_PYTHON")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "families.py"
CONVERTED = (
    *("alexnet", "vgg11", "vgg16_bn", "resnet18", "resnet50", "wide_resnet50_2", "resnext50_32x4d", "densenet121"),
    *("googlenet", "inception_v3", "squeezenet1_0", "mobilenet_v2", "mnasnet0_5", "shufflenet_v2_x1_0"),
    "regnet_x_400mf",
)
REFUSED = ("mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf", "convnext_tiny", "vit_b_16", "swin_t", "maxvit_t")
#: of an adaptive pool over a map that it does not divide
UNEVEN = ("alexnet", "vgg11", "vgg16_bn")

pytestmark = pytest.mark.skipif(not PYTHON, reason="SPIKEC_TORCHVISION_PYTHON names no Python with torchvision")


def measured(family):
    found = subprocess.run([PYTHON, SCRIPT, "--json", "--quick", family], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-3000:]
    return json.loads(found.stdout.splitlines()[-1])


@pytest.mark.parametrize("family", CONVERTED)
def test_a_family_converts(family):
    """The compiler itself holds every exact pass to 1e-9 here, and raises where one fails."""
    found = measured(family)
    assert found["import"] <= 1e-4
    assert {"normalize", "fold-rescale"} <= found["exact"].keys()
    early, late = found["error"]
    assert late < early
    assert bool(found["targets"]["nir"]) == (family in UNEVEN)
    assert found["targets"]["netx"]


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_is_refused_with_every_layer_named(family):
    found = measured(family)
    assert found["unfit"] > 0
    assert found["missed"] == []
    assert any("not supported" in message for message in found["messages"])
