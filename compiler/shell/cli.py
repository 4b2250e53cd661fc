"""The command line ``spikec``. It exits with 0 if all is well, 1 if the model is refused, 2 for wrong usage."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import click

from spikec.ir.errors import CompileError, MissingDependencyError, SpikecWarning
from spikec.shell import compiling, options, readers, running, tables
from spikec.shell.options import for_shell

_COMPLETION = """\b
Completion of commands, options and files, in the start-up file of your shell:
  bash  eval "$(_SPIKEC_COMPLETE=bash_source spikec)"
  zsh   eval "$(_SPIKEC_COMPLETE=zsh_source spikec)"
  fish  _SPIKEC_COMPLETE=fish_source spikec | source
"""


class Commands(click.Group):
    """A group of commands that prints a refusal as its card, and each warning of spikec as a line, on stderr."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they were added."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; end with exit code 1 for a CompileError, and with 130 for Ctrl-C."""
        with warnings.catch_warnings():
            warnings.simplefilter("always", SpikecWarning)
            warnings.showwarning = _shown(warnings.showwarning)
            try:
                return super().invoke(ctx)
            except CompileError as error:
                if ctx.meta.get(options.JSON):
                    found = [tables.problem_data(problem) for problem in error.problems]
                    click.echo(json.dumps({"problems": found}, indent=2))
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


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_COMPLETION)
@click.version_option(package_name="spikec")
def main() -> None:
    """Compile trained networks to spiking ones.

    MODEL is FILE.py:NAME or PACKAGE.MODULE:NAME, where NAME is a torch module or returns one when called without
    arguments, or a file: .onnx, .pt2 of torch.export, or a .nir, .net or .pt that spikec wrote.

    DATA is an .npz of arrays: the inputs as x, or one for each argument of forward; class numbers as labels.

    Exit codes: 0 all is well, 1 the model is refused, 2 wrong usage.
    """


compiling.add_to(main)
running.add_to(main)
readers.add_to(main)


@main.command("passes", params=[options.as_json()])
def passes_command() -> None:
    """List the passes."""
    from spikec.extend import loader

    rows = [(part.name, part.load().contract, part.package, part.summary) for part in loader.passes()]
    headings = ("pass", "contract", "from", "what it does")
    data = [dict(zip(headings, row, strict=True)) for row in rows]
    tables.show(data, tables.table(headings, rows))


@main.command("targets", params=[options.as_json()])
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
    headings = ("target", "file", "from", "what it is")
    data = [dict(zip(headings, row, strict=True)) for row in rows]
    tables.show(data, tables.table(headings, rows))


@main.command("demo")
@click.option(
    "-o", "--output", "--out", "out", type=options.FOLDER, default="spikec-demo", show_default=True, help="The folder."
)
def demo_command(out: Path) -> None:
    """Convert a CNN trained on real digits, and show its accuracy."""
    from spikec.shell import demo

    demo.run(out, tables.console())
