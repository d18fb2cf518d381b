"""flash-linear-attention without a GPU: its layers and models, with every Triton kernel replaced.

Importing this module replaces them. Where the package has the same function in plain torch
(`naive_*`, `*_ref`), that takes the kernel's place, after what the kernel does to its inputs by
option; the convolution, the gated norm and SwiGLU have no such form and are a line of torch each.
Projections, gates, norms and their order remain the package's own.
"""

import sys
import warnings

import torch
from torch.nn import functional as F

warnings.filterwarnings("ignore", message="Triton is not supported on current platform")
warnings.filterwarnings("ignore", message="torch.utils.checkpoint: the use_reentrant parameter")
warnings.filterwarnings("ignore", message="Flash Attention is not installed", category=ImportWarning)

# Where fla is installed transformers takes its kernels, so the modules that have a choice come first.
sys.modules["fla"] = None
import transformers.models.qwen3_next.modeling_qwen3_next  # noqa: F401

del sys.modules["fla"]

import fla.layers.delta_net
import fla.layers.forgetting_attn
import fla.layers.gated_deltanet
import fla.layers.gdn2
import fla.layers.gla
import fla.layers.kda
import fla.layers.linear_attn
import fla.layers.multiscale_retention
import fla.layers.nsa
import fla.models  # registers its configurations with transformers
import fla.modules.causal_conv1d.ops
import fla.modules.mlp
import fla.modules.norm.fused_norm_gate
import fla.modules.norm.layernorm
import fla.modules.rotary.ops
from fla.modules.norm.layernorm import rms_norm_ref
from fla.modules.rotary.ops import rotary_embedding_ref
from fla.ops.attn.naive import naive_parallel_attn
from fla.ops.delta_rule.naive import delta_rule_recurrence
from fla.ops.forgetting_attn.naive import naive_forgetting_attn
from fla.ops.gated_delta_rule.gate import naive_gdn_gate
from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule
from fla.ops.gdn2.naive import naive_recurrent_gdn2
from fla.ops.gla.naive import naive_recurrent_gla
from fla.ops.kda.gate import naive_kda_gate
from fla.ops.kda.naive import naive_recurrent_kda
from fla.ops.linear_attn.naive import naive_recurrent_linear_attn
from fla.ops.nsa.naive import naive_nsa_compression, naive_nsa_selection, naive_nsa_topk
from fla.ops.retention.naive import naive_retention

# What a call may say about states, packing and layout and still mean a whole sequence from its start.
WHOLE = dict(initial_state=None, output_final_state=False, cu_seqlens=None, state_v_first=True)


def plain(function):
    """The function as a kernel is called, refusing what it has no meaning for."""

    def call(*args, **options):
        for name in WHOLE.keys() & options.keys():
            if options[name] not in (None, WHOLE[name]):
                raise NotImplementedError(f"{function.__name__}: {name} = {options[name]}")
            del options[name]
        return function(*args, **options)

    return call


def unit(x):
    """The kernels' L2 norm of queries and keys."""
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


@plain
def conv(x, weight, bias=None, activation=None, residual=None, backend=None, chunk_indices=None):
    assert residual is None
    taps = weight.shape[-1]
    y = F.conv1d(F.pad(x.mT, (taps - 1, 0)), weight.unsqueeze(1), bias, groups=weight.shape[0]).mT
    return (F.silu(y) if activation else y), None


def norm(residual_in_fp32, **arguments):
    return rms_norm_ref(**arguments)


def gated_norm(x, g, weight, bias, activation, residual, prenorm, residual_in_fp32, eps):
    assert residual is None and not prenorm
    return rms_norm_ref(x, weight, bias, eps=eps) * (g.sigmoid() if activation == "sigmoid" else F.silu(g))


@plain
def rotate(x, cos, sin, interleaved, seqlen_offsets, chunk_indices):
    assert seqlen_offsets == 0
    return rotary_embedding_ref(x, cos[: x.shape[1]], sin[: x.shape[1]], interleaved)


@plain
def gated_delta_rule(
    q,
    k,
    v,
    g,
    beta,
    A_log,
    dt_bias,
    allow_neg_eigval,
    use_qk_l2norm_in_kernel,
    use_beta_sigmoid_in_kernel,
    use_gate_in_kernel,
):
    assert use_qk_l2norm_in_kernel and use_beta_sigmoid_in_kernel and use_gate_in_kernel
    group = v.shape[2] // k.shape[2]
    q, k = (unit(x).repeat_interleave(group, dim=2) for x in (q, k))
    beta = beta.sigmoid() * (2 if allow_neg_eigval else 1)
    return naive_recurrent_gated_delta_rule(q, k, v, beta, naive_gdn_gate(g, A_log, dt_bias))


@plain
def kda(
    q,
    k,
    v,
    g,
    beta,
    A_log,
    dt_bias,
    allow_neg_eigval,
    safe_gate,
    lower_bound,
    use_qk_l2norm_in_kernel,
    use_beta_sigmoid_in_kernel,
    use_gate_in_kernel,
):
    assert use_qk_l2norm_in_kernel and use_beta_sigmoid_in_kernel and use_gate_in_kernel
    assert not safe_gate and lower_bound is None
    beta = beta.sigmoid() * (2 if allow_neg_eigval else 1)
    return naive_recurrent_kda(unit(q), unit(k), v, naive_kda_gate(g, A_log, dt_bias), beta)


@plain
def gdn2(q, k, v, g, b, w, use_qk_l2norm_in_kernel):
    assert use_qk_l2norm_in_kernel
    return naive_recurrent_gdn2(unit(q), unit(k), v, g, b, w)


@plain
def delta_rule(q, k, v, beta, use_qk_l2norm_in_kernel):
    """The recurrence takes heads before tokens."""
    assert use_qk_l2norm_in_kernel
    o, _ = delta_rule_recurrence(*(x.transpose(1, 2) for x in (unit(q), unit(k), v, beta)))
    return o.transpose(1, 2), None


@plain
def retention(q, k, v):
    """As `delta_rule`, heads before tokens."""
    return naive_retention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2), None


@plain
def forgetting(q, k, v, g):
    return naive_forgetting_attn(q, k, v, g)


@plain
def nsa(q, k, v, g_cmp, g_slc, g_swa, block_size, block_counts, window_size):
    """`fla.ops.nsa.naive.naive_nsa` from its own parts, which work for any group of heads and need no
    flash attention. A block's mean is over the keys that it has."""

    def means(x):
        return torch.stack([block.mean(1) for block in x.split(block_size, dim=1)], dim=1)

    scale = q.shape[-1] ** -0.5
    compressed, _ = naive_nsa_compression(q, means(k), means(v), block_size, scale)
    chosen = naive_nsa_topk(q, means(k), block_counts, block_size, scale)
    selected = naive_nsa_selection(q, k, v, chosen, block_size, scale)
    window, _ = naive_parallel_attn(q, k, v, scale, window_size)
    branches = ((g_cmp, compressed), (g_slc, selected), (g_swa, window))
    return sum(gate.unsqueeze(-1) * branch for gate, branch in branches)


for module, replacements in (
    (fla.modules.causal_conv1d.ops, dict(causal_conv1d=conv)),
    (fla.modules.norm.layernorm, dict(rms_norm=norm)),
    (fla.modules.norm.fused_norm_gate, dict(rms_norm_gated=gated_norm)),
    (fla.modules.rotary.ops, dict(rotary_embedding=rotate)),
    (fla.modules.mlp, dict(swiglu=lambda gate, x: F.silu(gate) * x)),
    (fla.layers.gated_deltanet, dict(causal_conv1d=conv, chunk_gated_delta_rule=gated_delta_rule)),
    (fla.layers.kda, dict(chunk_kda=kda)),
    (fla.layers.gdn2, dict(chunk_gdn2=gdn2)),
    (fla.layers.delta_net, dict(fused_recurrent_delta_rule=delta_rule)),
    (fla.layers.gla, dict(fused_recurrent_gla=plain(naive_recurrent_gla))),
    (fla.layers.multiscale_retention, dict(chunk_retention=retention)),
    (fla.layers.linear_attn, dict(chunk_linear_attn=plain(naive_recurrent_linear_attn))),
    (fla.layers.forgetting_attn, dict(parallel_forgetting_attn=forgetting)),
    (fla.layers.nsa, dict(parallel_nsa=nsa)),
):
    for name, replacement in replacements.items():
        getattr(module, name)  # a kernel that moved is an error
        setattr(module, name, replacement)
