"""Attention that transformers does not have, derived again from formula and weight layout.

Every class takes the place of `self_attn` in a block of transformers. The block hands over its
normed input and the RoPE tables, and expects a pair: the output, and patterns or None.
"""

import math

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
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
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(-1) @ value


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
