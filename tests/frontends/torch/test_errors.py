"""Bad models and bad examples: each is refused with its place and what to do."""

import inspect
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nets
import spikec
from spikec.frontends.torch.fx import frontend
from spikec.ir.errors import CompileError, InvalidModelError, TypeMismatchError, UnsupportedOpError


class Calls(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.call = call
        self.eval()

    def forward(self, x):
        return self.call(self.fc(x))


def refusal(error, model, *shapes):
    with pytest.raises(error) as caught:
        spikec.load(model, tuple(torch.zeros(2, *shape) for shape in shapes) or None)
    assert type(caught.value) is error
    return caught.value


def place(function, mark):
    source, start = inspect.getsourcelines(function)
    return f"test_errors.py:{start + next(i for i, text in enumerate(source) if mark in text)}"


# ------------------------------------------------------------- unsupported


def test_all_unsupported_calls_are_listed_at_once():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Linear(3, 4), nn.Hardshrink(), nn.Linear(4, 4))
            self.norm = nn.LayerNorm(4)

        def forward(self, x):
            x = self.features(x)
            x = torch.sign(x)  # here
            x = x.cumprod(-1) * x
            x = self.norm(x) * 2
            return torch.cdist(torch.relu(x), x)

    error = refusal(UnsupportedOpError, Net(), (3,))
    found = [(p.message.split(": ")[0], p.location.split(" ")[0]) for p in error.problems]
    assert found == [
        ("nn.Hardshrink is not supported", "features.1"),
        ("torch.sign is not supported", "sign"),
        ("Tensor.cumprod is not supported", "cumprod"),
        ("torch.cdist is not supported", "cdist"),
    ]
    assert "replace nn.Hardshrink by nn.ReLU" in error.hint
    assert "@converter(nn.Hardshrink)" in error.hint
    assert place(Net, "# here") in error.problems[1].location
    assert error.problems[3].op.startswith("torch.cdist(%relu, %mul_1, ")
    assert "@converter(torch.cdist)" in error.problems[3].hint
    assert '@converter(("method", "cumprod"))' in error.problems[2].hint
    assert "replace" not in error.problems[2].hint


def test_what_follows_a_refused_call_is_looked_at():
    """Its result is supposed to be there, in the shape that torch says."""

    def gated(y):
        scale = torch.hardshrink(y)
        a, b = torch.split(scale, [1, 3], 1)
        if scale.shape[1] == 4:
            y = y * scale
        return y / b[:, :1] + torch.i0(a)

    error = refusal(UnsupportedOpError, Calls(gated), (3,))
    assert [p.message.split(":")[0] for p in error.problems] == [
        "torch.hardshrink is not supported",
        "torch.i0 is not supported",
    ]


def test_what_is_asked_of_a_refused_size_is_no_finding_of_its_own():
    def asks(y):
        torch._assert(y.nonzero().shape[0] + 1 == 4, "four")
        return y.relu()

    (problem,) = refusal(UnsupportedOpError, torch.fx.symbolic_trace(Calls(asks)), (3,)).problems
    assert problem.message == "Tensor.nonzero is not supported"


REASONS = {
    "jump": (nn.Hardshrink(), (4,), "it jumps", "replace nn.Hardshrink by nn.ReLU and retrain"),
    "hardshrink": (Calls(torch.hardshrink), (3,), "it jumps", "replace torch.hardshrink by torch.relu and retrain"),
    "sign": (Calls(torch.sign), (3,), "it jumps", "use ReLU or clamp"),
    "method": (Calls(lambda y: y.round()), (3,), "it jumps", "use ReLU or clamp"),
    "decoder": (nn.TransformerDecoderLayer(4, 2), (3, 4), "several inputs and masks", "nn.TransformerEncoder"),
    "lstm": (nn.LSTM(4, 4), (3, 4), "gates", "convolutions over time"),
    "comparison": (Calls(lambda y: y == 0), (3,), "it jumps", "ReLU"),
    "argmax": (Calls(lambda y: y.argmax(1)), (3,), "it jumps", "apply it to the compiled network's output"),
    "embedding": (nn.Embedding(3, 4), (3,), "an index", "what the embedding gives"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REASONS)
def test_a_refusal_gives_its_reason(name):
    model, shape, why, hint = REASONS[name]
    error = refusal(UnsupportedOpError, nn.Sequential(model).eval(), shape)
    (problem,) = error.problems
    assert re.search(why, problem.message)
    assert hint in problem.hint
    assert "register a converter" in problem.hint or "track" in problem.hint


def test_a_layer_twice_is_listed_twice():
    model = nn.Sequential(nn.Linear(3, 3), nn.Hardshrink(), nn.Linear(3, 3), nn.Hardshrink())
    assert [p.location for p in refusal(UnsupportedOpError, model, (3,)).problems] == ["1", "3"]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda y: y.clamp(min="a"), "bound that is a str"),
        (lambda y: torch.clamp(y, min=0, out=None), "with these arguments"),
        (lambda y: F.linear(y, y), "computed from the model's input"),
        (lambda y: torch.cat([y, torch.arange(8.0).view(2, 4)], 1), "it joins a constant"),
        (lambda y: torch.cat([torch.arange(8.0).view(2, 4), y], 1), "differs between the samples"),
        (lambda y: torch.cat([torch.zeros(0, 4), y], 1), "differs between the samples"),
        (lambda y: y.view(torch.float64), "only sizes"),
        (lambda y: y.mean(), "mean over all axes"),
    ],
)
def test_an_argument_that_cannot_be_converted(call, match):
    error = refusal(UnsupportedOpError, Calls(call), (3,))
    assert match in str(error)
    assert "test_errors.py" in error.location


def test_one_problem_does_not_hide_the_next():
    error = refusal(UnsupportedOpError, Calls(lambda y: torch.hardshrink(F.relu(torch.i0(y)))), (3,))
    assert [p.message.split(" ")[0] for p in error.problems] == ["torch.i0", "torch.hardshrink"]


# ------------------------------------------------------------ not traceable


@pytest.mark.slow
def test_control_flow_on_data_says_where():
    class Gate(nn.Module):
        def forward(self, x):
            if x.sum() > 0:  # here
                return x
            return -x

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 4)
            self.gate = Gate()

        def forward(self, x):
            return self.gate(self.fc(x))

    error = refusal(InvalidModelError, Net(), (3,))
    assert "depends on its data" in str(error)
    assert error.location == f"gate ({place(Gate, '# here')})"
    assert error.problems[0].op == "if x.sum() > 0:  # here"
    assert error.__cause__ is not None


@pytest.mark.parametrize(
    "call",
    [
        lambda y: y.relu() if y.size(0) == 2 else y,
        lambda y: y.relu() if len(y) == 2 else y,
        lambda y: y.view(int(y.shape[0]), -1),
        lambda y: sum([y for _ in range(y.size(0))]),
    ],
)
def test_the_batch_size_is_no_number(call):
    error = refusal(InvalidModelError, Calls(call), (3,))
    assert "batch size" in error.problems[0].message
    assert "test_errors.py" in error.location


@pytest.mark.slow
def test_a_size_that_is_not_known_says_why():
    by_size = Calls(lambda y: y.relu() if y.nonzero().dim() == 2 else y)
    assert "nonzero is not supported" in str(refusal(UnsupportedOpError, by_size, (3,)))
    error = refusal(InvalidModelError, Calls(lambda y: y.view(*y.shape)))
    assert "without an example_input" in str(error)
    assert "pass example_input=torch.zeros(1, 3) with your data's sizes" in error.hint


def test_a_size_behind_an_unsupported_call_that_keeps_the_shape_is_known():
    by_size = Calls(lambda y: y.relu() if torch.hardshrink(y).dim() == 2 else y)
    (problem,) = refusal(UnsupportedOpError, by_size, (3,)).problems
    assert problem.message.startswith("torch.hardshrink is not supported")


@pytest.mark.slow
def test_any_other_failure_of_forward_says_where():
    class Net(nn.Module):
        def forward(self, x):
            return self.fc(x)  # here

    error = refusal(InvalidModelError, Net(), (3,))
    assert "AttributeError" in str(error)
    assert place(Net, "# here") in error.location


def test_a_computation_on_shapes_that_fails_is_located():
    error = refusal(InvalidModelError, Calls(lambda y: y.view(y.size(0) // 0, -1)), (3,))
    assert "ZeroDivisionError" in str(error)
    assert "test_errors.py" in error.location


# ------------------------------------------------------------ invalid models


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers(value):
    model = nets.build("cnn")
    with torch.no_grad():
        model[4].weight[0, 0, 0, 0] = value
        model[5].running_var[1] = value
    error = refusal(InvalidModelError, model, (1, 28, 28))
    assert [p.location for p in error.problems] == ["4.weight", "5.running_var"]
    assert "1 of 576 numbers are NaN or infinite" in str(error)


def test_weights_whose_sum_is_infinite_are_numbers():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with torch.no_grad():
        model[0].weight.fill_(3e38)
    assert spikec.load(model, torch.zeros(1, 4))


@pytest.mark.parametrize("layer", [nn.Dropout(), nn.Dropout2d(), nn.BatchNorm1d(3)])
def test_training_mode_with_a_layer_that_minds(layer):
    error = refusal(InvalidModelError, nn.Sequential(nn.Linear(3, 3), layer).train(), (3,))
    assert error.location.startswith("1 ")
    assert "model.eval()" in error.hint


def test_training_mode_without_such_a_layer_is_fine():
    spikec.load(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Dropout(0.0)).train())


@pytest.mark.parametrize("call", [F.dropout, lambda y: F.dropout2d(y, 0.5, training=True)])
def test_functional_dropout_that_is_always_active(call):
    error = refusal(InvalidModelError, Calls(call), (3,))
    assert "self.training" in error.hint
    assert "test_errors.py" in error.location


def test_hooks_are_named():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    model[0].register_forward_hook(lambda module, args, output: 2 * output)
    model[1].register_forward_pre_hook(lambda module, args: None)
    error = refusal(InvalidModelError, model, (3,))
    assert [p.location for p in error.problems] == ["0 (nn.Linear)", "1 (nn.ReLU)"]
    assert "remove" in error.hint


def test_lazy_and_meta_parameters():
    assert "no numbers yet" in str(refusal(InvalidModelError, nn.Sequential(nn.Linear(3, 4, device="meta")), (3,)))
    error = refusal(InvalidModelError, nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d()).eval(), (3,))
    assert all(p.message == "the parameter holds no numbers yet" for p in error.problems)
    assert "run one batch through the model" in error.hint


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("wrap", "inner"),
    [
        (torch.compile, "model._orig_mod"),
        (lambda layer: nn.Sequential(torch.compile(layer), nn.ReLU()), "model.0._orig_mod"),
        (nn.DataParallel, "model.module"),
    ],
)
def test_wrappers_say_where_the_module_is(wrap, inner):
    assert refusal(InvalidModelError, wrap(nn.Linear(3, 4)), (3,)).hint.endswith(inner)


def test_complex_parameters():
    assert "complex64" in str(refusal(InvalidModelError, nn.Linear(3, 4, dtype=torch.complex64), (3,)))


class Star(nn.Module):
    def forward(self, *xs):
        return xs[0].relu()


class KeywordOnly(nn.Module):
    def forward(self, x, *, y):
        return x + y


class NoInput(nn.Module):
    def forward(self, x=2.0):
        return torch.ones(1)


class NoForward(nn.Module):
    pass


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (KeywordOnly(), "forward takes keyword-only y"),
        (NoInput(), "the model has no input"),
        (NoForward(), "no forward"),
        (nn.Sequential(), "no operation"),
        (nn.ModuleList([nn.ReLU()]), "no forward"),
    ],
)
def test_modules_that_are_no_model(model, match):
    assert match in str(refusal(InvalidModelError, model, (3,)))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_torchscript():
    assert "TorchScript" in str(refusal(InvalidModelError, torch.jit.script(nn.Linear(3, 4)), (3,)))


@pytest.mark.parametrize("make", [lambda y: None, lambda y: {"y": y, "n": 3}, lambda y: torch.ones(2), lambda y: ()])
def test_outputs_that_are_no_signal(make):
    assert "does not depend on its input" in str(refusal(InvalidModelError, Calls(make), (3,)))


def test_a_star_alone_is_one_input():
    assert spikec.load(Star(), torch.zeros(2, 3)).inputs == ("xs",)
    error = refusal(InvalidModelError, Star(), (3,), (3,))
    assert "forward takes 1 input(s) (xs), 2 given" in str(error)


def test_problems_of_different_kinds_are_listed_together():
    model = nn.Sequential(nn.Linear(3, 4), nn.Hardshrink(), nn.Linear(5, 4), nn.Hardshrink())
    error = refusal(UnsupportedOpError, model, (3,))
    assert [p.location for p in error.problems] == ["1", "2", "3"]
    assert "the inputs were input: [B, 3]" in error.problems[1].hint


# ------------------------------------------------------------------ examples


def test_a_wrong_shape_is_located_at_the_first_layer_that_minds():
    error = refusal(TypeMismatchError, nets.build("cnn"), (1, 20, 20))
    assert error.location == "13"
    assert "the inputs were input: [B, 1, 20, 20]" in error.hint


def test_wrong_channels_and_a_missing_batch():
    assert refusal(TypeMismatchError, nets.build("cnn"), (3, 28, 28)).location == "0"
    assert refusal(TypeMismatchError, nets.build("cnn"), (28, 28)).location == "0"


@pytest.mark.parametrize(
    ("layer", "shape", "said"),
    [
        (nn.BatchNorm2d(3), (3, 4), "nn.BatchNorm2d fails: ValueError: expected 4D input (got 3D input)"),
        (nn.AvgPool2d(2), (4, 4), "nn.AvgPool2d takes samples of rank 3"),
        (nn.MaxPool3d(2), (2, 4, 4), "nn.MaxPool3d takes samples of rank 4"),
        (nn.AdaptiveAvgPool1d(2), (2, 4, 4), "nn.AdaptiveAvgPool1d takes samples of rank 2"),
    ],
)
def test_a_sample_of_the_wrong_rank(layer, shape, said):
    assert said in str(refusal(TypeMismatchError, nn.Sequential(nn.ReLU(), layer).eval(), shape))


def test_sums_of_different_shapes():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 2)

        def forward(self, x):
            return self.a(x) + self.b(x)  # here

    error = refusal(TypeMismatchError, Net(), (3,))
    assert place(Net, "# here") in error.location


def test_integers_nan_and_no_tensor():
    with pytest.raises(InvalidModelError, match="int64"):
        spikec.load(nets.build("mlp"), torch.zeros(2, 7, dtype=torch.int64))
    with pytest.raises(InvalidModelError, match="NaN"):
        spikec.load(nets.build("mlp"), torch.full((2, 7), float("nan")))


def test_as_many_examples_as_inputs_of_one_batch_size():
    model = nets.build("two_inputs")
    with pytest.raises(InvalidModelError, match=r"2 input\(s\) \(left, right\), 1 given") as error:
        spikec.load(model, torch.zeros(2, 5))
    assert "left, right" in error.value.hint
    with pytest.raises(InvalidModelError, match="different batch sizes"):
        spikec.load(model, (torch.zeros(2, 5), torch.zeros(3, 3)))


@pytest.mark.parametrize("name", ["mlp", "mlp_batchnorm", "two_inputs", "two_outputs"])
def test_linear_first_needs_no_example(name):
    model = nets.build(name)
    assert str(spikec.load(model)) == str(spikec.load(model, nets.batch(name)))


def test_linear_behind_layers_that_keep_the_shape_needs_no_example():
    model = nn.Sequential(nn.Dropout(), Calls(F.relu), nn.Linear(4, 2)).eval()
    assert spikec.load(model).type("input").shape == (3,)


class FunctionFirst(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, y):
        return self.layer(F.relu(x)), y.view(y.size(0), -1)


@pytest.mark.parametrize(
    ("model", "call"),
    [
        (nets.build("cnn"), "example_input=torch.zeros(1, 1, H, W) "),
        (nets.build("conv1d"), "example_input=torch.zeros(1, 3, L) "),
        (nets.build("conv3d"), "example_input=torch.zeros(1, 2, D, H, W) "),
        (nn.Sequential(nn.Flatten(), nn.Linear(6, 2)), "example_input=torch.zeros(1, ...) "),
        (FunctionFirst(nn.Linear(4, 2)), "example_input=(torch.zeros(1, 4), torch.zeros(1, ...)) "),
    ],
)
def test_otherwise_the_error_says_what_to_pass(model, call):
    error = refusal(InvalidModelError, model)
    assert call in error.hint
    assert "calibration" in error.hint


def test_input_names():
    assert frontend.input_names(nets.build("two_inputs")) == ["left", "right"]
    assert frontend.input_names(nets.build("mlp")) == ["input"]
    assert frontend.input_names(torch.fx.symbolic_trace(nets.build("two_inputs"))) == ["left", "right"]
    assert frontend.input_names(Star()) == ["xs"]
    with pytest.raises(CompileError):
        frontend.input_names(KeywordOnly())
    assert frontend.accepts(nn.Linear(2, 2))
    assert not frontend.accepts(torch.zeros(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        Calls(lambda y: y.unbind(0)[0]),
        Calls(lambda y: torch.stack(y.split(1))),
        nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 2)),
    ],
    ids=["unbind", "split", "lstm"],
)
def test_calls_that_go_through_the_batch_are_refused_at_once(model):
    assert refusal(UnsupportedOpError, model, (3,)).location


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        (nn.Linear(2, 2).state_dict(), "load_state_dict"),
        ({"epoch": 3, "model": nn.Linear(2, 2).state_dict()}, "load_state_dict"),
        (nn.Linear, r"an instance of the class: Linear\(\.\.\.\)"),
        ([nn.Linear(2, 2), nn.ReLU()], r"nn.Sequential\(\*layers\)"),
        (torch.relu, "in the forward of an nn.Module"),
        (lambda x: x, "in the forward of an nn.Module"),
        ({"epoch": 3}, "give a spikec.Graph"),
    ],
)
def test_what_is_no_module_but_near_to_one(given, hint):
    with pytest.raises(InvalidModelError, match=hint):
        spikec.load(given, torch.zeros(1, 2))


def test_a_file_of_parameters(tmp_path):
    path = tmp_path / "net.pt"
    torch.save(nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(InvalidModelError, match=r"load_state_dict\(torch.load\(path\)\)"):
        spikec.load(path, torch.zeros(1, 2))
