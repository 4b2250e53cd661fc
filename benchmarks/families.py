"""Torchvision's 22 families: which convert, for which targets, how exactly, how fast the error falls with T."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

import attrs
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import spikec
from spikec.ir.graph import Graph
from spikec.ir.ops import BatchNorm, RunningDifference

#: side of the square images that each is measured on: as small as its architecture takes
CONVERTED = {
    "alexnet": 64,
    "vgg11": 32,
    "vgg16_bn": 32,
    "resnet18": 32,
    "resnet50": 32,
    "wide_resnet50_2": 32,
    "resnext50_32x4d": 32,
    "densenet121": 32,
    "googlenet": 32,
    "inception_v3": 75,
    "squeezenet1_0": 32,
    "mobilenet_v2": 32,
    "mnasnet0_5": 32,
    "shufflenet_v2_x1_0": 32,
    "regnet_x_400mf": 32,
    "regnet_y_400mf": 32,
    "mobilenet_v3_small": 64,
    "efficientnet_b0": 32,
    "convnext_tiny": 32,
}
#: those whose products of matrices, norms and softmax are carried without neurons
CARRIED = {"vit_b_16": 32, "swin_t": 32, "maxvit_t": 64}
#: families with two hidden layers of 4096 features behind their convolutions, which --quick makes narrow
NARROWED = ("alexnet", "vgg11", "vgg16_bn")
TARGETS = ("spikingjelly", "nir", "netx")
#: families that netx is asked about by --quick: it lays out every weight, which takes longer than all else
QUICK_NETX = ("squeezenet1_0",)
STEPS = (16, 64, 256)
QUICK_STEPS = (8, 32)
IMAGES = 4
#: thresholds at the maximum: nothing but T stands between the spiking net and the ANN
OPTIONS: dict[str, Any] = {"normalization": "max"}


def torchvision_models() -> Any:
    """``torchvision.models``, also on a torch for which torchvision has no compiled operators."""
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torchvision_models.library = library  # type: ignore[attr-defined]
        import torchvision
    return torchvision.models


def build(name: str, side: int, quick: bool = False, batches: Iterable[torch.Tensor] = ()) -> nn.Module:
    """An untrained model that answers differently to different images; a quick one has no hidden layers of 4096.

    BatchNorm weights are uniform in 0.5..1.5, biases normal with deviation 0.3, running statistics those of the batches
    of images, or of three of random images, fewer of large ones.
    """
    torch.manual_seed(0)
    sizes = {"vit_b_16": {"image_size": side}}
    plain = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    models = torchvision_models()
    if name == "maxvit_t":  # whose own windows of 7 cells fit images of 224 alone: as many windows, of fewer cells
        blocks = {"block_channels": [64, 128, 256, 512], "block_layers": [2, 2, 5, 2], "head_dim": 32}
        size = {"input_size": (side, side), "partition_size": side // 32}
        model = models.MaxVit(stem_channels=64, stochastic_depth_prob=0.2, **blocks, **size).eval()
    else:
        model = models.get_model(name, weights=None, **plain, **sizes.get(name, {})).eval()
    if quick and name in NARROWED:
        narrow(model.classifier)
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and not layer.weight.any():  # as vit's last one, which would answer nothing
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    norms = [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0.0, 0.3)
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    if norms:
        with torch.no_grad():
            for each in batches or (torch.rand(16 if side < 100 else 2, 3, side, side) for _ in range(3)):
                model(each)
    return model.eval()


def narrow(classifier: nn.Sequential) -> None:
    """Give the classifier of alexnet or vgg hidden layers of 256 features: of 4096, they are most of the network."""
    places = [i for i, layer in enumerate(classifier) if isinstance(layer, nn.Linear)]
    first, last = classifier[places[0]], classifier[places[-1]]
    widths = [first.in_features, *[256] * (len(places) - 1), last.out_features]
    for i, inputs, outputs in zip(places, widths, widths[1:], strict=False):
        classifier[i] = nn.Linear(inputs, outputs)


def images(side: int) -> torch.Tensor:
    """Noise of different brightness."""
    brightness = torch.linspace(0.25, 1.0, IMAGES).reshape(-1, 1, 1, 1)
    return torch.rand(IMAGES, 3, side, side, generator=torch.Generator().manual_seed(1)) * brightness


def deviation(y: torch.Tensor) -> torch.Tensor:
    """From the mean over the images."""
    return y - y.mean(0, keepdim=True)


def options_of(name: str) -> dict[str, Any]:
    """What a family is compiled with for spikingjelly."""
    return OPTIONS | ({"accumulate": True} if name in CARRIED else {})


def convert(name: str, quick: bool) -> dict[str, Any]:
    """Import, compile with every exact pass held to its contract, run, and ask every target that takes it."""
    side = (CONVERTED | CARRIED)[name]
    model, x = build(name, side, quick), images(side)
    with torch.no_grad():
        wanted = model(x)
    graph = spikec.load(model, x)
    difference = (spikec.run(graph, x) - wanted).abs().max() / deviation(wanted).abs().max()
    started = time.process_time()
    run = spikec.Compiler("spikingjelly", calibration=[x], verify="each", **options_of(name)).run(model)
    found: dict[str, Any] = {"side": side, "import": float(difference), "compile": time.process_time() - started}
    found["exact"] = {stage.name: stage.check for stage in run.stages if stage.check.startswith("exact")}
    neurons = run.graph.with_role(spikec.Role.NEURON)
    found["neurons"] = sum(math.prod(run.graph.type(node.name).shape) for node in neurons)
    found["carried"] = len(run.graph.match(RunningDifference))
    found["error"] = errors(run.artifact, x, wanted, QUICK_STEPS if quick else STEPS)
    checks = {"nir": "off" if quick else "each", "netx": "off"}
    if quick and name not in QUICK_NETX:
        del checks["netx"]
    if name in CARRIED:
        checks = {}  # what is carried is for simulation only
    found["targets"] = {target: refusals(graph, target, x, verify) for target, verify in checks.items()}
    return found


def errors(snn: nn.Module, x: torch.Tensor, wanted: torch.Tensor, steps: Sequence[int]) -> list[float]:
    """The error of the time-average after each number of steps."""
    total, found = torch.zeros_like(wanted), []
    with torch.no_grad():
        for step in range(1, steps[-1] + 1):
            total += snn(x)
            if step in steps:
                found.append(error(total / step, wanted))
    return found


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """RMS error, by the RMS deviation of the ANN between images."""
    return float((found - wanted).norm() / deviation(wanted).norm())


def waiting(name: str, steps: Sequence[int]) -> list[float]:
    """The error for each T where every layer waits for a window of T steps, so that no current is uneven."""
    side = (CONVERTED | CARRIED)[name]
    model, x = build(name, side), images(side)
    snn = spikec.compile(model, "spikingjelly", calibration=[x], **options_of(name))
    with torch.no_grad():
        wanted = model(x)
        return [error(spikec.simulate(snn, x, each, schedule="layers").means[-1], wanted) for each in steps]


def refusals(graph: Graph, target: str, x: torch.Tensor, verify: Any) -> list[str]:
    """Why a target does not take the model: each reason once, with how often and where first."""
    problems = spikec.check(graph, target, calibration=[x], verify=verify, **OPTIONS)
    first: dict[str, list[str]] = {}
    for problem in problems:
        first.setdefault(problem.message, []).append(problem.location)
    return [f"{message} ({len(where)}x, first {where[0]})" for message, where in first.items()]


@attrs.frozen
class Folded(spikec.Backend):
    """A target that takes the ANN as it is once its batch norms are gone."""

    name = "folded"

    def check(self, graph: Graph) -> list[spikec.Problem]:
        return [graph.problem(node.name, "left unfolded") for node in graph.match(BatchNorm)]

    def emit(self, graph: Graph, context: Any) -> Graph:
        return graph


def cost(name: str, side: int) -> dict[str, float]:
    """CPU seconds and memory to import, fold and verify; imports of modules are not counted."""
    fold = ["eliminate-identity", "infer-types", "lower-maxpool", "lower-adaptive-pool", "fold-batchnorm"]
    spikec.compile(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), Folded(), pipeline=fold)
    model, x = build(name, CONVERTED[name]), torch.rand(1, 3, side, side)
    weights = sum(each.numel() * each.element_size() for each in model.state_dict().values()) / 1e6
    before, started = megabytes(), time.process_time()
    spikec.compile(model, Folded(), example_input=x, pipeline=fold)
    return {"seconds": time.process_time() - started, "added": megabytes() - before, "weights": weights}


def megabytes() -> float:
    """The most memory that this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def measured(name: str, *options: str) -> dict[str, Any]:
    """One family, in a process of its own."""
    command = [sys.executable, __file__, "--json", *options, name]
    found: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", nargs="*", help="names; all by default")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="fewer steps, narrow classifiers, contracts checked for one target only, netx asked about the smallest",
    )
    parser.add_argument("--json", action="store_true", help="what was found about one family, as JSON")
    parser.add_argument("--cost", type=int, metavar="SIDE", help="only import, fold and verify, at this side")
    parser.add_argument("--waiting", type=int, nargs="+", metavar="T", help="only the error where each layer waits")
    given = parser.parse_args()
    warnings.simplefilter("ignore", spikec.SpikecWarning)
    names = given.family or [*CONVERTED, *CARRIED]
    if given.waiting:
        for name in names:
            found_errors = zip(given.waiting, waiting(name, given.waiting), strict=True)
            print(name, *(f"T={each}: {found:.3f}" for each, found in found_errors), flush=True)
        return
    if given.json:
        (name,) = names
        if given.cost:
            print(json.dumps(cost(name, given.cost)))
        else:
            print(json.dumps(convert(name, given.quick)))
        return
    console = Console(highlight=False, width=160)
    versions = ", ".join(f"{package} {version(package)}" for package in ("spikec", "torch", "torchvision"))
    console.print(f"{versions}; Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    options, steps = (["--quick"], QUICK_STEPS) if given.quick else ([], STEPS)
    table = Table(title="error: RMS, by the ANN's RMS deviation between images")
    for heading in ("", "side", "import", *(f"error T={each}" for each in steps), "neurons", "carried", *TARGETS):
        table.add_column(heading, justify="right" if heading.startswith(("error", "side")) else "left")
    for name in names:
        found = measured(name, *options)
        takes = ["yes" if not why else f"no: {'; '.join(why)}" for why in found["targets"].values()]
        shown = [f"{error:.3f}" for error in found["error"]]
        size = f"{found['neurons']:,}", str(found["carried"] or "")
        table.add_row(name, str(found["side"]), f"{found['import']:.0e}", *shown, *size, "yes", *takes)
    console.print(table)
    if "resnet50" in names:
        found = measured("resnet50", "--cost", "224")
        console.print(
            f"resnet50 at 224x224: imported, folded and verified in {found['seconds']:.1f} CPU seconds; "
            f"{found['added']:.0f} MB added, {found['added'] / found['weights']:.1f} x its weights"
        )


if __name__ == "__main__":
    main()
