"""Attention layers against the formulas."""

import torch
from torch import Tensor

from live_avatar.model.attention import Attention, CrossAttention, RMSNorm, SelfAttention, attend
from tests.model.random_dit import randomise

HEADS, HEAD_DIM = 3, 4
DIM = HEADS * HEAD_DIM


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """One head after the other, in float64."""
    heads = []
    for head in range(q.shape[2]):
        scores = q[:, :, head].double() @ k[:, :, head].double().mT / q.shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        heads.append(scores.softmax(dim=-1) @ v[:, :, head].double())
    return torch.stack(heads, dim=2).float()


def test_attend_is_softmax_attention() -> None:
    q, k, v = random(0, 2, 5, HEADS, HEAD_DIM), random(1, 2, 7, HEADS, HEAD_DIM), random(2, 2, 7, HEADS, HEAD_DIM)
    torch.testing.assert_close(attend(q, k, v), softmax_attention(q, k, v), rtol=1e-5, atol=1e-6)
    mask = random(3, 5, 7) > 0
    mask[:, 0] = True
    torch.testing.assert_close(attend(q, k, v, mask), softmax_attention(q, k, v, mask), rtol=1e-5, atol=1e-6)


def test_order_of_keys_does_not_matter() -> None:
    q, k, v = random(0, 1, 4, HEADS, HEAD_DIM), random(1, 1, 6, HEADS, HEAD_DIM), random(2, 1, 6, HEADS, HEAD_DIM)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(attend(q, k[:, order], v[:, order]), attend(q, k, v), rtol=1e-5, atol=1e-6)


def test_rms_norm_is_over_all_channels_and_scaled_after_rounding() -> None:
    norm = RMSNorm(DIM, eps=1e-6)
    randomise(norm)
    x = 5 * random(1, 2, 3, DIM)
    expected = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-6) * norm.weight
    torch.testing.assert_close(norm(x), expected, rtol=1e-5, atol=1e-6)
    low = norm.to(torch.bfloat16)
    rounded = x.bfloat16()
    unit = (rounded.float() * torch.rsqrt(rounded.float().square().mean(dim=-1, keepdim=True) + 1e-6)).bfloat16()
    assert torch.equal(low(rounded), unit * low.weight)


def test_heads_are_consecutive_channels_and_come_back_in_order() -> None:
    attention = Attention(DIM, HEADS, eps=1e-6)
    randomise(attention)
    x = random(1, 1, 2, DIM)
    flat = attention.norm_q(attention.q(x))
    queries = attention.queries(x)
    keys, values = attention.keys_values(x)
    for head in range(HEADS):
        assert torch.equal(queries[:, :, head], flat[..., head * HEAD_DIM : (head + 1) * HEAD_DIM])
    assert torch.equal(values.flatten(-2), attention.v(x)), "values are not normalised"
    assert torch.equal(keys.flatten(-2), attention.norm_k(attention.k(x)))
    assert torch.equal(attention.output(queries), attention.o(flat))


def test_self_attention_hands_its_layer_and_projections_to_the_pattern() -> None:
    attention = SelfAttention(DIM, HEADS, eps=1e-6)
    randomise(attention)
    seen: list[int] = []

    def values_only(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        assert q.shape == k.shape == v.shape
        seen.append(layer)
        return v

    x = random(1, 1, 5, DIM)
    out = attention(x, 7, values_only)
    assert seen == [7]
    torch.testing.assert_close(out, attention.o(attention.v(x)), rtol=1e-5, atol=1e-6)


def test_cross_attention_uses_every_key() -> None:
    attention = CrossAttention(DIM, HEADS, eps=1e-6)
    randomise(attention)
    x, context = random(1, 1, 5, DIM), random(2, 1, 4, DIM)
    keys, values = attention.keys_values(context)
    expected = attention.output(softmax_attention(attention.queries(x), keys, values))
    torch.testing.assert_close(attention(x, keys, values), expected, rtol=1e-5, atol=1e-6)
    for key in range(4):
        louder = values.clone()
        louder[:, key] += 1
        assert not torch.equal(attention(x, keys, louder), attention(x, keys, values))
