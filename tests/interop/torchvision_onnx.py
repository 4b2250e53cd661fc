"""Run by the Python that has torchvision: export a model to ONNX both ways, read it back, and print the differences.

Arguments: the family's name and the side of its images. Prints one JSON object: for each exporter, the largest
difference of spikec's outputs from torch's relative to their spread over the images.
"""

import json
import sys
import tempfile
import warnings
from pathlib import Path

import torch

library = torch.library.Library("torchvision", "DEF")  # a torchvision without its compiled part
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import torchvision  # noqa: E402

import spikec  # noqa: E402

IMAGES = 4


def build(family, side):
    """Random weights, batch norms with random affines and the statistics of three random batches."""
    torch.manual_seed(0)
    options = {"init_weights": False} if family in ("googlenet", "inception_v3") else {}
    model = getattr(torchvision.models, family)(weights=None, **options)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias, 0, 0.3)
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    model.eval()
    for norm in norms:
        norm.train()
    with torch.no_grad():
        for _ in range(3 if norms else 0):
            model(torch.randn(IMAGES, 3, side, side))
    return model.eval().double()


def exported(model, x, path, dynamo):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            batch = torch.export.Dim("batch")
            torch.onnx.export(model, (x[:2],), path, dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
        else:
            axes = {"x": {0: "batch"}}
            torch.onnx.export(model, (x[:2],), path, dynamo=False, input_names=["x"], dynamic_axes=axes)
    return spikec.load(path)


def main(family, side):
    model = build(family, side)
    x = torch.randn(IMAGES, 3, side, side, dtype=torch.float64)
    with torch.no_grad():
        wanted = model(x)
    spread = (wanted - wanted.mean(0)).abs().max()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for dynamo in (True, False):
            graph = exported(model, x, Path(folder) / "model.onnx", dynamo)
            found["dynamo" if dynamo else "torchscript"] = float((spikec.run(graph, x) - wanted).abs().max() / spread)
    print(json.dumps(found))


main(sys.argv[1], int(sys.argv[2]))
