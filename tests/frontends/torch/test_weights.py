"""Transposed convolutions, computed weights, sums and matrices, containers, against torch."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spikec
from spikec.ir.errors import InvalidModelError, TypeMismatchError, UnsupportedOpError
from spikec.ir.ops import AdaptiveAvgPool, Add, Conv, ConvTranspose, Linear, MaxPool

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")

SHAPE = (2, 6, 8)
TRANSPOSED = {
    "1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (4, 5)),
    "2d": (lambda: nn.ConvTranspose2d(3, 5, (3, 2), (2, 1), (1, 0), bias=False), (3, 4, 5)),
    "2d depthwise": (lambda: nn.ConvTranspose2d(4, 8, 2, 2, groups=4), (4, 3, 3)),
    "2d dilated": (lambda: nn.ConvTranspose2d(2, 3, 3, dilation=(2, 3), output_padding=(1, 2)), (2, 4, 3)),
    "2d output padding": (lambda: nn.ConvTranspose2d(2, 3, 4, 3, padding=2, output_padding=(2, 1)), (2, 4, 3)),
    "3d": (lambda: nn.ConvTranspose3d(2, 4, (1, 2, 3), stride=(1, 2, 2), padding=(0, 1, 1), groups=2), (2, 2, 3, 4)),
}
POOLS = {
    "adaptive max 1d": (lambda: nn.AdaptiveMaxPool1d(3), (2, 9)),
    "adaptive max 2d": (lambda: nn.AdaptiveMaxPool2d((1, None)), (2, 6, 4)),
    "adaptive max 3d": (lambda: nn.AdaptiveMaxPool3d(2), (2, 4, 4, 6)),
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_convolutions(agrees, name):
    make, shape = TRANSPOSED[name]
    torch.manual_seed(0)
    (node,) = agrees(nn.Sequential(make()), shape).match(ConvTranspose)
    assert node.op.out_features == make().out_channels


@pytest.mark.parametrize("name", POOLS)
def test_adaptive_max_pools(agrees, name):
    make, shape = POOLS[name]
    assert agrees(nn.Sequential(make()), shape).match(MaxPool)


class Net(nn.Module):
    def __init__(self, call):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1)
        self.kernel = nn.Parameter(torch.randn(4, 3, 2, 3))
        self.matrix = nn.Parameter(torch.randn(8, 5))
        self.rows = nn.Parameter(torch.randn(3, 6))
        self.bias = nn.Parameter(torch.randn(5))
        self.gain = nn.Parameter(torch.tensor(1.5))
        self.call = call
        self.eval()

    def forward(self, x):
        return self.call(self, self.conv(x))


CALLS = {
    "output_size": lambda net, y: net.up(net.down(y), output_size=(6, 8)) + y,
    "output_size of a tensor": lambda net, y: net.up(net.down(y), y.size()) + y,
    "F.conv_transpose2d": lambda net, y: F.conv_transpose2d(y, net.kernel, None, 2, 1, (1, 0)),
    "F.conv_transpose1d": lambda net, y: F.conv_transpose1d(y.flatten(2), net.kernel[..., 0], stride=2),
    "F.conv_transpose3d": lambda net, y: F.conv_transpose3d(y[:, :, None], net.kernel[..., None], bias=net.bias[:3]),
    "F.adaptive_max_pool2d": lambda net, y: F.adaptive_max_pool2d(y, 2),
    "mean of rows": lambda net, y: y.mean(2),
    "mean of columns": lambda net, y: torch.mean(y, dim=-1, keepdim=True),
    "mean of channels": lambda net, y: y.mean(1, keepdim=True),
    "mean of channels and rows": lambda net, y: y.mean((1, 2)),
    "mean of a vector": lambda net, y: y.flatten(1).mean(1, keepdim=True),
    "mean axis=": lambda net, y: torch.mean(y, axis=(2, 3), keepdims=True),
    "mean dtype": lambda net, y: y.mean((2, 3), dtype=y.dtype),
    "sum over space": lambda net, y: y.sum((2, 3)),
    "sum keepdim": lambda net, y: torch.sum(y, (2, 3), keepdim=True),
    "sum of channels": lambda net, y: y.sum(dim=1),
    "sum of all": lambda net, y: y.sum((1, 2, 3), keepdim=True),
    "cumsum of channels": lambda net, y: y.cumsum(1),
    "cumsum of columns": lambda net, y: torch.cumsum(y, dim=-1, dtype=y.dtype),
    "mean twice": lambda net, y: y.mean(3).mean(2),
    "@ matrix": lambda net, y: y @ net.matrix,
    "@ vector": lambda net, y: y @ net.matrix[:, 0],
    "matrix @": lambda net, y: net.rows @ y,
    "torch.matmul": lambda net, y: torch.matmul(y, net.matrix),
    "Tensor.matmul": lambda net, y: y.matmul(net.matrix),
    "torch.mm": lambda net, y: torch.mm(y.mean([1, 2]), net.matrix),
    "torch.addmm": lambda net, y: torch.addmm(net.bias, y.mean([1, 2]), net.matrix, beta=0.5, alpha=2),
    "scalar parameter": lambda net, y: (y * net.gain + net.gain) / net.gain,
    "weight computed": lambda net, y: F.linear(y, (net.matrix * net.gain).T, net.bias * 2),
    "+y": lambda net, y: +y.positive(),
}


@pytest.mark.parametrize("name", CALLS)
def test_call(agrees, name):
    agrees(Net(CALLS[name]), SHAPE)


def test_a_mean_is_a_pool_or_a_convolution():
    def load(call):
        return spikec.load(Net(call), torch.zeros(2, *SHAPE))

    (pool,) = load(lambda net, y: y.mean([2, 3])).match(AdaptiveAvgPool)
    assert pool.op.size == (1, 1)
    (pool,) = load(lambda net, y: y.mean(2)).match(AdaptiveAvgPool)
    assert pool.op.size == (1, None)
    assert load(lambda net, y: y.sum(1)).match(Conv)[1].op.weight.tolist() == [[[[1.0]]] * 4]
    assert load(lambda net, y: y @ net.matrix).match(Linear)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda net, y: F.conv_transpose2d(y, y), "computed from the model's input"),
        (lambda net, y: F.adaptive_max_pool2d(y, 4), "windows from .* are of different sizes"),
        (lambda net, y: F.adaptive_max_pool2d(y, 2, return_indices=True)[0], "return_indices"),
        (lambda net, y: y.mean(), "mean over all axes"),
        (lambda net, y: y.sum(0), "along the batch axis"),
        (lambda net, y: y.sum(1, dtype=torch.float16), "cast"),
        (lambda net, y: y.cumsum(0), "along the batch axis"),
        (lambda net, y: y @ torch.ones(2, 4, 8, 3), "no matrix"),
        (lambda net, y: torch.ones(3, 4) @ y.mean([2, 3]), "in front of the batch"),
        (lambda net, y: torch.addmm(y.mean([1, 2]), y.mean([1, 2]), torch.ones(8, 8)), "constant first"),
    ],
)
def test_refusals(call, match):
    with pytest.raises(UnsupportedOpError, match=match) as error:
        spikec.load(Net(call), torch.zeros(2, *SHAPE))
    assert "test_weights.py" in error.value.location


def test_an_impossible_output_size():
    with pytest.raises(TypeMismatchError, match="requested an output size of .* but valid sizes range") as error:
        spikec.load(Net(lambda net, y: net.up(net.down(y), output_size=(20, 20))), torch.zeros(2, *SHAPE))
    assert error.value.location.startswith("up (test_weights.py:")


# -------------------------------------------------------------- computed weights


class Half(nn.Module):
    def forward(self, weight):
        return weight / 2


def normed(wrap, layer, **options):
    torch.manual_seed(0)
    model = nn.Sequential(wrap(layer, **options), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1))
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(2, 2, 6, 8))
            for parameter in model.parameters():
                parameter.mul_(1.1)
    return model.eval()


NORMED = {
    "weight_norm": lambda: normed(nn.utils.weight_norm, nn.Conv2d(2, 4, 3)),
    "weight_norm of transposed": lambda: normed(nn.utils.weight_norm, nn.ConvTranspose2d(2, 4, 3), dim=1),
    "spectral_norm": lambda: normed(nn.utils.spectral_norm, nn.Conv2d(2, 4, 3)),
    "parametrized weight_norm": lambda: normed(nn.utils.parametrizations.weight_norm, nn.Conv2d(2, 4, 3)),
    "parametrized spectral_norm": lambda: normed(nn.utils.parametrizations.spectral_norm, nn.Conv2d(2, 4, 3)),
    "orthogonal": lambda: normed(nn.utils.parametrizations.orthogonal, nn.Conv2d(2, 4, 3)),
}


@pytest.mark.parametrize("name", NORMED)
def test_a_weight_that_is_computed(name):
    model = NORMED[name]()
    x = torch.randn(3, 2, 6, 8)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    graph = spikec.load(model, x)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.allclose(spikec.run(graph, x), model(x), atol=1e-5)


class Standardized(nn.Module):
    """A convolution whose weights are standardized whenever it runs, by a batch norm that trains (Qiao et al. 2019)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)

    def forward(self, x):
        weight = self.conv.weight
        normed = F.batch_norm(weight.reshape(1, 3, -1), None, None, training=True, momentum=0.0, eps=1e-6)
        return F.relu(F.conv2d(x, normed.reshape_as(weight), self.conv.bias))


@pytest.mark.parametrize("exports", [False, True])
def test_weights_that_a_batch_norm_standardizes_are_constants(exports):
    torch.manual_seed(0)
    model, x = Standardized().eval(), torch.randn(3, 2, 6, 8)
    graph = spikec.load(torch.export.export(model, (x,)) if exports else model, None if exports else x)
    assert [op.kind for _, op in graph.items()] == ["input", "conv", "relu", "output"]
    with torch.no_grad():
        assert torch.allclose(spikec.run(graph, x), model(x), atol=1e-5)


def test_weights_that_are_dropped_at_random_are_refused():
    class Dropped(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return F.linear(x, F.dropout(self.layer.weight, 0.5, training=True))

    with pytest.raises(InvalidModelError, match="training mode"):
        spikec.load(torch.export.export(Dropped().eval(), (torch.zeros(2, 3),)))


@pytest.mark.parametrize("wrap", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
def test_a_spectral_norm_in_training_mode_is_refused(wrap):
    with pytest.raises(InvalidModelError, match="training mode"):
        spikec.load(nn.Sequential(wrap(nn.Linear(3, 4))).train())


def test_another_hook_on_a_layer_is_refused():
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 4)))
    model[0].register_forward_hook(lambda module, args, result: 2 * result)
    with pytest.raises(InvalidModelError, match="hooks"):
        spikec.load(model)


def test_an_in_place_relu_behind_a_computed_weight_leaves_its_input_alone(agrees):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.utils.weight_norm(nn.Conv2d(2, 2, 3, padding=1))

        def forward(self, x):
            return F.relu(self.conv(x), inplace=True) + x

    x = torch.randn(2, *SHAPE)
    model = Residual().eval()
    with torch.no_grad():
        model(x)
        assert torch.allclose(spikec.run(spikec.load(model, x), x), model(x), atol=1e-5)


# -------------------------------------------------------- modules and containers


def test_lists_dicts_and_shared_layers(agrees):
    class Loops(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.blocks = nn.ModuleList([nn.Conv2d(2, 2, 3, padding=1) for _ in range(2)])
            self.heads = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Sequential(nn.Sequential(nn.Linear(2, 4)))})
            self.shared = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(inplace=True))
            self.scales = nn.ParameterDict({"s": nn.Parameter(torch.tensor(0.5))})

        def forward(self, x, y):
            for i, block in enumerate(self.blocks):
                x = self.shared(block(x)) * self.scales["s"] + (y if i == 0 else x)
            x = x.mean(dim=(-2, -1))
            return {name: head(x) for name, head in self.heads.items()}

    graph = agrees(Loops(), SHAPE, SHAPE)
    assert graph.imported.structure == {"a": 0, "b": 1}
    assert len(graph.match(Add)) == 2


@dataclass
class Answer:
    logits: torch.Tensor
    features: torch.Tensor


@pytest.mark.slow
def test_a_dataclass_is_kept():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            features = self.body(x).relu()
            return Answer(logits=self.head(features), features=features)

    model, x = Net(), torch.rand(64, 3)
    graph = spikec.load(model, x)
    assert graph.imported.structure == Answer(0, 1)
    assert graph.outputs == ("output_logits", "output_features")
    snn = spikec.compile(model, "spikingjelly", calibration=x)
    with torch.no_grad():
        wanted, steps = model(x), [snn(x) for _ in range(256)]
    assert isinstance(steps[0], Answer)
    mean = torch.stack([step.logits for step in steps]).mean(0)
    assert (mean - wanted.logits).abs().max() < 0.05
