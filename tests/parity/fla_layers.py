"""The families that are single layers of flash-linear-attention, in its own names; see `layers.py`."""

from families import family
from fla.layers import BasedLinearAttention, GatedDeltaNet2, LinearAttention
from fla.models import (
    DeltaNetConfig,
    ForgettingTransformerConfig,
    GLAConfig,
    LinearAttentionConfig,
    NSAConfig,
    RetNetConfig,
)
from layers import Layer
from transformers import AutoModel, PreTrainedConfig


def layer_of(config):
    """The layer that flash-linear-attention's own model of this configuration has."""

    def build():
        module = AutoModel.from_config(config).layers[0].attn
        return Layer(config, module, lambda x: module(x)[0])

    return build


def sizes(**others):
    common = dict(vocab_size=8, hidden_size=24, intermediate_size=8, num_hidden_layers=1, num_heads=2, norm_eps=1e-6)
    return common | others


@family(seed=18)
def deltanet():
    """DeltaNet (arXiv 2406.06484): `fla.layers.DeltaNet`, beta up to 2.

    Traps: SiLU and convolution on q, k and v, then q and k of unit length; no gate of the output.
    """
    return layer_of(DeltaNetConfig(**sizes(expand_k=0.5, allow_neg_eigval=True)))


class GatedDeltaNet2Config(PreTrainedConfig):
    """The package has no model of this layer, so these are the options of `GatedDeltaNet2` itself."""

    model_type = "gdn2"


@family(seed=19)
def gdn2():
    """Gated DeltaNet-2: `fla.layers.GatedDeltaNet2`.

    Traps: what is erased (`b_proj`, per key channel) and written (`w_proj`, per value channel) are
    gates of full rank; decay and output gate are those of KDA.
    """

    options = dict(head_dim=6, expand_v=4 / 3, conv_size=4, allow_neg_eigval=True)
    config = GatedDeltaNet2Config(**sizes(**options))

    def build():
        others = dict(hidden_size=config.hidden_size, num_heads=config.num_heads, norm_eps=config.norm_eps)
        module = GatedDeltaNet2(**options, **others)
        return Layer(config, module, lambda x: module(x)[0])

    return build


@family(seed=20)
def gla():
    """Gated linear attention (arXiv 2312.06635): `fla.layers.GatedLinearAttention`.

    Traps: the decay is the sixteenth root of a sigmoid, of a projection of rank 16 with a bias; keys
    are half as wide as values; no convolution; the query is scaled.
    """
    return layer_of(GLAConfig(**sizes()))


@family(seed=21)
def retnet():
    """Retention (arXiv 2307.08621): `fla.layers.MultiScaleRetention`.

    Traps: RoPE in the half-split layout, where the paper has xPos; values are twice as wide as keys;
    the decay of head h is `1 - 2^(-5 - h)`; norm per head with a weight, then the SiLU gate.
    """
    return layer_of(RetNetConfig(**sizes()))


@family(seed=22)
def linear_attention():
    """Linear attention (arXiv 2006.16236): `fla.layers.LinearAttention` with the paper's `elu + 1` and its
    normaliser, and without the output norm that the package adds.

    Trap: the sum of weights is over the scaled query here and not in the paper, which an output that
    is divided by it cannot tell; the epsilon in it is 1e-10, in the paper's code 1e-6.
    """
    config = LinearAttentionConfig(**sizes(feature_map="elu", norm_feature_map=True))

    def build():
        module = LinearAttention(
            hidden_size=config.hidden_size,
            num_heads=config.num_heads,
            feature_map=config.feature_map,
            do_feature_map_norm=config.norm_feature_map,
            output_norm="identity",
        )
        return Layer(config, module, lambda x: module(x)[0])

    return build


@family(seed=34)
def taylor():
    """Linear attention whose features are the exponential to second order (Arora et al. 2024, arXiv
    2402.18668): `fla.layers.BasedLinearAttention`, by its `forward_reference` with the epsilon of its
    kernels."""
    config = LinearAttentionConfig(**sizes(feature_map="taylor_exp", norm_feature_map=True), feature_dim=4)

    def build():
        module = BasedLinearAttention(
            hidden_size=config.hidden_size,
            feature_dim=config.feature_dim,
            num_heads=config.num_heads,
            num_key_value_heads=config.num_heads,
            eps=1e-6,
        )
        return Layer(config, module, module.forward_reference)

    return build


@family(seed=23)
def forgetting():
    """Forgetting attention (arXiv 2503.02130): `fla.layers.ForgettingAttention`, without QK-norm (the
    package's has a weight for every head).

    Traps: the gate's projection has a bias; no RoPE; a key's own gate does not touch it.
    """
    return layer_of(ForgettingTransformerConfig(**sizes(num_heads=4, num_kv_heads=2)))


@family(seed=24)
def nsa():
    """Native sparse attention (arXiv 2502.11089): `fla.layers.NativeSparseAttention`, whose compression is
    the mean of a block; see `plain.nsa`.

    Traps: a block is compressed for a query once its last key is not after it; the first block, the
    query's own and the one before are always chosen and count; the rest by the mean of their
    compressed weights over the heads of a key head; gates are [compressed, selected, window] for each
    head, each a sigmoid.
    """
    sparse = dict(head_dim=6, block_size=2, block_counts=4, window_size=3)
    return layer_of(NSAConfig(**sizes(num_heads=4, num_kv_heads=2, **sparse)))
