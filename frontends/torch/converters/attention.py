"""Converters of attention: products of signals, a softmax between them, and what masks it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikec.extend.composites import permuted
from spikec.frontends.torch.call import Call, Missing, Moved, Signal, as_array, converter, takes_moved
from spikec.frontends.torch.composed import composed
from spikec.frontends.torch.converters.arith import affine
from spikec.ir.ops import Head, Mask, MatMul

# --------------------------------------------------------------------- masking


def filled(call: Call, input: Signal, mask: Any, value: Any) -> Signal:
    """Cells that a constant mask marks get a number; minus infinity is what a softmax leaves out."""
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if not isinstance(mask, Tensor) or not isinstance(number, (int, float)):
        call.refuse("only a constant mask and one number are supported", "a compiled network has fixed wiring")
    marked = as_array(mask.to(torch.float64))
    if number != -math.inf:
        return affine(call, input, 1 - marked, number * marked)
    return call.add(Mask(_of_sample_rank(call, input, 1 - marked)), input)


def _of_sample_rank(call: Call, input: Signal, keep: Any) -> Any:
    """A mask that broadcasts against [B, ...], of the sample's rank."""
    rank = len(call.shape(input))
    if keep.ndim > rank:
        if keep.ndim > rank + 1 or keep.shape[0] != 1:
            call.refuse("the mask differs between the samples of a batch", "give one mask for all samples")
        keep = keep[0]
    return keep.reshape((1,) * (rank - keep.ndim) + keep.shape)


def masked(call: Call, input: Signal, mask: Tensor) -> Signal:
    """``input + mask``, or for a bool mask minus infinity where it is False, as attention takes a constant mask."""
    if mask.dtype == torch.bool:
        return call.add(Mask(_of_sample_rank(call, input, as_array(mask.to(torch.float64)))), input, part="masked")
    keep = torch.isfinite(mask)
    x = affine(call, input, np.ones(()), as_array(torch.where(keep, mask, 0.0)).astype(np.float64), part="biased")
    return x if bool(keep.all()) else masked(call, x, keep)


# ------------------------------------------------------------------- attention


@converter(F.scaled_dot_product_attention)
def attention(
    call: Call,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Signal:
    """``softmax(scale Q K^T + mask) V`` (Vaswani et al. 2017, eq. 1)."""
    for each in (query, key, value):
        if not isinstance(each, Signal):
            call.refuse("a query, key or value that does not depend on the model's input is not supported")
    if dropout_p:
        call.refuse(
            "dropout is active whatever the mode of the model", "dropout_p=self.dropout if self.training else 0"
        )
    if enable_gqa:
        call.refuse("enable_gqa=True is not supported", "repeat the heads of key and value: x.repeat_interleave(n, 1)")
    if attn_mask is not None and not isinstance(attn_mask, Tensor):
        call.refuse("a mask that depends on the model's input is not supported", "give a constant mask")
    factor = 1 / math.sqrt(call.shape(query)[-1]) if scale is None else scale
    rank = len(call.shape(key))
    turned = permuted(call, key, [*range(rank - 2), rank - 1, rank - 2], part="keys")
    queries = affine(call, query, np.asarray(factor), np.zeros(()), part="queries")
    scores = call.add(MatMul(), queries, turned, part="scores")
    if is_causal:
        rows, columns = call.shape(scores)[-2:]
        scores = masked(call, scores, torch.ones(rows, columns, dtype=torch.bool).tril())
    if attn_mask is not None:
        scores = masked(call, scores, attn_mask)
    weights = call.add(Head("softmax", len(call.shape(scores)) - 1), scores, part="weights")
    return call.add(MatMul(), weights, value)


# ---------------------------------------------------------------------- layers

_NO_WEIGHTS = Missing("the weights of an attention are used inside it alone")


@converter(nn.MultiheadAttention)
@takes_moved
def _multihead(module: nn.MultiheadAttention, call: Call) -> Any:
    """As its forward computes it, but with the samples kept apart all the way."""
    query, key, value, *rest = (*call.args, *(call.kwargs[x] for x in ("query", "key", "value") if x in call.kwargs))
    given = dict(zip(("key_padding_mask", "need_weights", "attn_mask", "average_attn_weights"), rest, strict=False))
    given |= {name: x for name, x in call.kwargs.items() if name not in ("query", "key", "value")}
    batch_first = module.batch_first
    _check_order(call, batch_first, query, key, value)
    if given.get("key_padding_mask") is not None or module.bias_k is not None or module.add_zero_attn:
        call.refuse("key_padding_mask, add_bias_kv and add_zero_attn are not supported", "leave them out")

    def attend(query: Any, key: Any, value: Any) -> Any:
        q, k, v = (_turned(batch_first, x) for x in (query, key, value))
        return _turned(batch_first, _attended(module, q, k, v, given.get("attn_mask")))

    return composed(call, attend, query, key, value), _NO_WEIGHTS


def _check_order(call: Call, batch_first: bool, *tensors: Any) -> None:
    """Refuse tensors whose first axis is the batch where the layer takes sequences before samples."""
    in_order = all(isinstance(x, Moved) and (x.axis, x.before) == (1, 1) for x in tensors)
    if not batch_first and not in_order:
        call.refuse("it takes sequences before samples", f"{call.source.kind}(..., batch_first=True)")


def _turned(batch_first: bool, x: Any) -> Any:
    """The sequence behind the samples, or back in front of them, where the layer takes it there."""
    return x if batch_first else x.transpose(0, 1)


def _attended(module: nn.MultiheadAttention, query: Any, key: Any, value: Any, mask: Any) -> Any:
    """What an attention gives, without its weights; a bool mask is True at what is left out."""
    heads = module.num_heads
    if isinstance(mask, Tensor):
        mask = ~mask if mask.dtype == torch.bool else mask
        mask = mask.reshape(-1, heads, *mask.shape[1:]) if mask.ndim == 3 else mask
    biases = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    weights: Any = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    if module.in_proj_weight is not None:
        weights = module.in_proj_weight.chunk(3)
    q, k, v = (
        torch.unflatten(F.linear(x, weight, bias), -1, (heads, -1)).transpose(1, 2)
        for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
    )
    y = F.scaled_dot_product_attention(q, k, v, mask)
    return F.linear(y.transpose(1, 2).flatten(2), module.out_proj.weight, module.out_proj.bias)


def _encoded(module: nn.TransformerEncoderLayer, x: Any, mask: Any) -> Any:
    def feed(y: Any) -> Any:
        return module.linear2(module.activation(module.linear1(y)))

    if module.norm_first:
        y = module.norm1(x)
        x = x + _attended(module.self_attn, y, y, y, mask)
        return x + feed(module.norm2(x))
    x = module.norm1(x + _attended(module.self_attn, x, x, x, mask))
    return module.norm2(x + feed(x))


@converter(nn.TransformerEncoderLayer, nn.TransformerEncoder)
@takes_moved
def _encoder(module: nn.Module, call: Call) -> Any:
    """A layer of a transformer's encoder (Vaswani et al. 2017), or a stack of them, as torch's slower path has it."""
    is_stack = isinstance(module, nn.TransformerEncoder)
    layers: Any = module.layers if is_stack else [module]
    mask_name = "mask" if is_stack else "src_mask"
    given = {**dict(zip(("src", mask_name, "src_key_padding_mask"), call.args, strict=False)), **call.kwargs}
    if given.get("src_key_padding_mask") is not None:
        call.refuse("src_key_padding_mask is not supported", "leave it out")
    if is_stack and not all(type(each) is nn.TransformerEncoderLayer for each in layers):
        call.refuse("a stack of layers of another class is not supported", "call them in a module of your own")
    orders = [each.self_attn.batch_first for each in layers]
    batch_first = all(orders)
    if any(orders) and not batch_first:
        call.refuse("some of its layers take the sequence first, and others the samples", "make them all alike")
    _check_order(call, batch_first, given["src"])

    def encode(x: Any) -> Any:
        x = _turned(batch_first, x)
        for each in layers:
            x = _encoded(each, x, given.get(mask_name))
        norm: Any = module.norm if is_stack else None
        return _turned(batch_first, x if norm is None else norm(x))

    return composed(call, encode, given["src"])


@converter("torchvision.models.swin_transformer.shifted_window_attention")
def _shifted_windows(
    call: Call,
    input: Signal,
    qkv_weight: Tensor,
    proj_weight: Tensor,
    relative_position_bias: Tensor,
    window_size: Sequence[int],
    num_heads: int,
    shift_size: Sequence[int],
    attention_dropout: float = 0.0,
    dropout: float = 0.0,
    qkv_bias: Tensor | None = None,
    proj_bias: Tensor | None = None,
    logit_scale: Tensor | None = None,
    training: bool = True,
) -> Any:
    """Attention within the windows of a map [H, W, C], which lie shifted (Liu et al. 2021), each an axis of the sample.

    A window that joins what is apart in the map gets -100 in its scores, as torchvision's own code has it.
    """
    if training and (attention_dropout or dropout):
        call.refuse("dropout is active", "call model.eval()")
    size, (height, width, _) = tuple(window_size), call.shape(input)
    count = tuple(-(-side // cells) for side, cells in zip((height, width), size, strict=True))
    shift = tuple(0 if n == 1 else int(by) for n, by in zip(count, shift_size, strict=True))
    bias = qkv_bias
    if logit_scale is not None and bias is not None:
        bias = torch.cat([part * keep for part, keep in zip(bias.chunk(3), (1, 0, 1), strict=True)])

    def windows(x: Any) -> Any:
        """[..., H, W, C] to [..., windows, cells, C]."""
        x = x.unflatten(-2, (count[1], size[1])).unflatten(-4, (count[0], size[0])).transpose(-3, -4)
        return x.flatten(-5, -4).flatten(-3, -2)

    scores_bias = relative_position_bias.detach()
    if any(shift):
        places = [
            torch.repeat_interleave(torch.arange(3), torch.tensor([n * s - s, s - by, by]))
            for n, s, by in zip(count, size, shift, strict=True)
        ]
        region = windows((3 * places[0][:, None] + places[1])[..., None])[..., 0]
        apart = region.unsqueeze(1) != region.unsqueeze(2)
        scores_bias = scores_bias + (-100.0 * apart)[None, :, None].to(scores_bias.dtype)

    def attend(x: Any) -> Any:
        x = F.pad(x, (0, 0, 0, count[1] * size[1] - width, 0, count[0] * size[0] - height))
        x = torch.roll(x, [-by for by in shift], (1, 2)) if any(shift) else x
        q, k, v = (
            torch.unflatten(part, -1, (num_heads, -1)).transpose(-2, -3)
            for part in F.linear(windows(x), qkv_weight, bias).chunk(3, -1)
        )
        if logit_scale is None:
            y = F.scaled_dot_product_attention(q, k, v, scores_bias)
        else:
            gain = logit_scale.clamp(max=math.log(100.0)).exp()
            scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * gain
            y = torch.softmax(scores + scores_bias, -1) @ v
        y = F.linear(y.transpose(-2, -3).flatten(-2), proj_weight, proj_bias)
        y = torch.unflatten(torch.unflatten(y, -2, size), -4, count).transpose(-3, -4).flatten(-5, -4).flatten(-3, -2)
        y = torch.roll(y, shift, (1, 2)) if any(shift) else y
        return y[:, :height, :width]

    return composed(call, attend, input)


@converter("torchvision.models.swin_transformer._patch_merging_pad")
def _merged_patches(call: Call, x: Signal) -> Any:
    """Four neighbouring cells of a map [H, W, C] beside each other; zeros behind a map of odd sides."""
    height, width, _ = call.shape(x)

    def merge(y: Any) -> Any:
        y = F.pad(y, (0, 0, 0, width % 2, 0, height % 2))
        return torch.cat([y[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)

    return composed(call, merge, x)
