"""torchvision's networks through ONNX and back: set SPIKEC_TORCHVISION_PYTHON to a Python that has torchvision."""

import json
import os
import subprocess
from pathlib import Path

import pytest

PYTHON = os.environ.get("SPIKEC_TORCHVISION_PYTHON")
SCRIPT = Path(__file__).with_name("torchvision_onnx.py")
#: families with a fixed number of cells behind their last pool, which only images of this side give them
SIDES = {"alexnet": 224, "vgg11": 224, "vgg16_bn": 224, "inception_v3": 96}
FAMILIES = (
    *("alexnet", "vgg11", "vgg16_bn", "resnet18", "resnet50", "wide_resnet50_2", "resnext50_32x4d", "densenet121"),
    *("googlenet", "inception_v3", "squeezenet1_0", "mobilenet_v2", "mnasnet0_5", "shufflenet_v2_x1_0"),
    "regnet_x_400mf",
)

pytestmark = pytest.mark.skipif(not PYTHON, reason="SPIKEC_TORCHVISION_PYTHON names no Python with torchvision, onnx")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_read_back_from_onnx_is_the_torch_model(family):
    command = [PYTHON, str(SCRIPT), family, str(SIDES.get(family, 64))]
    found = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert found.returncode == 0, found.stderr[-3000:]
    differences = json.loads(found.stdout.splitlines()[-1])
    assert set(differences) == {"dynamo", "torchscript"}
    assert max(differences.values()) <= 1e-4, differences
