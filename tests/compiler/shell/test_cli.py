import ast
import copy
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import nir
import numpy as np
import pytest
import torch
from click.testing import CliRunner

import spikec
from npz import loaded
from spikec.backends.netx.model import NetxNetwork
from spikec.ir.errors import Hint, Option
from spikec.options import Options
from spikec.shell.cli import main
from spikec.shell.options import compiling, for_shell

NETS = """
import torch
from torch import nn

class Refused(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 6), nn.Hardshrink())

    def forward(self, x):
        return self.inner(x)

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 5), nn.Linear(3, 5)

    def forward(self, a, b):
        return torch.relu(self.left(a) + self.right(b))

torch.manual_seed(0)
mlp = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
cnn = nn.Sequential(nn.Conv2d(2, 3, (3, 2)), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)).eval()
refused = Refused().eval()
two = Two().eval()

def made():
    return mlp

def needs(argument):
    return mlp

number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("nets", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "broken.py").write_text("import os\n\nraise RuntimeError('not today')\n")
    rng = np.random.default_rng(0)
    np.savez("data.npz", x=rng.random((300, 4)))
    np.savez("images.npz", x=rng.random((20, 2, 6, 4)))
    np.savez("pair.npz", a=rng.random((20, 4)), b=rng.random((20, 3)))
    np.savez("uneven.npz", a=rng.random((20, 4)), b=rng.random((19, 3)))
    np.savez("integers.npz", x=np.arange(8).reshape(2, 4))
    np.savez("other.npz", images=rng.random((20, 4)))
    np.save("single.npy", rng.random((20, 4)))
    (tmp_path / "text.npz").write_text("no zip")
    yield tmp_path
    for name in ("nets", "broken"):
        sys.modules.pop(name, None)


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def refused(*arguments):
    """The card on stderr of a command that must end with 1."""
    result = call(*arguments)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.stderr
    assert isinstance(result.exception, SystemExit)
    return result.stderr


def fine(*arguments):
    result = call(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


@pytest.mark.slow
def test_compile_and_run_approach_the_ann(folder):
    said = fine("compile", "nets.py:mlp", "--target", "nir", "-o", "m.nir", "--calibration", "data.npz", "--dump", "d")
    assert "Sequential -> nir" in said.stdout
    assert "wrote m.nir" in said.stdout
    assert (folder / "d" / "00-import.txt").exists()
    said = fine("run", "m.nir", "data.npz", "--timesteps", 512, "-o", "out.npz")
    assert "output: 300x3" in said.stdout
    x = torch.tensor(loaded("data.npz")["x"], dtype=torch.float32)
    ann = sys.modules["nets"].mlp(x).detach()
    error = (torch.tensor(loaded("out.npz")["output"]) - ann).abs().max() / (ann - ann.mean(0)).abs().max()
    assert error < 0.05


@pytest.mark.slow
def test_run_simulates_a_net_file(folder):
    options = ("--calibration", "data.npz", "--timesteps", 64)
    fine("compile", "nets.py:mlp", "--target", "netx", "-o", "m.net", *options)
    said = fine("inspect", "m.net").stdout
    assert "v_threshold=" in said
    assert "cores of Loihi 2" in said
    fine("run", "m.net", "data.npz", "--timesteps", 64, "-o", "out.npz")
    x = torch.tensor(loaded("data.npz")["x"], dtype=torch.float32)
    ann = sys.modules["nets"].mlp(x).detach().numpy()
    assert np.corrcoef(loaded("out.npz")["y"].ravel(), ann.ravel())[0, 1] > 0.99


@pytest.mark.slow
def test_run_takes_inputs_that_change_over_time(folder):
    fine("compile", "nets.py:mlp", "--target", "netx", "-o", "m.net", "--calibration", "data.npz", "--timesteps", 16)
    x = loaded("data.npz")["x"][:9]
    np.savez("constant.npz", x=x)
    np.savez("steps.npz", x=np.broadcast_to(x, (16, *x.shape)))
    fine("run", "m.net", "constant.npz", "--timesteps", 16, "-o", "a.npz")
    fine("run", "m.net", "steps.npz", "--time-major", "-o", "b.npz")
    assert np.array_equal(loaded("a.npz")["y"], loaded("b.npz")["y"])
    fine("compile", "nets.py:mlp", "--target", "nir", "-o", "m.nir", "--calibration", "data.npz")
    fine("run", "m.nir", "constant.npz", "--timesteps", 16, "-o", "a.npz")
    fine("run", "m.nir", "steps.npz", "--time-major", "-o", "b.npz")
    assert np.array_equal(loaded("a.npz")["output"], loaded("b.npz")["output"])
    for options in ((), ("--time-major", "--timesteps", 16)):
        assert call("run", "m.nir", "steps.npz", *options, "-o", "c.npz").exit_code == 2


@pytest.mark.slow
def test_compile_writes_a_torch_module(folder):
    options = ("--example", "2,6,4", "--timesteps", 8)
    fine("compile", "nets.py:cnn", "--target", "spikingjelly", "-o", "m.pt", *options)
    snn = torch.load("m.pt", weights_only=False)
    assert snn(torch.rand(5, 2, 6, 4)).shape == (5, 3)


@pytest.mark.slow
@pytest.mark.parametrize("normalization", ["max", "99.9%", "0.25"])
def test_normalization_reaches_the_compiler(folder, normalization):
    options = ("--calibration", "data.npz", "--normalization", normalization)
    fine("compile", "nets.py:mlp", "--target", "spikingjelly", "-o", "m.pt", *options)
    wanted = float(normalization) if normalization == "0.25" else normalization
    x = torch.tensor(loaded("data.npz")["x"])
    expected = spikec.compile(
        sys.modules["nets"].mlp, "spikingjelly", calibration=torch.split(x, 256), normalization=wanted
    )
    found = torch.load("m.pt", weights_only=False)
    assert torch.equal(found(x.float()), expected(x.float()))


@pytest.mark.slow
def test_several_inputs_go_by_argument_name(folder):
    fine("compile", "nets.py:two", "--target", "nir", "-o", "m.nir", "--calibration", "pair.npz")
    said = refused("run", "m.nir", "data.npz", "--timesteps", 4, "-o", "o.npz")
    assert "no array 'a' (it has: x)" in said
    arrays = loaded("pair.npz")
    fine("run", "m.nir", "pair.npz", "--timesteps", 512, "-o", "out.npz")
    a, b = (torch.tensor(arrays[name], dtype=torch.float32) for name in "ab")
    ann = sys.modules["nets"].two(a, b).detach().numpy()
    assert np.abs(loaded("out.npz")["output"] - ann).max() < 0.05 * np.ptp(ann, axis=0).max()
    fine("check", "nets.py:two", "--target", "spikingjelly", "--example", "4", "--example", "3")
    assert "hold different numbers of samples (a: 20, b: 19)" in refused(
        "inspect", "nets.py:two", "--calibration", "uneven.npz"
    )


@pytest.mark.slow
def test_a_function_a_module_path_and_a_file_are_models(folder):
    for model in ("nets.py:made", "nets:mlp", "nets:made"):
        assert "real<8>" in fine("inspect", model).stdout
    fine("compile", "nets:mlp", "--target", "nir", "-o", "m.nir", "--calibration", "data.npz")
    assert "rate(" in fine("inspect", "m.nir").stdout


@pytest.mark.slow
def test_inspect_shows_graph_and_ledger(folder):
    said = fine("inspect", "nets.py:mlp", "--target", "nir", "--calibration", "data.npz").stdout
    assert "weight=8x4#" in said
    assert "Sequential for nir" in said
    assert "converted" in said
    assert "%relu_1 = if" in said


@pytest.mark.slow
def test_check(folder):
    assert "nothing keeps the model from nir" in fine("check", "nets.py:mlp", "--target", "nir").stdout
    card = refused("check", "nets.py:refused", "--target", "nir")
    assert "nn.Hardshrink" in card
    assert "inner.1 (nets.py:" in card
    assert "try " in card


@pytest.mark.slow
def test_options_of_a_target(folder):
    options = ("--option", "profile=spikingjelly", "--option", "dt=0.001")
    fine("compile", "nets.py:mlp", "--target", "nir", "-o", "m.nir", *options)
    (neuron,) = (n for n in nir.read(folder / "m.nir").nodes.values() if isinstance(n, nir.IF))
    np.testing.assert_allclose(neuron.r, 1000, rtol=1e-6)
    assert "did you mean 'profile'" in refused("check", "nets.py:mlp", "--target", "nir", "--option", "profil=x")


@pytest.mark.slow
def test_passes_are_given_as_they_print(folder):
    options = ("nets.py:mlp", "--target", "netx", "--calibration", "data.npz", "--timesteps", 8)
    fine("compile", *options, "-o", "usual.net")
    pipeline = spikec.Pipeline.default("netx", timesteps=8)
    fine("compile", *options, "-o", "same.net", "--passes", str(pipeline))
    fine("compile", *options, "-o", "other.net", "--passes", str(pipeline.replace("choose", "correct-bias")))
    x = loaded("data.npz")["x"]
    usual, same, other = (NetxNetwork.load(Path(f"{name}.net")).run(x, 8) for name in ("usual", "same", "other"))
    np.testing.assert_array_equal(usual, same)
    assert (usual != other).any()
    assert "did you mean 'normalize'" in refused("check", *options, "--passes", "fold-batchnorm, normalise")
    assert ">>>" in refused("check", *options, "--passes", "fold-batchnorm{")


def test_inspect_shows_what_is_refused_among_what_is_read(folder):
    for options in (("--example", "4"), ("--example", "4", "--target", "nir")):
        result = call("inspect", "nets.py:refused", *options)
        assert result.exit_code == 1
        table = [line.split() for line in result.stdout.splitlines()]
        (layer,) = (row for row in table if "nn.Linear" in row)
        (refusal,) = (row for row in table if "nn.Hardshrink" in row and "refused" in row)
        assert "kept" in layer
        assert refusal[1:3] == ["inner.1", "(nets.py:11)"]
        assert "try replace nn.Hardshrink" in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_check_says_what_the_target_refuses_too(folder):
    layers = "nn.Conv3d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4), nn.Hardshrink(), nn.Linear(4, 2)"
    Path("volumes.py").write_text(f"from torch import nn\nnet = nn.Sequential({layers}).eval()\n")
    options = ("volumes.py:net", "--target", "nir", "--example", "1,3,3,3")
    for command in (("check",), ("compile", "-o", "m.nir", "--dump", "d")):
        card = refused(command[0], *options, *command[1:])
        assert "nn.Hardshrink is not supported" in card
        assert "%_0 = conv" in card or "conv" in card
        assert card.count("  at  ") == 2
    assert not (folder / "m.nir").exists()
    assert (folder / "d" / "ledger.txt").read_text().count("refused") == 2


@pytest.mark.slow
def test_inspect_says_how_a_model_was_read(folder):
    code = """
import torch
from torch import nn

class Typed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        assert not isinstance(x, torch.fx.Proxy)
        return torch.relu(self.fc(x))

net = Typed().eval()
"""
    Path("typed.py").write_text(code)
    said = fine("inspect", "typed.py:net", "--example", "4", "--target", "spikingjelly").stdout
    assert "read through torch.export" in " ".join(said.split())
    said = fine("inspect", "typed.py:net", "--example", "4").stdout
    assert "read through torch.export" in " ".join(said.split())


def test_a_refused_model_leaves_no_file(folder):
    card = refused("compile", "nets.py:refused", "--target", "nir", "-o", "m.nir")
    assert "nn.Hardshrink" in card
    assert not (folder / "m.nir").exists()


def test_a_refusal_in_a_pass_names_it(folder):
    layers = "nn.Linear(4, 3000), nn.ReLU(), nn.Linear(3000, 2)"
    Path("wide.py").write_text(f"from torch import nn\nnet = nn.Sequential({layers}).eval()\n")
    soft = ("--option", "reset=soft", "--timesteps", "4")
    card = refused("compile", "wide.py:net", "--target", "netx", "-o", "m.net", "--example", "4", *soft)
    assert "3000 neurons in a layer" in card
    if sys.version_info >= (3, 11):
        assert "in pass" in card


@pytest.mark.slow
def test_warnings_are_lines_on_stderr(folder):
    said = fine("inspect", "nets.py:mlp", "--target", "nir")
    assert said.stderr.startswith("warning: no calibration data")
    assert "cli.py" not in said.stderr


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("text.npz", "text.npz is no .npz of arrays"),
        ("single.npy", "a single array without a name"),
        ("other.npz", "no array 'x' (it has: images)"),
        ("integers.npz", "int64"),
    ],
)
def test_calibration_files_that_do_not_fit(folder, data, message):
    assert message in refused("compile", "nets.py:mlp", "--target", "nir", "-o", "m.nir", "--calibration", data)


def test_objects_in_a_data_file_are_not_unpickled(folder):
    np.savez("objects.npz", x=np.array([{}], dtype=object))
    assert "objects.npz is no .npz" in refused("inspect", "nets.py:mlp", "--calibration", "objects.npz")


def test_a_cut_data_file(folder):
    content = (folder / "data.npz").read_bytes()
    (folder / "cut.npz").write_bytes(content[: len(content) // 2])
    assert "cut.npz is no .npz" in refused("inspect", "nets.py:mlp", "--calibration", "cut.npz")


def test_code_that_fails_is_located(folder):
    card = refused("inspect", "broken.py:net")
    assert "RuntimeError: not today" in card
    assert "broken.py:3" in card
    assert "callable without arguments" in refused("inspect", "nets.py:needs")


def test_code_that_fails_in_a_library_is_located_where_the_user_calls_it(folder):
    (folder / "odd.py").write_text("from torch import nn\n\nnet = nn.Conv2d(3, 4, 3, groups=2)\n")
    assert "at  odd.py:3\n" in refused("inspect", "odd.py:net")
    assert "is not a model" in refused("inspect", "nets.py:number")


@pytest.mark.slow
def test_run_refuses_what_does_not_spike(folder):
    fine("compile", "nets.py:mlp", "--target", "nir", "-o", "m.nir", "--calibration", "data.npz")
    assert "is not a model that spikec reads" in refused("run", "text.npz", "data.npz", "--timesteps", 4, "-o", "o.npz")
    assert "no array" in refused("run", "m.nir", "other.npz", "--timesteps", 4, "-o", "o.npz")
    assert not (folder / "o.npz").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "missing.py:mlp"], "there is no file 'missing.py'"),
        (["inspect", "missing.nir"], "there is no file 'missing.nir'"),
        (["inspect", "nets.py"], "nets.py:NAME"),
        (["inspect", "nets.py:nobody"], "nets.py has no 'nobody'"),
        (["inspect", "no.such.module:net"], "there is no module 'no.such.module'"),
        (["inspect", "nets.py:mlp", "--example", "4,x"], "'4,x' is no shape"),
        (["inspect", "nets.py:mlp", "--example", "0"], "'0' is no shape"),
        (["inspect", "nets.py:mlp", "--calibration", "missing.npz"], "missing.npz"),
        (["check", "nets.py:mlp", "--target", "nobody"], "nobody"),
        (["compile", "nets.py:mlp", "--target", "nir"], "--output"),
        (["check", "nets.py:mlp", "--target", "nir", "--option", "dt"], "'dt' is not NAME=VALUE"),
        (["check", "nets.py:mlp", "--target", "nir", "--option", "timesteps=3"], "timesteps is no option of a target"),
        (["compile", "nets.py:mlp", "--target", "nir", "-o", "none/m.nir"], "the folder none does not exist"),
        (["compile", "nets.py:mlp", "--target", "nir", "-o", "m.nir", "--timesteps", "0"], "--timesteps"),
        (["compile", "nets.py:mlp", "--target", "nir", "-o", "."], ". is a folder"),
        (["run", "data.npz", "data.npz", "--timesteps", "2", "-o", "none/o.npz"], "the folder none does not exist"),
    ],
)
def test_wrong_usage_ends_with_2(folder, arguments, message):
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_bad_normalization_is_refused(folder):
    assert "normalization is '9 of 10'" in refused(
        "inspect", "nets.py:mlp", "--normalization", "9 of 10", "--target", "nir"
    )


def test_listings():
    passes = fine("passes").stdout
    assert "fold-batchnorm" in passes
    assert "exact" in passes
    targets = fine("targets").stdout
    for name in spikec.targets():
        assert name in targets


@pytest.mark.slow
def test_as_a_process(folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "spikec", "check", "nets.py:refused", "--target", "nir"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert "nn.Hardshrink" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_diagnose_says_why_and_writes_figures_and_plot(folder):
    rng = np.random.default_rng(1)
    np.savez("labelled.npz", x=rng.random((50, 4)), labels=np.arange(50) % 3)
    rest = ("--calibration", "data.npz", "--timesteps", 4)
    said = fine("diagnose", "nets.py:mlp", "labelled.npz", *rest, "--plot", "d.png").stdout
    for piece in ("50 samples, T=4", "accuracy", "quantization", "SynOps"):
        assert piece in said
    assert Path("d.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads(fine("diagnose", "nets.py:mlp", "labelled.npz", *rest, "--json").stdout)["timesteps"] == 4
    assert fine("diagnose", "nets.py:mlp", "--data", "labelled.npz", *rest).stdout == said, "as it was called before"
    assert "accuracy" not in call("diagnose", "nets.py:mlp", "data.npz", *rest, "--target", "nir").stdout

    for wrong in (rest[:2], (*rest, "--plot", "nowhere/d.png"), (*rest, "--data", "labelled.npz")):
        assert call("diagnose", "nets.py:mlp", "labelled.npz", *wrong).exit_code == 2
    assert "--timesteps" in call("diagnose", "nets.py:mlp", "labelled.npz", *rest[:2]).stderr
    Path("d.json").touch()
    before = call("diagnose", "nets.py:mlp", "--data", "labelled.npz", *rest, "--json", "d.json")
    assert "--json takes no file" in before.stderr
    assert before.exit_code == 2
    assert "no array 'x'" in refused("diagnose", "nets.py:mlp", "other.npz", *rest)


@pytest.mark.slow
def test_hints_name_options_as_the_shell_has_them(folder):
    said = refused("compile", "nets.py:cnn", "--target", "nir", "-o", "m.nir")
    assert "pass --example 2,H,W with your data's sizes filled in" in said
    said = call("compile", "nets.py:mlp", "--target", "nir", "-o", "m.nir", "--example", "4").output
    assert "pass --calibration" in said
    assert "compile with --timesteps to turn it into a bias" in said
    said = fine("diagnose", "nets.py:mlp", "data.npz", "--timesteps", 4).stdout
    assert "try --calibration with a few hundred training samples" in said or "try --timesteps" in said
    streams = ("--option", "streams=True", "--calibration", "data.npz")
    said = refused("compile", "nets.py:mlp", "--target", "spikingjelly", "-o", "m.pt", *streams)
    assert "--timesteps 8" in said
    assert not re.search(r"(timesteps|calibration|example_input)=", said)


@pytest.mark.parametrize(
    ("hint", "python", "shell"),
    [
        (
            Hint("pass ", Option("example_input", [(4,), (3, "H", "W")]), " now"),
            "pass example_input=(torch.zeros(1, 4), torch.zeros(1, 3, H, W)) now",
            "pass --example 4 --example 3,H,W now",
        ),
        (Hint("give ", Option("example_input")), "give example_input=", "give --example"),
        (Hint("try ", Option("timesteps", 3)), "try timesteps=3", "try --timesteps 3"),
        (Hint(Option("calibration"), " with data"), "calibration= with data", "--calibration with data"),
        (Hint("no ", Option("streams", True)), "no streams=True", "no --option streams=True"),
        (Hint(Option("profile", "portable")), "profile='portable'", "--option profile=portable"),
        (
            Hint(Option("normalization", None), ", ", Option("timesteps", 8)),
            "normalization=None, timesteps=8",
            "no --normalization, --timesteps 8",
        ),
        (Hint("first: ", Hint("try ", Option("timesteps", 3))), "first: try timesteps=3", "first: try --timesteps 3"),
        ("lower-v-init{timesteps=8}", "lower-v-init{timesteps=8}", "lower-v-init{timesteps=8}"),
    ],
)
def test_a_hint_is_spelled_for_python_and_for_the_shell(hint, python, shell):
    assert hint == python
    assert for_shell(hint) == shell
    for same in (pickle.loads(pickle.dumps(hint)), copy.deepcopy(hint)):
        assert for_shell(same) == shell


def test_the_shells_options_are_those_of_compile():
    own = {"model", "target", "own"}
    assert {each.name for each in compiling()} - own < Options.__annotations__.keys()


OPTION = re.compile(r"\b(calibration|example_input|timesteps)=")


def spelled_out(source):
    """Lines of a file with a text that spells an option as Python does, docstrings excepted."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node.lineno for node in texts if OPTION.search(node.value) and id(node) not in docstrings]


@pytest.mark.slow
def test_texts_name_options_as_data():
    root = Path(__file__).parents[3]
    files = [path for top in ("compiler", "passes", "frontends", "backends") for path in (root / top).rglob("*.py")]
    assert len(files) > 100
    assert [path.name for path in files if spelled_out(path.read_text())] == ["errors.py"]
    assert spelled_out('"""Give timesteps=8."""\nwarn(f"{n} steps: timesteps={n}", hint="or calibration=")') == [2, 2]


@pytest.mark.slow
def test_diagnose_needs_no_shape_beside_its_data(folder):
    said = fine("diagnose", "nets.py:cnn", "images.npz", "--timesteps", 4).stdout
    assert "20 samples, T=4" in said
    fine("diagnose", "nets.py:two", "pair.npz", "--timesteps", 4)


@pytest.mark.parametrize("name", ["target=netx", "dump_dir=x", "pipeline=1", "verify=off", "timesteps=4"])
def test_options_of_the_compiler_are_no_options_of_a_target(folder, name):
    result = call("compile", "nets.py:mlp", "--target", "nir", "-o", "m.nir", "--example", "4", "--option", name)
    assert result.exit_code == 2
    assert "is no option of a target" in result.output
