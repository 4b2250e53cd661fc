"""What only moves numbers about, in every spelling, against torch."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spikec
from spikec.frontends.torch import BATCH
from spikec.ir.errors import CompileError, UnsupportedOpError
from spikec.ir.ops import Concat, Flatten, Mask, MaxPool, Permute, Reshape, Slice, Upsample

SHAPE = (2, 6, 8)
INF = float("inf")


class Net(nn.Module):
    """A convolution to [B, 4, 6, 8], and a call on its result."""

    def __init__(self, call):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.call = call
        self.register_buffer("order", torch.tensor([2, 0, 3, 1, 1]))
        self.register_buffer("mask", torch.tensor([True, False, True, True]))
        self.eval()

    def forward(self, x):
        return self.call(self.conv(x))


def first_of(parts):
    a, *rest = parts
    return a if not rest else a - rest[-1]


ORDER = {
    "Tensor.permute": lambda y: y.permute(0, 2, 3, 1),
    "Tensor.permute tuple": lambda y: y.permute((0, 3, -2, 1)),
    "Tensor.permute dims=": lambda y: y.permute(dims=(0, 2, 1, 3)),
    "torch.permute": lambda y: torch.permute(y, (0, 2, 3, 1)),
    "Tensor.transpose": lambda y: y.transpose(1, -1),
    "torch.transpose": lambda y: torch.transpose(y, dim0=-1, dim1=2),
    "swapaxes": lambda y: torch.swapaxes(y.swapaxes(1, 2), axis0=2, axis1=3),
    "swapdims": lambda y: torch.swapdims(y.swapdims(1, 2), 2, 3),
    "movedim": lambda y: torch.movedim(y.movedim(1, -1), (2, 1), (1, 2)),
    "moveaxis": lambda y: torch.moveaxis(y.moveaxis(1, 2), -1, 1),
    "mT": lambda y: y.mT,
    "mH": lambda y: y.mH,
    "adjoint": lambda y: y.adjoint(),
    "torch.adjoint": lambda y: torch.adjoint(y),
    "channels last and back": lambda y: y.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2),
}
AXES = {
    "unsqueeze": lambda y: y.unsqueeze(1),
    "torch.unsqueeze -1": lambda y: torch.unsqueeze(y, -1),
    "squeeze": lambda y: y.mean([2, 3], keepdim=True).squeeze(-1).squeeze(2),
    "squeeze tuple": lambda y: torch.squeeze(y.mean([2, 3], keepdim=True), (2, 3)),
    "squeeze of a longer axis": lambda y: y.squeeze(1),
    "squeeze axis=": lambda y: torch.squeeze(y[:, :1], axis=1),
    "unflatten": lambda y: y.unflatten(1, (2, -1)),
    "torch.unflatten": lambda y: torch.unflatten(y, -1, (2, 4)),
    "unflatten of a vector": lambda y: y.flatten(1).unflatten(1, (3, 64)),
    "view by groups": lambda y: by_groups(y),
}
PARTS = {
    "chunk": lambda y: first_of(y.chunk(2, 1)),
    "torch.chunk uneven": lambda y: torch.cat(torch.chunk(y, 4, dim=2)[::-1], 2),
    "split": lambda y: first_of(y.split(3, dim=2)),
    "split sections": lambda y: first_of(y.split([1, 1, 2], 1)[:2]),
    "torch.split": lambda y: torch.split(y, 3, -1)[2],
    "split_with_sizes": lambda y: y.split_with_sizes([1, 3], 1)[1],
    "tensor_split": lambda y: torch.cat(y.tensor_split(3, dim=3)[::-1], 3),
    "torch.tensor_split at": lambda y: torch.tensor_split(y, (1, 3), dim=1)[1],
    "unbind": lambda y: first_of(y.unbind(1)),
    "torch.unbind": lambda y: torch.unbind(y, dim=-1)[3],
    "select": lambda y: y.select(1, -1),
    "torch.select": lambda y: torch.select(y, 2, 4),
    "narrow": lambda y: torch.narrow(y.narrow(1, 1, 3), 2, -4, 2),
    "one channel": lambda y: y[:, 1],
    "last channel": lambda y: y[:, -1],
    "slices": lambda y: y[:, 1:3, ::2, -4:],
    "slices beyond": lambda y: y[:, :100, 2:-1:3],
    "ellipsis": lambda y: y[..., 2:5],
    "ellipsis between": lambda y: y[:, 1, ..., 3],
    "None": lambda y: y[:, None, :, 2],
    "None last": lambda y: y[:, :, None, None, 0, :, None],
    "whole": lambda y: y[:],
    "whole batch": lambda y: y[: y.size(0), 0],
    "list": lambda y: y[:, [2, 1, 0]],
    "list of rows": lambda y: y[:, :, [5, 0, 0, 2]],
    "list of columns": lambda y: y[..., [1, -1]],
    "slices by sizes": lambda y: y[:, : y.shape[1] // 2, y.size(2) // 3 :],
    "flip": lambda y: y.flip(1),
    "torch.flip": lambda y: torch.flip(y, [2, -1]),
    "flip of a vector": lambda y: y.flatten(1).flip((1,)),
    "fliplr": lambda y: torch.fliplr(y).fliplr() - y.fliplr(),
    "roll": lambda y: torch.roll(y, (1, -2), (1, 3)),
    "roll nothing": lambda y: y.roll(6, 2),
    "roll one": lambda y: y.roll(shifts=-1, dims=2),
}
TOGETHER = {
    "cat axis=": lambda y: torch.cat([y, y.relu()], axis=-1),
    "cat of one": lambda y: torch.cat((y,), 1),
    "stack": lambda y: torch.stack([y, y.relu()], 1),
    "stack last": lambda y: torch.stack((y, y.relu(), y), dim=-1),
    "hstack": lambda y: torch.hstack([y, y[:, :1]]),
    "hstack of vectors": lambda y: torch.hstack([y.flatten(1), y.mean([2, 3])]),
    "column_stack": lambda y: torch.column_stack([y, y]),
    "dstack": lambda y: torch.dstack((y, y[:, :, 1:])),
    "expand": lambda y: y[:, :, :1, 2:3].expand(-1, -1, 3, 5),
    "expand batch": lambda y: y.mean([2, 3], keepdim=True).expand(y.size(0), 4, 6, 8) + y,
    "expand channels": lambda y: y[:, :1].expand(-1, 4, -1, -1) - y,
    "expand both": lambda y: y[:, :1, :1].expand(y.shape) - y,
    "expand nothing": lambda y: y.expand(-1, -1, -1, -1),
    "expand_as": lambda y: y - y.mean([2, 3], keepdim=True).expand_as(y),
    "broadcast_to": lambda y: torch.broadcast_to(y[:, 2:3], y.shape) + y[:, :1].broadcast_to(y.size()),
    "repeat": lambda y: y.repeat(1, 2, 1, 3),
    "repeat nothing": lambda y: y.repeat(1, 1, 1, 1),
    "tile": lambda y: torch.tile(y, (2, 1, 2)) - y.tile(1, 2, 1, 2).relu(),
    "repeat_interleave": lambda y: y.repeat_interleave(3, dim=2),
    "repeat_interleave channels": lambda y: torch.repeat_interleave(y, 2, 1),
}
RESIZE = {
    "interpolate": lambda y: F.interpolate(y, scale_factor=2),
    "interpolate pair": lambda y: F.interpolate(y, scale_factor=(3, 2), mode="nearest"),
    "interpolate uneven": lambda y: F.interpolate(y, size=(7, 11)),
    "interpolate to the size of": lambda y: F.interpolate(F.avg_pool2d(y, 2), size=y.shape[2:]),
    "interpolate 1.5": lambda y: F.interpolate(y, scale_factor=1.5, recompute_scale_factor=True),
    "interpolate exact": lambda y: F.interpolate(y, scale_factor=2, mode="nearest-exact"),
    "interpolate down": lambda y: F.interpolate(y, scale_factor=0.5),
    "interpolate exact down": lambda y: F.interpolate(y, (2, 4), mode="nearest-exact"),
    "interpolate same": lambda y: F.interpolate(y, (6, 8)),
    "interpolate area": lambda y: F.interpolate(y, (3, 5), mode="area"),
    "interpolate linear": lambda y: F.interpolate(y, scale_factor=2, mode="bilinear"),
    "interpolate corners": lambda y: F.interpolate(y, (9, 5), mode="bilinear", align_corners=True),
    "interpolate by steps": lambda y: F.interpolate(y, scale_factor=(1.7, 0.6), mode="bilinear"),
    "interpolate by sizes": lambda y: F.interpolate(y, scale_factor=1.7, mode="bilinear", recompute_scale_factor=True),
    "interpolate to one": lambda y: F.interpolate(y, (1, 1), mode="bilinear"),
    "interpolate linear same": lambda y: F.interpolate(y, scale_factor=1, mode="bilinear"),
    "interpolate cubic": lambda y: F.interpolate(y, scale_factor=1.5, mode="bicubic"),
    "interpolate smoothly": lambda y: F.interpolate(y, (4, 4), mode="bicubic", antialias=True),
    "interpolate linear 1d": lambda y: F.interpolate(y.flatten(2), scale_factor=2, mode="linear"),
    "interpolate linear 3d": lambda y: F.interpolate(y.unflatten(1, (2, 2)), (3, 5, 9), mode="trilinear"),
    "interpolate 1d": lambda y: F.interpolate(y.flatten(2), scale_factor=2),
    "interpolate 3d": lambda y: F.interpolate(y.unflatten(1, (2, 2)), scale_factor=(1, 2, 2)),
    "pixel_shuffle": lambda y: F.pixel_shuffle(y, 2),
    "pixel_unshuffle": lambda y: F.pixel_unshuffle(y, 2),
    "channel_shuffle": lambda y: F.channel_shuffle(y, 2),
    "channel_shuffle 1d": lambda y: torch.channel_shuffle(y.flatten(2), 2),
    "pad value": lambda y: F.pad(y, (1, 2, 0, 3), value=0.5),
    "pad value of channels kept": lambda y: F.pad(y, (1, 2, 0, 3, 0, 0), "constant", -2),
    "pad value of a vector batch": lambda y: F.pad(y.flatten(2), (1, 0), value=3),
    "pad replicate": lambda y: F.pad(y, (1, 2, 0, 3), "replicate"),
    "pad circular": lambda y: F.pad(y, (1, 2, 0, 3), mode="circular"),
    "pad negative": lambda y: F.pad(y, (-1, 2, 0, -3)),
    "skip of a CIFAR ResNet": lambda y: F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)),
}
ALL = {**ORDER, **AXES, **PARTS, **TOGETHER, **RESIZE}


def by_groups(y):
    b, c, h, w = y.shape
    torch._assert(c % 2 == 0, "an even number of channels")
    torch._assert(b > 0, "a batch")
    assert y.shape[1:].numel() == 192, "sizes"
    return y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(y.shape[:1] + (c, h * w))


LAYERS = {
    "nn.Unflatten": lambda: nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 4, 6)), nn.Unflatten(-1, [2, 3])),
    "nn.Upsample": lambda: nn.Upsample(scale_factor=2),
    "nn.Upsample size": lambda: nn.Upsample((7, 9), mode="nearest"),
    "nn.UpsamplingNearest2d": lambda: nn.UpsamplingNearest2d(scale_factor=3),
    "nn.PixelShuffle": lambda: nn.Sequential(nn.Conv2d(2, 8, 1), nn.PixelShuffle(2)),
    "nn.PixelUnshuffle": lambda: nn.PixelUnshuffle(2),
    "nn.ChannelShuffle": lambda: nn.Sequential(nn.Conv2d(2, 6, 1), nn.ChannelShuffle(3)),
    "nn.ZeroPad1d": lambda: nn.Sequential(nn.Flatten(2), nn.ZeroPad1d((1, 2))),
    "nn.ZeroPad2d": lambda: nn.ZeroPad2d((1, 2, 0, 3)),
    "nn.ZeroPad3d": lambda: nn.Sequential(nn.Unflatten(1, (1, 2)), nn.ZeroPad3d(1)),
    "nn.ConstantPad2d": lambda: nn.ConstantPad2d(2, 0.75),
    "nn.ReplicationPad2d": lambda: nn.ReplicationPad2d((1, 0, 2, 1)),
}


@pytest.mark.parametrize("name", ALL)
def test_call(agrees, name):
    agrees(Net(ALL[name]), SHAPE)


@pytest.mark.parametrize("name", LAYERS)
def test_layer(agrees, name):
    torch.manual_seed(0)
    agrees(LAYERS[name]().eval(), SHAPE)


def test_a_constant_index(agrees):
    net = Net(None)
    net.call = lambda y: torch.cat([y[:, net.order], y[:, net.mask], y.index_select(1, net.order)], 1)
    agrees(net, SHAPE)
    net.call = lambda y: torch.index_select(y, 2, index=net.order)
    agrees(net, SHAPE)


def kinds(call):
    graph = spikec.load(Net(call), torch.zeros(2, *SHAPE))
    return [graph[name] for name in graph][2:-1]


def test_what_a_call_becomes():
    (op,) = kinds(lambda y: y.permute(0, 2, 3, 1))
    assert isinstance(op, Permute)
    assert op.axes == (1, 2, 0)
    (a, b, cat) = kinds(lambda y: torch.cat(y.chunk(2, 1)[::-1], 1))
    assert [(x.axis, x.start, x.stop, x.step) for x in (a, b)] == [(0, 0, 2, 1), (0, 2, None, 1)]
    assert isinstance(cat, Concat)
    (op,) = kinds(lambda y: F.interpolate(y, scale_factor=2))
    assert (type(op), op.size) == (Upsample, (12, 16))
    assert [type(x) for x in kinds(lambda y: F.interpolate(y, scale_factor=0.5))] == [Slice, Slice]
    assert [type(x) for x in kinds(lambda y: F.channel_shuffle(y, 2))] == [Reshape, Permute, Reshape]
    assert [type(x) for x in kinds(lambda y: y[:, 0, 0])] == [Slice, Slice, Flatten]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda y: y.permute(1, 0, 2, 3), "moves the batch axis"),
        (lambda y: y.permute(0, 1, 2, 2), "no order"),
        (lambda y: y.transpose(0, 1), "moves the batch axis"),
        (lambda y: y.transpose(1, 4), "do not exist"),
        (lambda y: y.flatten(1).t(), "moves the batch axis"),
        (lambda y: y.flatten(1).T, "moves the batch axis"),
        (lambda y: y.movedim(0, 1), "moves the batch axis"),
        (lambda y: y.movedim(0, 7), "out of range"),
        (lambda y: y.unsqueeze(0), "along the batch axis"),
        (lambda y: y.unsqueeze(9), "does not exist"),
        (lambda y: y.squeeze(), "drops the batch axis"),
        (lambda y: y.squeeze(0), "along the batch axis"),
        (lambda y: y.unflatten(1, (3, 2)), "unflatten"),
        (lambda y: y.unflatten(0, (1, -1)), "along the batch axis"),
        (lambda y: y.chunk(2)[0], "along the batch axis"),
        (lambda y: y.split([1, 1], 1)[0], "split_with_sizes"),
        (lambda y: y.unbind()[0], "along the batch axis"),
        (lambda y: y.narrow(1, 2, 9), "do not exist"),
        (lambda y: y[0], "indexes the batch axis"),
        (lambda y: y[:1], "indexes the batch axis"),
        (lambda y: y[None], "indexes the batch axis"),
        (lambda y: y[::2], "indexes the batch axis"),
        (lambda y: y[[0, 1]], "indexes the batch axis"),
        (lambda y: y[:, 7], "out of range"),
        (lambda y: y[:, 3:2], "leaves nothing"),
        (lambda y: y[:, :, :, :, 0], "5 indices for a tensor of 4 axes"),
        (lambda y: y[:, [9]], "out of range"),
        (lambda y: y[:, [[0, 1]]], "no list of cell numbers"),
        (lambda y: y[:, "a"], "index that is a str"),
        (lambda y: y[:, y > 0], "index that depends on the model"),
        (lambda y: y[:, y.size(0) :], "made from the batch size"),
        (lambda y: y[:, y], "index that depends on the model's input"),
        (lambda y: y.flip(0), "along the batch axis"),
        (lambda y: y.roll(1), "roll without an axis"),
        (lambda y: torch.stack([y, y]), "along the batch axis"),
        (lambda y: torch.stack([y, torch.ones(2, 4, 6, 8)], 1), "does not depend on the model's input"),
        (lambda y: torch.vstack([y, y]), "along the batch axis"),
        (lambda y: y.expand(3, -1, -1, -1, -1), "in front of the batch"),
        (lambda y: y.expand(-1, 8, -1, -1), "expand"),
        (lambda y: y.repeat(2, 1, 1, 1), "repeats the batch axis"),
        (lambda y: y.repeat(1, 0, 1, 1), "zero times"),
        (lambda y: y.repeat_interleave(2), "along one axis"),
        (lambda y: F.interpolate(y, scale_factor=2, mode="trilinear"), "4D input, but trilinear"),
        (lambda y: F.interpolate(y, scale_factor=2, antialias=True), "Anti-alias option is restricted"),
        (lambda y: F.interpolate(y, scale_factor=1.4), "uneven distances"),
        (lambda y: F.interpolate(y.flatten(2), scale_factor=1.01), "uneven distances"),  # of one size, yet no identity
        (lambda y: F.interpolate(y, size=(4, 5)), "uneven distances"),
        (lambda y: F.interpolate(y, size=(4, 5, 6)), "[Ii]nput"),
        (lambda y: F.pixel_shuffle(y, 3), "no multiple of 3x3"),
        (lambda y: F.pixel_unshuffle(y, 4), "no multiple of 4"),
        (lambda y: F.channel_shuffle(y, 3), "no multiple of 3 groups"),
        (lambda y: F.pad(y, (1, 1), value=INF), "padding with inf"),
        (lambda y: F.pad(y, (1, -1), value=-INF), "padding with -inf"),
        (lambda y: F.pad(y, (0, 0, 0, 0, 1, 1), value=1.0), "padding channels with 1.0"),
    ],
)
def test_refusals(call, match):
    with pytest.raises(UnsupportedOpError, match=match) as error:
        spikec.load(Net(call), torch.zeros(2, *SHAPE))
    assert "test_movement.py" in error.value.location
    assert str(int(BATCH)) not in str(error.value)


POOLS = {
    "around a side": lambda y: F.max_pool2d(F.pad(y, (0, 1, 1, 0), value=-INF), 3, 2),
    "more than half a window": lambda y: F.max_pool2d(F.pad(y, (2, 2, 0, 3), value=-INF), (4, 3), 2),
    "one axis": lambda y: F.max_pool2d(F.pad(y, (1, 1), value=-INF), 3, 2, 1),
    "a line": lambda y: F.max_pool1d(F.pad(y.flatten(2), (1, 0), value=-INF), 2),
    "ceil_mode": lambda y: F.max_pool2d(F.pad(y, (0, 1, 0, 1), value=-INF), 3, 2, ceil_mode=True),
    "twice, and as it is": lambda y: (
        F.max_pool2d(p := F.pad(y, (0, 1, 0, 1), value=-INF), 2, 1)
        + F.max_pool2d(p, 2, 1).relu()
        + F.relu(p)[..., 1:, 1:]
    ),
}


@pytest.mark.parametrize("name", POOLS)
def test_a_max_pool_takes_the_minus_infinity_that_was_put_around_a_map(agrees, name):
    graph = agrees(Net(POOLS[name]), SHAPE)
    pools = graph.match(MaxPool)
    assert all(any(source.kind == "F.pad" for source in node.op.origin) for node in pools)
    assert not any(source.kind == "F.pad" for source in graph.imported.dropped)
    assert bool(graph.match(Mask)) == (name == "twice, and as it is")


@pytest.mark.parametrize(
    "pool",
    [
        lambda y: F.max_pool2d(F.pad(y, (0, 1, 0, 1)).masked_fill(torch.eye(7, 9).bool(), -INF), 2),
        lambda y: F.max_pool2d(F.pad(y, (0, 0, 0, 0, 1, 0), value=-INF), 2)[:, 1:],
    ],
)
def test_minus_infinity_elsewhere_is_not_taken_for_a_pools_padding(agrees, pool):
    assert len(agrees(Net(pool), SHAPE).match(Mask)) == 1


def test_minus_infinity_around_a_map_is_refused_elsewhere_at_the_users_line():
    x = torch.rand(4, *SHAPE)
    net = Net(lambda y: F.relu(F.conv2d(F.pad(y, (1, 1), value=-INF).relu(), torch.ones(1, 4, 2, 2))))
    with pytest.raises(UnsupportedOpError, match=r"around a map into a max-pool(.|\n)*") as error:
        spikec.compile(net, "spikingjelly", calibration=x)
    assert "test_movement.py" in str(error.value)
    net = Net(lambda y: F.max_pool2d(F.pad(y, (1, 1, 1, 1), value=-INF), 2, 2, ceil_mode=True))
    with pytest.raises(UnsupportedOpError, match="leave ceil_mode out"):
        spikec.load(net, torch.zeros(2, 2, 7, 7))


def test_an_assertion_that_fails_is_the_models():
    def asserting(y):
        torch._assert(y.shape[1] == 5, "five channels")
        return y

    with pytest.raises(CompileError, match="five channels"):
        spikec.load(Net(asserting), torch.zeros(2, *SHAPE))


# ------------------------------------------------------------ changed in place


def part_changed(y):
    a, b = y.chunk(2, 1)
    a = F.relu(a, inplace=True)
    return torch.cat([b, a], 1)


def part_changed_and_its_base_unused(y):
    z = y[:, 1:]
    z += 1
    return z.relu_()


def copy_changed(y):
    z = y[:, [1, 0]]
    z.relu_()
    return torch.cat([z, y], 1)


def expanded_copy_changed(y):
    z = y.repeat(1, 1, 1, 1)
    z.relu_()
    return z + y


@pytest.mark.parametrize("call", [part_changed, part_changed_and_its_base_unused, copy_changed, expanded_copy_changed])
def test_in_place(agrees, call):
    agrees(Net(call), SHAPE)


def slice_changed(y):
    y[:, :2].relu_()
    return y


def chunk_changed(y):
    y.chunk(2, 1)[0].relu_()
    return y


def transpose_changed(y):
    y.transpose(1, 2).relu_()
    return y


def base_changed(y):
    part = y[:, 0]
    y.relu_()
    return part


def rows_changed(y):
    top = y[:, :, :3]
    odd = y[:, :, 1::2]
    odd += 1
    return top


def unsqueezed_changed(y):
    y.unsqueeze(1).relu_()
    return y


@pytest.mark.parametrize(
    "call", [slice_changed, chunk_changed, transpose_changed, base_changed, rows_changed, unsqueezed_changed]
)
def test_in_place_on_an_overlapping_part(agrees, call):
    agrees(Net(call).eval(), SHAPE)


def test_a_part_of_a_list_index_is_a_selection_matrix():
    graph = spikec.load(Net(lambda y: y[:, [3, 0]]), torch.zeros(2, *SHAPE))
    op = graph[[*graph][2]]
    assert np.array_equal(op.weight[:, :, 0, 0], np.eye(4)[[3, 0]])
