"""What all commands have in common: words, JSON, exit codes, examples, completion, and how soon help comes."""

import json
import os
import re
import shlex
import subprocess
import sys

import attrs
import click
import numpy as np
import pytest
import torch
from click.shell_completion import ShellComplete

import spikec
from npz import loaded
from spikec.ir.errors import Problem
from spikec.shell.cli import main

COMMANDS = ["compile", "check", "inspect", "dump", "run", "evaluate", "diagnose", "repair", "passes", "targets", "demo"]


def process(*arguments, **environment):
    command = [sys.executable, "-X", "importtime", "-m", "spikec", *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["compile", "--help"], ["--version"], []])
def test_help_comes_without_torch(arguments):
    done = process(*arguments)
    assert done.returncode == (0 if arguments else 2)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "spikec.shell.cli" in imported
    assert not imported & {"torch", "networkx", "h5py", "nir", "matplotlib", "spikec.public"}


@pytest.mark.slow
@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_completion_is_installed_by_the_line_that_help_shows(shell_name):
    line = next(line for line in process("--help").stdout.splitlines() if f"={shell_name}_source" in line)
    assert f"_SPIKEC_COMPLETE={shell_name}_source spikec" in line
    words = {"COMP_WORDS": "spikec ev", "COMP_CWORD": "1"}
    assert process(_SPIKEC_COMPLETE="bash_complete", **words).stdout == "plain,evaluate\n"


@pytest.mark.slow
def test_commands_come_in_the_order_of_use(shell):
    said = shell("--help").stdout
    assert "..." not in said.partition("Commands:")[2].partition("Completion")[0], "no summary is cut"
    assert list(main.commands) == COMMANDS
    assert re.findall(r"^  (\w+) ", said.partition("Commands:")[2].partition("Completion")[0], re.M) == COMMANDS


def test_a_word_means_one_thing_in_every_command():
    meanings = {}
    for name, command in main.commands.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                for word in parameter.opts:
                    kind = type(parameter.type).__name__, parameter.name
                    meanings.setdefault(word, {}).setdefault(kind, []).append(name)
    differing = {word for word, kinds in meanings.items() if len(kinds) > 1}
    assert differing <= {"-o", "--output"}, "a file that is written, or a folder"
    assert {kind[1] for kind in meanings["-o"]} == {"out"}


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("passes", "targets", "demo")])
def test_every_command_shows_examples_that_it_takes(name, made, shell, monkeypatch):
    examples = re.findall(r"^ +spikec (.*)$", shell(name, "--help").stdout, re.M)
    assert examples
    assert max(map(len, examples)) <= 80 - len("    spikec ")
    stand_ins = {
        **dict.fromkeys(("net.py:model",), "own.py:mlp"),
        **dict.fromkeys(("train.npz", "test.npz", "events.npz"), "data.npz"),
        **{f"{name}.{suffix}": f"mlp.{suffix}" for name in ("net", "model") for suffix in ("nir", "net", "pt", "pt2")},
        "model.onnx": "mlp.pt2",
        "theirs.nir": "mlp.nir",
        "1,28,28": "4",
    }
    command = main.commands[name]
    for example in examples:
        words = shlex.split(example)
        outputs = {words[i + 1]: "made_" + words[i + 1] for i, word in enumerate(words[:-1]) if word == "-o"}
        given = [outputs.get(word) or stand_ins.get(word, word) for word in words[1:]]
        context = command.make_context(name, given)
        assert (context.params.get("model") or context.params["file"]) is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        "compile own.py:mlp --target nir -o m.nir --example 4",
        "check own.py:mlp --target nir --example 4",
        "inspect own.py:mlp --example 4",
        "inspect own.py:mlp --example 4 --target nir",
        "inspect mlp.net",
        "dump own.py:mlp --target nir --example 4 -o dumps",
        "run mlp.nir data.npz --timesteps 4 -o out.npz",
        "evaluate mlp.nir data.npz --timesteps 4",
        "diagnose own.py:mlp data.npz --timesteps 4",
        "passes",
        "targets",
    ],
)
def test_json_is_all_that_stdout_has(arguments, shell):
    found = json.loads(shell(*arguments.split(), "--json").stdout)
    assert found


@pytest.mark.slow
def test_what_json_says(shell, made):
    found = json.loads(
        shell("compile", "own.py:mlp", "--target", "nir", "-o", "m.nir", "--example", "4", "--json").stdout
    )
    assert (found["target"], found["file"]) == ("nir", "m.nir")
    assert found["bytes"] == (made / "m.nir").stat().st_size
    assert [each["name"] for each in found["passes"]] == [
        each.name for each in spikec.Pipeline.parse(found["pipeline"])
    ]
    assert {each["is"] for each in found["ledger"]} <= {"converted", "kept", "folded", "lowered"}
    nodes = json.loads(shell("inspect", "mlp.nir", "--json").stdout)["graph"]["nodes"]
    graph = spikec.load(made / "mlp.nir")
    assert [each["name"] for each in nodes] == list(graph)
    refused = shell("check", "own.py:smooth", "--target", "nir", "--example", "4", "--json", code=1)
    (problem,) = json.loads(refused.stdout)["problems"]
    assert "nn.Hardshrink" in problem["message"]
    assert problem["location"] == "1"
    assert problem["hint"] in refused.stderr
    fine = json.loads(shell("check", "own.py:mlp", "--target", "nir", "--example", "4", "--json").stdout)
    assert fine["problems"] == []
    compiled = spikec.load(made / "mlp.nir")
    (neurons,) = (compiled.type(node.name).shape for node in compiled.with_role(spikec.Role.NEURON))
    assert fine["neurons"] == neurons[0]
    assert [each["neurons"] for each in fine["ledger"]] == [0, neurons[0], 0]


@pytest.mark.slow
def test_check_without_a_target_says_what_each_layer_costs_on_all(shell):
    found = json.loads(shell("check", "own.py:mlp", "--example", "4", "--json").stdout)
    assert set(found) == set(spikec.targets())
    for target, each in found.items():
        alone = json.loads(shell("check", "own.py:mlp", "--target", target, "--example", "4", "--json").stdout)
        assert each == alone
    said = shell("check", "own.py:mlp", "--example", "4").output
    assert all(target in said for target in spikec.targets())
    refused = shell("check", "own.py:smooth", "--example", "4", code=1).output
    assert refused.count("nn.Hardshrink is not supported") == 1


def test_what_only_one_target_refuses_is_said_as_its_own(shell, monkeypatch):
    both, first = Problem("both refuse it", op="a"), Problem("the first refuses it", op="b")
    found = {"one": [first, both], "two": [both]}
    monkeypatch.setattr("spikec.extend.loader.targets", lambda: [attrs.make_class("Part", ["name"])(x) for x in found])
    monkeypatch.setattr("spikec.checking.check", lambda model, target, **options: found[target])
    refused = shell("check", "own.py:mlp", "--example", "4", code=1).output
    assert re.findall(r"(?m)^.*refuses? it$", refused) == ["both refuse it", "one: the first refuses it"]


@pytest.mark.slow
def test_a_target_that_refuses_says_so_beside_those_that_do_not(shell, made):
    (made / "volume.py").write_text(
        "from torch import nn\n"
        "net = nn.Sequential(nn.Conv3d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).eval()\n"
    )
    found = json.loads(shell("check", "volume.py:net", "--example", "1,3,3,3", "--json").stdout)
    assert not found["spikingjelly"]["problems"]
    assert [each["neurons"] for each in found["spikingjelly"]["ledger"]] == [0, 16, 0, 0]
    assert found["nir"]["problems"][0]["location"].startswith("0")
    said = shell("check", "volume.py:net", "--example", "1,3,3,3").output
    assert "refused" in said
    assert "nir: " in said


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (0, "check own.py:mlp --target nir --example 4"),
        (0, "evaluate mlp.pt data.npz --timesteps 2"),
        (1, "check own.py:smooth --target nir --example 4"),
        (1, "compile own.py:smooth --target nir --example 4 -o no.nir"),
        (1, "dump own.py:smooth --target nir --example 4 -o dumped"),
        (1, "inspect own.py:smooth --example 4"),
        (1, "inspect weights.pt"),
        (1, "run weights.pt data.npz --timesteps 2 -o no.npz"),
        (1, "run mlp.pt2 data.npz --timesteps 2 -o no.npz"),
        (1, "evaluate mlp.nir unlabelled.npz --timesteps 2"),
        (1, "evaluate mlp.nir uneven.npz --timesteps 2"),
        (1, "diagnose mlp.nir data.npz --timesteps 2"),
        (0, "check own.py:mlp"),
        (2, "evaluate mlp.nir data.npz"),
        (2, "run mlp.nir data.npz --timesteps 2"),
        (2, "run mlp.nir nothing.npz --timesteps 2 -o no.npz"),
        (2, "check own.py:mlp --target nir --verify often"),
        (2, "check own.py:mlp --target nir --seed -1"),
        (2, "diagnose own.py:mlp data.npz data.npz --timesteps 2"),
        (2, "nothing"),
    ],
)
def test_exit_codes(code, arguments, shell, made):
    done = shell(*arguments.split(), code=code)
    assert done.stderr.strip() or code == 0
    assert not list(made.glob("no.*"))


def test_a_file_of_weights_is_told_what_to_do(shell):
    said = shell("compile", "weights.pt", "--target", "nir", "-o", "no.nir", code=1).stderr
    assert "holds weights only" in said
    assert "FILE.py:NAME" in said


@pytest.mark.slow
@pytest.mark.parametrize("file", ["mlp.nir", "mlp.net", "mlp.pt"])
def test_evaluate_says_the_accuracy_of_a_file(file, shell, made):
    arrays = loaded(made / "data.npz")
    loader = [(torch.tensor(arrays["x"]), torch.tensor(arrays["labels"]))]
    wanted = spikec.evaluate(made / file, loader, 32)
    found = json.loads(shell("evaluate", file, "data.npz", "--timesteps", 32, "--json").stdout)
    assert found == {"samples": 300, "timesteps": 32, "accuracy": pytest.approx(wanted.tolist())}
    table = shell("evaluate", file, "data.npz", "--timesteps", 12).stdout
    assert re.findall(r"│ (\d+) +│", table) == ["1", "2", "4", "8", "12"]
    assert f"{100 * wanted[3]:.2f} %" in table


@pytest.mark.slow
@pytest.mark.parametrize("model", ["own.py:mlp", "mlp.pt2"])
def test_evaluate_compiles_an_ann_before(model, shell):
    options = ("data.npz", "--calibration", "data.npz", "--timesteps", 32, "--json")
    found = json.loads(shell("evaluate", model, *options).stdout)
    assert found["ann"] == 1, "the labels are its own answers"
    assert found["accuracy"][-1] > 0.95
    netx = json.loads(shell("evaluate", model, *options, "--target", "netx").stdout)
    assert netx["ann"] == 1
    assert netx["accuracy"] != found["accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("file", ["mlp.nir", "mlp.net", "mlp.pt"])
def test_run_gives_what_python_gives(file, shell, made):
    shell("run", file, "data.npz", "--timesteps", 8, "-o", "ran.npz")
    (found,) = loaded(made / "ran.npz").values()
    wanted = spikec.simulate(made / file, torch.tensor(loaded(made / "data.npz")["x"]), 8).answer
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_seed_and_verify_reach_the_compiler(shell, monkeypatch):
    options = ("own.py:mlp", "--target", "nir", "--calibration", "data.npz", "--json")
    checks = {}
    for verify in ("each", "end", "off"):
        found = json.loads(shell("compile", *options, "-o", "v.nir", "--verify", verify).stdout)
        checks[verify] = [each["check"] for each in found["passes"] if each["check"]]
    assert checks["off"] == []
    assert any("exact up to here: " in check for check in checks["end"])
    assert any("exact: " in check for check in checks["each"])
    given, check = {}, spikec.check
    monkeypatch.setattr(
        "spikec.checking.check", lambda *own, **options: given.update(options) or check(*own, **options)
    )
    shell("check", "own.py:mlp", "--target", "nir", "--example", "4", "--seed", 5, "--verify", "each")
    assert (given["seed"], given["verify"]) == (5, "each")


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 120])
def test_tables_fit_the_terminal(columns, shell, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    for arguments in (
        "inspect own.py:mlp --example 4 --target nir",
        "passes",
        "targets",
        "evaluate mlp.nir data.npz --timesteps 4",
        "diagnose own.py:mlp data.npz --timesteps 4 --calibration data.npz",
        "diagnose own.py:mlp data.npz --timesteps 4 --snn mlp.net",
    ):
        lines = shell(*arguments.split()).stdout.splitlines()
        assert max(map(len, lines)) <= columns
    report = shell(
        *["compile", "own.py:mlp", "--target", "nir", "-o", "new.nir", "--calibration", "data.npz", "--timesteps", "4"]
    ).stdout
    lines = [line for line in report.splitlines() if not line.startswith(("  passes: ", "wrote "))]  # to be copied
    assert max(map(len, lines)) <= columns
    rows = shell("inspect", "own.py:mlp", "--example", "4").stdout
    assert re.search(r"│ %input +│ input\(", rows), "names stand whole"


@pytest.mark.slow
def test_the_options_of_a_target_are_options_of_the_command(shell, made):
    own = ["--calibration", "data.npz", "--timesteps", "4", "--reset", "hard", "--neurons", "2"]
    shell("compile", "own.py:mlp", "-o", "own.nir", "--target", "nir", "--profile", "norse", *own)
    given = [f"--option={each}" for each in ("profile=norse", "reset=hard", "neurons=2")]
    shell("compile", "own.py:mlp", "-o", "given.nir", "--target=nir", *own[:4], *given)
    x = torch.rand(8, 4)
    assert torch.equal(spikec.run(made / "own.nir", x, 4), spikec.run(made / "given.nir", x, 4))
    said = " ".join(shell("compile", "--target", "nir", "--help").output.split())
    assert "One of portable" in said
    assert ":data:" not in said
    assert "One of portable" not in shell("compile", "--target", "netx", "--help").output
    assert "--counters" in shell("evaluate", "--help", "--target", "spikingjelly").output
    assert (
        "nothing keeps"
        in shell(*["check", "own.py:mlp", "--target", "spikingjelly", "--counters", "--example", "4"]).output
    )
    assert (
        "did you mean 'norse'"
        in shell(*["dump", "own.py:mlp", "--target", "nir", "--profile", "noorse", "-o", "d"], code=1).output
    )
    refused = shell(*["check", "own.py:mlp", "--target", "netz", "--reset", "hard"], code=2).output
    assert "there is no target 'netz'" in refused
    assert "'--target'" in refused
    assert "No such option" in shell(*["check", "own.py:mlp", "--target", "netx", "--counters"], code=2).output


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["compile", "own.py:mlp", "--target"], ["lava", "netx", "nir", "spikingjelly"]),
        (["compile", "own.py:mlp", "--target", "nir", "--profile"], ["norse", "portable", "sinabs", "full"]),
        (["dump", "own.py:mlp", "--target", "netx", "--reset"], ["auto", "soft", "hard"]),
        (["run", "mlp.nir", "--reader"], ["norse", "rockpool"]),
        (["diagnose", "own.py:mlp", "data.npz", "--as"], ["sinabs"]),
        (["repair", "mlp.nir", "--profile"], ["snntorch"]),
    ],
)
def test_names_complete_themselves(words, wanted, made, monkeypatch):
    monkeypatch.chdir(made)
    completion = ShellComplete(main, {}, "spikec", "_SPIKEC_COMPLETE")
    found = {each.value for each in completion.get_completions(words, "")}
    assert found >= set(wanted)
    (first,) = completion.get_completions(words, wanted[0])
    assert first.value == wanted[0]
