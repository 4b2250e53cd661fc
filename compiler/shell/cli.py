"""The command line ``spikec``. It exits with 0 if all is well, 1 if the model is refused, 2 for wrong usage."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spikec.ir.errors import CompileError, Hint, MissingDependencyError, Option, SpikecWarning
from spikec.ir.files import replacing
from spikec.ir.origin import label
from spikec.shell import inputs

if TYPE_CHECKING:
    from spikec.ir.graph import Graph
    from spikec.ir.ledger import Ledger

#: how many columns a table has where the output is not a terminal
_WIDTH = 200

_EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


def console() -> Console:
    """Return what the commands print tables on."""
    made = Console(highlight=False, emoji=False)
    return made if made.is_terminal else Console(highlight=False, emoji=False, width=_WIDTH)


class Commands(click.Group):
    """A group of commands that prints a refusal as its card, and each warning of spikec as a line, on stderr."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; end with exit code 1 for a CompileError, and with 130 for Ctrl-C."""
        with warnings.catch_warnings():
            warnings.simplefilter("always", SpikecWarning)
            warnings.showwarning = _shown(warnings.showwarning)
            try:
                return super().invoke(ctx)
            except CompileError as error:
                cards = [str(attrs.evolve(problem, hint=for_shell(problem.hint))) for problem in error.problems]
                notes = [f"  {note}" for note in getattr(error, "__notes__", ())]
                click.echo("\n".join(cards + notes), err=True)
                ctx.exit(1)
            except KeyboardInterrupt:
                click.echo("interrupted", err=True)
                ctx.exit(130)  # as shells say of a program that Ctrl-C has ended


def _shown(others: Callable[..., None]) -> Callable[..., None]:
    """Return what shows our warnings as a line, and leaves others to ``others``."""

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if isinstance(message, SpikecWarning):
            click.echo(f"warning: {for_shell(message.args[0])}", err=True)
        else:
            others(message, category, *rest, **more)

    return show


def for_shell(text: str) -> str:
    """Return a text with the options that it names spelled as on the command line, where it is a Hint."""
    parts = text.parts if isinstance(text, Hint) else (text,)
    return "".join(_spelled(part) if isinstance(part, Option) else part for part in parts)


def _spelled(option: Option) -> str:
    """Return ``--timesteps 8`` for ``timesteps=8``; what is none of our options is one of a target."""
    name = {each.name: each.opts[0] for each in check_command.params}.get(option.name)
    if name is None:
        return f"--option {option.name}={'' if option.value is ... else option.value}"
    if option.value is ...:
        return name
    if option.value is None:
        return f"no {name}"
    if option.name == "example_input":
        return " ".join(f"{name} {','.join(map(str, shape))}" for shape in option.value)
    return f"{name} {option.value}"


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spikec")
def main() -> None:
    """Compile trained networks to spiking ones.

    MODEL is FILE.py:NAME or PACKAGE.MODULE:NAME, where NAME is a torch module or returns one when called
    without arguments, or a file that spikec reads, such as a .nir.
    """


def _own(about: str) -> click.Option:
    """Return ``--option NAME=VALUE``."""
    return click.Option(["--option", "own"], type=inputs.option, metavar="NAME=VALUE", multiple=True, help=about)


_READER = click.Option(
    ["--reader"],
    metavar="TOOL",
    help="Run a NIR file as a tool does: spikingjelly, snntorch, norse, sinabs, rockpool or snn-mlir.",
)


def _with_reader(own: tuple[tuple[str, Any], ...], reader: str | None) -> dict[str, Any]:
    """Return the options of ``--option`` by name, with that of ``--reader``."""
    return {**dict(own), **({} if reader is None else {"reader": reader})}


#: the options that say how to compile, as parameters of ``spikec.compile`` but for ``own``
_COMPILING = (
    click.Option(["--calibration"], type=_EXISTING_FILE, help="An .npz of inputs: x, or a key for each argument."),
    click.Option(
        ["--normalization"],
        type=inputs.literal,
        metavar="WHICH",
        help="max, a percentile (99.9%) or a factor of the maximum (0.5).",
    ),
    click.Option(["--timesteps"], type=click.IntRange(min=1), help="The number of time-steps you mean to run."),
    click.Option(
        ["--example", "example_input"],
        type=inputs.shape,
        metavar="SHAPE",
        multiple=True,
        help="Shape of one sample, such as 1,28,28; once for each input.",
    ),
    click.Option(
        ["--passes", "pipeline"],
        type=inputs.passes,
        metavar="PASSES",
        help='The passes to run instead of the usual ones, as a report prints them: "NAME, NAME{OPTION=VALUE}".',
    ),
    _own("An option of the target or of how the model is read, such as profile=spikingjelly or dt=1e-4."),
    _READER,
)


def compiling(*, target_required: bool) -> list[click.Parameter]:
    """Return MODEL, ``--target`` and the options that say how to compile, as parameters of a command."""
    about = "What to compile for: spikingjelly, nir, or another that `spikec targets` lists."
    target = click.Option(["--target"], type=inputs.target, metavar="NAME", required=target_required, help=about)
    return [click.Argument(["model"], type=inputs.model, metavar="MODEL"), target, *_COMPILING]


def _options(model: Any, own: tuple[tuple[str, Any], ...], reader: str | None = None, **options: Any) -> dict[str, Any]:
    """Return the options as ``spikec.compile`` takes them: ``own`` by name, files and shapes as tensors."""
    from spikec.options import OWN
    from spikec.reading import find_frontend

    if taken := {"target", *OWN} & dict(own).keys():
        raise click.BadParameter(f"{min(taken)} is no option of a target or a frontend", param_hint="--option")
    given = _with_reader(own, reader)
    if options["calibration"] is not None:
        frontend, model = find_frontend(model, inputs.reading(given), given)
        arrays = inputs.read_arrays(options["calibration"], frontend.input_names(model))
        options["calibration"] = inputs.batches(arrays)
    options["example_input"] = inputs.random_inputs(options["example_input"])
    return {"progress": True, **options, **given}


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", notes: Iterable[str] = ()) -> Table:
    """Return a table; Text keeps rich from reading brackets as its markup. A row that says ``refused`` is red."""
    table = Table(title=Text(title) if title else None, title_justify="left", caption=Text("\n".join(notes)))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row), style="bold red" if "refused" in row else "")
    return table


def graph_table(graph: Graph, suffix: str = "") -> Table:
    """Return a table with one row for each op, in topological order; ``suffix`` follows the graph's name."""
    from spikec.ir import printer

    headings, rows = ("node", "op", "operands", "attributes", "type", "from"), []
    for name in graph:
        op = graph[name]
        shown = ", ".join(f"{key}={value}" for key, value in printer.attributes(op).items())
        rows.append((name, op.kind, " ".join(graph.operands(name)), shown, str(graph.type(name)), label(op.origin)))
    return _table(headings, rows, f"{graph.name}{suffix}", graph.imported.notes)


def ledger_table(ledger: Ledger) -> Table:
    """Return a table with one row for each node of the user's model."""
    return _table(ledger.HEADINGS, ledger.rows(), "what became of each layer", ledger.notes)


@main.command("compile", params=compiling(target_required=True))
@click.option("-o", "--output", "out", type=inputs.new_file, metavar="FILE", required=True, help="The file to write.")
@click.option("--dump", type=_FOLDER, help="Write the graph after each pass here, and index.html to look at them.")
def compile_command(model: Any, target: str, out: Path, dump: Path | None, **options: Any) -> None:
    """Compile MODEL for a target and write it to a file."""
    from spikec.driver import Compiler
    from spikec.saving import save

    compiler = Compiler(target, dump_dir=dump, **_options(model, **options))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpikecWarning)  # they are notes in the report
        compilation = compiler.run(model)
    save(compilation.artifact, out)
    notes = tuple(attrs.evolve(note, reason=for_shell(note.reason)) for note in compilation.report.notes)
    click.echo(str(attrs.evolve(compilation.report, notes=notes)))
    click.echo(f"wrote {out} ({out.stat().st_size} bytes)")


@main.command("dump", params=compiling(target_required=True))
@click.option("-o", "--output", "out", type=_FOLDER, required=True, help="The folder to write to.")
def dump_command(model: Any, target: str, out: Path, **options: Any) -> None:
    """Compile MODEL for a target, and write the graph after each pass, and a page to look at them.

    Of a model that is refused, the page shows how far it came.
    """
    from spikec.driver import Compiler

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SpikecWarning)  # they are notes on the page
            Compiler(target, dump_dir=out, **_options(model, **options)).run(model)
    finally:
        if (out / "index.html").exists():
            click.echo(f"look at {out / 'index.html'}")


@main.command("check", params=compiling(target_required=True))
def check_command(model: Any, target: str, **options: Any) -> None:
    """Say everything that keeps MODEL from a target, without writing anything."""
    from spikec.checking import check

    problems = check(model, target, **_options(model, **options))
    if problems:
        raise CompileError(problems)
    click.echo(f"nothing keeps the model from {target}")


@main.command("inspect", params=compiling(target_required=False))
def inspect_command(model: Any, target: str | None, **options: Any) -> None:
    """Print the graph of MODEL; with --target also the final graph and what became of each layer.

    Of a model that is refused, print what could be read of each layer.
    """
    from spikec.driver import Compiler
    from spikec.reading import find_frontend, is_netx, load

    given = _options(model, **options)
    screen = console()
    try:
        if target is None:
            example = given["example_input"] or next(iter(given["calibration"] or ()), None)
            own = _with_reader(options["own"], options["reader"])
            _, opened = find_frontend(model, own)
            screen.print(graph_table(load(opened, example, **own)))
            if is_netx(opened):
                screen.print(opened.summary())
            return
        compilation = Compiler(target, **given).run(model)
    except CompileError as error:
        if error.ledger is not None:
            screen.print(ledger_table(error.ledger))
        raise
    screen.print(graph_table(compilation.stages[0].graph))
    screen.print(graph_table(compilation.graph, f" for {target}"))
    screen.print(ledger_table(compilation.ledger))


@main.command("run", params=[_own("An option of how FILE is read, such as dt=1e-4."), _READER])
@click.argument("file", type=_EXISTING_FILE)
@click.argument("data", type=_EXISTING_FILE)
@click.option("--timesteps", type=click.IntRange(min=1), help="The number of time-steps.")
@click.option("--time-major", is_flag=True, help="The inputs change over time: they are [T, B, ...].")
@click.option("-o", "--output", "out", type=inputs.new_file, metavar="FILE", required=True, help="The .npz to write.")
def run_command(
    file: Path,
    data: Path,
    timesteps: int | None,
    time_major: bool,
    out: Path,
    own: tuple[tuple[str, Any], ...],
    reader: str | None,
) -> None:
    """Simulate FILE, a .nir or .net, on the inputs in the .npz DATA.

    The inputs are constant over time, or say all steps. Each output is written as its average over time, in ANN units.
    """
    if (timesteps is None) != time_major:
        raise click.UsageError("give --timesteps, or --time-major with inputs that say all steps")
    options = _with_reader(own, reader)
    names = inputs.input_names(file, **options)
    results = inputs.simulate(file, inputs.read_arrays(data, names), timesteps, **options)
    arrays: dict[str, Any] = {name: value.numpy() for name, value in results.items()}
    with replacing(out) as part, part.open("wb") as target:  # numpy would append .npz to a path
        np.savez(target, **arrays)
    for name, value in results.items():
        click.echo(f"{name}: {'x'.join(map(str, value.shape))}")
    click.echo(f"wrote {out}")


@main.command("diagnose", params=compiling(target_required=False))
@click.option("--data", type=_EXISTING_FILE, required=True, help="An .npz of inputs; class numbers under labels.")
@click.option("--tolerance", type=float, default=0.01, show_default=True, help="Share of samples that may differ.")
@click.option("--json", "as_json", type=inputs.new_file, metavar="FILE", help="Write all figures here.")
@click.option("--plot", type=inputs.new_file, metavar="FILE", help="Draw to this PNG.")
def diagnose_command(
    model: Any,
    data: Path,
    target: str | None,
    tolerance: float,
    as_json: Path | None,
    plot: Path | None,
    **options: Any,
) -> None:
    """Say why MODEL is less accurate as a spiking network, layer by layer, and what to change.

    It is compiled for a target, spikingjelly where none is given, and run for --timesteps steps.
    """
    if options["timesteps"] is None:
        raise click.UsageError("Missing option '--timesteps'.")
    from spikec.diagnosis.diagnose import diagnose
    from spikec.driver import Compiler
    from spikec.reading import find_frontend

    own = _with_reader(options["own"], options["reader"])
    frontend, model = find_frontend(model, inputs.reading(own), own)
    xs = inputs.read_arrays(data, frontend.input_names(model))
    if options["calibration"] is None and not options["example_input"]:
        options["example_input"] = tuple(tuple(x.shape[1:]) for x in xs)
    compilation = Compiler(target or "spikingjelly", **_options(model, **options)).run(model)
    labels = inputs.read_labels(data)
    found = diagnose(compilation, inputs.batches(xs), options["timesteps"], labels, tolerance=tolerance, progress=True)
    advice = attrs.evolve(found.advice, change=for_shell(found.advice.change))
    click.echo(str(attrs.evolve(found, advice=advice)))
    if as_json is not None:
        found.json(as_json)
    if plot is not None:
        found.plot(plot)


@main.command("demo")
@click.option("--out", type=_FOLDER, default="spikec-demo", show_default=True, help="The folder for what it makes.")
def demo_command(out: Path) -> None:
    """Convert a CNN trained on real digits to three targets, and show its accuracy."""
    from spikec.shell import demo

    demo.run(out, console())


@main.command("passes")
def passes_command() -> None:
    """List the passes."""
    from spikec.extend import loader

    rows = ((part.name, part.load().contract, part.package, part.summary) for part in loader.passes())
    console().print(_table(("pass", "contract", "from", "what it does"), rows))


@main.command("targets")
def targets_command() -> None:
    """List the targets."""
    from spikec.extend import loader

    rows = []
    for part in loader.targets():
        try:
            suffix, summary = part.load().suffix, part.summary
        except MissingDependencyError as error:
            suffix, summary = "", f"{error.problems[0].message}: {error.hint}"
        rows.append((part.name, suffix, part.package, summary))
    console().print(_table(("target", "file", "from", "what it is"), rows))
