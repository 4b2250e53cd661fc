"""Checks whether an imported graph does what its model does, and finds the first op that differs if not."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from spikec.interpreter.contract import AMPLIFY, TIE
from spikec.interpreter.interp import run
from spikec.interpreter.probe import STEPS, affordable, within_budget
from spikec.interpreter.results import (
    EXACT,
    as_tuple,
    differences,
    distance,
    largest,
    outputs,
    rounding,
    spread,
    varies,
)
from spikec.ir.errors import VerificationError
from spikec.ir.graph import Graph
from spikec.ir.op import tensor
from spikec.ir.ops import Neuron

#: the model itself: inputs [B, ...] in, its outputs in order out; for a spiking one all are [T, B, ...]
Reference = Callable[[Sequence[Tensor]], list[Tensor]]
#: what the model's own layers give, for a graph that was read from it and the same inputs: by ``Source.path``
LayerResults = Callable[[Graph, Sequence[Tensor]], Mapping[str, Tensor]]

#: allowed difference of an imported graph from the model, relative to the output's spread over the probe
IMPORT = 1e-4
#: an output that varies less than this share of its maximum is compared with that, as float32 rounds
IMPORT_SPREAD = 0.1
#: samples on which the layers of a model that differs are compared: those whose outputs differ most
BLAMED = 2


def check_import(
    graph: Graph, reference: Reference, xs: Sequence[Tensor], layer_results: LayerResults | None = None
) -> float:
    """Hold an imported graph to the model it was read from: an ANN in the model's own dtype, an SNN in float64.

    Args:
        graph: as the frontend gave it.
        reference: the model.
        xs: the probe, of which a large graph sees two samples.
        layer_results: finds the first op that differs; without it an output is named.

    Raises:
        VerificationError: the results of an ANN differ by more than 1e-4 of the output's spread over the probe, or
            of a tenth of its maximum where it varies less than that; or those of an SNN differ at a step before
            which no neuron was within 1e-9 of its threshold.
    """
    xs, _ = within_budget(affordable(graph), xs)
    if graph.is_spiking:
        return _check_spiking_import(graph, reference, xs, layer_results)
    wanted = reference(xs)
    dtype = wanted[0].dtype
    if dtype not in (torch.float32, torch.float64):
        return 0.0
    given = [x.to(dtype) for x in xs]
    got = outputs(graph, given, 1)
    apart = [_apart(a, b) for a, b in zip(wanted, got, strict=True)]
    if not largest(apart) <= IMPORT:
        least = [allowed / IMPORT for allowed in rounding(graph, given, 1, got)]
        apart = [_apart(a, b, size) for a, b, size in zip(wanted, got, least, strict=True)]
    if not largest(apart) <= IMPORT:
        message = f"the imported graph differs from the model by {largest(apart):.2g} of its output's spread"
        worst = torch.stack([differences(a, b) for a, b in zip(wanted, got, strict=True)]).sum(0)
        chosen = [x[worst.topk(min(BLAMED, len(worst))).indices] for x in xs]
        output = next(name for name, each in zip(graph.outputs, apart, strict=True) if not each <= IMPORT)
        found = {} if layer_results is None else layer_results(graph, chosen)
        layers = {path: each[None] for path, each in found.items()}
        differs = _differing(graph, [x.to(dtype) for x in chosen], layers, lambda a, b, _: not _apart(a, b) <= IMPORT)
        raise _blame(graph, differs, output, f"{message} (allowed: {IMPORT:g})")
    return largest(apart)


def _apart(wanted: Tensor, got: Tensor, least: float = 1e-30) -> float:
    return distance(wanted, got) / max(spread(wanted), IMPORT_SPREAD * float(wanted.abs().max()), least)


def _check_spiking_import(
    graph: Graph, reference: Reference, xs: Sequence[Tensor], layer_results: LayerResults | None
) -> float:
    """Do as ``check_import``, for an input that varies in time and grows until an output tells samples apart."""
    kept = [place is not None for place in _places(graph.imported.structure)]
    for factor in AMPLIFY:
        train = [torch.stack([factor * x.roll(t, 0) for t in range(2 * STEPS)]) for x in xs]
        wanted = [leaf.double() for leaf, keep in zip(reference(train), kept, strict=True) if keep]
        results, nearest = _with_distances(graph, train)
        if any(varies(x) for y in wanted for x in y):
            break
    worst = []
    for name, a, b in zip(graph.outputs, wanted, results, strict=True):
        apart = differences(a, b * tensor(graph.type(name).scale, b)) / a.abs().max().clamp(min=1e-30)
        wrong = (~(apart <= EXACT)).nonzero().flatten().tolist()
        if wrong and min(nearest[: wrong[0] + 1]) >= TIE:
            message = f"the imported graph differs from the spiking model at step {wrong[0]}"
            layers = {} if layer_results is None else layer_results(graph, train)
            differs = _differing(graph, train, layers, lambda a, b, top: not distance(a, b) <= EXACT * top)
            raise _blame(graph, differs, name, message)
        worst.append(float(apart.max()))
    return largest(worst)


def _with_distances(graph: Graph, train: Sequence[Tensor]) -> tuple[list[Tensor], list[float]]:
    """Return (the outputs over time, how near to its threshold the nearest neuron was at each step)."""
    nearest: list[float] = []
    first = next(iter(graph))

    def tap(name: str, value: Tensor, state: Tensor | None, operands: Sequence[Tensor], /) -> None:
        if name == first:
            nearest.append(float("inf"))
        op = graph[name]
        if isinstance(op, Neuron) and state is not None:
            above = op.above_threshold(state, operands[0])
            nearest[-1] = min(nearest[-1], float("inf") if above is None else float(above.abs().min()))

    return list(as_tuple(run(graph, train, tap=tap))), nearest


def _places(structure: Any) -> list[Any]:
    """List the leaves of an output container, in order: positions of outputs, or None."""
    if isinstance(structure, dict):
        return [place for value in structure.values() for place in _places(value)]
    if isinstance(structure, (list, tuple)):
        return [place for value in structure for place in _places(value)]
    return [structure]


def _differing(
    graph: Graph,
    xs: Sequence[Tensor],
    layers: Mapping[str, Tensor],
    differ: Callable[[Tensor, Tensor, float], bool],
) -> list[str]:
    """Find the ops that may be to blame for the first result, in time and then in order, that is not its layer's.

    Args:
        graph: the imported graph.
        xs: what the layers were traced on.
        layers: the result of each layer by its path, [T, B, ...], with T = 1 for an ANN.
        differ: whether (the layer's result, the node's, the layer's largest value over time) are different.

    Returns:
        The node of that result as the last, behind what lies between it and the nodes before it that are as they
        should be; empty where no layer is seen to differ.
    """
    compared = {name: layers[path] for name, path in _results_of_layers(graph).items() if path in layers}
    steps: Counter[str] = Counter()
    right: set[str] = set()
    wrong: list[str] = []

    def tap(name: str, value: Tensor, *_: object) -> None:
        layer, step = compared[name], steps[name]
        steps[name] += 1
        got = value * tensor(graph.type(name).scale, value) if graph.is_spiking else value
        if wrong or step >= len(layer) or got.shape != layer[step].shape:
            return  # a layer that has its time or its samples on other axes says nothing
        if differ(layer[step].to(got), got, float(layer.abs().max())):
            wrong.append(name)
        else:
            right.add(name)

    run(graph, xs, tap=tap, nodes=compared.keys())
    return _suspects(graph, wrong[0], right) if wrong else []


def _results_of_layers(graph: Graph) -> dict[str, str]:
    """Return the paths of layers, by the node that gives a layer's result: the only one of its ops that others read.

    A layer whose ops stand for other layers too, or that has several results, is left out.
    """
    paths = {name: {source.path for source in graph[name].origin} for name in graph}
    merged = {path for held in paths.values() if len(held) > 1 for path in held}
    results: dict[str, list[str]] = {}
    for name, held in paths.items():
        if len(held) == 1 and any(paths[user] != held for user, _ in graph.users(name)):
            results.setdefault(next(iter(held)), []).append(name)
    return {names[0]: path for path, names in results.items() if path and path not in merged and len(names) == 1}


def _suspects(graph: Graph, wrong: str, right: set[str]) -> list[str]:
    """List the nodes that a wrong result, itself among them, depends on without a right one in between."""
    found, todo = {wrong}, [wrong]
    while todo:
        before = set(graph.operands(todo.pop())) - found - right - set(graph.inputs)
        found |= before
        todo += before
    return [name for name in graph if name in found]


def _blame(graph: Graph, wrong: Sequence[str], output: str, message: str) -> VerificationError:
    """Make the error, at the first op that differs, or at the output where no layer could be compared."""
    if len(wrong) > 1:
        message += f"; the first op that differs is one of {', '.join('%' + each for each in wrong)}"
    elif wrong:
        message += f"; %{wrong[0]} is the first op that differs"
    hint = "a converter reads a layer wrongly: compare spikec.run(spikec.load(part), x) with part(x)"
    return VerificationError(graph.problem(wrong[-1] if wrong else output, message, hint))
