"""GraphModules, models built in inference mode, and what torchvision's functions ask of their input."""

import pytest
import torch
from torch import fx, nn

import spikec
from spikec.ir.ops import BatchNorm


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(6, 6)

    def forward(self, x, scale=2.0):
        y = torch.relu(self.f(x))  # line: relu
        return y * scale + x.view(x.size(0), -1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = Block(), nn.Linear(6, 3)
        self.register_buffer("shift", torch.linspace(-1, 1, 6))

    def forward(self, x):
        return self.head(torch.relu(self.body(self.body(x) + self.shift, scale=0.5)))


class Leaves(fx.Tracer):
    """Leaves the user's own modules whole, as onnx2torch's models do."""

    def is_leaf_module(self, m, module_qualified_name):
        return isinstance(m, Block) or super().is_leaf_module(m, module_qualified_name)


def graph_module(model):
    return fx.GraphModule(model, Leaves().trace(model))


@pytest.mark.parametrize("with_example", [True, False])
def test_modules_that_a_graph_calls_are_gone_through(with_example):
    model, x = Net().eval(), torch.randn(5, 6)
    graph = spikec.load(graph_module(model), x if with_example else None)
    torch.testing.assert_close(spikec.run(graph, x), model(x).detach())
    sources = {source.path: source for source in graph.sources}
    assert {"body.f", "body", "head"} <= sources.keys()
    assert sources["body"].file == __file__
    assert {"relu", "add"} <= {source.node.split("_")[0] for source in graph.sources}


def test_a_graph_that_calls_a_graph():
    inner, x = graph_module(Net().eval()), torch.randn(5, 6)
    outer = fx.symbolic_trace(nn.Sequential(nn.Linear(6, 6), nn.ReLU()))
    model = nn.Sequential(outer, inner, nn.ReLU()).eval()
    graph = spikec.load(model, x)
    torch.testing.assert_close(spikec.run(graph, x), model(x).detach())


def test_what_such_a_module_cannot_do_is_refused_at_its_line():
    class Norm(Block):
        def forward(self, x, scale=1.0):
            return torch.cummax(x, 1)[0]

    model = Net().eval()
    model.body = Norm()
    with pytest.raises(spikec.UnsupportedOpError, match=r"cummax(.|\n)*body \(test_graph_modules.py"):
        spikec.load(graph_module(model), torch.randn(2, 6))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["spikingjelly", "nir", "netx"])
def test_a_model_built_in_inference_mode(target):
    with torch.inference_mode():
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 5)
        model = nn.Sequential(*layers).eval()
    x = torch.rand(16, 1, 8, 8)
    with torch.no_grad():
        wanted = model(x)
    spikec.compile(model, target, calibration=x, timesteps=8)
    torch.testing.assert_close(spikec.run(spikec.load(model, x), x), wanted)
    with torch.inference_mode():
        torch.testing.assert_close(spikec.run(spikec.load(model, x.clone()), x), wanted)


def normalized(tensor, mean, std, inplace):
    """As torchvision.transforms.functional.normalize does it."""
    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point() or tensor.ndim < 3:
        raise TypeError("no image")
    tensor = tensor if inplace else tensor.clone()
    dtype = tensor.dtype
    mean = torch.as_tensor(mean, dtype=dtype, device=tensor.device)
    std = torch.as_tensor(std, dtype=dtype, device=tensor.device)
    if (std == 0).any():
        raise ValueError(f"std is zero in {dtype}")
    return tensor.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))


@pytest.mark.parametrize("inplace", [False, True])
def test_images_are_normalized_as_torchvision_does_it(inplace, agrees):
    class Normalized(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return torch.relu(self.conv(normalized(x, [0.4, 0.5, 0.6], [0.2, 0.3, 0.25], inplace)))

    graph = agrees(Normalized().eval(), (3, 6, 5))
    assert graph.imported.notes == []
    assert len(graph.match(BatchNorm)) == 2
