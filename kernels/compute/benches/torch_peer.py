"""The PyTorch side of `cargo lab bench peers`: models of the same sizes, trained and decoded.

Requirements: torch==2.15.0 transformers==5.24.0

    python torch_peer.py step plain             repeats until stopped by the end of its input
    echo 10 | python torch_peer.py decode qwen3 ten repetitions

It speaks the protocol of `cargo lab bench … --follow`: one line about the model; then for every line
read, a number, as many repetitions and a line with their durations; at the end one about memory.

Models: `plain` is the decoder in plain PyTorch, as short as it can be (RMSNorm, QK-norm, RoPE, SwiGLU,
scaled_dot_product_attention); `qwen3`, `qwen3-next` (dense feed-forward networks) and `diffllama` are those
of Hugging Face. All are in f32, in eager mode unless --compile, with the fused AdamW.
"""

import argparse
import importlib.util
import json
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn


class Norm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-6)


class Block(nn.Module):
    def __init__(self, size):
        super().__init__()
        width, self.heads = size.d_model, size.heads
        self.norm, self.mlp_norm = Norm(width), Norm(width)
        self.q_norm, self.k_norm = Norm(width // self.heads), Norm(width // self.heads)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(width, size.ffn, bias=False) for _ in range(2))
        self.down = nn.Linear(size.ffn, width, bias=False)

    def forward(self, x, turn):
        batch, time_, width = x.shape
        split = lambda y: y.view(batch, time_, self.heads, -1).transpose(1, 2)
        y = self.norm(x)
        q, k, v = turn(self.q_norm(split(self.q(y)))), turn(self.k_norm(split(self.k(y)))), split(self.v(y))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(batch, time_, width))
        y = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Plain(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.embedding = nn.Embedding(size.vocab, size.d_model)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = Norm(size.d_model)
        half = size.d_model // size.heads // 2
        angles = torch.outer(torch.arange(size.seq), 10000.0 ** (-torch.arange(half) / half))
        self.register_buffer("cos", angles.cos().repeat(1, 2))
        self.register_buffer("sin", angles.sin().repeat(1, 2))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def turn(self, x):
        first, second = x.chunk(2, -1)
        return x * self.cos + torch.cat([-second, first], -1) * self.sin

    def forward(self, ids):
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, self.turn)
        return F.linear(self.norm(x), self.embedding.weight)


def hugging_face(name, size):
    """A model of `transformers`; without flash-linear-attention, which needs a GPU."""
    find = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *rest: None if name.split(".")[0] == "fla" else find(name, *rest)
    sys.modules["fla"] = None
    import transformers

    common = dict(
        vocab_size=size.vocab,
        hidden_size=size.d_model,
        intermediate_size=size.ffn,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        head_dim=size.d_model // size.heads,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=None,
    )
    if name == "qwen3-next":
        head = size.d_model // size.heads
        common |= dict(
            mlp_only_layers=list(range(size.layers)),
            linear_num_key_heads=size.heads,
            linear_num_value_heads=size.heads,
            linear_key_head_dim=head,
            linear_value_head_dim=head,
            linear_conv_kernel_dim=4,
            rope_parameters=dict(rope_type="default", rope_theta=1e4, partial_rotary_factor=1.0),
        )
    kind = {"qwen3": "Qwen3", "qwen3-next": "Qwen3Next", "diffllama": "DiffLlama"}[name]
    config = getattr(transformers, f"{kind}Config")(**common)
    return getattr(transformers, f"{kind}ForCausalLM")(config)


def logits_of(output):
    return output if isinstance(output, torch.Tensor) else output.logits


def step_of(model, size):
    """Forward, backward, clipping of the global norm, AdamW: seconds of one."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    run = torch.compile(model) if size.compile else model

    def step():
        tokens = torch.randint(size.vocab, (size.batch, size.seq + 1))
        started = time.perf_counter()
        logits = logits_of(run(tokens[:, :-1]))
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        assert loss.item() > 0
        return time.perf_counter() - started

    return step


class Clock:
    """A streamer that keeps when each token came."""

    def __init__(self):
        self.times = []

    def put(self, _):
        self.times.append(time.perf_counter())

    def end(self):
        pass


def decode_of(model, size, written=64):
    """`generate` with a cache, greedily: seconds of a token after the context and the first token."""
    model.eval()

    def decode():
        prompt, clock = torch.randint(size.vocab, (size.batch, size.seq)), Clock()
        with torch.inference_mode():
            model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=1 + written,
                do_sample=False,
                use_cache=True,
                streamer=clock,
            )
        _, first, *_, last = clock.times
        assert len(clock.times) == 2 + written
        return (last - first) / written

    return decode


def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("task", choices=["step", "decode"])
    arguments.add_argument("model", choices=["plain", "qwen3", "qwen3-next", "diffllama"])
    for name, value in dict(d_model=256, layers=4, heads=4, ffn=688, vocab=256, seq=256, batch=8, threads=2).items():
        arguments.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    arguments.add_argument("--compile", action="store_true", help="torch.compile the model of a step")
    size = arguments.parse_args()
    torch.set_num_threads(size.threads)
    torch.manual_seed(0)
    if size.model != "plain":
        import transformers  # noqa: F401 -- before the memory is read

    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    base = status("VmRSS")
    model = Plain(size) if size.model == "plain" else hugging_face(size.model, size)
    run = (step_of if size.task == "step" else decode_of)(model, size)
    say = lambda **answer: print(json.dumps(answer), flush=True)
    for _ in range(2):
        run()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    versions = f"torch {torch.__version__}"
    if "transformers" in sys.modules and size.model != "plain":
        versions += f", transformers {sys.modules['transformers'].__version__}"
    say(parameters=parameters, versions=versions, threads=torch.get_num_threads())
    for line in sys.stdin:
        say(ms=[run() * 1e3 for _ in range(int(line))])
    say(base_bytes=base, peak_bytes=status("VmHWM"))


if __name__ == "__main__":
    main()
