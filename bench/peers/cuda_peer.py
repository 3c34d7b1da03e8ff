# SPDX-License-Identifier: Apache-2.0
"""Times one piece of work in another framework on a CUDA device and prints a line of JSON.

    python cuda_peer.py gpt_training 8 1024 --vocabulary 256
    python cuda_peer.py attention 8 8192
    python cuda_peer.py retention 8 8192
    python cuda_peer.py ssd 8 2048

gpt_training: a plain GPT in PyTorch, 12 blocks of width 768 and 12 heads, bf16 autocast, scaled_dot_product_attention, fused AdamW, torch.compile.
attention, retention, ssd: forward, and forward with backward, in bf16. Retention needs flash-linear-attention, ssd needs
mamba_ssm; without the package the line says so.
"""
import argparse
import json
import statistics
import sys

import torch
from torch import nn
from torch.nn import functional


def milliseconds(work, rounds):
    for _ in range(3):
        work()
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    times.sort()
    return {"median_ms": statistics.median(times), "least_ms": times[0], "most_ms": times[-1], "rounds": rounds}


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, vocabulary, length, width=768, heads=12, blocks=12):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, tokens, targets):
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def gpt_training(batch, length, options):
    torch.set_float32_matmul_precision("high")
    model = Gpt(options.vocabulary, length).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    tokens = torch.randint(options.vocabulary, (batch, length + 1), device="cuda")
    forward = torch.compile(model) if options.compile else model

    def step():
        with torch.autocast("cuda", torch.bfloat16):
            loss = forward(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    row = milliseconds(step, 20)
    row["tokens_per_second"] = 1e3 * batch * length / row["median_ms"]
    row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return row


def both(forward, inputs):
    """Of a function and of it with its gradient."""
    y = forward()
    dy = torch.randn_like(y)

    def with_gradient():
        torch.autograd.grad(forward(), inputs, dy)

    with torch.no_grad():
        rows = {"forward": milliseconds(forward, 20)}
    rows["forward_backward"] = milliseconds(with_gradient, 20)
    return rows


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16, requires_grad=True)


def attention(batch, length, options):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q, k, v = (random(batch, 16, length, 128) for _ in range(3))
    rows = {}
    for name, kind in (("cudnn", SDPBackend.CUDNN_ATTENTION), ("flash", SDPBackend.FLASH_ATTENTION)):
        with sdpa_kernel(kind):
            rows[name] = both(lambda: functional.scaled_dot_product_attention(q, k, v, is_causal=True), [q, k, v])
    return rows


def retention(batch, length, options):
    from fla.ops.simple_gla import chunk_simple_gla

    q, k, v = random(batch, length, 8, 256), random(batch, length, 8, 256), random(batch, length, 8, 512)
    decay = (1 - 2.0 ** (-5 - torch.arange(8, device="cuda").float())).log()
    return both(lambda: chunk_simple_gla(q, k, v, g_gamma=decay)[0], [q, k, v])


def ssd(batch, length, options):
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    x, dt = random(batch, length, 24, 64), random(batch, length, 24)
    b, c = random(batch, length, 1, 128), random(batch, length, 1, 128)
    a = (-torch.rand(24, device="cuda") * 15 - 1).requires_grad_()
    d, bias = (torch.randn(24, device="cuda", requires_grad=True) for _ in range(2))

    def forward():
        return mamba_chunk_scan_combined(x, dt, a, b, c, 256, D=d, dt_bias=bias, dt_softplus=True)

    return both(forward, [x, dt, a, b, c, d, bias])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=["gpt_training", "attention", "retention", "ssd"])
    parser.add_argument("batch", type=int)
    parser.add_argument("length", type=int)
    parser.add_argument("--vocabulary", type=int, default=256)
    parser.add_argument("--eager", dest="compile", action="store_false")
    options = parser.parse_args()
    row = {"work": options.work, "batch": options.batch, "length": options.length, "torch": torch.__version__}
    if not torch.cuda.is_available():
        row["skipped"] = "no CUDA device"
    else:
        row["device"] = torch.cuda.get_device_name()
        try:
            row.update(globals()[options.work](options.batch, options.length, options))
        except ImportError as missing:
            row["skipped"] = str(missing)
    print(json.dumps(row))


if __name__ == "__main__":
    sys.exit(main())
