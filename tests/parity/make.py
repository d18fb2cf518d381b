"""Reference numbers for every attention family that has a public definition in PyTorch.

    python make.py              writes data/<family>/ for all families (byte for byte the same again)
    python make.py qwen3 llama  writes only these
    python make.py --check      recomputes everything, names what differs by more than 1e-6, and fails

A family is one function, of `families.py` where it is a whole model, of `layers.py` or `fla_layers.py`
where it is one layer: it says where its definition comes from and returns a tiny one. What then happens is the same
for all:

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

import fla_layers  # noqa: F401 -- registers its families
import numpy as np
import torch
from families import FAMILIES
from layers import Layer
from safetensors.torch import load_file, save_file
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers.core_model_loading import revert_weight_conversion
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextTopKRouter
from transformers.utils import logging

DATA = Path(__file__).parent / "data"
BATCH, TIME = 2, 17
TOLERANCE = 1e-6

# ---------------------------------------------------------------------------------------------
# Weights and files
# ---------------------------------------------------------------------------------------------

# Spread by name, first match; everything else is a matrix. Norms are drawn around the value their
# constructor gives (1, or 0 where the model multiplies by 1 + w), the rest around 0.
SPREADS = [
    (r"[qk]_norm\.weight$", 1.0),  # else every pattern of a normalised query is nearly flat
    (r"norm\w*\.weight$|subln\.weight$", 0.3),
    (r"lambda_[qk][12]$|_kernel$|_mixing$|key_bias$", 0.5),
    (r"A_log$|dt_bias$|sinks$", 0.7),
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
        if isinstance(model, Layer):
            model.config.architectures = [type(model.module).__name__]
            model.config.save_pretrained(scratch)
            weights = {name: parameter.detach() for name, parameter in model.module.named_parameters()}
            save_file(weights, Path(scratch) / "model.safetensors", metadata={"format": "pt"})
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
    for module in [model.get_input_embeddings(), *model.model.layers]:
        module.register_forward_hook(lambda module, args, out: hidden.append(out[0] if type(out) is tuple else out))
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
    size = (BATCH, TIME, layer.config.hidden_size)
    # Rounded to f32 by numpy: under `Double` torch would not.
    x, w = (torch.from_numpy(rng.normal(size=size).astype("float32").astype("float64")) for _ in "xw")
    x.requires_grad_()
    out = layer.run(x)
    (out * w).sum().backward()
    return {"x": x, "w": w, "out": out, "grad.x": x.grad}


def gradients(model):
    """`grad.<name>` for every tensor of the checkpoint, under the names that files have."""
    grads = {name: parameter.grad for name, parameter in module_of(model).named_parameters()}
    if not isinstance(model, Layer):
        grads = revert_weight_conversion(model, grads)
    return {f"grad.{name}": grad for name, grad in grads.items()}


def module_of(model):
    return model.module if isinstance(model, Layer) else model


def make(name, folder):
    """Writes one family into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe, seed = FAMILIES[name]
    rng, build = np.random.default_rng(seed), recipe()

    single = build()
    draw(module_of(single).eval(), rng)
    save(single, folder)

    weights = {key: value.double() for key, value in module_of(single).named_parameters()}
    with Double():
        double = build()
        # Whatever else a module keeps (a tied matrix under its other name, tables) it has made itself.
        module_of(double).eval().load_state_dict(weights, strict=False)
        run = run_layer if isinstance(double, Layer) else run_language_model
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
