"""What spikec writes it reads: files by their path and what compile returns, held to torch and to the modules."""

import os
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch
from torch import nn

import nets
import spikec
from hostile_files import Call, rewritten

STEPS = 6


@pytest.fixture(scope="module")
def data():
    return torch.rand(40, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.fixture(scope="module")
def compiled(model, data):
    """A compilation for each target that is a file."""
    targets = ("spikingjelly", "nir", "netx")
    return {name: spikec.Compiler(name, calibration=data, timesteps=STEPS).run(model) for name in targets}


@pytest.fixture(scope="module")
def paths(compiled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    suffixes = {"spikingjelly": ".pt", "nir": ".nir", "netx": ".net"}
    found = {name: folder / f"net{suffix}" for name, suffix in suffixes.items()}
    for name, path in found.items():
        spikec.save(compiled[name].artifact, path)
    return found


@pytest.mark.parametrize("target", ["spikingjelly", "nir", "netx"])
def test_a_file_and_a_compilation_answer_as_the_artifact(target, compiled, paths, data):
    labels = torch.arange(len(data)) % 3
    loader = [(data, labels)]
    wanted = spikec.simulate(compiled[target].artifact, data, STEPS).answer
    shares = [float((wanted.argmax(1) == labels).float().mean())]
    for each in (compiled[target], compiled[target].artifact, paths[target], str(paths[target])):
        answer = spikec.simulate(each, data, STEPS).answer
        torch.testing.assert_close(answer.double(), wanted.double(), rtol=1e-5, atol=1e-5)
        assert spikec.evaluate(each, loader, STEPS)[-1] == pytest.approx(shares[0])
        assert spikec.run(each, data, STEPS).shape == (STEPS, 40, 3)


def test_a_file_of_a_module_runs_as_torch_runs_the_module(compiled, paths, data):
    module = torch.load(paths["spikingjelly"], weights_only=False)
    with torch.no_grad():
        wanted = torch.stack([module(data) for _ in range(STEPS)])
    graph = spikec.load(paths["spikingjelly"])
    assert str(graph) == str(compiled["spikingjelly"].graph)
    scale = torch.tensor(graph.type("output").scale)
    torch.testing.assert_close(
        spikec.run(paths["spikingjelly"], data, STEPS) * scale, wanted.double(), rtol=1e-6, atol=1e-6
    )
    again = spikec.compile(paths["spikingjelly"], "nir")
    torch.testing.assert_close(
        spikec.simulate(again, data, STEPS).answer.double(), wanted.mean(0).double(), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", ["cnn", "resnet", "concat", "conv1d", "two_inputs", "maxpool"])
@pytest.mark.parametrize("options", [{}, {"counters": False, "streams": True}])
def test_every_kind_of_part_comes_back(name, options, tmp_path):
    x = nets.batch(name)
    xs = x if isinstance(x, tuple) else (x,)
    compilation = spikec.Compiler("spikingjelly", calibration=[xs], timesteps=4, verify="off", **options).run(
        nets.build(name)
    )
    spikec.save(compilation.artifact, tmp_path / "net.pt")
    assert str(spikec.load(tmp_path / "net.pt")) == str(spikec.load(compilation.artifact))


def test_a_network_whose_outputs_are_in_a_dict_comes_back(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            hidden = torch.relu(self.first(x))
            return {"hidden": hidden, "logits": [self.second(hidden), None]}

    snn = spikec.compile(Two().eval(), "spikingjelly", calibration=torch.rand(30, 4))
    spikec.save(snn, tmp_path / "net.pt")
    again = spikec.compile(tmp_path / "net.pt", "spikingjelly")
    x = torch.rand(5, 4)
    with torch.no_grad():
        wanted, found = snn(x), again(x)
    assert torch.equal(wanted["hidden"], found["hidden"])
    assert torch.equal(wanted["logits"][0], found["logits"][0])


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # in torch 2.11
@pytest.mark.parametrize("open_batch", [False, True])
def test_a_program_of_torch_export_is_read_from_its_file(open_batch, tmp_path, model, data):
    shapes = ({0: torch.export.Dim("batch")},) if open_batch else None
    program = torch.export.export(model, (data,), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "net.pt2")
    with torch.no_grad():
        wanted = torch.export.load(tmp_path / "net.pt2").module()(data)
    torch.testing.assert_close(spikec.run(tmp_path / "net.pt2", data), wanted)
    snn = spikec.compile(tmp_path / "net.pt2", "spikingjelly", calibration=data)
    assert (spikec.simulate(snn, data, 64).answer.argmax(1) == wanted.argmax(1)).float().mean() > 0.9


def test_what_torch_would_run_of_a_program_stays_behind(tmp_path, model, data):
    harm, path = tmp_path / "harm", tmp_path / "net.pt2"
    torch.export.save(torch.export.export(model, (data,)), path)
    rewritten("sample_inputs/model.pt", lambda _: pickle.dumps(Call(os.system, f"touch {harm}")))(path)
    code = f"\"guards_code\": [\"__import__('os').system('touch {harm}') == 0\"]"
    rewritten("models/model.json", lambda x: x.replace(b'"guards_code": []', code.encode()))(path)
    with zipfile.ZipFile(path) as file:
        assert code.encode() in file.read(next(name for name in file.namelist() if name.endswith("models/model.json")))
    with torch.no_grad():
        torch.testing.assert_close(spikec.run(path, data), model(data))
    spikec.compile(path, "nir", calibration=data)
    assert not harm.exists()


class Mine(nn.Linear):
    pass


@pytest.mark.parametrize(
    ("held", "says"),
    [
        (
            lambda: nn.Linear(2, 2).state_dict(),
            r"weights only[\s\S]*load_state_dict\(torch.load\(path\)\)[\s\S]*FILE.py:NAME",
        ),
        (lambda: {"epoch": 3, "model": nn.Linear(2, 2).state_dict()}, r"a dict \(epoch, model\)[\s\S]*load_state_dict"),
        (lambda: Mine(2, 2), r"pickled \S*test_read_back.Mine[\s\S]*torch.load\(path, weights_only=False\)"),
        (lambda: torch.rand(3), "a StoredTensor"),
    ],
)
def test_what_another_file_of_torch_holds_is_said(held, says, tmp_path):
    torch.save(held(), tmp_path / "net.pt")
    with pytest.raises(spikec.InvalidModelError, match=says):
        spikec.load(tmp_path / "net.pt")


def test_what_is_too_large_is_allowed_by_its_option(tmp_path, paths):
    with pytest.raises(spikec.InvalidModelError, match="max_bytes="):
        spikec.load(paths["spikingjelly"], max_bytes=100)
    assert spikec.load(paths["spikingjelly"], max_bytes=10**6).is_spiking


@pytest.mark.parametrize("target", ["spikingjelly", "nir", "netx"])
def test_diagnose_holds_a_file_an_artifact_and_a_compilation_to_the_ann(target, compiled, paths, model, data):
    labels = torch.arange(len(data)) % 3
    with torch.no_grad():
        ann = model(data).argmax(1)
    answers = [mean.argmax(1) for mean in spikec.simulate(compiled[target].artifact, data, STEPS).means]
    for each in (compiled[target], compiled[target].artifact, paths[target], str(paths[target])):
        found = spikec.diagnose(model, each, data, labels, timesteps=STEPS)
        assert found.agreement == pytest.approx([float((answer == ann).float().mean()) for answer in answers])
        assert found.accuracy == pytest.approx([float((answer == labels).float().mean()) for answer in answers])
        assert found.ann_accuracy == pytest.approx(float((ann == labels).float().mean()))


def test_diagnose_says_what_it_needs(compiled, paths, data):
    with pytest.raises(spikec.InvalidModelError, match=r"is not a Compilation[\s\S]*Compiler\(target"):
        spikec.diagnose(compiled["nir"].artifact, data, STEPS)
    of_file = spikec.Compiler("spikingjelly").run(paths["nir"])
    with pytest.raises(spikec.InvalidModelError, match=r"no ANN to compare[\s\S]*diagnose\(ann, network, x\)"):
        spikec.diagnose(of_file, data, STEPS)
    assert spikec.diagnose(compiled["nir"], data, STEPS).timesteps == STEPS


def test_a_file_is_read_before_anything_was_collected(paths):
    """attrs makes a class anew with slots, and the first one, of the same name, lives on until it is collected."""
    code = f"import gc; gc.disable(); import spikec; print(len(spikec.load({str(paths['spikingjelly'])!r})))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == str(len(spikec.load(paths["spikingjelly"]))), ran.stderr
