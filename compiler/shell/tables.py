"""Graphs, ledgers, passes and targets as tables for a terminal."""

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from spikec.extend import loader
from spikec.ir import printer
from spikec.ir.errors import MissingDependencyError
from spikec.ir.graph import Graph
from spikec.ir.ledger import Ledger
from spikec.ir.origin import label


def graph_table(graph: Graph, suffix: str = "") -> Table:
    """Return a table with one row for each op, in topological order; ``suffix`` follows the graph's name."""
    table = _table(
        ("node", "op", "operands", "attributes", "type", "from"), f"{graph.name}{suffix}", graph.imported.notes
    )
    for name in graph:
        op = graph[name]
        shown = ", ".join(f"{key}={value}" for key, value in printer.attributes(op).items())
        cells = (name, op.kind, " ".join(graph.operands(name)), shown, str(graph.type(name)), label(op.origin))
        table.add_row(*map(Text, cells))
    return table


def ledger_table(ledger: Ledger) -> Table:
    """Return a table with one row for each node of the user's model."""
    table = _table(("layer", "was", "is", "as"), "what became of each layer", ledger.notes)
    for entry in ledger:
        style = "bold red" if entry.fate == "refused" else ""
        table.add_row(*map(Text, (str(entry.source), entry.source.kind, entry.fate, entry.into)), style=style)
    return table


def passes_table() -> Table:
    """Return a table of every pass, ours and those of plugins."""
    table = _table(("pass", "contract", "from", "what it does"))
    for part in loader.passes():
        table.add_row(*map(Text, (part.name, part.load().contract, part.package, part.summary)))
    return table


def targets_table() -> Table:
    """Return a table of every target, ours and those of plugins; of one whose package is missing, how to get it."""
    table = _table(("target", "file", "from", "what it is"))
    for part in loader.targets():
        try:
            suffix, summary = part.load().suffix, part.summary
        except MissingDependencyError as error:
            suffix, summary = "", f"{error.problems[0].message}: {error.hint}"
        table.add_row(*map(Text, (part.name, suffix, part.package, summary)))
    return table


def _table(headings: Sequence[str], title: str = "", notes: Iterable[str] = ()) -> Table:
    """Return an empty table; Text keeps rich from reading brackets as its markup."""
    table = Table(title=Text(title) if title else None, title_justify="left", caption=Text("\n".join(notes)))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table
