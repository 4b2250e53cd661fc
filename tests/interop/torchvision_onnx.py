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

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import families
import spikec

IMAGES = 2


def exported(model, x, path, dynamo):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            batch = torch.export.Dim("batch")
            torch.onnx.export(model, (x,), path, dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
        else:
            axes = {"x": {0: "batch"}}
            torch.onnx.export(model, (x,), path, dynamo=False, input_names=["x"], dynamic_axes=axes)
    return spikec.load(path)


def main(family, side):
    model = families.build(family, side, quick=True).double()
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
