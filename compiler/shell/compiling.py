"""The commands that compile a model or look at it: compile, check, inspect, dump."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import click

from spikec.ir.errors import CompileError, SpikecWarning
from spikec.shell import options as own
from spikec.shell import readers, tables


@contextlib.contextmanager
def _warnings_in_the_report() -> Iterator[None]:
    """Leave warnings out that are notes in the report as well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpikecWarning)
        yield


def compile_command(model: Any, target: str, out: Path, dump: Path | None, **options: Any) -> None:
    """Compile MODEL for a target and write it to a file."""
    from spikec.driver import Compiler
    from spikec.saving import save

    compiler = Compiler(target, dump_dir=dump, **own.for_compiler(model, **options))
    with _warnings_in_the_report():
        compilation = compiler.run(model)
    save(compilation.artifact, out)
    size = out.stat().st_size
    data = {**tables.compilation_data(compilation), "file": str(out), "bytes": size}
    steps = f"--timesteps {options['timesteps'] or 32}"
    runs = f"; to run it: spikec run {out} DATA {steps} -o out.npz" if compiler.backend.suffix else ""
    tables.show(data, tables.report_text(compilation.report), f"wrote {out} ({size:,} bytes){runs}")


def _written(path: Path) -> int | None:
    """Return when a file was written last; None where there is none, or no system could have it."""
    try:
        return path.stat().st_mtime_ns
    except (OSError, ValueError):
        return None


def dump_command(model: Any, target: str, out: Path, **options: Any) -> None:
    """Write the graph after each pass, and a page to look at them.

    MODEL is compiled for a target. If it is refused, the page shows how far it came.
    """
    from spikec.driver import Compiler

    index = out / "index.html"
    before = _written(index)
    try:
        with _warnings_in_the_report():
            Compiler(target, dump_dir=out, **own.for_compiler(model, **options)).run(model)
    except CompileError:
        if _written(index) not in (None, before):
            click.echo(f"look at {index}", err=True)
        raise
    tables.show({"index": str(index)}, f"look at {index}")


def check_command(model: Any, target: str | None, profile: str | None, **options: Any) -> None:
    """Say everything that keeps MODEL from a target.

    If nothing does, say how many neurons each layer costs. Without a target, say it for all of them. With --profile and
    no target MODEL is a file, and what its reader refuses, leaves out or runs otherwise than it says. Nothing is
    written.
    """
    from spikec.checking import check

    if target is None and profile is not None:
        readers.check_file(model, profile, options["own"])
        return
    if target is None:
        _check_all(model, own.for_compiler(model, **options))
        return
    if profile is not None:
        options["own"] = (*options["own"], ("profile", profile))
    problems = check(model, target, **own.for_compiler(model, **options))
    if problems or problems.ledger is None:
        raise CompileError(problems)
    ledger = problems.ledger
    data = {"problems": [], "neurons": ledger.neurons, "ledger": tables.ledger_data(ledger)}
    said = f"nothing keeps the model from {target}, with {ledger.neurons:,} neurons"
    tables.show(data, tables.ledger_table(ledger), said)


def _check_all(model: Any, options: dict[str, Any]) -> None:
    """Say what each layer costs on each target, or that it is refused there, and why.

    Raises:
        CompileError: all targets refuse the model.
    """
    from spikec.checking import check
    from spikec.extend import loader

    found = {part.name: check(model, part.name, **options) for part in loader.targets()}
    if all(found.values()):
        common = [problem for problem in next(iter(found.values())) if all(problem in each for each in found.values())]
        rest = [
            attrs.evolve(problem, message=f"{target}: {problem.message}")
            for target, each in found.items()
            for problem in each
            if problem not in common
        ]
        raise CompileError([*common, *rest])
    ledgers = {name: each.ledger for name, each in found.items() if each.ledger is not None}
    data = {
        name: {
            "problems": [tables.problem_data(problem) for problem in found[name]],
            "neurons": ledger.neurons,
            "ledger": tables.ledger_data(ledger),
        }
        for name, ledger in ledgers.items()
    }
    refused = [f"{name}: {problem}" for name, each in found.items() for problem in each]
    tables.show(data, tables.costs_table(ledgers, "neurons of each layer, by target"), *refused)


def inspect_command(model: Any, target: str | None, **options: Any) -> None:
    """Print the graph of MODEL, and with --target the final one.

    With --target it also prints what became of each layer. Of a model that is refused, print what could be read of
    each layer.
    """
    from spikec.driver import Compiler
    from spikec.reading import find_frontend, is_netx, load

    given = own.for_compiler(model, **options)
    try:
        if target is None:
            example = given["example_input"] or next(iter(given["calibration"] or ()), None)
            read = own.reading(options["own"], options["reader"])
            _, opened = find_frontend(model, read)
            graph = load(opened, example, **read)
            more = [opened.summary()] if is_netx(opened) else []
            tables.show({"graph": tables.graph_data(graph)}, tables.graph_table(graph), *more)
            return
        compilation = Compiler(target, **given).run(model)
    except CompileError as error:
        if error.ledger is not None and not tables.wants_json():
            tables.show(None, tables.ledger_table(error.ledger))
        raise
    first, final, ledger = compilation.stages[0].graph, compilation.graph, compilation.ledger
    shown = tables.graph_table(first), tables.graph_table(final, f" for {target}"), tables.ledger_table(ledger)
    data = {"graph": tables.graph_data(first), "final": tables.graph_data(final), "ledger": tables.ledger_data(ledger)}
    tables.show(data, *shown)


def add_to(group: click.Group) -> None:
    """Add the commands to a group, in the order of the first help."""
    dump = click.Option(["--dump"], type=own.FOLDER, help="Write the graph after each pass here, with index.html.")
    folder = click.Option(["-o", "--output", "out"], type=own.FOLDER, required=True, help="The folder to write to.")
    own.command(
        group,
        "compile",
        [*own.compiling(), own.output("The file to write."), dump, own.as_json()],
        "compile net.py:model --target nir -o net.nir --calibration train.npz",
        "compile model.onnx --target netx -o net.net --timesteps 32",
        "compile net.pt --target nir -o net.nir --profile spikingjelly",
    )(compile_command)
    own.command(
        group,
        "check",
        [*own.compiling(target=None), readers.profile(), own.as_json()],
        "check net.py:model --target nir --example 1,28,28",
        "check theirs.nir --profile sinabs",
        "check model.pt2 --target netx --json",
    )(check_command)
    own.command(
        group,
        "inspect",
        [*own.compiling(target=None), own.as_json()],
        "inspect net.py:model --example 1,28,28",
        "inspect net.nir",
        "inspect net.py:model --target nir --calibration train.npz",
    )(inspect_command)
    own.command(
        group,
        "dump",
        [*own.compiling(), folder, own.as_json()],
        "dump net.py:model --target nir --example 1,28,28 -o dumps",
    )(dump_command)
