"""The command line ``spikec``. Exit codes: 0 fine, 1 the model is refused, 2 usage."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spikec.diagnosis.diagnose import diagnose
from spikec.driver import Compiler, check, save
from spikec.extend import loader
from spikec.ir import printer
from spikec.ir.errors import CompileError, MissingDependencyError, SpikecWarning
from spikec.ir.files import replacing
from spikec.ir.graph import Graph
from spikec.ir.ledger import Ledger
from spikec.ir.origin import label
from spikec.options import Options
from spikec.reading import find_frontend, load
from spikec.shell import inputs as cli_inputs
from spikec.shell.inputs import batches, random_inputs, read_arrays, read_labels
from spikec.shell.simulate import input_names, simulate

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

#: columns where the output is no terminal
_WIDTH = 200
_existing = click.Path(exists=True, dir_okay=False, path_type=Path)
_output = click.Path(dir_okay=False, path_type=Path)


def console() -> Console:
    """What the commands print tables on."""
    made = Console(highlight=False, emoji=False)
    return made if made.is_terminal else Console(highlight=False, emoji=False, width=_WIDTH)


class Commands(click.Group):
    """A group that prints a refusal as its card, and each warning of spikec as a line, on stderr."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; exit code 1 for a CompileError."""
        with warnings.catch_warnings():
            warnings.simplefilter("always", SpikecWarning)
            warnings.showwarning = _shown(warnings.showwarning)
            try:
                return super().invoke(ctx)
            except CompileError as error:
                lines = [str(error), *(f"  {note}" for note in getattr(error, "__notes__", ()))]
                click.echo(cli_inputs.for_shell("\n".join(lines)), err=True)
                ctx.exit(1)


def _shown(others: Callable[..., None]) -> Callable[..., None]:
    """How warnings are shown: ours as a line, others as they were."""

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, SpikecWarning):
            click.echo(cli_inputs.for_shell(f"warning: {message}"), err=True)
        else:
            others(message, category, *rest, **more)

    return show


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spikec")
def main() -> None:
    """Compile trained networks to spiking ones.

    MODEL is FILE.py:NAME or PACKAGE.MODULE:NAME, where NAME is a torch module or returns one when called
    without arguments, or a file that spikec reads, such as a .nir.
    """


def compiling(command: CommandT) -> CommandT:
    """The options that say how to compile."""
    options = (
        click.option("--calibration", type=_existing, help="An .npz of inputs: x, or a key for each argument."),
        click.option(
            "--normalization",
            type=cli_inputs.normalization,
            metavar="WHICH",
            help="max, a percentile (99.9%) or a factor of the maximum (0.5).",
        ),
        click.option("--timesteps", type=click.IntRange(min=1), help="The number of time-steps you mean to run."),
        click.option(
            "--example",
            type=cli_inputs.shape,
            metavar="SHAPE",
            multiple=True,
            help="Shape of one sample, such as 1,28,28; once for each input.",
        ),
        click.option(
            "--option",
            "own",
            type=cli_inputs.option,
            metavar="NAME=VALUE",
            multiple=True,
            help="An option of the target, such as profile=spikingjelly; any number of them.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def target_option(*, required: bool) -> Callable[[CommandT], CommandT]:
    """``--target``."""
    return click.option(
        "--target", type=click.Choice(loader.backends()), required=required, help="What to compile for."
    )


def _options(
    model: Any,
    calibration: Path | None,
    normalization: str | float | None,
    timesteps: int | None,
    example: tuple[tuple[int, ...], ...],
    own: tuple[tuple[str, Any], ...],
) -> dict[str, Any]:
    """The options as ``spikec.compile`` takes them."""
    data = None
    if calibration is not None:
        frontend, model = find_frontend(model)
        data = batches(read_arrays(calibration, frontend.input_names(model)))
    found = {
        "example_input": random_inputs(example),
        "calibration": data,
        "normalization": normalization,
        "timesteps": timesteps,
    }
    if taken := {"target", *Options.__annotations__} & dict(own).keys():
        raise click.BadParameter(f"{min(taken)} is no option of a target", param_hint="--option")
    return {**found, **dict(own)}


@main.command("compile")
@click.argument("model", type=cli_inputs.model, metavar="MODEL")
@target_option(required=True)
@click.option("-o", "--output", "out", type=_output, required=True, help="The file to write.")
@compiling
@click.option("--dump", type=click.Path(file_okay=False, path_type=Path), help="Write the graph after each pass here.")
def compile_command(model: Any, target: str, out: Path, dump: Path | None, **options: Any) -> None:
    """Compile MODEL for a target and write it to a file."""
    if not out.parent.is_dir():
        raise click.BadParameter(f"the folder {out.parent} does not exist", param_hint="--output")
    progress = console().is_terminal
    compiler = Compiler(target, dump_dir=dump, progress=progress, **_options(model, **options))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpikecWarning)  # they are notes in the report
        compilation = compiler.run(model)
    save(compilation.artifact, out)
    click.echo(cli_inputs.for_shell(str(compilation.report)))
    click.echo(f"wrote {out} ({out.stat().st_size} bytes)")


@main.command("check")
@click.argument("model", type=cli_inputs.model, metavar="MODEL")
@target_option(required=True)
@compiling
def check_command(model: Any, target: str, **options: Any) -> None:
    """Say everything that keeps MODEL from a target, without writing anything."""
    problems = check(model, target, **_options(model, **options))
    if problems:
        raise CompileError(problems)
    click.echo(f"nothing keeps the model from {target}")


@main.command("inspect")
@click.argument("model", type=cli_inputs.model, metavar="MODEL")
@target_option(required=False)
@compiling
def inspect_command(model: Any, target: str | None, **options: Any) -> None:
    """Print the graph of MODEL; with --target also the final graph and what became of each layer.

    Of a model that is refused, print what could be read of each layer.
    """
    given = _options(model, **options)
    screen = console()
    try:
        if target is None:
            screen.print(graph_table(load(model, _example(given))))
            return
        compilation = Compiler(target, **given).run(model)
    except CompileError as error:
        if error.ledger is not None:
            screen.print(ledger_table(error.ledger))
        raise
    screen.print(graph_table(compilation.stages[0].graph))
    screen.print(graph_table(compilation.graph, f" for {target}"))
    screen.print(ledger_table(compilation.ledger))


def _example(given: dict[str, Any]) -> Any:
    """Inputs of the right shape, from the examples or the calibration data."""
    if given["example_input"] is None and given["calibration"]:
        return given["calibration"][0]
    return given["example_input"]


def graph_table(graph: Graph, suffix: str = "") -> Table:
    """One row an op, in topological order."""
    table = Table(title=Text(f"{graph.name}{suffix}"), title_justify="left")
    for heading in ("node", "op", "operands", "attributes", "type", "from"):
        table.add_column(heading, overflow="fold")
    for name in graph:
        op = graph[name]
        shown = ", ".join(f"{key}={value}" for key, value in printer.attributes(op).items())
        cells = (name, op.kind, " ".join(graph.operands(name)), shown, str(graph.type(name)), label(op.origin))
        table.add_row(*map(Text, cells))
    table.caption = Text("\n".join(graph.imported.notes))
    return table


def ledger_table(ledger: Ledger) -> Table:
    """One row a node of the user's model."""
    table = Table(title="what became of each layer", title_justify="left")
    for heading in ("layer", "was", "is", "as"):
        table.add_column(heading, overflow="fold")
    for entry in ledger:
        style = "bold red" if entry.fate == "refused" else ""
        table.add_row(*map(Text, (str(entry.source), entry.source.kind, entry.fate, entry.into)), style=style)
    table.caption = Text("\n".join(ledger.notes))
    return table


@main.command("run")
@click.argument("file", type=_existing)
@click.argument("data", type=_existing)
@click.option("--timesteps", type=click.IntRange(min=1), required=True, help="The number of time-steps.")
@click.option("-o", "--output", "out", type=_output, required=True, help="The .npz to write.")
def run_command(file: Path, data: Path, timesteps: int, out: Path) -> None:
    """Simulate FILE, a .nir or .net, on the inputs in the .npz DATA.

    The inputs are constant over time. Each output is written as its average over time, in ANN units.
    """
    if not out.parent.is_dir():
        raise click.BadParameter(f"the folder {out.parent} does not exist", param_hint="--output")
    results = simulate(file, read_arrays(data, input_names(file)), timesteps)
    arrays: dict[str, Any] = {name: value.numpy() for name, value in results.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with replacing(out) as part:
        part.write_bytes(buffer.getvalue())
    for name, value in results.items():
        click.echo(f"{name}: {'x'.join(map(str, value.shape))}")
    click.echo(f"wrote {out}")


@main.command("diagnose")
@click.argument("model", type=cli_inputs.model, metavar="MODEL")
@click.option("--data", type=_existing, required=True, help="An .npz of inputs; class numbers under labels, if any.")
@target_option(required=False)
@compiling
@click.option("--tolerance", type=float, default=0.01, show_default=True, help="Share of samples that may differ.")
@click.option("--json", "as_json", type=_output, help="Write all figures here.")
@click.option("--plot", type=_output, help="Draw to this PNG.")
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
    for path, option in ((as_json, "--json"), (plot, "--plot")):
        if path is not None and not path.parent.is_dir():
            raise click.BadParameter(f"the folder {path.parent} does not exist", param_hint=option)
    frontend, model = find_frontend(model)
    xs = read_arrays(data, frontend.input_names(model))
    if options["calibration"] is None and not options["example"]:
        options["example"] = tuple(tuple(x.shape[1:]) for x in xs)
    compilation = Compiler(target or "spikingjelly", **_options(model, **options)).run(model)
    found = diagnose(compilation, batches(xs), options["timesteps"], read_labels(data), tolerance=tolerance)
    click.echo(cli_inputs.for_shell(str(found)))
    if as_json is not None:
        found.json(as_json)
    if plot is not None:
        found.plot(plot)


@main.command("demo")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default="spikec-demo", show_default=True)
def demo_command(out: Path) -> None:
    """Convert a CNN trained on real digits to three targets, and show its accuracy."""
    from spikec.shell import demo_run

    demo_run.run(out, console())


@main.command("passes")
def passes_command() -> None:
    """List the passes."""
    table = Table("pass", "contract", "what it does")
    for name in loader.names("passes"):
        found = loader.pass_class(name.replace("_", "-"))
        table.add_row(found.name, found.contract, _summary("passes", name))
    console().print(table)


@main.command("targets")
def targets_command() -> None:
    """List the targets."""
    table = Table("target", "file", "what it is")
    for name in loader.backends():
        try:
            backend = loader.backend_named(name)
        except MissingDependencyError as error:
            table.add_row(name, "", Text(f"{error.problems[0].message}: {error.hint}"))
        else:
            table.add_row(name, backend.suffix, _summary("backends", name))
    console().print(table)


def _summary(room: str, name: str) -> Text:
    """The first sentence of a file's docstring, without markup."""
    first = (loader.module(room, name).__doc__ or "").split("\n\n")[0]
    return Text(" ".join(first.replace("``", "").split()))
