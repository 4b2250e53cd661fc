"""How each tool runs a NIR file: one entry in :data:`READERS` a tool; :mod:`spikec.frontends.nir.rules` has equations.

The entries were read in the sources of the versions that ``tool`` names.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import attrs
import nir

from spikec.frontends.nir import rules
from spikec.frontends.nir.rules import Rule
from spikec.ir.errors import InvalidModelError, Problem, UnsupportedOpError
from spikec.ir.walks import run_early


@attrs.frozen
class Reader:
    """A tool that loads NIR files.

    Attributes:
        name: what users say.
        tool: its name and version.
        fire: ``">"`` or ``">="``, by which its neurons compare potential and threshold.
        dt: seconds a step where the user does not say it; 1 for a tool whose neurons count steps.
        dt_given: its import takes dt, so that a file's ``dt`` can be given to it.
        neurons: its nodes with a state.
        layers: its other nodes, which are NIR's.
        functions: what it does otherwise than NIR with nodes that have no state.
        drops: nodes that it leaves out of the network without an error.
        graphs: what it does wrong with graphs of these :func:`features`.
        late: when its neurons reset where the user says that they subtract; see ``spikec.ir.ops.neuron.ResetAt``.
        bias_first: the bias on the way back of a recurrence acts at step 0 already.
        unsaid: what its files do not say, and how they are read.
    """

    name: str
    tool: str
    fire: str
    dt: float
    dt_given: bool
    neurons: Mapping[type, Rule]
    layers: tuple[type, ...]
    functions: Mapping[type, Rule] = {}
    drops: tuple[type, ...] = ()
    graphs: Mapping[str, str] = {}
    late: str = "spike"
    bias_first: bool = False
    unsaid: str = ""

    @property
    def steps(self) -> bool:
        """Whether its neurons count steps, and know no seconds."""
        return self.dt == 1

    def node(self, node: Any, dt: float) -> Any:
        """Return the node that by NIR's equations does what the tool does with this one.

        Raises:
            UnsupportedOpError: the tool refuses it, drops it, or does not know it.
        """
        kind = type(node)
        if kind in self.drops:
            what = f"{self.tool} leaves out a nir.{kind.__name__} without an error, and runs what is left"
            raise UnsupportedOpError(what, hint=f"write the file for it: spikec repair --profile {self.name}")
        rule = self.neurons.get(kind) or self.functions.get(kind)
        if rule is None:
            if kind in (*self.layers, nir.Input, nir.Output):
                return node
            known = ", ".join(sorted(each.__name__ for each in (*self.layers, *self.neurons)))
            raise UnsupportedOpError(f"{self.tool} refuses nir.{kind.__name__}", hint=f"it has: {known}")
        return rule(node, dt)

    def problems(self, found: Mapping[str, str]) -> list[Problem]:
        """List what the tool does not run of a graph, by the :func:`features` that it has."""
        return [
            Problem(f"{feature}: {self.tool} {what}", found[feature], hint="leave reader out, or name another tool")
            for feature, what in self.graphs.items()
            if feature in found
        ]


def reader_named(name: Any) -> Reader:
    """Return the entry of a tool.

    Raises:
        InvalidModelError: there is none.
    """
    if not isinstance(name, str) or name not in READERS:
        raise InvalidModelError(f"there is no reader {name!r}", hint=f"known: {', '.join(READERS)}")
    return READERS[name]


def features(
    source: Any, graph: Any, back: Collection[tuple[str, str]], late: Collection[tuple[str, str]]
) -> dict[str, str]:
    """Return what a graph has that not every tool runs, with a node that shows it: the keys of ``Reader.graphs``.

    Args:
        source: the graph as it is written.
        graph: the same without graphs in it.
        back: its edges that lead back.
        late: those by which a step is taken.
    """
    found: dict[str, str] = {}
    inputs, outputs = (
        [name for name, node in graph.nodes.items() if isinstance(node, kind)] for kind in (nir.Input, nir.Output)
    )
    found |= {f"several {what}": ends[1] for what, ends in (("inputs", inputs), ("outputs", outputs)) if len(ends) > 1}
    nested = [name for name, node in source.nodes.items() if isinstance(node, nir.NIRGraph)]
    starts = Counter(start for start, end in graph.edges if (start, end) not in late)
    branches = [name for name in graph.nodes if starts[name] > 1]
    tuples = [
        start
        for start, end in graph.edges
        if isinstance(graph.nodes[start], nir.IF) and not isinstance(graph.nodes[end], nir.Output)
    ]
    for feature, names in (("nested graphs", nested), ("branches", branches), ("IF in front of others", tuples)):
        if names:
            found[feature] = names[0]
    for name, _ in run_early(graph.edges, inputs[0], outputs[0], back) if inputs and outputs else ():
        found.setdefault("the order of edges", name)
    return {**found, "recurrence": next(iter(late))[0]} if late else found


# ------------------------------------------------------------------ the table

_ENDS = {"several inputs": "refuses them", "several outputs": "does not come back from loading them"}
#: of who runs a graph as spikec.ir.walks says
_DEPTH_FIRST = {
    "several inputs": "runs the network behind one of them, and which one is chance",
    "several outputs": "gives one of them",
    "the order of edges": "runs a graph depth first, as its edges are listed: this node before what it adds, or the "
    "output not last",
}
_AFFINE = (nir.Affine, nir.Linear)
_CONV = (nir.Conv1d, nir.Conv2d)


def _torchs(tool: str) -> dict[type, Rule]:
    """What a tool does with functions that it takes torch's modules for, of samples with a batch axis."""
    return {
        nir.Conv2d: rules.not_depthwise(tool),
        nir.SumPool2d: rules.unpadded,
        nir.Flatten: rules.batch_is_an_axis(tool),
    }


READERS: Mapping[str, Reader] = {
    reader.name: reader
    for reader in (
        Reader(
            name="spikingjelly",
            tool="SpikingJelly 2.0.0",
            fire=">=",
            dt=1e-4,
            dt_given=True,
            neurons={nir.IF: rules.sj_if, nir.LIF: rules.sj_lif, nir.CubaLIF: rules.sj_cuba},
            layers=(*_AFFINE, *_CONV, nir.AvgPool2d, nir.SumPool2d, nir.Flatten),
            functions={**dict.fromkeys(_CONV, rules.ungrouped("SpikingJelly")), nir.SumPool2d: rules.unpadded},
            graphs=_ENDS,
        ),
        Reader(
            name="snntorch",
            tool="snnTorch 1.0.0",
            fire=">",
            dt=1e-4,
            dt_given=False,
            neurons={nir.IF: rules.snn_if, nir.LIF: rules.snn_lif, nir.CubaLIF: rules.snn_cuba},
            layers=(*_AFFINE, *_CONV, nir.AvgPool2d, nir.SumPool2d, nir.Flatten),
            functions={**_torchs("snnTorch"), nir.Conv1d: rules.ungrouped("snnTorch")},
            graphs={**_ENDS, "IF in front of others": "gives its spikes and its potential, which no node takes"},
            late="next",
            bias_first=True,
            unsaid="its files do not say reset_delay: neurons that subtract reset a step after their spike, as is its "
            "default, and those that reset to zero with it, as its import makes them",
        ),
        Reader(
            name="norse",
            tool="norse 1.1.0",
            fire=">",
            dt=1e-3,
            dt_given=True,
            neurons={nir.IF: rules.norse_if, nir.LIF: rules.norse_lif, nir.CubaLIF: rules.norse_cuba},
            layers=(*_AFFINE, nir.Conv2d, nir.SumPool2d, nir.Flatten),
            functions=_torchs("norse"),
            drops=(nir.Scale, nir.Delay, nir.Threshold, nir.AvgPool2d, nir.Conv1d, nir.I, nir.LI, nir.CubaLI),
            graphs=_DEPTH_FIRST,
        ),
        Reader(
            name="sinabs",
            tool="sinabs 3.1.3",
            fire=">=",
            dt=1.0,
            dt_given=False,
            neurons={nir.IF: rules.sinabs_if, nir.LIF: rules.sinabs_lif, nir.LI: rules.sinabs_li},
            layers=(nir.Affine, nir.Conv2d, nir.SumPool2d, nir.Flatten),
            functions={nir.Conv2d: rules.not_depthwise("sinabs"), nir.SumPool2d: rules.unpadded},
            drops=(
                nir.Linear,
                nir.Scale,
                nir.Delay,
                nir.Threshold,
                nir.AvgPool2d,
                nir.I,
                nir.CubaLI,
                nir.CubaLIF,
            ),
            graphs={
                **_DEPTH_FIRST,
                "recurrence": "runs all steps of a layer before the next layer, so that nothing comes back in time",
            },
        ),
        Reader(
            name="rockpool",
            tool="rockpool 3.1.0",
            fire=">=",
            dt=1.0,
            dt_given=False,
            neurons={nir.CubaLIF: rules.rockpool_cuba},
            layers=_AFFINE,
            graphs={
                **_ENDS,
                "recurrence": "gives other spikes than these equations, whichever step they are late by",
                "nested graphs": "refuses them",
            },
        ),
        Reader(
            name="snn-mlir",
            tool="snn-mlir 1.0.0",
            fire=">",
            dt=1.0,
            dt_given=False,
            neurons={
                nir.I: rules.mlir_if,
                nir.IF: rules.mlir_if,
                nir.LI: rules.mlir_lif,
                nir.LIF: rules.mlir_lif,
                nir.CubaLI: rules.mlir_cuba,
                nir.CubaLIF: rules.mlir_cuba,
            },
            layers=(*_AFFINE, *_CONV, nir.AvgPool2d, nir.SumPool2d, nir.Flatten),
            functions=dict.fromkeys(_CONV, rules.mlir_conv),
            graphs={**_ENDS, "nested graphs": "refuses them", "branches": "refuses them"},
            bias_first=True,
        ),
    )
}
