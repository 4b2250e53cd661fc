"""Programs of torch.export against the modules that they were exported from."""

import re
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.export import Dim, export
from torch.nn import functional as F

import nets
import spikec
from spikec.frontends.torch import converter
from spikec.frontends.torch.export import frontend
from spikec.ir.errors import InvalidModelError, TypeMismatchError, UnsupportedOpError
from spikec.ir.ops import Conv, Head, Relu
from spikec.ir.stages import IMPORTED
from spikec.ir.verify import verify

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # of torch's own decompositions


def flat(result):
    if isinstance(result, torch.Tensor):
        return [result]
    return [leaf for item in (result.values() if isinstance(result, dict) else result) for leaf in flat(item)]


def exported(model, *xs, dynamic=False):
    shapes = tuple({0: Dim("batch")} for _ in xs) if dynamic else None
    return export(model.eval(), xs, dynamic_shapes=shapes, strict=False)


def forms(model, *xs, dynamic):
    """The program as exported, and decomposed into aten's core operators."""
    program = exported(model, *xs, dynamic=dynamic)
    return program, program.run_decompositions()


def agree(graph, model, *xs, tolerance=1e-5):
    verify(graph, IMPORTED, graph.sources)
    with torch.no_grad():
        wanted = flat(model(*(x.clone() for x in xs)))
    found = flat(spikec.run(graph, [x.clone() for x in xs]))
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        assert b.abs().max() > 0.01
        assert (a - b).abs().max() <= tolerance * b.abs().max()


either = pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "open"])


def tuple_of(x):
    return x if isinstance(x, tuple) else (x,)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@either
@pytest.mark.parametrize("name", nets.ZOO)
def test_every_net_equals_torch_at_any_batch_size(name, dynamic, dtype, tolerance):
    model = nets.build(name, dtype=dtype)
    for program in forms(model, *tuple_of(nets.batch(name, dtype=dtype)), dynamic=dynamic):
        graph = spikec.load(program)
        assert graph.type(graph.inputs[0]).dtype == str(dtype).removeprefix("torch.")
        for count in (4, 7, 1):
            agree(graph, model, *tuple_of(nets.batch(name, count, dtype=dtype)), tolerance=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "resnet", "two_inputs", "two_outputs"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_program_compiles_as_its_module_does(name, dynamic):
    model, x = nets.build(name), nets.batch(name, 6)
    program = exported(model, *tuple_of(nets.batch(name)), dynamic=dynamic)
    calibration = [x] if isinstance(x, tuple) else x
    ours = spikec.Compiler("spikingjelly", calibration=calibration, verify="each").run(program)
    theirs = spikec.Compiler("spikingjelly", calibration=calibration).run(model)
    xs = tuple_of(x)
    for _ in range(8):
        for a, b in zip(flat(ours.artifact(*xs)), flat(theirs.artifact(*xs)), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.slow
def test_the_graph_is_that_of_the_module():
    model, x = nets.build("resnet"), nets.batch("resnet")
    by_fx, by_export = spikec.load(model, x), spikec.load(exported(model, x))
    layers = [node.name for node in by_fx.match(Conv)]
    assert [node.name for node in by_export.match(Conv)] == layers
    assert [(s.path, s.kind, s.place) for n in layers for s in by_export[n].origin] == [
        (s.path, s.kind, s.place) for n in layers for s in by_fx[n].origin
    ]
    assert [by_export[n].kind for n in by_export] == [by_fx[n].kind for n in by_fx]


# ------------------------------------------------------------------ spellings


class Calls(nn.Module):
    def __init__(self, call, *layers):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), *layers)
        self.call = call

    def forward(self, x):
        return self.call(self.body(x))


CALLS = {
    "clamp": lambda y: y.clamp(-0.2, 0.3),
    "clamp max": lambda y: torch.clamp(y, max=0.1),
    "hardtanh": lambda y: F.hardtanh(y, 0.0, 0.4),
    "relu6": lambda y: F.relu6(10 * y),
    "in place": lambda y: (y * 2).relu_().add_(1),
    "in place on a shared tensor": lambda y: torch.relu_(y) + y,
    "alpha": lambda y: torch.add(y, y.relu(), alpha=0.5),
    "rsub": lambda y: 1 - y,
    "division": lambda y: y / 3 - 0.25,
    "constants": lambda y: y * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None],
    "mean": lambda y: y.mean((2, 3)),
    "mean kept": lambda y: y.mean(dim=(-2, -1), keepdim=True),
    "adaptive": lambda y: F.adaptive_avg_pool2d(y, 1),
    "average": lambda y: F.avg_pool2d(y, 2, 1, padding=1, ceil_mode=True, count_include_pad=False),
    "max": lambda y: F.max_pool2d(y, 3, 2, padding=1),
    "adaptive max": lambda y: F.adaptive_max_pool2d(y, 2),
    "adaptive max 1d": lambda y: F.adaptive_max_pool1d(y.flatten(2), 4),
    "zeros like": lambda y: torch.maximum(y, torch.zeros_like(y)),
    "pads": lambda y: F.pad(y, (1, 0, 2, 1)),
    "reflect": lambda y: F.pad(y, (1, 1, 1, 1), mode="reflect"),
    "replicate": lambda y: F.pad(y, (1, 0, 0, 1), mode="replicate"),
    "group norm": lambda y: F.group_norm(y, 2),
    "cat": lambda y: torch.cat([y, y.relu()], 1),
    "reshape": lambda y: y.reshape(y.shape[0], 2, -1).flatten(1),
    "view": lambda y: y.contiguous().view(-1, 4 * 6 * 6),
    "copies": lambda y: y.clone().detach().contiguous().to(torch.float32),
    "dropout": lambda y: F.dropout(y, 0.5, training=False),
    "same": lambda y: F.conv2d(y, torch.ones(4, 1, 3, 1) / 7, padding="same", groups=4),
    "permute": lambda y: y.permute(0, 2, 3, 1).transpose(1, 2),
    "axes": lambda y: y.unsqueeze(2).squeeze(2).unflatten(1, (2, 2)),
    "slices": lambda y: y[:, 1:3, ::2],
    "number": lambda y: y[:, -1],
    "chunks": lambda y: torch.cat(y.chunk(2, 1)[::-1], 1) + torch.cat(y.split([1, 3], 1), 1),
    "stack": lambda y: torch.stack([y, y.relu()], 2),
    "shuffle": lambda y: F.pixel_shuffle(y, 2),
    "upsampling": lambda y: F.interpolate(y, scale_factor=2),
    "upsampling by 1.5": lambda y: F.interpolate(y, scale_factor=1.5, recompute_scale_factor=True),
    "upsampling to": lambda y: F.interpolate(y, size=(12, 18)),
    "no gradients": torch.no_grad()(lambda y: torch.relu(y) * 2),
}


@pytest.mark.slow
@either
@pytest.mark.parametrize("name", CALLS)
def test_spellings(name, dynamic):
    torch.manual_seed(0)
    model, x = Calls(CALLS[name]), torch.randn(3, 2, 6, 6)
    for program in forms(model, x, dynamic=dynamic):
        agree(spikec.load(program), model, torch.randn(5, 2, 6, 6))


@pytest.mark.slow
@either
@pytest.mark.parametrize("layer", [nn.Dropout2d(), nn.AlphaDropout(), nn.Flatten(), nn.ReflectionPad2d(1)], ids=str)
def test_layers(layer, dynamic):
    model, x = Calls(torch.relu, layer), torch.randn(3, 2, 6, 6)
    for program in forms(model, x, dynamic=dynamic):
        agree(spikec.load(program), model, x)


def test_rrelu_draws_nothing_in_eval_mode():
    x = torch.randn(5, 4)
    agree(spikec.load(exported(nn.Sequential(nn.RReLU()), x)), nn.RReLU().eval(), x)


@pytest.mark.slow
def test_a_batch_of_one_and_a_batch_like_another_axis():
    for count in (1, 2, 4):
        model = Calls(lambda y: y.view(y.shape[0], 4, 36).reshape(-1, 4 * 36))
        x = torch.randn(count, 2, 6, 6)
        agree(spikec.load(exported(model, x)), model, torch.randn(3, 2, 6, 6))


def test_a_view_that_moves_the_batch_is_refused():
    for call in (lambda y: y.view(-1, 6), lambda y: y.view(2, -1, 36)):
        with pytest.raises(UnsupportedOpError, match="does not keep the batch axis first"):
            spikec.load(exported(Calls(call), torch.randn(4, 2, 6, 6)))


class Results(NamedTuple):
    klass: torch.Tensor
    value: torch.Tensor


class Structured(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, x, scale: int, *, pair):
        y = self.a(x) * scale + self.b(pair["second"])
        return {"all": [Results(y, torch.relu(y))]}


def test_structured_inputs_and_outputs():
    model, xs = Structured(), (torch.randn(2, 3), torch.randn(2, 2))
    program = export(model, (xs[0], 3), {"pair": {"second": xs[1]}}, strict=False)
    graph = spikec.load(program)
    names = frontend.input_names(program)
    assert list(graph.inputs) == names
    assert len(names) == 2
    found = spikec.run(graph, xs)
    wanted = model(xs[0], 3, pair={"second": xs[1]})
    assert isinstance(graph.imported.structure["all"][0], Results)
    for a, b in zip(flat(found), flat(wanted), strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(frontend.reference(program)(xs), flat(wanted), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
def test_the_reference_takes_any_batch_size():
    model, x = nets.build("cnn"), nets.batch("cnn", 4)
    for count in (1, 4, 6):
        xs = nets.batch("cnn", count)
        for dynamic in (False, True):
            (found,) = frontend.reference(exported(model, x, dynamic=dynamic))([xs])
            torch.testing.assert_close(found, model(xs).detach())


def test_converters_of_users_serve_programs_too(monkeypatch):
    monkeypatch.setattr(converter, "_table", dict(converter._table))
    converter(torch.sign)(lambda call, input, inplace=False: call.add(Relu(), input))
    graph = spikec.load(exported(Calls(torch.sign), torch.randn(2, 2, 6, 6)))
    assert [node.name for node in graph.match(Relu)] == ["sign"]
    converter(torch.ops.aten.mish.default)(lambda call, self: call.add(Relu(), self))
    graph = spikec.load(exported(Calls(F.mish), torch.randn(2, 2, 6, 6)))
    assert [node.name for node in graph.match(Relu)] == ["mish"]


@pytest.mark.slow
def test_circular_padding_is_read_before_it_is_decomposed():
    torch.manual_seed(0)
    model, x = Calls(lambda y: F.pad(y, (1, 1, 1, 1), mode="circular")), torch.randn(3, 2, 6, 6)
    whole, decomposed = forms(model, x, dynamic=True)
    agree(spikec.load(whole), model, x)
    assert "slice_scatter" in str(refusal(UnsupportedOpError, decomposed))


# -------------------------------------------------------------------- refusals


def refusal(error, program, example=None):
    with pytest.raises(error) as caught:
        spikec.load(program, example)
    assert type(caught.value) is error
    return caught.value


def test_everything_unsupported_is_listed_as_the_user_wrote_it():
    model = Calls(lambda y: torch.sign(y).softmax(1), nn.Hardshrink())
    error = refusal(UnsupportedOpError, exported(model, torch.randn(2, 2, 6, 6)))
    found = [(p.message.split(":")[0], re.sub(r":\d+", "", p.location)) for p in error.problems]
    assert found[:2] == [
        ("nn.Hardshrink is not supported", "body.1 (test_export.py)"),
        ("torch.sign is not supported", "sign (test_export.py)"),
    ]
    assert "@converter(torch.hardshrink)" in error.hint
    assert "replace nn.Hardshrink by nn.ReLU" in error.hint


def test_an_argument_without_a_converter_parameter_is_not_dropped():
    program = exported(Calls(lambda y: torch.mean(y, (2, 3), dtype=torch.float64)), torch.randn(2, 2, 6, 6))
    assert "dtype" in str(refusal(UnsupportedOpError, program))


@pytest.mark.slow
@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("layer", [nn.BatchNorm2d(4), nn.Dropout(), nn.Dropout2d()])
def test_training_mode(layer, decomposed):
    program = export(Calls(torch.relu, layer).train(), (torch.randn(2, 2, 6, 6),), strict=False)
    program = program.run_decompositions() if decomposed else program
    error = refusal(InvalidModelError, program)
    assert "training mode" in str(error) or "random" in str(error)
    assert error.location.startswith("body.1")


def test_dropout_of_nothing_in_training_mode_is_fine():
    program = export(Calls(torch.relu, nn.Dropout(0.0)).train(), (torch.randn(2, 2, 6, 6),), strict=False)
    assert spikec.load(program).outputs


def test_random_numbers():
    program = exported(Calls(lambda y: y + torch.rand(4, 1, 1)), torch.randn(2, 2, 6, 6))
    assert "torch.rand draws random numbers" in str(refusal(InvalidModelError, program))


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(3))

    def forward(self, x):
        self.count += 1
        return torch.relu(x) + self.count


@pytest.mark.slow
@pytest.mark.parametrize("decomposed", [False, True])
def test_buffers_that_change(decomposed):
    program = forms(Counter(), torch.randn(2, 3), dynamic=False)[decomposed]
    error = refusal(InvalidModelError, program)
    assert "count" in str(error)
    assert "take it out of forward" in error.hint


def test_weights_that_are_not_numbers():
    model = nets.build("mlp")
    program = exported(model, nets.batch("mlp"))
    with torch.no_grad():
        program.state_dict["0.weight"][0, 0] = float("nan")
    error = refusal(InvalidModelError, program)
    assert error.location == "0.weight"


@pytest.mark.slow
def test_the_example_must_be_what_was_exported():
    program = exported(nets.build("cnn"), nets.batch("cnn"))
    error = refusal(InvalidModelError, program, torch.zeros(2, 1, 20, 20))
    assert "exported for input: [B, 1, 28, 28], the example is [1, 20, 20]" in str(error)
    assert spikec.load(program, torch.zeros(2, 1, 28, 28)).inputs == ("input",)


@pytest.mark.slow
def test_sizes_that_a_program_leaves_open_come_from_the_example():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    shapes = ({0: Dim("batch"), 2: Dim("height", min=4, max=64)},)
    program = export(model, (torch.randn(3, 2, 8, 6),), dynamic_shapes=shapes, strict=False)
    error = refusal(InvalidModelError, program)
    assert "leaves sizes of the input input open" in str(error)
    assert "example_input" in error.hint
    x = torch.randn(2, 2, 10, 6)
    agree(spikec.load(program, x), model, x)
    assert "[B, any, 6]" in str(refusal(InvalidModelError, program, torch.zeros(2, 2, 10, 7))).replace("2, any", "any")


def test_inputs_without_a_common_batch():
    class Add(nn.Module):
        def forward(self, x, y):
            return torch.relu(x + y)

    error = refusal(InvalidModelError, export(Add(), (torch.randn(2, 3), torch.randn(1, 3))))
    assert "different batch sizes (x: [2, 3], y: [1, 3])" in str(error)
    assert "no axis" in str(refusal(InvalidModelError, export(Add(), (torch.randn(2, 3), torch.tensor(1.0)))))


@pytest.mark.slow
def test_a_layer_that_does_not_fit_is_located():
    model = Calls(lambda y: y.flatten(1), nn.Conv2d(4, 2, 5))
    shapes = ({0: Dim("batch"), 2: Dim("height", min=6, max=64)},)
    program = export(model.eval(), (torch.randn(3, 2, 8, 6),), dynamic_shapes=shapes, strict=False)
    assert refusal(TypeMismatchError, program, torch.zeros(2, 2, 3, 6)).location


@pytest.mark.parametrize(("function", "wanted"), [(torch.special.expit, "sigmoid"), (torch.special.i0e, "tanh")])
def test_functions_of_torch_special_are_found_by_their_overloads(function, wanted, monkeypatch):
    monkeypatch.setitem(converter._table, function, lambda call, input: call.add(Head(wanted), input))

    class Special(nn.Module):
        def forward(self, x):
            return function(x)

    x = torch.randn(2, 3)
    graph = spikec.load(export(Special(), (x,)))
    assert graph.match(Head)[0].op.function == wanted
