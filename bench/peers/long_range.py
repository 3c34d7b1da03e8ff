#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times training updates at the shapes of the Long Range Arena on a GPU, in one run: S4D and H3 of `ssm classify`, the same S4D in
PyTorch with torch.fft, and a Transformer of the same depth and width, whose attention is plain products and a softmax (as when the
paper was written) or PyTorch's fused one. An update is forward, backward and AdamW. Numbers are float32, the same with products
in TF32, or bf16 with parameters in float32 (PyTorch: autocast; its transforms stay in float32).

usage: long_range.py SSM [--tasks listops,imdb,…] [--updates 10] [--out FILE.json]
       long_range.py --self-test     the model with torch.fft against a recurrence, on the CPU
"""
import argparse
import json
import math
import statistics
import subprocess
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

# layers, width, norm behind the sum, batch, length, tokens (0: numbers), classes: those of `ssm classify`, and of the published
# retrieval, whose models read both documents apart
TASKS = {
    "listops": (8, 128, True, 50, 2048, 16, 10),
    "imdb": (6, 256, False, 16, 4096, 257, 2),
    "retrieval": (6, 256, False, 128, 4000, 257, 2),  # 64 pairs of documents
    "image": (6, 512, True, 50, 1024, 0, 10),
    "pathfinder": (6, 256, False, 64, 1024, 0, 2),
    "pathx": (6, 256, False, 16, 16384, 0, 2),
}
SHORT = ("listops", "imdb", "retrieval", "image", "pathfinder")  # those of the paper's comparison, of 1K to 4K positions


class DiagonalKernels(nn.Module):
    """K[l] = 2·Re Σ_p C_p·(Ā_p − 1)/A_p·B_p·Ā_p^l of every channel, Ā = exp(dt·A)."""

    def __init__(self, width, state=64, dt_min=0.001, dt_max=0.1):
        super().__init__()
        modes = state // 2
        self.log_dt = nn.Parameter(torch.rand(width) * (math.log(dt_max) - math.log(dt_min)) + math.log(dt_min))
        self.inv_A_real = nn.Parameter(torch.full((width, modes), math.log(0.5)))
        self.A_imag = nn.Parameter(math.pi * torch.arange(modes).float().repeat(width, 1))
        self.B = nn.Parameter(torch.view_as_real(torch.ones(width, modes, dtype=torch.cfloat)).clone())
        self.C = nn.Parameter(torch.view_as_real(torch.randn(width, modes, dtype=torch.cfloat)).clone())

    def forward(self, length):
        A = torch.complex(-self.inv_A_real.exp(), self.A_imag)
        z = A * self.log_dt.exp()[:, None]
        weight = torch.view_as_complex(self.C) * torch.view_as_complex(self.B) * (z.exp() - 1) / A
        powers = torch.exp(z[:, :, None] * torch.arange(length, device=z.device))
        return 2 * torch.einsum("hp,hpl->hl", weight, powers).real


class S4D(nn.Module):
    """Both directions by one product of spectra, then GELU and the gated output."""

    def __init__(self, width):
        super().__init__()
        self.forward_kernel, self.backward_kernel = DiagonalKernels(width), DiagonalKernels(width)
        self.D = nn.Parameter(torch.randn(width))
        self.output_linear = nn.Linear(width, 2 * width)

    def filtered(self, x):
        length = x.shape[1]
        n = 2 * length
        u = x.transpose(1, 2).to(self.D.dtype)
        k = torch.fft.rfft(self.forward_kernel(length), n=n) + torch.fft.rfft(self.backward_kernel(length), n=n).conj()
        return (torch.fft.irfft(torch.fft.rfft(u, n=n) * k, n=n)[..., :length] + self.D[:, None] * u).transpose(1, 2)

    def forward(self, x):
        return F.glu(self.output_linear(F.gelu(self.filtered(x))), dim=-1)


class Transformer(nn.Module):
    """Attention with a feed-forward part of four times the width."""

    def __init__(self, width, fused):
        super().__init__()
        self.heads, self.fused = width // 32, fused
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5).softmax(dim=-1) @ v
        a = self.out(y.transpose(1, 2).flatten(-2))
        return a + self.mlp(self.norm(x + a))


class Classifier(nn.Module):
    def __init__(self, mixer, layers, width, norm_behind, tokens, classes):
        super().__init__()
        self.encoder = nn.Embedding(tokens, width) if tokens else nn.Linear(1, width)
        self.mixers = nn.ModuleList(mixer(width) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.norm, self.decoder, self.norm_behind = nn.LayerNorm(width), nn.Linear(width, classes), norm_behind

    def forward(self, x):
        x = self.encoder(x)
        for mixer, norm in zip(self.mixers, self.norms):
            x = norm(x + mixer(x)) if self.norm_behind else x + mixer(norm(x))
        return self.decoder(self.norm(x).mean(dim=1))


def seconds_of_updates(model, x, labels, updates, numbers):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    times = []
    for _ in range(updates + 3):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=numbers == "bf16"):
            loss = F.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[3:])


def peer_row(task, name, mixer, updates, numbers):
    """Where the batch does not fit, smaller ones: a batch is then several updates' worth of time."""
    layers, width, norm_behind, batch, length, tokens, classes = TASKS[task]
    torch.backends.cuda.matmul.allow_tf32 = numbers == "tf32"
    split = 1
    while split <= batch:
        part = -(-batch // split)
        try:
            torch.manual_seed(0)
            model = Classifier(mixer, layers, width, norm_behind, tokens, classes).cuda()
            x = torch.randint(1, tokens, (part, length)).cuda() if tokens else torch.rand(part, length, 1).cuda()
            labels = torch.arange(part).cuda() % classes
            seconds = seconds_of_updates(model, x, labels, updates, numbers) * batch / part
            parameters = sum(p.numel() for p in model.parameters())
            return {"task": task, "model": name, "numbers": numbers, "batch": batch, "at_once": part, "length": length,
                    "parameters": parameters, "milliseconds": 1000 * seconds}
        except RuntimeError as error:  # of memory, also where cuFFT asked for it
            if "memory" not in str(error) and "CUFFT" not in str(error):
                raise
            split *= 2
        finally:
            model = x = labels = None
            torch.cuda.empty_cache()
    return None


def our_row(ssm, task, mixer, updates, numbers):
    backend = "cuda-tf32" if numbers == "tf32" else "cuda"
    _, _, _, batch, length, _, _ = TASKS[task]
    options = {"--mixer": mixer, "--backend": backend, "--numbers": "bf16" if numbers == "bf16" else "float", "--time": updates,
               "--batch": batch, "--length": length}
    said = subprocess.run([ssm, "classify", task, *(str(word) for option in options.items() for word in option)],
                          capture_output=True, text=True)
    if said.returncode != 0:
        print(f"{task} {mixer} {numbers}: {said.stderr.strip()}", file=sys.stderr)
        return None
    row = json.loads(said.stdout)
    return {"task": task, "model": f"ssm {mixer}", "numbers": numbers, "batch": row["batch"], "at_once": row["batch"],
            "length": row["length"], "parameters": row["parameters"], "milliseconds": row["milliseconds"]}


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def summary(rows, numbers):
    """How many times as fast as the Transformer with plain attention, and as S4D with torch.fft: by task, and the mean of the
    short ones."""
    result = []
    times = {(row["task"], row["model"]): row["milliseconds"] for row in rows if row["numbers"] == numbers}

    def ratios(model, other):
        return {task: times[task, other] / times[task, model] for task in TASKS if (task, model) in times and (task, other) in times}

    for model in sorted({model for _, model in times}):
        row = {"model": model, "numbers": numbers}
        for name, other in (("transformer", "transformer"), ("torch_fft", "torch.fft s4d")):
            by_task = ratios(model, other)
            short = [by_task[task] for task in SHORT if task in by_task]
            row |= {f"over_{name}": by_task, f"over_{name}_mean": geometric_mean(short) if short else None, "tasks": len(short)}
        result.append(row)
    return result


def self_test():
    """The convolution of both directions equals its recurrence."""
    torch.manual_seed(1)
    layer = S4D(3).double()
    x = torch.randn(2, 9, 3).double()
    with torch.no_grad():
        y = layer.filtered(x)
        expected = layer.D * x
        for kernel, inputs, back in ((layer.forward_kernel, x, False), (layer.backward_kernel, x.flip(1), True)):
            A = torch.complex(-kernel.inv_A_real.exp(), kernel.A_imag)
            z = A * kernel.log_dt.exp()[:, None]
            state = torch.zeros(2, 3, A.shape[1], dtype=torch.cdouble)
            outputs = []
            for t in range(9):
                state = z.exp() * state + (z.exp() - 1) / A * torch.view_as_complex(kernel.B) * inputs[:, t, :, None]
                outputs.append(2 * (torch.view_as_complex(kernel.C) * state).sum(-1).real)
            one = torch.stack(outputs, dim=1)
            expected = expected + (one.flip(1) if back else one)
        assert (y - expected).abs().max() < 1e-9, (y - expected).abs().max()
        tokens = torch.randint(0, 5, (2, 9))
        for mixer in (S4D, lambda width: Transformer(width, True)):
            assert Classifier(mixer, 2, 32, True, 5, 3)(tokens).shape == (2, 3)
        a, b = Transformer(64, True), Transformer(64, False)
        b.load_state_dict(a.state_dict())
        x = torch.randn(2, 7, 64)
        assert (a(x) - b(x)).abs().max() < 1e-5
    print("the model with torch.fft equals its recurrence")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("ssm", nargs="?")
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--tasks", default=",".join(SHORT))
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--numbers", default="float,tf32,bf16")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    if not arguments.ssm:
        parser.error("the ssm program is needed")
    peers = {"torch.fft s4d": S4D, "transformer": lambda width: Transformer(width, False),
             "fused transformer": lambda width: Transformer(width, True)}
    rows = []
    every_numbers = arguments.numbers.split(",")
    for task in arguments.tasks.split(","):
        for numbers in every_numbers:
            found = [our_row(arguments.ssm, task, mixer, arguments.updates, numbers) for mixer in ("s4d", "h3")]
            found += [peer_row(task, name, mixer, arguments.updates, numbers) for name, mixer in peers.items()]
            for row in filter(None, found):
                rows.append(row)
                print(f"{row['task']:10} {row['model']:20} {numbers:5}  {row['milliseconds']:9.2f} ms"
                      f"  {row['parameters']} parameters  {row['at_once']} at once", flush=True)
        result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows,
                  "summary": [row for numbers in every_numbers for row in summary(rows, numbers)]}
        if arguments.out:  # after every task, should the next one be interrupted
            with open(arguments.out, "w", encoding="utf-8") as file:
                json.dump(result, file, indent=1)
                file.write("\n")
    for row in result["summary"]:
        means = [f"{row[name]:.2f}" if row[name] else "-" for name in ("over_transformer_mean", "over_torch_fft_mean")]
        print(f"{row['model']:20} {row['numbers']:5}  {means[0]} times a Transformer, {means[1]} times torch.fft; {row['tasks']} tasks")


if __name__ == "__main__":
    main()
