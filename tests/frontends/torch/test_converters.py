"""Converters of users: views that they make, and what they do wrong."""

import attrs
import numpy as np
import pytest
import torch
from torch import nn

import spikec
from spikec.frontends.torch import Signal, converter
from spikec.ir.errors import InvalidModelError, UnsupportedOpError
from spikec.ir.ops import Clamp, Conv, Identity


class Layer(nn.Module):
    """A layer that does ``call`` and is converted by ``convert``."""

    def __init__(self, call, convert):
        super().__init__()
        self.call, self.convert = call, convert

    def forward(self, x):
        return self.call(x)


def select_first(call):
    weight = np.eye(2, dtype=np.float32)[:1, :, None, None]
    return call.add(Conv(weight, None, stride=(1, 1), padding=(0, 0), dilation=(1, 1)), call.operand)


def same(call):
    return call.add(Identity(), call.operand)


@pytest.fixture(autouse=True)
def registered():
    """What a test registers is gone behind it."""

    @converter(Layer)
    def layer(module, call):
        return module.convert(call)

    yield
    for key in list(converter._table):
        if converter.get(key).__module__ == __name__:
            del converter._table[key]


class Net(nn.Module):
    def __init__(self, body, **layers):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.body = body
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.body(self, self.conv(x))


def view_changed(net, y):
    y.permute(0, 2, 3, 1).relu_()
    return y


def base_changed(net, y):
    view = y.permute(0, 2, 3, 1)
    y.relu_()
    return view


def view_of_a_view_changed(net, y):
    y.permute(0, 1, 3, 2).permute(0, 2, 3, 1).relu_()
    return y


def copy_of_a_view_changed(net, y):
    copied = y.permute(0, 2, 3, 1).contiguous()
    copied.relu_()
    return copied.permute(0, 3, 1, 2) + y


def reshaped_view_changed(net, y):
    flat = y.permute(0, 2, 3, 1).reshape(y.size(0), -1)
    flat.relu_()
    return torch.cat([flat, y.flatten(1)], 1)


def there_and_back(net, y):
    y.permute(0, 2, 3, 1).permute(0, 3, 1, 2).relu_()
    return y


def only_the_view_is_used(net, y):
    return y.permute(0, 2, 3, 1).relu_()


@pytest.mark.parametrize("body", [view_changed, base_changed, view_of_a_view_changed])
@pytest.mark.parametrize("shape", [(2, 5, 4), (2, 2, 2)])
def test_a_view_in_another_order_is_changed_in_place(agrees, body, shape):
    agrees(Net(body), shape)


@pytest.mark.parametrize("body", [copy_of_a_view_changed, reshaped_view_changed, there_and_back, only_the_view_is_used])
def test_memory_is_followed_through_views(agrees, body):
    agrees(Net(body), (2, 5, 4))


def layer_changed(net, y):
    net.layer(y).relu_()
    return y


def fails_without_numbers(x):
    return x[: len(x.numpy())]


def test_a_layers_part_is_changed_in_place(agrees):
    agrees(Net(layer_changed, layer=Layer(lambda x: x[:, :1], select_first)), (2, 5, 4))


def test_what_may_be_a_layers_view_is_not_changed_in_place():
    net = Net(layer_changed, layer=Layer(fails_without_numbers, same))
    with pytest.raises(UnsupportedOpError, match="shares its memory, or may do so") as error:
        spikec.load(net, torch.zeros(2, 2, 5, 4))
    assert "test_converters.py" in error.value.location
    assert "inplace=True" in error.value.hint


def test_what_is_a_copy_on_some_devices_only_is_not_changed_in_place():
    """Torch shuffles one group of channels by a copy on the CPU, and by a view elsewhere."""
    net = Net(lambda net, y: net.layer(y).mul_(0.5) + y, layer=nn.ChannelShuffle(1))
    with pytest.raises(UnsupportedOpError, match="shares its memory, or may do so"):
        spikec.load(net, torch.zeros(2, 2, 5, 4))


def test_a_layer_that_gives_its_operand(agrees):
    agrees(Net(layer_changed, layer=Layer(lambda x: x, same)), (2, 5, 4))


def test_a_layers_copy(agrees):
    net = Net(lambda net, y: net.layer(y).relu_() + y, layer=Layer(lambda x: x * 1, same))
    agrees(net, (2, 5, 4))


def test_a_layer_that_changes_its_operand():
    def change(x):
        x.neg_()
        return x + 0

    net = Net(lambda net, y: net.layer(y) + y, layer=Layer(change, same))
    with pytest.raises(UnsupportedOpError, match="Layer changes a tensor in place"):
        spikec.load(net, torch.zeros(2, 2, 5, 4))


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        self.last = x
        return x


def test_the_users_layer_is_not_touched():
    layer = Layer(Counting(), same)
    spikec.load(nn.Sequential(nn.ReLU(), layer), torch.zeros(1, 3))
    assert layer.call.calls == 0
    assert not hasattr(layer.call, "last")


# ------------------------------------------------------------------- mistakes


def nothing(call):
    same(call)


def swapped(call):
    return call.weight


def name_instead_of_signal(call):
    return call.graph.add(Identity(), call.operand.name)


def wrong_number(call):
    return call.add(Conv(np.ones((2, 2, 1, 1)), None, stride=(1,), padding=(0,), dilation=int("x")), call.operand)


@pytest.mark.parametrize(
    ("convert", "match", "cause"),
    [
        (nothing, "returns None", None),
        (name_instead_of_signal, "returns 'identity'", None),
        (swapped, "raises AttributeError", AttributeError),
        (wrong_number, "raises ValueError", ValueError),
    ],
)
def test_a_converters_mistake_is_said_of_it(convert, match, cause):
    model = nn.Sequential(nn.ReLU(), Layer(lambda x: x, convert), nn.Conv2d(2, 2, 1))
    with pytest.raises((InvalidModelError, UnsupportedOpError), match=match) as error:
        spikec.load(model, torch.zeros(1, 2, 3, 4))
    (problem,) = error.value.problems
    assert problem.location.startswith("1")
    assert "layer (test_converters.py:" in problem.message
    assert problem.hint
    assert cause is None or isinstance(error.value.__cause__, cause)


def number(call):
    return 3


def empty(call):
    return ()


def tensor(call):
    return torch.zeros(1)


def other_graphs(call):
    return Signal("elsewhere")


WRONG = [nothing, name_instead_of_signal, empty, tensor, other_graphs]


@pytest.mark.parametrize("convert", [*WRONG, number])
def test_a_layers_converter_that_returns_no_signal_is_named(convert):
    model = nn.Sequential(nn.ReLU(), Layer(lambda x: x, convert))
    with pytest.raises(UnsupportedOpError, match=r"its converter layer \(test_converters.py:\d+\) returns"):
        spikec.load(model, torch.zeros(1, 3))


class Sinc(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(torch.relu(x))


def exported(model, x):
    return torch.export.export(model.eval(), (x,))


#: ways to a converter: through fx and through torch.export, of a function, a method, and a layer of torch's
CALLED = {
    "function": (torch.sinc, Sinc(torch.sinc)),
    "method": (("method", "sinc"), Sinc(lambda y: y.sinc())),
    "layer": (torch.hardshrink, Sinc(nn.Hardshrink())),
}


@pytest.mark.parametrize("through", [lambda model, x: model, exported], ids=["fx", "export"])
@pytest.mark.parametrize("way", CALLED)
@pytest.mark.parametrize("convert", WRONG)
def test_a_functions_converter_that_returns_no_signal_is_named(through, way, convert):
    key, model = CALLED[way]

    @converter(key)
    def wrong(call, input, approximate="none"):
        return convert(attrs.evolve(call, args=(input,), kwargs={}))

    x = torch.zeros(2, 3)
    with pytest.raises(UnsupportedOpError, match=r"its converter wrong \(test_converters.py:\d+\) returns"):
        spikec.load(through(model, x), x)


# ------------------------------------------------------------ torch's own layers


def hinge(call, input):
    return call.add(Clamp(0.0, 6.0), input)


class MyHardshrink(nn.Hardshrink):
    """One that redefines nothing."""


class Doubled(nn.Hardshrink):
    """One that computes something else."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("key", [nn.Hardshrink, "torch.nn.modules.activation.Hardshrink", torch.hardshrink])
@pytest.mark.parametrize("layer", [nn.Hardshrink, MyHardshrink])
def test_a_layer_of_torchs_is_read_by_a_users_converter_of_it_or_of_its_function(key, layer):
    if key is torch.hardshrink:
        converter(key)(lambda call, input, approximate: hinge(call, input))
    else:
        converter(key)(lambda module, call: hinge(call, call.operand))
    graph = spikec.load(nn.Sequential(nn.Linear(3, 3), layer()), torch.zeros(1, 3))
    (clamp,) = graph.match(Clamp)
    assert [(source.path, source.kind) for source in clamp.op.origin] == [
        ("1", "nn." * (layer is nn.Hardshrink) + layer.__name__)
    ]


def test_a_users_converter_goes_before_the_layers_own_functions():
    converter(nn.ReLU)(lambda module, call: hinge(call, call.operand))
    assert spikec.load(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.zeros(1, 3)).match(Clamp)


def test_a_subclass_that_computes_something_else_is_traced_through():
    @converter(nn.Hardshrink)
    def of_hardshrink(module, call):
        return hinge(call, call.operand)

    with pytest.raises(UnsupportedOpError, match="torch.hardshrink is not supported"):
        spikec.load(nn.Sequential(nn.Linear(3, 3), Doubled()), torch.zeros(1, 3))


def test_functions_in_a_layer_are_said_and_named_as_the_layer(agrees):
    model = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), nn.ReLU())
    graph = agrees(model, (2, 5, 4))
    assert list(graph) == ["input", "conv2d_0_pad", "conv2d_0", "relu_1", "output"]
    assert {graph[name].origin[0].kind for name in ("conv2d_0_pad", "conv2d_0")} == {"nn.Conv2d"}


def test_a_layers_function_is_refused_in_the_layers_words():
    with pytest.raises(UnsupportedOpError) as error:
        spikec.load(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, return_indices=True)), torch.zeros(1, 2, 4, 4))
    (problem,) = error.value.problems
    assert (problem.location, problem.op) == ("1", "nn.MaxPool2d(%relu_0)")


@pytest.mark.slow
@pytest.mark.parametrize("layer", [nn.LSTM(3, 3), nn.GRU(3, 3), nn.CrossMapLRN2d(2)])
def test_a_layer_without_functions_that_have_converters_is_named(layer):
    class Called(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x.relu())

    shape = (2, 3) if isinstance(layer, nn.RNNBase) else (3, 4, 4)
    with pytest.raises(UnsupportedOpError, match=rf"nn.{type(layer).__name__} is not supported") as error:
        spikec.load(Called().eval(), torch.zeros(2, *shape))
    assert f"@converter(nn.{type(layer).__name__})" in error.value.hint


def test_what_a_layer_is_given_is_not_changed():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    held = {name: value.clone() for name, value in layer.state_dict().items()}
    spikec.load(nn.Sequential(layer), torch.zeros(1, 3))
    assert all(torch.equal(value, held[name]) for name, value in layer.state_dict().items())
