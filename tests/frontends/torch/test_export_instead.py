"""Modules that symbolic tracing cannot follow, and that torch.export reads."""

import builtins
import inspect
import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spikec
from spikec.ir.errors import CompileError, InvalidModelError, UnsupportedOpError


class Net(nn.Module):
    def __init__(self, call):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 3)
        self.call = call
        self.eval()

    def forward(self, x):
        return self.call(self, self.norm(self.conv(x)))


def typed(net, y):
    assert not isinstance(y, torch.fx.Proxy), "give a tensor"  # line: typed
    return torch.relu(y)


def formatted(net, y):
    return getattr(torch, "relu" if f"{y.shape[1]:02d}" == "04" else "sigmoid")(y)


def unpacked(net, y):
    return F.linear(F.relu(y).permute(0, 2, 3, 1), net.fc.weight).view(*{**dict(enumerate(y.shape)), 1: -1}.values())


def checked(net, y):
    torch._check(y.shape[1] == 4)
    return net.fc(torch.relu(y).mean(dim=tuple(range(2, y.ndim)))) if torch.is_tensor(y) else y


@pytest.mark.slow
@pytest.mark.parametrize("call", [typed, formatted, unpacked, checked])
def test_what_fx_cannot_trace_equals_torch(call, agrees):
    agrees(Net(call), (2, 6, 5))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_layers_of_torchscript(agrees):
    """One that was traced is read; of one that was scripted torch.export gets no result."""
    net = Net(lambda net, y: net.script(y))
    net.script = torch.jit.trace(
        nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.ReLU()).eval(), torch.rand(2, 4, 4, 3)
    )
    agrees(net, (2, 6, 5))
    net.script = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).eval())
    with pytest.raises(InvalidModelError, match="the layer is a TorchScript module") as caught:
        spikec.load(net, torch.rand(2, 2, 6, 5))
    assert caught.value.location == "script"


@pytest.mark.slow
def test_the_note_says_so_in_ledger_and_report(tmp_path):
    x = torch.rand(8, 2, 6, 5)
    compilation = spikec.Compiler("spikingjelly", calibration=x, dump_dir=tmp_path).run(Net(typed))
    (note,) = compilation.ledger.notes
    assert "read through torch.export, because symbolic tracing fails at" in note
    _, start = inspect.getsourcelines(typed)
    assert f"test_export_instead.py:{start + 1}" in note
    assert note in str(compilation.report)
    assert f"note: {note}" in (tmp_path / "ledger.txt").read_text()
    assert {entry.source.label for entry in compilation.ledger} >= {"conv", "norm"}


def test_isinstance_says_tensor_while_fx_traces():
    """Where it said no, the trace would be another model's."""

    def either(net, y):
        assert builtins.isinstance is plain
        assert isinstance(y.shape, tuple)
        assert isinstance(y.chunk(2, 1), tuple)
        assert not isinstance(y.dim(), torch.Tensor)
        return torch.relu(y) if isinstance(y, torch.Tensor) and isinstance(y.shape[1], int) else 2 * y

    plain = isinstance
    model, x = Net(either), torch.rand(2, 2, 6, 5)
    graph = spikec.load(model, x)
    assert graph.imported.notes == []
    torch.testing.assert_close(spikec.run(graph, x), model(x).detach())


@pytest.mark.parametrize(
    "call",
    [
        lambda net, y: torch.add(y, y, alpha=y),
        lambda net, y: torch.ones(3)[y],
        lambda net, y: net.fc.weight[y],
        lambda net, y: torch.full((2, 2), y),
        lambda net, y: torch.ones(1).expand(y),
    ],
)
def test_a_tensor_where_torch_takes_a_number_is_an_error_as_in_torch(call):
    with pytest.raises((TypeError, RuntimeError, IndexError)):
        Net(call)(torch.rand(2, 2, 6, 5))
    with pytest.raises(CompileError) as error:
        spikec.load(Net(call), torch.rand(2, 2, 6, 5))
    assert "test_export_instead.py" in error.value.location


def test_fx_comes_first():
    assert spikec.load(Net(lambda net, y: torch.relu(y)), torch.rand(2, 2, 6, 5)).imported.notes == []


@pytest.mark.slow
def test_the_module_is_left_as_it_was():
    model = Net(typed)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    disabled = logging.root.manager.disable
    spikec.load(model, torch.rand(2, 2, 6, 5))
    assert {name: id(value) for name, value in model.named_parameters()} == {
        name: id(value) for name, value in model.named_parameters()
    }
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert logging.root.manager.disable == disabled
    assert model(torch.rand(2, 2, 6, 5)).shape == (2, 4, 4, 3)


@pytest.mark.slow
def test_half_and_double(agrees):
    x = torch.rand(2, 2, 6, 5)
    half = spikec.load(Net(typed).half(), x)
    assert half.type("x").dtype == "float32"
    assert spikec.load(Net(typed).double(), x).type("x").dtype == "float64"


@pytest.mark.slow
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode):
    model = Net(typed)
    with mode():
        assert spikec.load(model, torch.rand(2, 2, 6, 5)).imported.notes


class Many(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, *xs):
        return typed(self, self.fc(*xs))


@pytest.mark.slow
def test_a_star_is_one_input(agrees):
    agrees(Many(), (3,))


# -------------------------------------------------------------------- refusals


def refusal(error, model, example=None):
    with pytest.raises(error) as caught:
        spikec.load(model, example)
    assert type(caught.value) is error
    assert len(str(caught.value)) < 1500
    return caught.value


def test_without_an_example_the_error_says_what_to_pass():
    error = refusal(InvalidModelError, Net(unpacked))
    assert "pass example_input=torch.zeros(1, 2, H, W) with your data's sizes filled in" in error.hint
    with pytest.raises(InvalidModelError, match=r"pass example_input=torch.zeros\(1, 2, H, W\)"):
        spikec.compile(Net(unpacked), "nir")


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x, y):
        return self.fc(x).view(*y.shape)


def test_an_example_for_each_input():
    assert "example_input=(torch.zeros(1, ...), torch.zeros(1, ...))" in refusal(InvalidModelError, TwoInputs()).hint


def hidden(net, y):
    if y.mean() > 0:  # line: hidden
        return torch.relu(y)
    return y


def typed_and_hidden(net, y):
    return hidden(net, typed(net, y))


@pytest.mark.slow
def test_control_flow_on_data_is_located_where_torch_export_meets_it():
    error = refusal(InvalidModelError, Net(typed_and_hidden), torch.rand(2, 2, 6, 5))
    _, start = inspect.getsourcelines(hidden)
    assert error.location.endswith(f"(test_export_instead.py:{start + 1})")
    assert error.problems[0].op == "if y.mean() > 0:  # line: hidden"
    assert "what the model does depends on its data" in str(error)
    assert "take the condition or loop out of forward" in error.hint


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [
        lambda net, y: torch.relu(y) if y.size(0) == 3 else y,
        lambda net, y: y.view(int(y.shape[0]), -1),
        lambda net, y: sum(y for _ in range(y.shape[0])),
    ],
)
def test_the_batch_size_is_no_number_there_either(call):
    assert "batch size" in str(refusal(InvalidModelError, Net(call), torch.rand(3, 2, 6, 5)))


@pytest.mark.slow
def test_all_unsupported_calls_are_listed_there_too():
    error = refusal(
        UnsupportedOpError, Net(lambda net, y: torch.hardshrink(torch.sign(typed(net, y)))), torch.rand(2, 2, 6, 5)
    )
    assert [p.message.split(":")[0] for p in error.problems] == [
        "torch.sign is not supported",
        "torch.hardshrink is not supported",
    ]
    assert "read through torch.export" in error.graph.imported.notes[0]
