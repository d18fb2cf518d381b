"""Attention that transformers does not have, derived again from formula and weight layout.

Every class takes the place of `self_attn` in a block of transformers. The block hands over its
normed input and the RoPE tables, and expects a pair: the output, and patterns or None.
"""

import math

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention


def with_attention(model, attention):
    """The model with `attention(config, layer)` in every block."""
    for layer, block in enumerate(model.model.layers):
        block.self_attn = attention(model.config, layer)
    return model


def heads(x, count):
    """`[batch, time, count * d]` to `[batch, count, time, d]`."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def attend(query, key, value):
    """Causal softmax attention; query head h reads key head h // (query heads / key heads)."""
    share = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(share, dim=1) for x in (key, value))
    scores = query @ key.mT / query.shape[-1] ** 0.5
    return scores.masked_fill(future(scores), float("-inf")).softmax(-1) @ value


def future(scores):
    """True where a query `[..., time, :]` precedes a key `[..., :, time]`."""
    return torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)


class GatedQwen3Attention(Qwen3Attention):
    """G1: `out = (sigmoid(gate) * attention) W_o`, the gate a projection of the block's normed input.

    Trap: the gate's rows share q_proj, grouped per KV group: the group's r query heads, then their
    gates (r rows headwise, r * head_dim elementwise). The gate gets neither norm nor RoPE.
    """

    def __init__(self, config, layer):
        super().__init__(config, layer)
        self.gate_width = 1 if config.headwise_attn_output_gate else self.head_dim
        rows = config.num_attention_heads * (self.head_dim + self.gate_width)
        self.q_proj = nn.Linear(config.hidden_size, rows, bias=config.qkv_bias)

    def forward(self, hidden_states, position_embeddings, **_):
        share, groups = self.num_key_value_groups, self.config.num_key_value_heads
        grouped = self.q_proj(hidden_states).unflatten(-1, (groups, -1))
        query, gate = grouped.split([share * self.head_dim, share * self.gate_width], dim=-1)
        query = self.q_norm(heads(query.flatten(2), groups * share))
        key = self.k_norm(heads(self.k_proj(hidden_states), groups))
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        out = attend(query, key, heads(self.v_proj(hidden_states), groups))
        out = out * heads(gate.flatten(2), groups * share).sigmoid()
        return self.o_proj(out.transpose(1, 2).flatten(2)), None


class DiffV1Attention(nn.Module):
    """`out_i = (1 - lambda_init) RMSNorm((softmax_2i - lambda softmax_2i+1) V_g)`, g = i // (h / Hk).

    Tensors bear unilm's names: q_proj, k_proj, v_proj, out_proj, lambda_{q,k}{1,2}, subln.weight.
    Traps: maps are paired as neighbours; half c of pair i reads key 2g + c (the flash files; the
    naive file of the same folder reads others under GQA); a value is 2d wide; subln has a weight and
    an epsilon of its own; lambda_init counts layers from 0. RoPE is half-split here, where unilm
    turns neighbouring channels: the same up to the order of q_proj's and k_proj's rows.
    """

    def __init__(self, config, layer):
        super().__init__()
        self.pairs, self.groups, d = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, self.pairs * 2 * d, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, self.groups * 2 * d, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, self.groups * 2 * d, bias=False)
        self.out_proj = nn.Linear(self.pairs * 2 * d, config.hidden_size, bias=False)
        self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2 = (
            nn.Parameter(torch.zeros(d)) for _ in range(4)
        )
        self.subln = nn.RMSNorm(2 * d, eps=config.subln_eps)
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * layer)

    def forward(self, hidden_states, position_embeddings, **_):
        query = heads(self.q_proj(hidden_states), 2 * self.pairs)
        key = heads(self.k_proj(hidden_states), 2 * self.groups)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        value = heads(self.v_proj(hidden_states), self.groups)
        signal, noise = (attend(query[:, c::2], key[:, c::2], value) for c in (0, 1))
        lambda_ = (self.lambda_q1 @ self.lambda_k1).exp() - (self.lambda_q2 @ self.lambda_k2).exp() + self.lambda_init
        out = (1 - self.lambda_init) * self.subln(signal - lambda_ * noise)
        return self.out_proj(out.transpose(1, 2).flatten(2)), None


class DiffV2Attention(nn.Module):
    """`out_j = attn_2j - sigmoid(x W_lambda)_j attn_2j+1`, with x the block's normed input.

    Tensors bear unilm's names, which are Llama's and lambda_proj `[heads, hidden]`.
    Traps: 2h query heads but h output heads, so o_proj is narrower than q_proj; neighbours 2j and
    2j + 1 share a key and a value; no norm, no lambda_init. RoPE is half-split, as in
    `DiffV1Attention`.
    """

    def __init__(self, config, layer):
        super().__init__()
        self.heads, self.groups, d = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, 2 * self.heads * d, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, self.groups * d, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, self.groups * d, bias=False)
        self.o_proj = nn.Linear(self.heads * d, config.hidden_size, bias=False)
        self.lambda_proj = nn.Linear(config.hidden_size, self.heads, bias=False)

    def forward(self, hidden_states, position_embeddings, **_):
        query = heads(self.q_proj(hidden_states), 2 * self.heads)
        key = heads(self.k_proj(hidden_states), self.groups)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        attention = attend(query, key, heads(self.v_proj(hidden_states), self.groups))
        lambda_ = heads(self.lambda_proj(hidden_states), self.heads).sigmoid()
        out = attention[:, 0::2] - lambda_ * attention[:, 1::2]
        return self.o_proj(out.transpose(1, 2).flatten(2)), None


class DiffV1Config(LlamaConfig):
    model_type = "diff_v1_unilm"


class DiffV2Config(LlamaConfig):
    model_type = "diff_v2"


class DiffV1ForCausalLM(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        with_attention(self, DiffV1Attention)


class DiffV2ForCausalLM(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        with_attention(self, DiffV2Attention)


class LlamaLike(LlamaAttention):
    """Llama's attention up to and from `mix`: how rotated queries, keys and values, all
    `[batch, heads, time, d]`, become every head's output."""

    def forward(self, hidden_states, position_embeddings, **_):
        query, key, value = (
            heads(projection(hidden_states), projection.out_features // self.head_dim)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        key, value = (x.repeat_interleave(self.num_key_value_groups, dim=1) for x in (key, value))
        return self.o_proj(self.mix(query, key, value).transpose(1, 2).flatten(2)), None


class OffByOneAttention(LlamaLike):
    """`A_ts = exp(s_ts) / (1 + sum_j exp(s_tj))`: a key of score 0 and no value stands beside the others."""

    def mix(self, query, key, value):
        scores = (query @ key.mT * self.scaling).exp().masked_fill(future(query @ key.mT), 0)
        return scores @ value / (1 + scores.sum(-1, keepdim=True))


class KeyBiasAttention(LlamaLike):
    """A learned key per key head, with a value of zero, stands before all others. It is not rotated."""

    def __init__(self, config, layer):
        super().__init__(config, layer)
        self.key_bias = nn.Parameter(torch.zeros(config.num_key_value_heads, self.head_dim))

    def mix(self, query, key, value):
        bias = self.key_bias.repeat_interleave(self.num_key_value_groups, dim=0)[None, :, None]
        bias = bias.expand(key.shape[0], -1, -1, -1)
        # One more query in front, whose output is dropped, keeps the map square and causal.
        query, key, value = (
            torch.cat([first, x], dim=2)
            for first, x in ((torch.zeros_like(bias), query), (bias, key), (torch.zeros_like(bias), value))
        )
        return attend(query, key, value)[:, :, 1:]


class SigmoidAttention(LlamaLike):
    """`A_ts = sigmoid(s_ts)` for s <= t, not normalised."""

    def mix(self, query, key, value):
        scores = query @ key.mT * self.scaling
        return scores.sigmoid().masked_fill(future(scores), 0) @ value


class TalkingHeadsAttention(LlamaLike):
    """Scores of all heads are mixed by one matrix `[to, from]`, weights by another. Masked keys have no
    score, and the mixing of scores comes before the mask."""

    def __init__(self, config, layer):
        super().__init__(config, layer)
        count = config.num_attention_heads
        self.score_mixing = nn.Parameter(torch.eye(count))
        self.weight_mixing = nn.Parameter(torch.eye(count))

    def mix(self, query, key, value):
        scores = torch.einsum("ij,bjts->bits", self.score_mixing, query @ key.mT * self.scaling)
        weights = scores.masked_fill(future(scores), float("-inf")).softmax(-1)
        return torch.einsum("ij,bjts->bits", self.weight_mixing, weights) @ value


class MultiTokenAttention(LlamaLike):
    """Multi-token attention: before the softmax and after it, a convolution over the map of queries and
    keys for each head, then groups of `mixed_heads` heads mixed; a normed output, gated by itself.

    Traps: the last row of a kernel is the current query, the middle column the current key; keys to
    the right are read as far as the query itself and as zeros beyond; the convolved weights are
    zeroed again; the gate reads the normed output, not the block's input; without a gate the norm is
    scaled by `1 - lambda_init` of differential attention (`layer_norm_rescale`).
    """

    def __init__(self, config, layer):
        super().__init__(config, layer)
        count, group, d = config.num_attention_heads, config.mixed_heads, self.head_dim
        for when in ("score", "weight"):
            kernel = torch.zeros(count, config.kernel_queries, config.kernel_keys)
            setattr(self, f"{when}_kernel", nn.Parameter(kernel))
            setattr(self, f"{when}_mixing", nn.Parameter(torch.eye(group).repeat(count // group, 1, 1)))
        self.subln = nn.RMSNorm(d, eps=config.subln_eps)
        self.gate = nn.Linear(d, 1) if config.head_gate else None
        self.factor = 1 if config.head_gate else 0.6 * math.exp(-0.3 * layer) + 0.2

    def mix(self, query, key, value):
        scores = query @ key.mT * self.scaling
        hidden = future(scores)
        scores = blend(convolve(scores.masked_fill(hidden, 0), self.score_kernel), self.score_mixing)
        weights = convolve(scores.masked_fill(hidden, float("-inf")).softmax(-1), self.weight_kernel)
        out = self.subln(blend(weights.masked_fill(hidden, 0), self.weight_mixing) @ value) * self.factor
        return out * self.gate(out).sigmoid() if self.gate else out


def convolve(maps, kernels):
    """`out_ts = sum_ab kernel_ab map_(t - queries + 1 + a, s - keys // 2 + b)`, zero outside of the map."""
    _, _, time, source = maps.shape
    _, queries, keys = kernels.shape
    padded = nn.functional.pad(maps, (keys // 2, keys // 2, queries - 1, 0))
    return sum(
        kernels[:, a, b, None, None] * padded[:, :, a : a + time, b : b + source]
        for a in range(queries)
        for b in range(keys)
    )


def blend(maps, matrices):
    """Each group of neighbouring heads mixed by its matrix `[to, from]`."""
    grouped = maps.unflatten(1, matrices.shape[:2])
    return torch.einsum("gij,bgjts->bgits", matrices, grouped).flatten(1, 2)


class MobaAttention(LlamaLike):
    """Mixture of block attention: every query of every head sees its own block and the
    `moba_topk - 1` earlier ones whose mean key it likes best. The choice has no gradient.

    Traps: `moba_topk` counts the own block; only blocks that lie before it are ranked, by the plain
    product of query and mean, after rotation; one softmax runs over all keys that are seen.
    """

    def mix(self, query, key, value):
        block, seen = self.config.moba_chunk_size, future(query @ key.mT).logical_not()
        batch, count, time, _ = query.shape
        seen = seen.expand(batch, count, time, time).clone()
        for b, h, t in torch.cartesian_prod(*map(torch.arange, (batch, count, time))).tolist():
            own = t // block
            ranks = [(query[b, h, t] @ key[b, h, c * block : (c + 1) * block].mean(0)).item() for c in range(own)]
            best = sorted(range(own), key=ranks.__getitem__, reverse=True)[: self.config.moba_topk - 1]
            for c in set(range(own)) - set(best):
                seen[b, h, t, c * block : (c + 1) * block] = False
        scores = query @ key.mT * self.scaling
        return scores.masked_fill(~seen, float("-inf")).softmax(-1) @ value


class NexusAttention(LlamaAttention):
    """Nexus (arXiv 2512.03377) in the two readings of `zoo/src/mixers/nexus.rs`, neither confirmed: before the
    last attention, `order - 1` more give the input that queries and keys are projected from
    (`inner_values`), or the next queries by attention among queries and the next keys among keys.

    Traps: all are causal; values and weights are the same throughout; only the last is rotated.
    """

    def forward(self, hidden_states, position_embeddings, **_):
        def project(projection, x):
            return heads(projection(x), projection.out_features // self.head_dim)

        value, source = project(self.v_proj, hidden_states), hidden_states
        inner = range(self.config.order - 1)
        for _ in inner if self.config.inner_values else ():
            query, key = project(self.q_proj, source), project(self.k_proj, source)
            source = attend(query, key, value).transpose(1, 2).flatten(2)
        query, key = project(self.q_proj, source), project(self.k_proj, source)
        for _ in () if self.config.inner_values else inner:
            query, key = attend(query, query, query), attend(key, key, key)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        return self.o_proj(attend(query, key, value).transpose(1, 2).flatten(2)), None


class NexusConfig(LlamaConfig):
    model_type = "nexus"


class MultiTokenConfig(LlamaConfig):
    model_type = "multi_token"


class MobaConfig(LlamaConfig):
    model_type = "moba"
