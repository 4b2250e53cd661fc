"""Signals whose batch is not their first axis: what is read of them is what torch computes, the rest is refused."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import moved_nets
import spikec
from moved_nets import Net
from spikec.frontends.torch import converter
from spikec.frontends.torch.batch import BATCH
from spikec.frontends.torch.converters.shapes import transpose
from spikec.frontends.torch.regrouping import _place, regrouped_sizes
from spikec.ir.errors import UnsupportedOpError
from spikec.ir.ops import Relu
from spikec.ir.stages import IMPORTED
from spikec.ir.verify import verify


def same(graph, net, *shape):
    verify(graph, IMPORTED, graph.sources)
    torch.manual_seed(1)
    x = torch.randn(*shape)
    with torch.no_grad():
        wanted = net(x)
    assert wanted.std() > 0.01
    assert (spikec.run(graph, x) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


# ------------------------------------------------------------------ networks


@pytest.mark.parametrize("name", moved_nets.NETS)
def test_a_module_is_read_for_any_batch(name, agrees):
    agrees(moved_nets.build(name), (5, 6))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.parametrize("batch", [1, 4, 5, None], ids=["one", "four", "as long as a sequence", "open"])
@pytest.mark.parametrize("name", moved_nets.NETS)
def test_an_exported_program_is_read_for_any_batch(name, batch):
    net = moved_nets.build(name)
    shapes = None if batch else ({0: torch.export.Dim("batch")},)
    program = torch.export.export(net, (torch.zeros(batch or 4, 5, 6),), dynamic_shapes=shapes)
    same(spikec.load(program), net, 3, 5, 6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_layers_on_sequences_are_read_of_core_operators():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    program = torch.export.export(net, (torch.zeros(4, 5, 6),)).run_decompositions()
    same(spikec.load(program), net, 3, 5, 6)


@pytest.mark.slow
def test_an_attention_that_is_exported_compiles_and_answers_as_its_module():
    net = moved_nets.build("encoder")
    torch.manual_seed(2)
    x = torch.randn(32, 5, 6)
    program = torch.export.export(net, (x[:2],))
    runs = [spikec.compile(each, "spikingjelly", calibration=x, normalization="max") for each in (net, program)]
    with torch.no_grad():
        wanted = net(x)
        errors = [(spikec.simulate(each, x, timesteps=64).means[-1] - wanted).std() for each in runs]
    assert max(errors) < 0.25 * wanted.std()
    assert abs(errors[0] - errors[1]) < 0.05 * wanted.std()


# ----------------------------------------------------------------- functions

WEIGHT = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
HEADS = torch.tensor([[0.5, -math.inf], [1.0, 2.0]])


def _heads(attention, y):
    """[5, B, 6] as [5, B, 2, 3], and back."""
    return attention(y.unflatten(2, (2, 3))).flatten(2)


FUNCTIONS = {
    "operators": lambda y: -(y * 2 + y / 3 - 1),
    "two of them": lambda y: y.clone() + F.relu(y) - y * 0.5,
    "a signal of samples": lambda y: y + y.transpose(0, 1).mean(1).unsqueeze(1).transpose(0, 1),
    "a constant for each cell": lambda y: y + torch.arange(5.0).view(5, 1, 1),
    "linear": lambda y: F.linear(y, WEIGHT, WEIGHT[:, 0]),
    "matmul": lambda y: y @ WEIGHT.t(),
    "bmm": lambda y: torch.bmm(y.permute(1, 0, 2), y.permute(1, 2, 0)).transpose(0, 1),
    "addmm": lambda y: torch.addmm(WEIGHT[:, 0], y.reshape(-1, 6), WEIGHT.t()).view(5, -1, 4),
    "layer norm": lambda y: F.layer_norm(y, (6,)),
    "dropout": lambda y: F.dropout(y, 0.5, training=False),
    "activations": lambda y: sum(f(y) for f in (F.gelu, F.silu, F.mish, F.elu, F.softplus, F.leaky_relu)),
    "bounded activations": lambda y: sum(f(y) for f in (F.hardtanh, F.relu6, F.hardswish, F.hardsigmoid)),
    "curves": lambda y: torch.sigmoid(y) + torch.tanh(y) + torch.exp(y) + torch.square(y),
    "roots": lambda y: torch.sqrt(y.clamp(min=0) + 1) + torch.rsqrt(torch.clamp_min(y, 1)) + torch.pow(y, 2),
    "extremes": lambda y: torch.maximum(y, -y) + torch.minimum(y, 2 * y),
    "functions": lambda y: sum(f(y) for f in (torch.abs, torch.sin, torch.cos, torch.expm1, torch.erf, torch.atan)),
    "more activations": lambda y: sum(f(y) for f in (F.selu, F.celu, F.softsign, F.logsigmoid, F.tanhshrink)),
    "logarithms": lambda y: torch.log(y.abs() + 1) + torch.log1p(y * y) - torch.reciprocal(y.square() + 1),
    "addcmul": lambda y: torch.addcmul(y, y, y.relu(), value=0.5),
    "rms norm": lambda y: F.rms_norm(y, (6,), WEIGHT[0], 1e-5),
    "log of a sum": lambda y: y.logsumexp(2, keepdim=True) + torch.logsumexp(y, 0, keepdim=True),
    "running sums": lambda y: y.cumsum(0) + torch.cumsum(y, -1),
    "glu": lambda y: F.glu(y) + F.glu(y, 2),
    "turned round": lambda y: y.flip(0, 2) + torch.roll(y, (1, 2), (2, 0)) + y.roll(1, -1),
    "softmax": lambda y: F.softmax(y, -1) + torch.softmax(y, 2),
    "log softmax": lambda y: torch.log_softmax(y, 0),
    "mean": lambda y: y.mean(-1, keepdim=True) + y.mean(0, True),
    "sum": lambda y: y.sum(2, keepdim=True),
    "extreme of an axis": lambda y: y.amax(0, keepdim=True) + y.amin(-1, keepdim=True),
    "norm": lambda y: torch.linalg.vector_norm(y, 2, -1, keepdim=True),
    "expand as": lambda y: y[:1].expand_as(y) + y,
    "expand": lambda y: y.unsqueeze(2).expand(5, -1, 2, 6).sum(2) + y[:1].expand(5, *y.shape[1:]),
    "reshape as": lambda y: y.flatten(0, 1).reshape_as(y) + y.flatten(1).view_as(y),
    "pad": lambda y: F.pad(y, (1, 0)) + F.pad(y, (0, 1, 0, 0, 1, -1)) + F.pad(y, (0, 1), value=0.5),
    "normalize": lambda y: F.normalize(y, dim=-1) - F.normalize(y, dim=(0, 2)),
    "attention": lambda y: _heads(lambda h: F.scaled_dot_product_attention(h, h.sin(), 2 * h, HEADS), y),
    "attention, causal": lambda y: _heads(lambda h: F.scaled_dot_product_attention(h, h, h, is_causal=True), y),
    "named arguments": lambda y: F.gelu(y, approximate="tanh") + torch.add(y, y, alpha=2) - torch.sub(1, y, alpha=0.5),
    "cat": lambda y: torch.cat([y, 2 * y]),
    "chunk": lambda y: y.chunk(2, -1)[1],
    "split": lambda y: y.split([2, 4], 2)[1],
    "unbind": lambda y: y.unbind(2)[3].unsqueeze(-1),
    "select": lambda y: y.select(0, 2).unsqueeze(0),
    "narrow": lambda y: y.narrow(0, 1, 3),
    "indices": lambda y: y[1:4, :, ::2],
    "indices of some axes": lambda y: y[1:, ..., None].squeeze(-1) + y[None, ..., :1][0, 1:] + y[..., 3:4][:1],
    "an index of the last axis": lambda y: y[..., 2] + y[:, :, 0],
    "squeeze": lambda y: y.unsqueeze(2).unsqueeze(0).squeeze(0).squeeze(2),
    "flatten": lambda y: y.flatten(1).unflatten(1, (-1, 6)),
    "unflatten": lambda y: y.unflatten(2, (2, 3)).flatten(2),
    "unflatten the batch": lambda y: y.unflatten(1, (1, -1)).squeeze(1) * 2,
    "order": lambda y: y.movedim(2, 0).permute(1, 2, 0).swapaxes(0, 2).transpose(0, 2),
    "joined behind": lambda y: y.reshape(5, -1).view(5, -1, 6),
    "joined in front": lambda y: y.flatten(0, 1).relu().view(5, -1, 6),
    "what it says of itself": lambda y: (
        y * y.shape[0] + y.size(2) - y.ndim + y.dim() + y.new_ones(6) + y.new_full((1,), 2.0)
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_along_other_axes_is_torchs(name):
    function = FUNCTIONS[name]
    net = Net(lambda x: function(torch.transpose(x, 0, 1)).transpose(0, 1))
    same(spikec.load(net, torch.zeros(2, 5, 6)), net, 3, 5, 6)


def test_windows_that_are_joined_to_the_batch_are_cells_of_a_sample(agrees):
    def windows(x):
        batch, height, width, channels = x.shape
        y = x.view(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, channels)
        y = F.softmax(y @ y.transpose(-1, -2), -1) @ y
        y = y.view(batch, height // 2, width // 2, 2, 2, channels).permute(0, 1, 3, 2, 4, 5)
        return y.reshape(batch, height, width, channels)

    agrees(Net(windows), (4, 6, 3))


def test_constants_that_are_made_like_a_signal_are_constants():
    net = Net(
        lambda x: torch.cat([x, x.new_zeros(1, 5, 2)], 2) + x.new_ones((8,), dtype=torch.float32) * x.new_full([1], 3)
    )
    graph = spikec.load(net, torch.zeros(2, 5, 6))
    same(graph, net, 1, 5, 6)
    assert set(graph.imported.dropped.values()) == {"a constant"}


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y.softmax(1),
        lambda y: y.cumsum(1),
        lambda y: y.sum(1).unsqueeze(1),
        lambda y: y.mean((0, 1)),
        lambda y: y.amax(1, keepdim=True),
        lambda y: y[:, 0],
        lambda y: y[:, 1:],
        lambda y: y[..., 0, :],
        lambda y: y[None, :, 1:],
        lambda y: y.flatten(0, 1)[::5].unsqueeze(0),
        lambda y: F.normalize(y),
        lambda y: y.roll(1, 1),
        lambda y: y.logsumexp((1, 2)),
        lambda y: F.rms_norm(y.transpose(1, 2), (2,)),
        lambda y: F.pad(y, (0, 0, 1, -1)),
        lambda y: F.scaled_dot_product_attention(y, y, y),
        lambda y: F.scaled_dot_product_attention(*[y.transpose(1, 2)] * 3),
        lambda y: _heads(lambda h: F.scaled_dot_product_attention(h, h, h, torch.eye(2)[:, None].expand(2, 2, 2)), y),
        lambda y: _heads(lambda h: F.scaled_dot_product_attention(h, h, h.transpose(1, 3)), y),
        lambda y: y.expand(5, 2, 6),
        lambda y: y.select(1, 0),
        lambda y: y.chunk(2, 1)[0],
        lambda y: torch.cat([y, y], 1),
        lambda y: y + y.transpose(0, 1),
        lambda y: y.permute(2, 1, 0) @ y.permute(2, 0, 1),
        lambda y: y.permute(2, 0, 1) @ torch.ones(2, 2),
        lambda y: y + torch.arange(2.0).view(2, 1),
        lambda y: y.flatten(0, 1) + y.transpose(0, 1).flatten(0, 1),
        lambda y: y.flatten(0, 1).view(2, 5, 6) * 2,
        lambda y: y.reshape(6, -1),
        lambda y: F.layer_norm(y.transpose(1, 2), (2,)),
        lambda y: y.flip(1),
        lambda y: F.conv1d(y, torch.ones(1, 2, 1)),
        lambda y: y.double().H,
        lambda y: torch.stack([y, y]),
    ],
)
def test_what_mixes_samples_is_refused_where_the_batch_moves(function):
    net = Net(lambda x: function(torch.transpose(x, 0, 1)).transpose(0, 1))
    with pytest.raises(UnsupportedOpError, match="cannot take such a tensor"):
        spikec.load(net, torch.zeros(2, 5, 6))


def test_samples_that_a_view_deals_out_anew_are_refused():
    for function in (lambda x: x.view(5, -1, 6).sum(0), lambda x: x.flatten(0, 1).view(5, -1, 6).sum(0)):
        with pytest.raises(UnsupportedOpError, match="batch axis"):
            spikec.load(Net(function), torch.zeros(2, 5, 6))


def test_a_refusal_names_both_calls():
    net = nn.Sequential(nn.Flatten(0), nn.Linear(60, 3))
    with pytest.raises(UnsupportedOpError) as caught:
        spikec.load(net, torch.zeros(2, 5, 6))
    (problem,) = caught.value.problems
    assert problem.location == "0"
    assert problem.message == "it flattens the batch axis too, and nn.Linear, at 1, cannot take such a tensor"
    assert [each.path for each in problem.origin] == ["0", "1"]
    with pytest.raises(UnsupportedOpError, match="flattens the batch axis too\n"):
        spikec.load(nn.Sequential(nn.Linear(6, 3), nn.Flatten(0)), torch.zeros(2, 5, 6))


def test_an_attention_that_takes_samples_first_is_refused_where_they_are_not():
    net = Net(lambda x: net.attention(*(x.transpose(0, 1),) * 3)[0])
    net.attention = nn.MultiheadAttention(6, 1, batch_first=True)
    with pytest.raises(UnsupportedOpError, match="moves the batch axis"):
        spikec.load(net.eval(), torch.zeros(2, 5, 6))


def test_layers_that_take_the_sequence_first_are_refused_where_samples_are():
    for layer in (nn.MultiheadAttention(6, 1), nn.TransformerEncoderLayer(6, 1, 8)):
        net = Net(lambda x, layer=layer: layer(x, x, x)[0] if isinstance(layer, nn.MultiheadAttention) else layer(x))
        net.layer = layer
        with pytest.raises(UnsupportedOpError, match=r"sequences before samples[\s\S]*batch_first=True"):
            spikec.load(net.eval(), torch.zeros(2, 5, 6))


def test_a_stack_whose_layers_differ_in_order_is_refused():
    net = Net(lambda x: net.stack(x.transpose(0, 1)).transpose(0, 1))
    net.stack = nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 1, 8), 2, enable_nested_tensor=False)
    net.stack.layers[1].self_attn.batch_first = True
    with pytest.raises(UnsupportedOpError, match="some of its layers take the sequence first"):
        spikec.load(net.eval(), torch.zeros(2, 5, 6))


def test_a_change_in_place_of_a_view_that_moved_is_followed_or_refused(agrees):
    def unused(x):
        y = torch.relu(x).transpose(0, 1)
        return (y.mul_(2) + 1).transpose(0, 1)

    agrees(Net(unused), (5, 6))

    def used(x):
        x = torch.relu(x)
        y = x.transpose(0, 1)
        y.mul_(2)
        return x + 1

    with pytest.raises(UnsupportedOpError, match="changes a tensor in place"):
        spikec.load(Net(used), torch.zeros(2, 5, 6))


def test_a_change_in_place_of_samples_that_are_joined_is_refused_where_a_part_of_them_is_used():
    def net(x):
        y = torch.relu(x).view(-1, 6)
        part = y[:, 1:]
        y.mul_(2)
        return part.view(-1, 5, 5)

    with pytest.raises(UnsupportedOpError, match="changes a tensor in place"):
        spikec.load(Net(net), torch.zeros(2, 5, 6))


def test_an_op_is_never_put_behind_a_signal_that_moved():
    class Own(nn.Module):
        def forward(self, x):
            return x

    @converter(Own)
    def _own(module, call):
        return call.add(Relu(), transpose(call, call.operand, 0, 1))

    with pytest.raises(UnsupportedOpError, match="it moves the batch axis"):
        spikec.load(nn.Sequential(Own()), torch.zeros(2, 5, 6))


# --------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("old", "front", "shape", "wanted"),
    [
        ((5, 1, 8), 5, (5, 8, 4), ([5, 2, 4], 1, 1)),  # N = 4: [L, N * H, C]
        ((5, 1, 2, 4), 5, (20, 8), ([5, 8], 0, 5)),  # [L * N, C]
        ((5, 8), 5, (5, 4, 8), ([5, 1, 8], 1, 1)),
        ((5, 1, 8), 5, (5, 2, 4), ([5, 2, 4], 1, 1)),  # the same, N = 1
        ((5, 1, 2, 4), 5, (5, 8), ([5, 8], 0, 5)),
        ((5, 8), 5, (5, 1, 8), ([5, 1, 8], 1, 1)),
        ((5, 1, 8), 5, (5, BATCH * 2, 4), ([5, 2, 4], 1, 1)),
        ((5, 1, 8), 5, (-1, 8), ([5, 8], 0, 5)),
        ((5, 1, 8), 5, (-1, -1), None),
        ((5, 1, 8), 5, (7, 8), None),
        ((5, 1, 8), 5, (0, 8), None),
        ((0, 1, 8), 0, (4, 8), None),
        ((1, 5, 8), 1, (5, BATCH, 8), None),  # which deals samples out anew
        ((1, 5, 8), 1, (5, 4, 8), None),
    ],
)
def test_sizes_say_where_the_batch_is(old, front, shape, wanted):
    assert regrouped_sizes(old, front, shape) == wanted


def test_a_batch_of_one_stands_alone_where_it_can():
    assert _place(1, (1, 2, 5, 4)) == 0
    assert _place(5, (5, 2, 4)) == 1
    assert _place(5, (5, 8)) == 0
    assert _place(1, (8,)) == 0
