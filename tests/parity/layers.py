"""The families that are single layers of transformers, or of `derived.py` in its Llama; those of
flash-linear-attention are in `fla_layers.py`. Tensors bear the layer's own names. As in `families.py`,
a function's doc says where the definition comes from and what about it is easily missed."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from derived import (
    KeyBiasAttention,
    MobaAttention,
    MobaConfig,
    MultiTokenAttention,
    MultiTokenConfig,
    NexusAttention,
    NexusConfig,
    OffByOneAttention,
    SigmoidAttention,
    TalkingHeadsAttention,
)
from families import family, qwen3_next_config, rope, sizes
from torch import nn
from transformers import (
    DeepseekV3Config,
    Gemma2Config,
    GptOssConfig,
    LlamaConfig,
    Mamba2Config,
    MiniMaxConfig,
    MptConfig,
    PreTrainedConfig,
)
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding
from transformers.models.gemma2.modeling_gemma2 import Gemma2Attention, Gemma2RotaryEmbedding
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssAttention, GptOssRotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer
from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention
from transformers.models.mpt.modeling_mpt import MptAttention, build_mpt_alibi_tensor
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet


@dataclass
class Layer:
    """A layer, the configuration it is saved with, and how it maps `[batch, time, hidden]`."""

    config: PreTrainedConfig
    module: nn.Module
    run: Callable


def attention(config, kind, rotary=LlamaRotaryEmbedding, layer=0, window=None):
    """An attention of transformers' kind, to which a model hands RoPE tables and a mask."""

    def build():
        module, tables = kind(config, layer), rotary(config)

        def run(x):
            time = x.shape[1]
            age = torch.arange(time)[:, None] - torch.arange(time)
            hidden = (age < 0) | (age >= (window or time))
            mask = torch.zeros(time, time).masked_fill(hidden, float("-inf"))[None, None]
            return module(x, position_embeddings=tables(x, torch.arange(time)[None]), attention_mask=mask)[0]

        return Layer(config, module, run)

    return build


def llama_sizes(**others):
    small = dict(hidden_size=24, head_dim=6, num_hidden_layers=2, rope_parameters=rope(1e4))
    return sizes(**small | others)


@family(seed=9)
def qwen3_next_delta():
    """Gated DeltaNet alone: `transformers` Qwen3NextGatedDeltaNet (Yang et al. 2024, arXiv 2412.06464).

    Tensors bear the layer's own names, without `model.layers.0.linear_attn.`.
    Traps: `in_proj_qkvz` and `in_proj_ba` are grouped by key head, the convolution's channels are
    not (all q, all k, all v); z is not convolved; q and k are normalised after the convolution, with
    1e-6 inside the root; the state decays before it is read; the output norm multiplies by w, not
    1 + w, and comes before the gate SiLU(z).
    """
    config = qwen3_next_config(num_hidden_layers=1, layer_types=["linear_attention"])

    def build():
        module = Qwen3NextGatedDeltaNet(config, 0)
        return Layer(config, module, module)

    return build


def gpt_oss_config():
    """YaRN of base 150000, whose bounds fall between pairs of channels: at 0 and 1.2 of 6."""
    scaling = dict(
        rope_type="yarn",
        factor=32.0,
        beta_fast=32.0,
        beta_slow=1.0,
        truncate=False,
        original_max_position_embeddings=64,
    )
    yarn = rope(150000.0, **scaling)
    return GptOssConfig(**sizes(rope_parameters=yarn, num_hidden_layers=2, num_local_experts=2, sliding_window=5))


@family(seed=12)
def gpt_oss_sliding():
    """gpt-oss, the attention of even layers (from 0): `transformers` GptOssAttention.

    Traps: all four projections have a bias; a head's sink is a logit beside its scores, not scaled;
    a window of 5 keys counts the query's own; YaRN does not round its bounds to whole pairs
    (`truncate` false), and multiplies cosine and sine by `0.1 ln(factor) + 1`.
    """
    config = gpt_oss_config()
    return attention(config, GptOssAttention, GptOssRotaryEmbedding, layer=0, window=config.sliding_window)


@family(seed=13)
def gpt_oss_full():
    """gpt-oss, the attention of odd layers: as `gpt_oss_sliding`, and every query sees all its past."""
    return attention(gpt_oss_config(), GptOssAttention, GptOssRotaryEmbedding, layer=1)


@family(seed=32)
def gemma2():
    """Gemma 2, the attention of even layers (from 0): `transformers` Gemma2Attention.

    Traps: the soft cap comes after the scale and before the mask; the scale is that of
    `query_pre_attn_scalar`, here as everywhere but in the largest model `head_dim`.
    """
    capped = dict(query_pre_attn_scalar=6, attn_logit_softcapping=1.5, sliding_window=5)
    config = Gemma2Config(**llama_sizes(), **capped)
    return attention(config, Gemma2Attention, Gemma2RotaryEmbedding, window=config.sliding_window)


@family(seed=33)
def alibi():
    """ALiBi (arXiv 2108.12409): `transformers` MptAttention.

    Traps: six heads, so that slopes are those of 4 heads and then every second one of 8; slopes are
    not scaled with the scores; `Wqkv` has rows [q, k, v].
    """
    config = MptConfig(d_model=24, n_heads=6, n_layers=1)

    def build():
        module = MptAttention(config, 0)

        def run(x):
            future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
            return module(x, build_mpt_alibi_tensor(config.n_heads, x.shape[1]), attention_mask=future)[0]

        return Layer(config, module, run)

    return build


@family(seed=14)
def latent():
    """Multi-head latent attention (arXiv 2405.04434): `transformers` DeepseekV3Attention.

    Traps: a query's rows are [content, position] for each head, `kv_b_proj`'s [key, value] for each
    head, `kv_a_proj_with_mqa`'s [latent, common key]; the norms of the two latents have an epsilon of
    1e-6 of their own; RoPE turns neighbouring channels (`rope_interleave`); the scale is that of
    content and position together.
    """
    config = DeepseekV3Config(
        **sizes(num_key_value_heads=4, head_dim=4, num_hidden_layers=1, rope_parameters=rope(1e4)),
        q_lora_rank=10,
        kv_lora_rank=7,
        qk_nope_head_dim=6,
        qk_rope_head_dim=4,
        v_head_dim=5,
        rope_interleave=True,
    )
    return attention(config, DeepseekV3Attention, DeepseekV3RotaryEmbedding)


@family(seed=15)
def mamba2():
    """Mamba-2 (arXiv 2405.21060): `transformers` Mamba2Mixer.

    Traps: `in_proj` has rows [z, x, B, C, dt]; the convolution has a bias and leaves z and dt alone;
    B and C are shared by all heads; the gate comes before the norm, which spans all heads; no scale.
    """
    config = Mamba2Config(
        hidden_size=24, num_heads=4, head_dim=12, expand=2, state_size=6, n_groups=1, chunk_size=8, num_hidden_layers=1
    )

    def build():
        module = Mamba2Mixer(config, 0)
        return Layer(config, module, module)

    return build


def minimax(kind):
    """The second of four layers of MiniMax-01, in blocks of 8 tokens."""
    config = MiniMaxConfig(
        **sizes(hidden_size=24, head_dim=6, num_hidden_layers=4, layer_types=["linear_attention"] * 4), block_size=8
    )

    def build():
        module = kind(config, 1)
        return Layer(config, module, lambda x: module(x, position_embeddings=None, attention_mask=None)[0])

    return build


@family(seed=16)
def lightning_minimax():
    """Lightning attention as in MiniMax-01: `transformers` MiniMaxLightningAttention.

    Traps: `qkv_proj` has rows [q, k, v] for each head, all three through SiLU; a head's decay is an
    ALiBi slope times `1 - l / (L - 1 + 1e-5) + 1e-5`; the norm spans all heads, its epsilon is 1e-6;
    the gate is a sigmoid; no scale.
    """
    return minimax(MiniMaxLightningAttention)


@family(seed=17)
def lightning():
    """Lightning attention with the decays of its paper (arXiv 2401.04658), `-(8 / H) (1 - l / L) h` for
    h = 0 ... H - 1, those of fla.ops.lightning_attn. The layer around them is that of MiniMax-01."""

    class Lightning(MiniMaxLightningAttention):
        def get_slope_rate(self, device=None):
            count = self.num_attention_heads
            steepest = 8 / count * (1 - self.layer_idx / self.num_hidden_layers)
            return (steepest * torch.arange(count))[:, None, None]

        def decay_factors(self, slope_rate):
            # Its mask looks at the sign of slope times distance, which says nothing where the slope is 0.
            query, key, diagonal = super().decay_factors(slope_rate)
            return query, key, diagonal.tril()

    return minimax(Lightning)


@family(seed=25)
def off_by_one():
    """Softmax off by one (Miller 2023), derived: see `OffByOneAttention`."""
    return attention(LlamaConfig(**llama_sizes()), OffByOneAttention)


@family(seed=26)
def key_bias():
    """The key bias of Gu et al. 2024 (arXiv 2410.10781), derived: see `KeyBiasAttention`."""
    return attention(LlamaConfig(**llama_sizes()), KeyBiasAttention)


@family(seed=27)
def sigmoid():
    """Sigmoid attention without normalisation (Gu et al. 2024, arXiv 2410.10781), derived: see
    `SigmoidAttention`."""
    return attention(LlamaConfig(**llama_sizes()), SigmoidAttention)


@family(seed=28)
def talking_heads():
    """Talking heads (Shazeer et al. 2020, arXiv 2003.02436), derived: see `TalkingHeadsAttention`."""
    return attention(LlamaConfig(**llama_sizes()), TalkingHeadsAttention)


def multi_token_config(**others):
    kernels = dict(kernel_queries=3, kernel_keys=5, subln_eps=1e-5)
    return MultiTokenConfig(**llama_sizes(), **kernels | others)


@family(seed=29)
def multi_token():
    """Multi-token attention (Golovneva et al. 2025, arXiv 2504.00927) as facebookresearch/RAM, projects/mta,
    configures it, derived: see `MultiTokenAttention`."""
    return attention(multi_token_config(mixed_heads=4, head_gate=True), MultiTokenAttention)


@family(seed=30)
def multi_token_depth():
    """The paper's first version, in layer 1: heads mixed in pairs, the norm scaled by depth."""
    return attention(multi_token_config(mixed_heads=2, head_gate=False), MultiTokenAttention, layer=1)


@family(seed=31)
def moba():
    """Mixture of block attention (Lu et al. 2025, arXiv 2502.13189), derived: see `MobaAttention`.

    flash-linear-attention's layer needs flash-attn, norms the output, and with `moba_topk` 1 sees
    everything; its choice of blocks is this one.
    """
    return attention(MobaConfig(**llama_sizes(), moba_chunk_size=3, moba_topk=3), MobaAttention)


def nexus_config(**others):
    return NexusConfig(**llama_sizes(), order=3, **others)


@family(seed=35)
def nexus():
    """Nexus over values, derived: see `NexusAttention`."""
    return attention(nexus_config(inner_values=True), NexusAttention)


@family(seed=36)
def nexus_queries_and_keys():
    """Nexus over queries and keys, derived: see `NexusAttention`."""
    return attention(nexus_config(inner_values=False), NexusAttention)
