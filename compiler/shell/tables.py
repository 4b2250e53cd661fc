"""What commands print: tables for people, and with ``--json`` the same for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spikec.ir.origin import label
from spikec.ir.text import WIDTH, sentences, terminal_width
from spikec.shell.options import JSON, for_shell

if TYPE_CHECKING:
    from spikec.compilation import Compilation
    from spikec.ir.errors import Problem
    from spikec.ir.graph import Graph
    from spikec.ir.ledger import Ledger
    from spikec.ir.origin import Source
    from spikec.ir.types import Array
    from spikec.pipeline.manager import Report


def console() -> Console:
    """Return what the commands print tables on."""
    made = Console(highlight=False, emoji=False)
    known = made.is_terminal or "COLUMNS" in made._environ
    return made if known else Console(highlight=False, emoji=False, width=WIDTH)


def wants_json() -> bool:
    """Whether this command was given ``--json``."""
    return bool(click.get_current_context().meta.get(JSON))


def show(for_programs: Any, *for_people: Any) -> None:
    """Print a result: with ``--json`` the first argument, and else the texts and tables behind it."""
    if wants_json():
        click.echo(json.dumps(for_programs, indent=2))
        return
    screen = console()
    for each in for_people:
        if isinstance(each, str):
            click.echo(each)
        else:
            screen.print(each)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", notes: Iterable[str] = ()) -> Table:
    """Return a table; Text keeps rich from reading brackets as its markup. A row that says ``refused`` is red."""
    made = Table(title=Text(title) if title else None, title_justify="left", caption=Text("\n".join(notes)))
    for heading in headings:
        made.add_column(heading, overflow="fold")
    for row in rows:
        made.add_row(*map(Text, row), style="bold red" if "refused" in row else "")
    return made


def graph_table(graph: Graph, suffix: str = "") -> Table:
    """Return a table with one row for each op, in topological order; ``suffix`` follows the graph's name."""
    from spikec.ir import printer

    rows = []
    for name in graph:
        op = graph[name]
        told = [f"%{x}" for x in graph.operands(name)]
        told += [f"{key}={value}" for key, value in printer.attributes(op).items()]
        rows.append((f"%{name}", f"{op.kind}({', '.join(told)})", str(graph.type(name)), label(op.origin)))
    return table(("node", "is", "type", "from"), rows, f"{graph.name}{suffix}", map(for_shell, graph.imported.notes))


def graph_data(graph: Graph) -> dict[str, Any]:
    """Return a graph as JSON has it."""
    from spikec.ir import printer

    nodes = [
        {
            "name": name,
            "kind": graph[name].kind,
            "operands": list(graph.operands(name)),
            "attributes": printer.attributes(graph[name]),
            "type": str(graph.type(name)),
            "from": [str(source) for source in graph[name].origin],
        }
        for name in graph
    ]
    return {"name": graph.name, "nodes": nodes, "notes": list(map(for_shell, graph.imported.notes))}


def ledger_table(ledger: Ledger) -> Table:
    """Return a table with one row for each node of the user's model."""
    return table(ledger.HEADINGS, ledger.rows(), "what became of each layer", map(for_shell, ledger.notes))


def costs_table(ledgers: Mapping[str, Ledger], title: str) -> Table:
    """Return a table of the neurons that each node of a model costs on each of some targets."""
    rows: dict[Source, dict[str, str]] = {}
    for target, ledger in ledgers.items():
        for entry in ledger:
            said = "refused" if entry.fate == "refused" else f"{entry.neurons:,}" if entry.neurons else ""
            rows.setdefault(entry.source, {})[target] = said
    cells = [(f"{source}", source.kind, *(row.get(each, "") for each in ledgers)) for source, row in rows.items()]
    refusing = {target for target, ledger in ledgers.items() if any(entry.fate == "refused" for entry in ledger)}
    totals = ("refused" if target in refusing else f"{ledger.neurons:,}" for target, ledger in ledgers.items())
    return table(("layer", "was", *ledgers), [*cells, ("all", "", *totals)], title)


def ledger_data(ledger: Ledger) -> list[dict[str, str | int]]:
    """Return a ledger as JSON has it, with the neurons that each node costs."""
    rows = zip(ledger.rows(), ledger, strict=True)
    return [{**dict(zip(ledger.HEADINGS, row, strict=True)), "neurons": entry.neurons} for row, entry in rows]


def report_text(report: Report) -> str:
    """Return a report with options spelled as here, broken to fit the terminal; the passes, to be copied, are not."""
    notes = tuple(attrs.evolve(note, reason=for_shell(note.reason)) for note in report.notes)
    *lines, passes = str(attrs.evolve(report, notes=notes)).splitlines()
    return "\n".join([*sentences(lines, terminal_width()), passes])


def compilation_data(compilation: Compilation) -> dict[str, Any]:
    """Return what a compilation reports, as JSON has it."""
    report = compilation.report
    return {
        "target": report.target,
        "model": compilation.stages[0].graph.name,
        "passes": [
            {"name": each.name, "changes": each.changes, "seconds": each.seconds, "check": each.check}
            for each in compilation.stages[1:]
        ],
        "pipeline": report.passes,
        "notes": [{"by": note.by, "node": note.node, "reason": for_shell(note.reason)} for note in report.notes],
        "ledger": ledger_data(compilation.ledger),
    }


def problem_data(problem: Problem) -> dict[str, str]:
    """Return a problem as JSON has it."""
    hint = for_shell(problem.hint)
    return {"message": problem.message, "location": problem.location, "op": problem.op, "hint": hint}


def accuracy_table(accuracy: Array, title: str, ann: float | None) -> Table:
    """Return a table of the accuracy after 1, 2, 4, ... steps and after the last, and of the ANN where it is known."""
    last = len(accuracy)
    steps = sorted({2**i for i in range(last.bit_length())} | {last})
    rows = [(str(step), f"{100 * accuracy[step - 1]:.2f} %") for step in steps]
    rows += [] if ann is None else [("ANN", f"{100 * ann:.2f} %")]
    return table(("time-steps", "accuracy"), rows, title)
