"""Run by the Python that has torchvision: compile resnet50 with a dump into a folder."""

import json
import sys
from pathlib import Path

import torch

import spikec

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from families import torchvision_models

model = torchvision_models().resnet50(weights=None).eval()
options = {"calibration": torch.rand(2, 3, 64, 64), "normalization": "max", "verify": "off"}
spikec.Compiler("nir", dump_dir=sys.argv[1], **options).run(model)
print(json.dumps(None))
