"""How well a spiking graph agrees with its ANN on samples: what tuned passes are judged by."""

from collections.abc import Sequence

import torch
from torch import Tensor

from spikec.interpreter.results import outputs
from spikec.ir.graph import Graph

#: samples that run at a time where agreement is measured
BATCH = 64


def agreement(graph: Graph, ann: Graph, samples: Sequence[Tensor], timesteps: int) -> tuple[float, float]:
    """How near a graph is to the ANN on samples: (share with the same argmax, minus the mean error).

    Both are over all outputs; tuples compare, so that the error decides where the argmax does not.
    """
    same, error, count = 0.0, 0.0, 0
    for batch in zip(*(torch.split(x.to(torch.float32), BATCH) for x in samples), strict=True):
        for a, b in zip(outputs(ann, batch, timesteps), outputs(graph, batch, timesteps), strict=True):
            same += float((a.flatten(1).argmax(1) == b.flatten(1).argmax(1)).double().sum())
            error += float((a - b).abs().flatten(1).mean(1).sum())
            count += len(a)
    return same / count, -error / count


def agreement_text(found: tuple[float, float]) -> str:
    """An agreement as notes and reports show it."""
    return f"{100 * found[0]:.4g} % as the ANN, error {-found[1]:.3g}"
