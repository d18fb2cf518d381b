"""The families that are whole models: each a function that says where its definition comes from, what
about it is easily missed, and how to build a tiny model of it."""

import plain  # noqa: F401 -- before fla, whose kernels it replaces
from derived import (
    DiffV1Config,
    DiffV1ForCausalLM,
    DiffV2Config,
    DiffV2ForCausalLM,
    GatedQwen3Attention,
    with_attention,
)
from fla.models import GatedDeltaNetConfig, GatedDeltaNetForCausalLM, KDAConfig, KDAForCausalLM
from transformers import (
    DiffLlamaConfig,
    DiffLlamaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

FAMILIES = {}


def family(seed):
    """Registers a function that returns how to build a model (called twice: in f32, in f64)."""

    def register(recipe):
        FAMILIES[recipe.__name__] = (recipe, seed)
        return recipe

    return register


def sizes(**others):
    """What the decoders have in common.

    Heads are wider than `hidden_size / num_attention_heads` (12, not 8), two query heads share a
    key head, and every size is another number, so that no wrong one fits by chance.
    """
    common = dict(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=44,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=256,
        use_cache=False,
        attn_implementation="eager",
    )
    return common | others


def rope(theta, **others):
    """The v5 dialect; v4 files say `rope_theta` and `rope_scaling` at top level."""
    return {"rope_type": "default", "rope_theta": theta} | others


@family(seed=1)
def llama():
    """Llama: `transformers.LlamaForCausalLM`. Output matrix of its own, plain RoPE."""
    config = LlamaConfig(**sizes(rms_norm_eps=1e-5, rope_parameters=rope(1e4)))
    return lambda: LlamaForCausalLM(config)


@family(seed=2)
def llama3():
    """Llama 3.x: as `llama`, tied, with RoPE scaling of type `llama3`.

    Trap: three regimes of wavelength. With head_dim 12 and theta 8000 the wavelengths are 6, 28,
    126, ...; the bounds 64/4 = 16 and 64/1 = 64 keep the first, blend the second, slow the rest.
    """
    scaling = dict(
        rope_type="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=64,
    )
    config = LlamaConfig(**sizes(rms_norm_eps=1e-5, rope_parameters=rope(8e3, **scaling), tie_word_embeddings=True))
    return lambda: LlamaForCausalLM(config)


@family(seed=3)
def qwen3():
    """Qwen3: `transformers.Qwen3ForCausalLM`. Tied.

    Trap: queries and keys are normalised per head, over head_dim, before RoPE.
    """
    config = Qwen3Config(**sizes(rms_norm_eps=1e-6, rope_parameters=rope(1e6), tie_word_embeddings=True))
    return lambda: Qwen3ForCausalLM(config)


@family(seed=4)
def gated_headwise():
    """Gated attention, one gate per head (Qiu et al. 2025, arXiv 2505.06708). See `gated`."""
    return gated(headwise=True, tied=False)


@family(seed=5)
def gated_elementwise():
    """Gated attention, one gate per channel (Qiu et al. 2025, arXiv 2505.06708). See `gated`."""
    return gated(headwise=False, tied=True)


def gated(headwise, tied):
    """Qwen3 with the gate G1, as in the release QwQZh/gated_attention.

    Its modelling code (qiuzh20/gated_attention, modeling_qwen3.py, class Qwen3Attention) is on no
    package index, so `GatedQwen3Attention` derives it again from formula and layout. Names, model
    type and configuration keys are the release's; only the RoPE keys are in the v5 dialect.
    """
    config = Qwen3Config(
        **sizes(rms_norm_eps=1e-6, rope_parameters=rope(2e4), tie_word_embeddings=tied),
        headwise_attn_output_gate=headwise,
        elementwise_attn_output_gate=not headwise,
        use_qk_norm=True,
        qkv_bias=False,
    )
    return lambda: with_attention(Qwen3ForCausalLM(config), GatedQwen3Attention)


@family(seed=6)
def diffllama():
    """DIFF Transformer V1 as in Hugging Face: `transformers.DiffLlamaForCausalLM`.

    Traps: `num_attention_heads` counts softmax maps (8, that is 4 pairs); map i is paired with map
    i + 4, not with its neighbour; pair i reads keys and values of groups g and g + 2, g = i // 2;
    the norm over a pair's output has no weight and takes `rms_norm_eps`; lambda_init counts layers
    from 0, and four layers make it differ.
    """
    heads = dict(num_attention_heads=8, num_key_value_heads=4, head_dim=6, num_hidden_layers=4)
    config = DiffLlamaConfig(**sizes(rms_norm_eps=1e-5, rope_parameters=rope(1e4), **heads))
    return lambda: DiffLlamaForCausalLM(config)


@family(seed=7)
def diff_v1_unilm():
    """DIFF Transformer V1 (Ye et al. 2024, arXiv 2410.05258) as its authors release it: in a Llama
    block, the attention of microsoft/unilm, Diff-Transformer/multihead_flashdiff_2.py, class
    MultiheadFlashDiff2, derived again. See `DiffV1Attention` for the traps.

    `num_attention_heads` counts pairs, `num_key_value_heads` groups of two keys and one value.
    """
    config = DiffV1Config(**sizes(rms_norm_eps=1e-6, rope_parameters=rope(1e4), head_dim=6), subln_eps=1e-5)
    return lambda: DiffV1ForCausalLM(config)


@family(seed=8)
def diff_v2():
    """DIFF Transformer V2 (Microsoft, January 2026): in a Llama block, the attention of
    microsoft/unilm, Diff-Transformer/Diff-Transformer-V2/multihead_flashdiffv2.py, class
    MultiheadFlashDiffV2, derived again. See `DiffV2Attention` for the traps.

    `num_attention_heads` counts output heads; there are twice as many query heads.
    """
    config = DiffV2Config(**sizes(rms_norm_eps=1e-6, rope_parameters=rope(1e4), tie_word_embeddings=True))
    return lambda: DiffV2ForCausalLM(config)


def qwen3_next_config(**others):
    """Sizes of the hybrid: values wider than keys, two value heads to a key head."""
    return Qwen3NextConfig(
        **sizes(
            hidden_size=40,
            rms_norm_eps=1e-6,
            rope_parameters=rope(1e4, partial_rotary_factor=0.25),
            head_dim=16,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=6,
            linear_value_head_dim=8,
            linear_conv_kernel_dim=4,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=20,
            shared_expert_intermediate_size=24,
            experts_implementation="eager",
            **others,
        )
    )


@family(seed=376)  # chosen of 800: no close call in a router, little rounding in f32
def qwen3_next():
    """The hybrid: `transformers.Qwen3NextForCausalLM`, three Gated DeltaNet to one gated attention.

    Traps: block norms, final norm, q_norm and k_norm multiply by 1 + w; the gate shares q_proj,
    rows [query, gate] per query head (unlike `gated`); RoPE turns the first quarter of a head;
    every block has 4 experts, of which the router takes 2 and renormalises, and a shared one.
    Files name each expert's three matrices; transformers 5 fuses them in memory, so gradients are
    taken apart like the weights. The loss has no router term.
    """
    config = qwen3_next_config(num_hidden_layers=4)
    return lambda: Qwen3NextForCausalLM(config)


def fla_sizes(**others):
    """`sizes` in the dialect of flash-linear-attention, without its fused kernels."""
    common = dict(
        vocab_size=37,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_heads=2,
        head_dim=6,
        norm_eps=1e-6,
        use_cache=False,
        fuse_norm=False,
        fuse_swiglu=False,
        fuse_cross_entropy=False,
    )
    return common | others


@family(seed=10)
def fla_gated_deltanet():
    """Gated DeltaNet as flash-linear-attention trains and saves it: `fla.models.GatedDeltaNetForCausalLM`.

    Traps: `head_dim` is that of keys, values are `expand_v` times as wide; `num_heads` counts heads of
    keys, `num_v_heads` those of values, neighbours of which share a key; three convolutions; the gate of
    the output is `g_proj`; `allow_neg_eigval` doubles beta.
    """
    config = GatedDeltaNetConfig(**fla_sizes(expand_v=4 / 3, num_v_heads=4, allow_neg_eigval=True))
    return lambda: GatedDeltaNetForCausalLM(config)


@family(seed=11)
def fla_kda():
    """Kimi delta attention (arXiv 2510.26692) in flash-linear-attention: `fla.models.KDAForCausalLM`. Tied.

    Traps: the projections of decay (`f_proj`) and gate (`g_proj`) have the rank of a value, and the
    gate's second one a bias; `A_log` is one number a head, `dt_bias` one a channel of the keys; the
    gate is a sigmoid, where Gated DeltaNet has SiLU.
    """
    config = KDAConfig(**fla_sizes(expand_v=4 / 3, num_heads=3, tie_word_embeddings=True))
    return lambda: KDAForCausalLM(config)
