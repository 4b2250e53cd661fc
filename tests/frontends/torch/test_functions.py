"""Every spelling of a function or method against torch."""

import operator
from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nets
import spikec
from spikec.frontends.torch import BATCH
from spikec.ir.errors import UnsupportedOpError
from spikec.ir.ops import Add, Clamp, Concat, Flatten, Identity, Relu, Reshape

SHAPE = (2, 6, 8)

RELU = {
    "F.relu": F.relu,
    "F.relu inplace": lambda y: F.relu(y, inplace=True),
    "F.relu input=": lambda y: F.relu(input=y),
    "torch.relu": torch.relu,
    "Tensor.relu": lambda y: y.relu(),
    "Tensor.relu_": lambda y: y.relu_(),
    "torch.relu_": torch.relu_,
    "F.relu_": F.relu_,
}
CLAMP = {
    "Tensor.clamp": lambda y: y.clamp(min=0),
    "Tensor.clamp positional": lambda y: y.clamp(0),
    "Tensor.clamp min max": lambda y: y.clamp(0, 0.5),
    "Tensor.clamp max": lambda y: y.clamp(max=0.25),
    "Tensor.clamp_": lambda y: y.clamp_(min=0, max=1),
    "Tensor.clip": lambda y: y.clip(-0.5, 0.5),
    "Tensor.clamp_min": lambda y: y.clamp_min(0),
    "torch.clamp": lambda y: torch.clamp(y, min=0),
    "torch.clamp_": lambda y: torch.clamp_(y, 0, 1),
    "torch.clip": lambda y: torch.clip(y, 0),
    "torch.clamp_min": lambda y: torch.clamp_min(y, 0),
    "F.relu6": F.relu6,
    "F.hardtanh": lambda y: F.hardtanh(y, 0.0, 0.7),
    "F.hardtanh_": F.hardtanh_,
}
OTHER = {
    "F.avg_pool2d": lambda y: F.avg_pool2d(y, (2, 3), stride=(1, 2), padding=1, ceil_mode=True),
    "F.avg_pool2d kernel only": lambda y: F.avg_pool2d(y, 2),
    "F.avg_pool2d of the whole map": lambda y: F.avg_pool2d(y, y.size()[2:]),
    "F.adaptive_avg_pool2d": lambda y: F.adaptive_avg_pool2d(y, (3, None)),
    "F.adaptive_avg_pool2d int": lambda y: F.adaptive_avg_pool2d(y, 1),
    "F.max_pool2d": lambda y: F.max_pool2d(y, 3, 2, 1),
    "F.max_pool2d keywords": lambda y: F.max_pool2d(y, kernel_size=(1, 2), dilation=(1, 2)),
    "torch.max_pool2d": lambda y: torch.max_pool2d(y, 2),
    "1d": lambda y: F.max_pool1d(F.avg_pool1d(y.flatten(2), 2), 3),
    "adaptive 1d": lambda y: F.adaptive_avg_pool1d(y.flatten(2), 5),
    "3d": lambda y: F.avg_pool3d(y.reshape(y.size(0), 2, 2, 6, 8), (1, 2, 2)),
    "max 3d": lambda y: F.max_pool3d(y.reshape(y.size(0), 2, 2, 6, 8), 2),
    "adaptive 3d": lambda y: F.adaptive_avg_pool3d(y.reshape(y.size(0), 2, 2, 6, 8), (1, 3, 2)),
    "F.softshrink of nothing": lambda y: F.softshrink(y, 0.0),
    "torch.zeros_like": lambda y: torch.maximum(y, torch.zeros_like(y)),
    "torch.ones_like dtype": lambda y: torch.ones_like(y, dtype=y.dtype) - y,
    "torch.full_like": lambda y: torch.cat([y, torch.full_like(y, 0.3)], 1),
    "torch.addcmul": lambda y: torch.addcmul(torch.ones(8), y, torch.arange(8.0), value=0.5),
    "Tensor.addcmul of constants": lambda y: y.addcmul(torch.ones(8), torch.arange(8.0)),
    "Tensor.addcmul_": lambda y: y.addcmul_(y.relu(), torch.arange(8.0), value=2),
    "mean": lambda y: y.mean([2, 3]),
    "torch.mean keepdim": lambda y: torch.mean(y, dim=(-1, -2), keepdim=True),
    "torch.flatten": lambda y: torch.flatten(y, 1),
    "torch.flatten keywords": lambda y: torch.flatten(y, start_dim=2, end_dim=-1),
    "Tensor.flatten": lambda y: y.flatten(1),
    "Tensor.flatten inner": lambda y: y.flatten(1, 2),
    "view size": lambda y: y.view(y.size(0), -1),
    "view shape": lambda y: y.view(y.shape[0], -1),
    "view -1": lambda y: y.view(-1, 4 * 6 * 8),
    "view num_flat_features": lambda y: y.view(-1, y.shape[1] * y.shape[2] * y.shape[3]),
    "view numel": lambda y: y.view(y.size(0), y.numel() // y.size(0)),
    "view tuple": lambda y: y.view((y.shape[0], 8, -1)),
    "view same": lambda y: y.view(y.size()),
    "reshape": lambda y: y.reshape(y.shape[0], 2, 12, -1),
    "torch.reshape": lambda y: torch.reshape(y, (y.size(0), -1)),
    "unpacked shape": lambda y: unpacked(y),
    "F.pad": lambda y: F.pad(y, (1, 0, 2, 3)),
    "F.pad one axis": lambda y: F.pad(y, [0, 2], "constant", 0),
    "F.pad channels": lambda y: F.pad(y, (0, 0, 0, 0, 1, 2)),
    "F.pad reflect": lambda y: F.pad(y, (1, 2, 3, 0), mode="reflect"),
    "F.dropout": lambda y: F.dropout(y, 0.5, training=False),
    "F.dropout p=0": lambda y: F.dropout(y, 0.0),
    "F.dropout2d": lambda y: F.dropout2d(y, 0.5, False),
    "contiguous": lambda y: y.contiguous().detach().clone(),
    "sum of a list": lambda y: sum([y, y.relu(), y]),
}


def unpacked(y):
    b, c, h, w = y.shape
    return y.view(b, c * h, w)


class Free(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(x)


class Unary(nn.Module):
    def __init__(self, call):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.call = call
        self.eval()

    def forward(self, x):
        return self.call(self.conv(x))


@pytest.mark.parametrize("name", RELU)
def test_relu(agrees, name):
    graph = agrees(Unary(RELU[name]), SHAPE)
    assert [node.op.cap for node in graph.match(Relu)] == [None]
    (relu,) = graph.match(Relu)
    assert relu.op.origin[0].kind == {"torch.relu_": "torch.relu_", "F.relu_": "torch.relu_"}.get(name, name.split()[0])


@pytest.mark.parametrize("name", CLAMP)
def test_clamp(agrees, name):
    graph = agrees(Unary(CLAMP[name]), SHAPE)
    assert len(graph.match(Clamp)) == 1


@pytest.mark.parametrize("name", OTHER)
def test_call(agrees, name):
    agrees(Unary(OTHER[name]), SHAPE)


ADD = {
    "+": lambda a, b: a + b,
    "+=": operator.iadd,
    "torch.add": torch.add,
    "torch.add alpha": lambda a, b: torch.add(a, b, alpha=1),
    "Tensor.add": lambda a, b: a.add(b),
    "Tensor.add_": lambda a, b: a.add_(b),
    "to itself": lambda a, b: a + a + b,
    "0 +": lambda a, b: sum((a, b)),
}


class Binary(nn.Module):
    def __init__(self, call):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(3, 5), nn.Linear(3, 5)
        self.call = call

    def forward(self, x):
        return self.call(self.a(x), self.b(x))


@pytest.mark.parametrize("name", ADD)
def test_add(agrees, name):
    graph = agrees(Binary(ADD[name]), (3,))
    assert graph.match(Add)


CAT = {
    "torch.cat": lambda a, b: torch.cat([a, b], 1),
    "torch.cat dim": lambda a, b: torch.cat((b, a, b), dim=-1),
    "torch.concat": lambda a, b: torch.concat([a, b], dim=1),
    "torch.concatenate": lambda a, b: torch.concatenate([a, b], 1),
}


@pytest.mark.parametrize("name", CAT)
def test_concat(agrees, name):
    assert agrees(Binary(CAT[name]), (3,)).match(Concat)[0].op.axis == 0


def test_functional_layers_with_the_modules_own_parameters(agrees):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.kernel = nn.Parameter(torch.randn(6, 1, 2, 3))
            self.shift = nn.Parameter(torch.randn(6))
            self.weight = nn.ParameterList([nn.Parameter(torch.randn(5, 6 * 5 * 3))])
            self.register_buffer("offset", torch.randn(5))

        def forward(self, x):
            x = F.conv2d(x, self.kernel, self.shift, stride=(1, 2), padding=(0, 1), groups=2)
            return F.linear(x.relu().flatten(1), self.weight[0], bias=2 * self.offset)

    graph = agrees(Functional(), (2, 6, 5))
    assert [graph[name].kind for name in graph] == ["input", "conv", "relu", "flatten", "linear", "output"]


@pytest.mark.parametrize(("rank", "conv"), [(1, F.conv1d), (3, F.conv3d)])
def test_functional_convolutions_of_other_ranks(agrees, rank, conv):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.kernel = nn.Parameter(torch.randn(3, 2, *(2, 3, 1)[:rank]))

        def forward(self, x):
            return conv(x, self.kernel, padding="same", dilation=2)

    agrees(Functional(), (2, 5, 6, 4)[: rank + 1])


# ------------------------------------------------- what a name means in place


def in_place_relu_before_skip(y, x):
    identity = y
    y.relu_()
    return identity + y


def module_relu_before_skip(y, x):
    act = F.relu(y, inplace=True)
    return act + y


def add_into_a_skip(y, x):
    skip = y
    y += x
    return y + skip


def add_into_a_copy(y, x):
    skip = y.clone()
    skip += x
    return y + skip


def add_into_a_sum_that_began_at_zero(y, x):
    total = 0 + y
    total += x
    return y + total


def through_dropout(y, x):
    same = F.dropout(y, 0.5, False)
    same.relu_()
    return y + x


def through_a_view_and_back(y, x):
    flat = y.view(y.size(0), -1)
    back = flat.view(y.size())
    back.relu_()
    return y + x


def out_of_place_first(y, x):
    z = y.relu()
    y.clamp_(max=0.1)
    return y + z


def clamped_after_a_concat(y, x):
    both = torch.cat([y, x], 1)
    y.relu_()
    return torch.cat([both, y], 1)


def the_input_itself(y, x):
    x.relu_()
    return y + x


def twice(y, x):
    y.relu_()
    y.add_(x)
    y.clamp_(max=1)
    return y


IN_PLACE = [
    in_place_relu_before_skip,
    module_relu_before_skip,
    add_into_a_skip,
    add_into_a_copy,
    add_into_a_sum_that_began_at_zero,
    through_dropout,
    through_a_view_and_back,
    out_of_place_first,
    clamped_after_a_concat,
    the_input_itself,
    twice,
]


class Mutable(nn.Module):
    def __init__(self, body):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.body = body

    def forward(self, x):
        return self.body(self.conv(x), x)


@pytest.mark.parametrize("body", IN_PLACE, ids=lambda body: body.__name__)
def test_in_place(agrees, body):
    agrees(Mutable(body), (2, 5, 4))


def test_in_place_layer_whose_operand_is_used_later(agrees):
    class Preactivation(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.relu = nn.ReLU(inplace=True)
            self.drop = nn.Dropout(inplace=True)
            self.conv = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x):
            x = self.conv(x)
            return self.conv(self.drop(self.relu(x))) + x

    agrees(Preactivation().eval(), (2, 5, 4))


def test_in_place_on_a_view_whose_base_is_used_later(agrees):
    def body(y, x):
        y.view(y.size(0), -1).relu_()
        return y + x

    agrees(Mutable(body), (2, 5, 4))


def test_in_place_on_a_view_whose_base_is_not_used_later(agrees):
    agrees(Mutable(lambda y, x: y.view(y.size(0), -1).relu_()), (2, 5, 4))


# ------------------------------------------------------------ shapes, batches


@pytest.mark.parametrize(
    "call",
    [
        lambda y: y.view(-1),
        lambda y: y.view(1, -1),
        lambda y: y.view(-1, 8),
        lambda y: y.view(2 * y.size(0), -1),
        lambda y: y.view(2, -1),
        lambda y: y.view(3, -1),
        lambda y: y.view(5, 7),
        lambda y: y.view(-1, 0),
        lambda y: y.reshape(y.size(1), -1),
        lambda y: torch.flatten(y),
        lambda y: torch.flatten(y, 0, 1),
        lambda y: torch.cat([y, y]),
        lambda y: torch.cat([y, y], -4),
        lambda y: F.pad(y, (0, 0, 0, 0, 0, 0, 1, 1)),
        lambda y: y.mean(0),
    ],
)
def test_the_batch_axis_stays_first_and_whole(call):
    with pytest.raises(UnsupportedOpError) as error:
        spikec.load(Unary(call), torch.zeros(3, *SHAPE))
    assert len(error.value.problems) == 1
    assert "test_functions.py" in error.value.location
    assert error.value.hint
    assert str(int(BATCH)) not in str(error.value)


def test_no_size_is_taken_for_the_batch():
    with pytest.raises(UnsupportedOpError, match="batch axis first and whole"):
        spikec.load(nn.Sequential(nn.ReLU(), Free(lambda y: y.reshape(y.shape[1], -1, 6))), torch.zeros(4, 1009, 6))


@pytest.mark.parametrize(
    ("call", "shown"),
    [
        (lambda y: y.view(y.size(0) * 2, 96), "(%conv, 2*B, 96)"),
        (lambda y: y.view(y.size(0) // 2, 384), "(%conv, B//2, 384)"),
        (lambda y: y.view(y.size(0) + 1, -1), "(%conv, B+1, -1)"),
        (lambda y: y / y.size(0), "/(%conv, B)"),
    ],
)
def test_the_batch_size_has_a_name(call, shown):
    with pytest.raises(UnsupportedOpError) as error:
        spikec.load(Unary(call), torch.zeros(2, *SHAPE))
    assert error.value.problems[0].op.endswith(shown)


@pytest.mark.parametrize(
    "call",
    [
        lambda y: y * (1 / y.size(0)),
        lambda y: F.adaptive_avg_pool2d(y, y.shape[0]),
        lambda y: y.clamp(max=y.shape[0]),
    ],
)
def test_no_number_is_made_from_the_batch_size(call):
    with pytest.raises(UnsupportedOpError, match="depends on the batch") as error:
        spikec.load(Unary(call), torch.zeros(2, *SHAPE))
    assert str(int(BATCH)) not in str(error.value)


def sized(y):
    assert y.shape[1] == 4
    channels, height = int(y.shape[1]), y.size(2)
    for _ in range(y.dim() - 3):
        y = y.relu()
    if len(y.shape) == 4 and height > 3:
        y = y.view(*y.shape[:2], -1)
    return y * torch.ones(channels, 1) / float(height)


@pytest.mark.parametrize("call", [sized, lambda y: y.flatten(1) if y.dim() == 4 else y, lambda y: y.view([*y.shape])])
def test_sizes_are_plain_numbers(agrees, call):
    agrees(Unary(call), SHAPE)


CASTS = {
    "to device": lambda y: y.to("cpu").cpu().to(y.device),
    "to dtype": lambda y: y.to(y.dtype).to(y.device, dtype=y.dtype, non_blocking=True),
    "type": lambda y: y.type(y.dtype).type_as(y).to(y),
    "detach": lambda y: y.detach(),
    "float": lambda y: y.float() if y.dtype == torch.float32 else y.double(),
}


@pytest.mark.parametrize("name", CASTS)
def test_a_cast_that_does_nothing(agrees, name):
    graph = agrees(Unary(CASTS[name]), SHAPE)
    assert {graph[each].kind for each in graph} == {"input", "conv", "identity", "output"}


@pytest.mark.parametrize(
    "call",
    [
        lambda y: y.half(),
        lambda y: y.double(),
        lambda y: y.to(torch.float64),
        lambda y: y.to(dtype=torch.int32),
        lambda y: y.type(torch.float16),
        lambda y: y.type("torch.DoubleTensor"),
        lambda y: y.long(),
        lambda y: y.type(),
        lambda y: y.to(torch.ones(1, dtype=torch.float64)),
    ],
)
def test_any_other_cast_is_refused(call):
    with pytest.raises(UnsupportedOpError, match="is not supported") as error:
        spikec.load(Unary(call), torch.zeros(2, *SHAPE))
    assert "test_functions.py" in error.value.location


def test_a_view_to_a_vector_is_a_flatten_and_one_that_changes_nothing_an_identity():
    graph = spikec.load(
        Unary(lambda y: y.view(y.size(0), 8, -1).view(y.size(0), 8, 24).view(y.size(0), -1)), torch.zeros(1, *SHAPE)
    )
    kinds = [type(graph[name]) for name in graph][2:-1]
    assert kinds == [Reshape, Identity, Flatten]


def test_shape_arithmetic_is_accounted_for():
    graph = spikec.load(Unary(lambda y: y.view(y.shape[0], -1)), torch.zeros(1, *SHAPE))
    assert [(s.kind, reason) for s, reason in graph.imported.dropped.items()] == [
        ("Tensor.shape", "shape arithmetic"),
        ("[]", "shape arithmetic"),
    ]


# ------------------------------------------------------- inputs and outputs

Pair = namedtuple("Pair", ["first", "second"])


class Container(nn.Module):
    def __init__(self, make):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 2)
        self.make = make

    def forward(self, x):
        return self.make(self.a(x), self.b(x))


@pytest.mark.parametrize(
    ("make", "structure", "names"),
    [
        (lambda a, b: a.relu(), 0, ("output",)),
        (lambda a, b: (b, a), (0, 1), ("output_0", "output_1")),
        (lambda a, b: [a, b], [0, 1], ("output_0", "output_1")),
        (lambda a, b: {"x": a, "y": (b, a)}, {"x": 0, "y": (1, 2)}, ("output_x", "output_y_0", "output_y_1")),
        (Pair, Pair(0, 1), ("output_0", "output_1")),
        (lambda a, b: (a,), (0,), ("output_0",)),
    ],
)
def test_the_models_own_container_is_kept(agrees, make, structure, names):
    graph = agrees(Container(make), (3,))
    assert graph.imported.structure == structure
    assert type(graph.imported.structure) is type(structure)
    assert graph.outputs == names


def test_inputs_are_the_arguments_without_a_default(agrees):
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(3, 4), nn.Linear(2, 4)

        def forward(self, left, right, mask=None, double=True, scale={"by": 0}, **rest):  # noqa: B006
            y = self.a(left) + self.b(right)
            if mask is not None:
                y = y * mask
            return y + y + scale["by"] if double else y

    graph = agrees(Optional(), (3,), (2,))
    assert graph.inputs == ("left", "right")
    assert all(source.kind == "+" or source.path for source in graph.sources)


@pytest.mark.slow
def test_a_graph_module_is_taken_as_it_is(agrees):
    model = torch.fx.symbolic_trace(nets.build("resnet"))
    graph = agrees(model, (3, 8, 10))
    assert len(graph.match(Add)) == 3


def test_a_graph_module_with_concrete_arguments(agrees):
    class Flag(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 4)

        def forward(self, x, double=True):
            return self.a(x).relu() if double else x

    graph = agrees(torch.fx.symbolic_trace(Flag(), concrete_args={"double": True}), (3,))
    assert graph.inputs == ("x",)


def test_a_branch_that_nobody_uses_is_dropped_and_said_so(agrees):
    class Aux(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.aux = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            y = self.a(x)
            self.aux(y).relu()
            return y

    graph = agrees(Aux(), (3,))
    assert len(graph) == 3
    assert {source.label: reason for source, reason in graph.imported.dropped.items()} == {
        "aux": "its result is not used",
        "relu": "its result is not used",
    }


def test_the_model_is_not_changed():
    model = nets.build("functional")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = set(vars(model))
    x = nets.batch("functional")
    before = x.clone()
    spikec.load(model, x)
    assert set(vars(model)) == attributes
    assert torch.equal(x, before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
