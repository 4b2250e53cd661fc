"""Reads back what the target ``spikingjelly`` emitted, with the parameters that it has now."""

from collections.abc import Sequence
from typing import Any

import attrs
from torch import Tensor, nn

from spikec.extend.frontend import Frontend
from spikec.frontends.torch.call import as_array
from spikec.ir.errors import Problem, UnsupportedOpError
from spikec.ir.graph import Graph
from spikec.ir.op import Op


class SpikingNetworkFrontend(Frontend):
    """Reads a ``SpikingNetwork`` as the final graph that it was made from, with its parameters as they are now.

    The network knows the op of each part, but for its arrays: those are read from the part, by their names.
    """

    takes = "a module that spikec emitted"

    def accepts(self, model: Any) -> bool:
        """True for the class of that name; the backend is not imported."""
        kind = type(model)
        return f"{kind.__module__}.{kind.__qualname__}" == "spikec.backends.spikingjelly.network.SpikingNetwork"

    def input_names(self, model: Any) -> list[str]:
        """Return the inputs' names in the graph that it was made from."""
        return list(model.inputs)

    def load(self, model: Any, examples: Sequence[Tensor] | None) -> Graph:
        """Make the graph; the network knows its shapes, so no example is needed.

        Raises:
            UnsupportedOpError: a part is another than the one that was emitted.
        """
        graph = Graph(model.name)
        delayed = []  # calls with an operand that is computed after them: it is connected once all nodes are there
        for call in model.plan:
            op = _read(call, model.get_submodule(call.part))
            back = [x for x in call.operands if x not in graph]
            graph.add(op, *([] if back else call.operands), name=call.node)
            delayed += [call] * bool(back)
        for call in delayed:
            graph.set_operands(call.node, *call.operands)
        graph.imported.structure = model.structure
        graph.imported.device = str(next((x.device for x in (*model.parameters(), *model.buffers())), "cpu"))
        return graph


def _read(call: Any, part: nn.Module) -> Op:
    """Make the op with the arrays that its part holds; a part may be padding and the layer behind it."""
    holder = part[-1] if isinstance(part, nn.Sequential) else part
    arrays = {}
    for name in (name for name in attrs.fields_dict(call.kind) if name not in call.fields):
        found = getattr(holder, name, None)
        if not isinstance(found, Tensor):
            message = f"the part has no {name}, as the one that was emitted had"
            hint = "load it with the spikec that saved it, or compile again"
            raise UnsupportedOpError(Problem(message, call.part, hint=hint))
        arrays[name] = as_array(found)
    op: Op = call.kind(**call.fields, **arrays)
    return op


frontend = SpikingNetworkFrontend()
