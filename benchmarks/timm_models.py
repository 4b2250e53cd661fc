"""Which of timm's model families are read, and how far what is read is from the model.

    pip install -c constraints.txt ".[demo]" && pip install --no-deps torchvision==0.28.0
    pip install --no-deps timm==1.0.31 huggingface_hub safetensors pyyaml
    python benchmarks/timm_models.py [NAME ...]

Of each of timm's modules the smallest model, untrained, in its own image size, on two random images; ``--compile`` also
compiles it for ``spikingjelly`` with thresholds at the maximum, attention without neurons (``accumulate=True``), and
its exact passes held to the model.
"""

from __future__ import annotations

import argparse
import collections
import sys
import time
import warnings
from collections.abc import Iterator, Sequence

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import spikec
from families import torchvision_models

torchvision_models()  # which timm imports
try:
    import timm
except ModuleNotFoundError as error:
    sys.exit(f"{error.name} is not installed; see the first lines of this file")

#: larger models are left out: on the meta device their parameters are counted
LARGEST = 60e6


def families() -> dict[str, str]:
    """The smallest model of each of timm's modules that is not too large, by the module's name."""
    found: dict[str, list[tuple[float, str]]] = collections.defaultdict(list)
    for name in timm.list_models():
        with torch.device("meta"):
            model = made(name)
        if model is not None:
            found[type(model).__module__.rpartition(".")[2]].append((count(model), name))
    least = {module: min(models) for module, models in found.items()}
    return {module: name for module, (size, name) in sorted(least.items()) if size <= LARGEST}


def made(name: str) -> nn.Module | None:
    """An untrained model; None for one that cannot be made so."""
    try:
        model: nn.Module = timm.create_model(name, pretrained=False).eval()
    except (RuntimeError, NotImplementedError, ValueError, TypeError):
        return None
    return model


def count(model: nn.Module) -> float:
    return sum(each.numel() for each in model.parameters())


def settled(model: nn.Module) -> nn.Module:
    """The model with random numbers in layers of zeros, as the last one often is: it answers with 0 else."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for each in model.parameters():
            if not each.any():
                each.copy_(0.1 * torch.randn(each.shape, generator=generator))
    return model


def outcome(name: str, compiles: bool) -> list[str]:
    """A row: how many nodes, how far from the model, seconds; or what was refused."""
    torch.manual_seed(0)
    model = made(name)
    assert model is not None
    model = settled(model)
    x = torch.rand(2, *model.default_cfg["input_size"])  # type: ignore[index, misc]
    started = time.process_time()
    try:
        graph = spikec.load(model, x)
        seconds = time.process_time() - started
        with torch.no_grad():
            wanted, found = (first(answer) for answer in (model(x), spikec.run(graph, x)))
        apart = float((found - wanted).abs().max() / wanted.std())
        row = [f"{len(graph)}", f"{apart:.0e}", f"{seconds:.1f}"]
        if compiles:
            started = time.process_time()
            spikec.compile(model, "spikingjelly", calibration=x, normalization="max", accumulate=True)
            row.append(f"{time.process_time() - started:.1f}")
    except spikec.CompileError as error:
        row = ["refused", str(error).splitlines()[0][:90]]
    return row


def first(answer: Tensor | Sequence[Tensor]) -> Tensor:
    return answer if isinstance(answer, Tensor) else answer[0]


def rows(names: dict[str, str], compiles: bool) -> Iterator[list[str]]:
    for module, name in names.items():
        yield [module, name, *outcome(name, compiles)]
        print(*[module, name, "done"], file=sys.stderr, flush=True)


def main() -> None:
    """Print a row for each, and how many were read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    names = {name: name for name in options.name} or families()
    table = Table("module", "model", "nodes", "off by, of the spread", "CPU s", "compile, CPU s")
    found = list(rows(names, options.compile))
    for row in found:
        table.add_row(*row)
    read = sum(row[2] != "refused" for row in found)
    console = Console(width=160)
    console.print(table)
    console.print(f"{read} of {len(found)} are read; spikec, torch {torch.__version__}, timm {timm.__version__}")


if __name__ == "__main__":
    main()
