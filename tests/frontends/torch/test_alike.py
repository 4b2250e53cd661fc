"""Constants that a model makes once for every sample, and numbers made of the batch size in which it cancels."""

import operator

import pytest
import torch
from torch import nn

import spikec
from spikec.ir.errors import UnsupportedOpError


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def positions(x):
    """As detection transformers and EdgeNeXt count rows and columns."""
    batch, _, height, width = x.shape
    inside = ~torch.zeros((batch, height, width)).bool()
    rows, columns = inside.cumsum(1, dtype=torch.float32), inside.cumsum(2, dtype=torch.float32)
    rows = rows / (rows[:, -1:, :] + 1e-6)
    both = torch.stack([rows, columns / columns[:, :, -1:]], 3).permute(0, 3, 1, 2)
    return (x + both.sin().to(x.dtype)).flatten(2) * both.reshape(batch, -1, height * width).to(x.dtype)


def _token(x):
    return torch.arange(2.0, dtype=x.dtype).reshape(1, 2, 1).expand(x.shape[0], -1, -1)


def _marked(mask, cells):
    mask[cells] = 3
    return mask


@pytest.mark.parametrize(
    "function",
    [
        positions,
        lambda x: x + torch.full((x.shape[0], 2, 1, 1), 3.0, dtype=x.dtype),
        lambda x: x * torch.ones(x.size(0), 2, 1, 5, dtype=x.dtype).mul_(2),
        lambda x: torch.cat([x, x.new_zeros(x.shape[0], 1, 4, 5) + 1], 1),
        lambda x: torch.cat([x.new_full((x.shape[0], 3, 4, 5), 0.5), x], 1),
        lambda x: x + x.new_ones(x.shape).cumsum(-1),
        lambda x: x + torch.arange(5.0, dtype=x.dtype).repeat(x.shape[0], 2, 4, 1).reshape(x.shape[0], 2, 4, -1).exp(),
        lambda x: x * torch.ones(x.shape[0], 2, 4, 5, dtype=x.dtype).chunk(2, -1)[0][..., :1],
        lambda x: x * torch.ones(x.shape[0], 1, dtype=x.dtype).mean() * 3,
        lambda x: x * ((4 * x.shape[0]) // x.shape[0]),
        lambda x: x.flatten(0, 1).view(-1, 2, 4, 5) * (x.flatten(0, 1).shape[0] // x.shape[0]),
        lambda x: torch.cat([x, _token(x).view(_token(x).shape[0], *_token(x).shape[1:], 1).expand(-1, -1, -1, 5)], 2),
        lambda x: x.flatten(2) + _token(x).size(0) * 0 + _token(x).reshape(_token(x).size()),
        lambda x: x * _marked(torch.ones(x.shape[0], 2, 1, 1, dtype=x.dtype), (slice(None), 0)),
        lambda x: x * torch.ones(x.shape[0], 2, 1, 1, dtype=x.dtype)[:1].cumsum(0),
        lambda x: x * (x.shape[0] / x.shape[0]) if x.shape[0] == x.relu().shape[0] else -x,
        lambda x: x * ((_token(x).numel() + 2 * x.shape[0]) // x.shape[0]),
        lambda x: x.repeat_interleave(3, 0).unflatten(0, (-1, 3)).cumsum(1),
        lambda x: torch.repeat_interleave(x, 2, dim=-4).relu().view(x.shape[0], 2, 2, 4, 5).sum(1),
    ],
)
def test_what_is_alike_for_all_samples_is_read(agrees, function):
    agrees(Net(function), (2, 4, 5))


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda x: x / torch.ones(x.shape[0], 1).sum(), "joins constants that are made for each sample"),
        (lambda x: x * torch.ones(x.shape[0], 2).cumsum(0).mean(), "joins constants"),
        (lambda x: x[:1] * torch.zeros(x.shape[0], 3).flatten()[0], "joins constants"),
        (lambda x: x * _marked(torch.ones(x.shape[0], 2, 1, 1), 0), "changes a part of constants"),
        (lambda x: x * _marked(torch.ones(x.shape[0], 2, 1, 1), slice(0, 1)), "changes a part of constants"),
        (lambda x: x + torch.zeros(2 * x.shape[0], 1, 1, 1)[:1], "size that depends on the batch"),
        (lambda x: x + torch.zeros(2, x.shape[0], 1, 1)[:1], "size that depends on the batch"),
        (lambda x: x + torch.zeros(x.shape[0], x.shape[0])[:1, :1, None, None], "size that depends on the batch"),
        (lambda x: x.flatten(1)[:, :3] + torch.ones(2, 3).repeat(x.shape[0], 1)[::2], "size that depends on the batch"),
        (lambda x: x.repeat_interleave(0, 0), "batch axis"),
        (lambda x: x + torch.full((x.shape[0], 1, 1, 1), x.shape[0]), "size that depends on the batch"),
        (lambda x: x + torch.full((x.shape[0], 1, 1, 1), fill_value=x.shape[0]), "size that depends on the batch"),
        (lambda x: x + x.new_full((x.shape[0], 1, 1, 1), x.shape[0]), "size that depends on the batch"),
        (lambda x: x + torch.zeros((x.shape[0], 1, 1, x.shape[0] % 7))[..., :1], "size that depends on the batch"),
        (lambda x: x + x.new_zeros(x.shape[0], 1, 1, x.shape[0] % 7)[..., :1], "depends on the batch size"),
        (lambda x: x.view(x.shape[0], -1, x.shape[0] % 7), "depends on the batch size"),
        (lambda x: x[:, : x.shape[0] % 7], "depends on the batch size"),
        (lambda x: x * (100 // (x.shape[0] - 1)), "depends on the batch size"),
        (lambda x: x * (x.shape[0] // 2), "depends on the batch size"),
        (lambda x: x * (x.shape[0] * x.shape[0]), "depends on the batch size"),
        (lambda x: x + x.new_zeros(1, x.shape[0], 1, 1)[:, :1], "size that depends on the batch"),
        (lambda x: x + torch.zeros(2, 3).reshape(x.shape[0], -1)[0, 0], "size that depends on the batch"),
        (lambda x: x.repeat_interleave(3, 0), "it repeats the batch axis"),
        (lambda x: x.repeat_interleave(3, 0) + x.repeat(3, 1, 1, 1), "it repeats the batch axis"),
    ],
)
def test_what_depends_on_the_batch_is_refused_at_the_users_line(function, match):
    with pytest.raises(UnsupportedOpError, match=match) as error:
        spikec.load(Net(function), torch.zeros(2, 2, 4, 5))
    assert "test_alike.py" in str(error.value)


def test_numbers_of_different_batches_are_not_one():
    """Of ``B`` and ``2 B`` the quotient is 2 for every batch, of ``B + 1`` and ``B`` it is 1 for most."""
    net = Net(lambda x: x * operator.floordiv(x.shape[0] + 1, x.shape[0]))
    with pytest.raises(UnsupportedOpError, match="depends on the batch size"):
        spikec.load(net, torch.zeros(1, 2, 4, 5))
