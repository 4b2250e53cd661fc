"""Products of two signals, norms and attention against torch: traced, and as programs of torch.export."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spikec
from spikec.ir.ops import MatMul, Multiply, Standardize

SHAPE = (4, 6, 8)


class Net(nn.Module):
    def __init__(self, call):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.gain, self.shift = nn.Parameter(torch.rand(4, 6, 8) + 0.5), nn.Parameter(torch.rand(4, 6, 8))
        self.forms = nn.Parameter(torch.randn(3, 8, 8))
        self.register_buffer("mask", torch.ones(6, 6).tril(2).bool())
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.rows = nn.Parameter(torch.randn(6, 8, 3))
        self.call = call
        self.eval()

    def forward(self, x):
        return self.call(self, self.conv(x))


PRODUCTS = {
    "*": lambda net, y: y * y.relu(),
    "gate": lambda net, y: y * y.mean((2, 3), keepdim=True),
    "spatial": lambda net, y: torch.mul(y, y.amax(1, keepdim=True)),
    "addcmul": lambda net, y: torch.addcmul(y, y, y.relu(), value=0.5),
    "bilinear": lambda net, y: F.bilinear(y.mean(2), y.amax(2), net.forms),
}
MATRICES = {
    "@": lambda net, y: y @ y.mT,
    "bmm": lambda net, y: torch.bmm(y.flatten(2), y.flatten(2).transpose(1, 2)),
    "baddbmm": lambda net, y: torch.baddbmm(y.mean(1), y.amax(1), y.mean((1, 2))[:, None].expand(-1, 8, -1), alpha=0.5),
    "einsum": lambda net, y: torch.einsum("b c i j, b c k j -> b k c i", y, y),
    "einsum outer": lambda net, y: torch.einsum("bci,bcj->bcij", y.mean(2), y.amax(3)),
}
NORMS = {
    "layer norm": lambda net, y: F.layer_norm(y, (8,)),
    "layer norm of all": lambda net, y: F.layer_norm(y, (4, 6, 8), net.gain, net.shift, 1e-3),
    "channels last": lambda net, y: F.layer_norm(y.permute(0, 2, 3, 1), (4,), net.gain[:, 0, 0]).permute(0, 3, 1, 2),
    "group norm": lambda net, y: F.group_norm(y, 2, net.gain[:, 0, 0], net.shift[:, 0, 0]),
    "one group": lambda net, y: F.group_norm(y, 1),
    "each channel": lambda net, y: F.group_norm(y, 4),
    "instance norm": lambda net, y: F.instance_norm(y),
    "instance norm with a gain": lambda net, y: F.instance_norm(y, weight=net.gain[:, 0, 0], bias=net.shift[:, 0, 0]),
    "rms norm": lambda net, y: F.rms_norm(y, (8,), net.gain[0, 0], 1e-4),
    "rms norm of two axes": lambda net, y: F.rms_norm(y, (6, 8)),
    "normalize": lambda net, y: F.normalize(y),
    "normalize maps": lambda net, y: F.normalize(y, dim=(2, 3), eps=0.5),
}
ATTENTION = {
    "attention": lambda net, y: F.scaled_dot_product_attention(y, y.relu(), y),
    "causal": lambda net, y: F.scaled_dot_product_attention(y, y, y, is_causal=True, scale=0.7),
    "bool mask": lambda net, y: F.scaled_dot_product_attention(y, y, y, attn_mask=net.mask),
    "added mask": lambda net, y: F.scaled_dot_product_attention(
        y, y, y, torch.where(net.mask, torch.ones_like(net.gain[0, :, :6]), -math.inf)
    ),
    "masked_fill": lambda net, y: torch.softmax((y @ y.mT).masked_fill(~net.mask, -math.inf), -1) @ y,
    "softmax within": lambda net, y: torch.softmax(y, 1).mean((2, 3)),
}
OTHERS = {
    "einsum with a matrix for each row": lambda net, y: torch.einsum("bchw,hwk->bchk", y, net.rows),
    "the same, in another order": lambda net, y: torch.einsum("hwk,bchw->bkhc", net.rows, y),
    "the same, of all that is left": lambda net, y: torch.einsum("bhw,hwk->bkh", y.mean(1), net.rows),
    "einsum with a row for each row": lambda net, y: torch.einsum("bchw,hw->bch", y, net.rows[..., 0]),
    "einsum with a matrix": lambda net, y: torch.einsum("bchw,wk->bkhc", y, net.forms[0]),
    "masked_fill with a number": lambda net, y: (y @ y.mT).masked_fill(net.mask, 0.3),
    "a token in front": lambda net, y: torch.cat([net.token.expand(y.shape[0], -1, -1), y.mean(1)], 1),
    "var": lambda net, y: torch.var(y, (2, 3)),
    "var unbiased": lambda net, y: y.var(1, unbiased=False, keepdim=True),
    "logsumexp": lambda net, y: torch.logsumexp(y, 1),
    "logsumexp of two axes": lambda net, y: y.logsumexp((2, 3), keepdim=True),
    "norm": lambda net, y: torch.norm(y, 2, 1),
    "norm of the method": lambda net, y: y.norm(dim=(2, 3), keepdim=True),
    "linalg.norm": lambda net, y: torch.linalg.norm(y, dim=-1),
    "Frobenius norm": lambda net, y: torch.linalg.norm(y, "fro", (2, 3)),
    "a tensor over a signal": lambda net, y: net.gain.exp() / (1 + y.abs()),
}
CALLS = PRODUCTS | MATRICES | NORMS | ATTENTION | OTHERS


@pytest.mark.parametrize("name", CALLS)
def test_call(agrees, name):
    agrees(Net(CALLS[name]), SHAPE)


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_exported(name):
    model, x = Net(CALLS[name]).double(), torch.randn(2, *SHAPE, dtype=torch.float64)
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(model, (x,), dynamic_shapes=(batch,))
    graph, x = spikec.load(program), torch.randn(3, *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(spikec.run(graph, x), model(x), rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "kind"),
    [(PRODUCTS, Multiply), (MATRICES, MatMul), (NORMS, Standardize)],
    ids=["products", "matrices", "norms"],
)
def test_each_is_one_op(names, kind):
    for name, call in names.items():
        graph = spikec.load(Net(call), torch.zeros(2, *SHAPE))
        assert len(graph.match(kind)) == 1, name


LAYERS = {
    "LayerNorm": (nn.LayerNorm(8), SHAPE),
    "GroupNorm": (nn.GroupNorm(2, 4), SHAPE),
    "InstanceNorm2d": (nn.InstanceNorm2d(4, affine=True), SHAPE),
    "RMSNorm": (nn.RMSNorm(8), SHAPE),
    "Bilinear": (nn.Bilinear(8, 8, 3), (8,), (8,)),
    "MultiheadAttention": (nn.MultiheadAttention(8, 2, batch_first=True), (5, 8), (7, 8), (7, 8)),
    "other widths": (nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True, bias=False), (5, 8), (7, 6), (7, 4)),
}


def encoder_layer(**options):
    return nn.TransformerEncoderLayer(8, 2, 6, batch_first=True, **options)


LAYERS |= {
    "TransformerEncoderLayer": (encoder_layer(), (5, 8)),
    "norms first": (encoder_layer(norm_first=True, activation="gelu", bias=False), (5, 8)),
    "TransformerEncoder": (
        nn.TransformerEncoder(encoder_layer(activation=nn.SiLU()), 2, nn.LayerNorm(8), enable_nested_tensor=False),
        (5, 8),
    ),
    "LocalResponseNorm": (nn.LocalResponseNorm(3, 0.5, 0.75, 2.0), SHAPE),
    "of an even window": (nn.LocalResponseNorm(2, 0.5), (4, 6)),
    "PairwiseDistance": (nn.PairwiseDistance(), (8,), (8,)),
}


class First(nn.Module):
    """The first of what a layer gives."""

    def __init__(self, layer, count):
        super().__init__()
        self.layer, self.count = layer.eval(), count

    def forward(self, a, b, c):
        result = self.layer(*(a, b, c)[: self.count])
        return result[0] if isinstance(self.layer, nn.MultiheadAttention) else result


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, agrees):
    layer, *shapes = LAYERS[name]
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -0.7, 0.9)
    unused = [(1,)] * (3 - len(shapes))
    graph = agrees(First(layer, len(shapes)).train(False), *shapes, *unused)
    assert {source.kind for source in graph.sources} >= {f"nn.{type(layer).__name__}"}


@pytest.mark.parametrize("mask", [torch.ones(5, 5).triu(1).bool(), torch.linspace(-1, 1, 25).reshape(5, 5)])
def test_an_encoder_with_a_mask(agrees, mask):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = encoder_layer(activation=nn.SiLU())
            self.register_buffer("mask", mask)

        def forward(self, x):
            return self.layer(x, self.mask)

    agrees(Masked().eval(), (5, 8))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda net, y: y * y.mean((2, 3)), "samples of shape"),
        (lambda net, y: y @ y.mean(1), "matmul of samples of shape"),
        (lambda net, y: y.mean((1, 2)) @ y.mean((1, 2)), "takes matrices"),
        (lambda net, y: torch.einsum("bchw,bchw,bchw->bc", y, y, y), "give two tensors"),
        (lambda net, y: torch.einsum("bchw,achw->bac", y, y), "mixes the samples"),
        (lambda net, y: torch.einsum("bchw,bhk->bckw", y, torch.ones(2, 6, 3)), "no product of a matrix"),
        (lambda net, y: F.normalize(y, 1.0), "1-norm"),
        (lambda net, y: torch.var(y), "all axes"),
        (lambda net, y: torch.linalg.norm(y, 2, (2, 3)), "matrix norm of order 2"),
        (lambda net, y: y.masked_fill(y, 0.0), "no comparison of a signal"),
        (lambda net, y: F.scaled_dot_product_attention(y, y, y, dropout_p=0.5), "dropout"),
        (lambda net, y: F.scaled_dot_product_attention(y, y, y, y @ y.mT), "mask that depends"),
    ],
)
def test_refusals(call, match):
    with pytest.raises(spikec.CompileError, match=match):
        spikec.load(Net(call), torch.zeros(2, *SHAPE))


class Doubled(nn.TransformerEncoderLayer):
    def forward(self, src, **masks):
        return 2 * super().forward(src, **masks)


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (nn.TransformerEncoderLayer(8, 2, 6), "batch_first=True"),
        (nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 6), 1, enable_nested_tensor=False), "batch_first=True"),
        (nn.TransformerEncoder(Doubled(8, 2, 6, batch_first=True), 1, enable_nested_tensor=False), "another class"),
    ],
)
def test_an_encoder_that_does_something_else_is_refused(layer, match):
    with pytest.raises(spikec.UnsupportedOpError, match=match):
        spikec.load(nn.Sequential(layer).eval(), torch.zeros(2, 5, 8))


@pytest.mark.parametrize(
    ("options", "match"),
    [({}, "batch_first=True"), ({"batch_first": True, "add_zero_attn": True}, "add_zero_attn are not supported")],
)
def test_what_an_attention_layer_may_not_do(options, match):
    model = First(nn.MultiheadAttention(8, 2, **options), 3).eval()
    with pytest.raises(spikec.UnsupportedOpError, match=match) as error:
        spikec.load(model, (torch.zeros(2, 5, 8),) * 3)
    assert error.value.location.startswith("layer (test_products.py")
