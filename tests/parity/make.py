"""Reference numbers for every attention family that has a public definition in PyTorch.

    python make.py              writes data/<family>/ for all families (byte for byte the same again)
    python make.py qwen3 llama  writes only these
    python make.py --check      recomputes everything, names what differs by more than 1e-6, and fails

A family is one function below: it says where its definition comes from and returns a tiny model.
What then happens to the model is the same for all:

1. its parameters are drawn in f32 from the family's own seed (`draw`),
2. `config.json` and `model.safetensors` are what transformers itself saves (`save`),
3. the same weights run in f64, down to every cast inside the model (`Double`), and
   `reference.safetensors` gets inputs, outputs and all gradients, rounded to f32 once, at the end.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread: sums in one order
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here comes from a hub

import numpy as np
import torch
from derived import (
    DiffV1Config,
    DiffV1ForCausalLM,
    DiffV2Config,
    DiffV2ForCausalLM,
    GatedQwen3Attention,
    with_attention,
)
from safetensors.torch import load_file, save_file
from torch import nn
from torch.overrides import TorchFunctionMode
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
from transformers.core_model_loading import revert_weight_conversion
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet, Qwen3NextTopKRouter
from transformers.utils import logging

DATA = Path(__file__).parent / "data"
BATCH, TIME = 2, 17
TOLERANCE = 1e-6

# ---------------------------------------------------------------------------------------------
# The families
# ---------------------------------------------------------------------------------------------

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
    config.architectures = ["Qwen3NextGatedDeltaNet"]

    def build():
        layer = Qwen3NextGatedDeltaNet(config, 0)
        layer.config = config
        return layer

    return build


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


# ---------------------------------------------------------------------------------------------
# Weights and files
# ---------------------------------------------------------------------------------------------

# Spread by name, first match; everything else is a matrix. Norms are drawn around the value their
# constructor gives (1, or 0 where the model multiplies by 1 + w), the rest around 0.
SPREADS = [
    (r"[qk]_norm\.weight$", 1.0),  # else every pattern of a normalised query is nearly flat
    (r"norm\w*\.weight$|subln\.weight$", 0.3),
    (r"lambda_[qk][12]$", 0.5),
    (r"A_log$|dt_bias$", 0.7),
    (r"conv1d\.weight$", 0.5),
    (r".", 0.25),
]


def draw(model, rng):
    """Gives every parameter a random value that f32 holds exactly, in the order of their names."""
    for name, parameter in sorted(model.named_parameters()):
        spread = next(spread for pattern, spread in SPREADS if re.search(pattern, name))
        centre = parameter.detach().mean() if "norm" in name or "subln" in name else torch.tensor(0.0)
        noise = torch.from_numpy(rng.normal(0.0, spread, tuple(parameter.shape)))
        parameter.data.copy_((centre + noise).float())


def save(model, folder):
    """`config.json` and `model.safetensors`, as transformers writes them."""
    with tempfile.TemporaryDirectory() as scratch:
        if isinstance(model, Qwen3NextGatedDeltaNet):
            model.config.save_pretrained(scratch)
            save_file(model.state_dict(), Path(scratch) / "model.safetensors", metadata={"format": "pt"})
        else:
            model.save_pretrained(scratch)
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(Path(scratch) / name, folder / name)


class Double(TorchFunctionMode):
    """Double precision throughout, in models that cast to single precision inside.

    Norms, RoPE tables, softmax, lambda and the delta rule ask for f32 by name; under this mode they
    get f64. A tensor that is f32 all the same is an error.
    """

    def __enter__(self):
        torch.set_default_dtype(torch.float64)
        return super().__enter__()

    def __exit__(self, *error):
        torch.set_default_dtype(torch.float32)
        return super().__exit__(*error)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        def widen(value):
            return torch.float64 if value is torch.float32 else value

        function = torch.Tensor.double if function is torch.Tensor.float else function
        out = function(*map(widen, args), **{name: widen(value) for name, value in (kwargs or {}).items()})
        if isinstance(out, torch.Tensor) and torch.Tensor.dtype.__get__(out) is torch.float32:
            raise TypeError(f"{function.__name__} made a single precision tensor")
        return out


# ---------------------------------------------------------------------------------------------
# Reference runs, in double precision
# ---------------------------------------------------------------------------------------------


def run_language_model(model, rng):
    """Inputs, logits, the residual stream, and the gradients of the mean cross-entropy.

    `hidden.0` is the embedding, `hidden.i` what block i - 1 leaves. They come from hooks, because the
    last entry of transformers' own `hidden_states` has gone through the final norm.
    """
    ids = torch.from_numpy(rng.integers(0, model.config.vocab_size, (BATCH, TIME)))
    hidden = []
    for module in [model.model.embed_tokens, *model.model.layers]:
        module.register_forward_hook(lambda module, args, out: hidden.append(out))
    refuse_close_calls(model)
    logits = model(input_ids=ids).logits
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    return {"ids": ids, "logits": logits, **{f"hidden.{i}": x for i, x in enumerate(hidden)}}


def refuse_close_calls(model, margin=1e-2):
    """Fails where a router's last expert in and first expert out are nearly level: single precision
    might take the other one, and its numbers would differ without a mistake."""

    def check(router, args, out):
        logits = out[0].detach().sort(descending=True).values
        gap = (logits[:, router.top_k - 1] - logits[:, router.top_k]).min().item()
        if gap < margin:
            raise ValueError(f"a router decides by {gap:.1e}, expected at least {margin}: try another seed")

    for module in model.modules():
        if isinstance(module, Qwen3NextTopKRouter):
            module.register_forward_hook(check)


def run_layer(layer, rng):
    """`out = layer(x)` and the gradients of `sum(out * w)`, for random x and w."""
    x, w = (torch.from_numpy(rng.normal(size=(BATCH, TIME, layer.hidden_size))).float().double() for _ in "xw")
    x.requires_grad_()
    out = layer(x)
    (out * w).sum().backward()
    return {"x": x, "w": w, "out": out, "grad.x": x.grad}


def gradients(model):
    """`grad.<name>` for every tensor of the checkpoint, under the names that files have."""
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    if not isinstance(model, Qwen3NextGatedDeltaNet):
        grads = revert_weight_conversion(model, grads)
    return {f"grad.{name}": grad for name, grad in grads.items()}


def make(name, folder):
    """Writes one family into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe, seed = FAMILIES[name]
    rng, build = np.random.default_rng(seed), recipe()

    single = build().eval()
    draw(single, rng)
    save(single, folder)

    weights = {key: value.double() for key, value in single.state_dict().items()}
    with Double():
        double = build().eval()
        double.load_state_dict(weights)
        run = run_layer if isinstance(double, Qwen3NextGatedDeltaNet) else run_language_model
        reference = run(double, rng) | gradients(double)

    checkpoint = load_file(folder / "model.safetensors")
    without = set(checkpoint) ^ {key.removeprefix("grad.") for key in reference if key.startswith("grad.")} - {"x"}
    idle = [key for key, value in reference.items() if not value.any()]
    if without or idle:
        raise ValueError(f"{name}: tensors and gradients do not match {without}; zero everywhere: {idle}")
    single_precision = {
        key: (value if value.dtype == torch.int64 else value.detach().float()).contiguous()
        for key, value in reference.items()
    }
    save_file(single_precision, folder / "reference.safetensors")


# ---------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------


def differences(kept, fresh):
    """What differs between two folders of one family, in words."""
    if json.loads((kept / "config.json").read_text()) != json.loads((fresh / "config.json").read_text()):
        yield "config.json"
    for file in ("model.safetensors", "reference.safetensors"):
        old, new = load_file(kept / file), load_file(fresh / file)
        for key in sorted(old.keys() | new.keys()):
            if key not in old or key not in new or old[key].shape != new[key].shape:
                yield f"{file}: {key} (missing or of another shape)"
                continue
            scale = max(1.0, old[key].abs().max().item())
            apart = (old[key].double() - new[key].double()).abs().max().item()
            if not apart <= TOLERANCE * scale:
                yield f"{file}: {key} (by {apart:.1e})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="family", help=f"one of: {', '.join(FAMILIES)}; default all")
    parser.add_argument("--check", action="store_true", help="compare with what data/ holds instead of writing it")
    options = parser.parse_args()
    unknown = set(options.families) - set(FAMILIES)
    if unknown:
        parser.error(f"unknown family {', '.join(sorted(unknown))}; valid: {', '.join(FAMILIES)}")

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    failed = False
    for name in options.families or FAMILIES:
        if not options.check:
            make(name, DATA / name)
            print(f"{name}: written")
            continue
        with tempfile.TemporaryDirectory() as scratch:
            make(name, Path(scratch))
            found = list(differences(DATA / name, Path(scratch)))
        print("\n".join(f"{name}: {what} differs" for what in found) or f"{name}: the same")
        failed |= bool(found)
    sys.exit(failed)


if __name__ == "__main__":
    main()
