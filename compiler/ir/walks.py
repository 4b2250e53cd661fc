"""How tools that run a graph depth first come through it (nirtorch's graph executor)."""

from collections.abc import Collection, Iterator, Sequence


def run_early(
    edges: Sequence[tuple[str, str]], start: str, end: str, late: Collection[tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    """Yield (node, operand) wherever such a tool runs a node before its operand, and (end, node) for what it runs last.

    It runs a node when it comes to it, and then those behind it in the order of the edges. What has not run yet counts
    as it was a step before, or for nothing at first; what runs last is what it puts out.

    Args:
        edges: in their order.
        start: the node that it begins with.
        end: the node that is to be put out.
        late: the edges that are meant to be late by a step.
    """
    users: dict[str, list[str]] = {}
    operands: dict[str, list[str]] = {}
    for before, behind in edges:
        users.setdefault(before, []).append(behind)
        operands.setdefault(behind, []).append(before)
    done: dict[str, None] = {}
    todo = [start]
    while todo:
        name = todo.pop()
        if name in done:
            continue
        early = (operand for operand in operands.get(name, ()) if operand not in done and (operand, name) not in late)
        yield from ((name, operand) for operand in early)
        done[name] = None
        todo += reversed(users.get(name, []))
    if (last := next(reversed(done))) != end:
        yield end, last
