"""Which ops and encodings may exist at which stage of a compilation: the table is at the end of this page."""

from collections.abc import Callable

import attrs

from spikec.ir.errors import CompileError, Problem, UnsupportedOpError, VerificationError
from spikec.ir.graph import Graph, Node
from spikec.ir.op import Op, Role
from spikec.ir.ops import Carried, MaxPool, Relu
from spikec.ir.types import Rate, Real

Rule = Callable[[Graph, Node[Op]], "Problem | None"]


def no(role: Role, hint: str) -> Rule:
    """Make the rule that no op of that role may exist; ``hint`` says which pass removes or brings it."""

    def rule(graph: Graph, node: Node[Op]) -> Problem | None:
        if node.op.role is not role:
            return None
        return graph.problem(node.name, f"{node.op.kind} ({role.value}) may not exist at this stage", hint)

    return rule


def only(encoding: type[Real] | type[Rate]) -> Rule:
    """Make the rule that every signal has that encoding."""

    def rule(graph: Graph, node: Node[Op]) -> Problem | None:
        found = graph.type(node.name).encoding
        if isinstance(found, encoding):
            return None
        return graph.problem(node.name, f"is {found}, every signal is {encoding.__name__.lower()} at this stage")

    return rule


def relus_only(graph: Graph, node: Node[Op]) -> Problem | None:
    """Refuse every non-linear op but Relu, a max-pool that will be counted, and what is carried without neurons."""
    counting = isinstance(node.op, MaxPool) and node.op.counts
    if node.op.role is not Role.ACTIVATION or isinstance(node.op, (Relu, Carried)) or counting:
        return None
    return graph.problem(
        node.name,
        f"{getattr(node.op, 'function', node.op.kind)} has no spiking form",
        getattr(node.op, "hint", "replace it by ReLU, or add a pass that lowers it to Relu and linear ops"),
    )


def calibrated(graph: Graph, node: Node[Op]) -> Problem | None:
    """Refuse a Relu without a scale."""
    if not isinstance(node.op, Relu) or node.op.scale is not None:
        return None
    return graph.problem(node.name, "relu without a scale", "run normalize before")


@attrs.frozen
class Stage:
    """One row of the table: a point that a graph reaches on its way, and what must hold of it from there on.

    Attributes:
        name: how passes and messages call it.
        rules: each looks at one node, and gives the problem or None.
        error: the class of error that a breach raises.
    """

    name: str
    rules: tuple[Rule, ...] = ()
    error: type[CompileError] = VerificationError

    def problems(self, graph: Graph) -> list[Problem]:
        """Return all breaches, in the graph's order."""
        if not self.rules:
            return []
        # one at a time: a list of all nodes makes Python's garbage collector run
        nodes = (Node(name, op) for name, op in graph.items())
        found = (rule(graph, node) for node in nodes for rule in self.rules)
        return [problem for problem in found if problem]


_LINEAR_AND_RELU: tuple[Rule, ...] = (
    only(Real),
    no(Role.IDENTITY, "run eliminate-identity before"),
    no(Role.NORM, "run fold-batchnorm before"),
    no(Role.CAST, "scales come with relu-to-if"),
    no(Role.NEURON, "neurons come with relu-to-if"),
)
_NO_ACTIVATION = no(Role.ACTIVATION, "nothing non-linear may survive into an SNN: replace it by a neuron")
_SPIKES: tuple[Rule, ...] = (
    _NO_ACTIVATION,
    no(Role.NORM, "run fold-batchnorm before relu-to-if"),
    no(Role.IDENTITY, "run eliminate-identity before"),
    only(Rate),
)

IMPORTED = Stage("imported")
#: a model that was spiking from the start, whose batch norms and identities are still there
RECEIVED = Stage("received", (_NO_ACTIVATION, only(Rate)), UnsupportedOpError)
FOLDED = Stage("folded", (*_LINEAR_AND_RELU, relus_only), UnsupportedOpError)
CALIBRATED = Stage("calibrated", (*_LINEAR_AND_RELU, relus_only, calibrated))
SPIKING = Stage("spiking", _SPIKES)
FINAL = Stage("final", (*_SPIKES, no(Role.CAST, "run fold-rescale before")))

ANN = (IMPORTED, FOLDED, CALIBRATED)
SNN = (SPIKING, FINAL)
EVERY = (*ANN, RECEIVED, *SNN)
