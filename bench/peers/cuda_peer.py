# SPDX-License-Identifier: Apache-2.0
"""Times pieces of work in other frameworks on a CUDA device and prints a line of JSON for each.

    python cuda_peer.py gpt_training:8x1024 --vocabulary 256
    python cuda_peer.py rates:1x1 attention:8x8192 retention:8x8192 ssd:8x2048

rates: copies and products of matrices. attention, retention, ssd, selective_scan, short_convolution, fft_convolution: forward, and forward with
backward, in bf16. *_training: cuda_models.py; *_generation: cuda_generation.py. Retention and RetNet need flash-linear-attention, ssd, the
selective scan and Mamba mamba_ssm, short_convolution causal_conv1d; without the package the line says so.
"""
import argparse
import json
import random as shuffle
import re
import subprocess
import sys

import torch
from torch.nn import functional

import cuda_generation
import cuda_models
from cuda_timing import both, milliseconds


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16, requires_grad=True)


def real(*shape):
    return torch.randn(*shape, device="cuda", requires_grad=True)


def rates(batch, length, options):
    """Bytes read and written by a copy of 1 GiB, and a product 8192³ in bf16."""
    a = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    copy = milliseconds(lambda: b.copy_(a), options.rounds)
    x, y = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = milliseconds(lambda: torch.mm(x, y), options.rounds)
    facts = torch.cuda.get_device_properties(0)
    clock = subprocess.run(["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits", "-i", "0"], capture_output=True, text=True, check=True)
    return {"copy_gb_a_second": 2 * 2**30 / copy["median_ms"] / 1e6, "matmul_tflops": 2 * 8192**3 / product["median_ms"] / 1e9,
            "multiprocessors": facts.multi_processor_count, "megahertz": int(clock.stdout)}


def attention(batch, length, options, heads=16, width=128):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q, k, v = (random(batch, heads, length, width) for _ in range(3))
    rows = {}
    for name, kind in (("cudnn", SDPBackend.CUDNN_ATTENTION), ("flash", SDPBackend.FLASH_ATTENTION)):
        with sdpa_kernel(kind):
            rows[name] = both(lambda: functional.scaled_dot_product_attention(q, k, v, is_causal=True), [q, k, v], options.rounds)
    return rows


def retention(batch, length, options, heads=8, keys=256, values=512):
    """By the function whose decays are on the device already; chunk_retention makes them in every call."""
    from fla.ops.simple_gla import chunk_simple_gla

    q, k, v = random(batch, length, heads, keys), random(batch, length, heads, keys), random(batch, length, heads, values)
    decay = (1 - 2.0 ** (-5 - torch.arange(heads, device="cuda").float())).log()
    return both(lambda: chunk_simple_gla(q, k, v, g_gamma=decay)[0], [q, k, v], options.rounds)


def ssd(batch, length, options, heads=24):
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    x, dt = random(batch, length, heads, 64), random(batch, length, heads)
    b, c = random(batch, length, 1, 128), random(batch, length, 1, 128)
    a = (-torch.rand(heads, device="cuda") * 15 - 1).requires_grad_()
    d, bias = real(heads), real(heads)

    def forward():
        return mamba_chunk_scan_combined(x, dt, a, b, c, 256, D=d, dt_bias=bias, dt_softplus=True)

    return both(forward, [x, dt, a, b, c, d, bias], options.rounds)


def ssd80(batch, length, options):
    return ssd(batch, length, options, 80)


def selective_scan(batch, length, options, channels=1536, states=16):
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    u, dt, z = (random(batch, channels, length) for _ in range(3))
    b, c = random(batch, states, length), random(batch, states, length)
    a = (-torch.rand(channels, states, device="cuda") * 15 - 1).requires_grad_()
    d, bias = real(channels), real(channels)

    def forward():
        return selective_scan_fn(u, dt, a, b, c, D=d, z=z, delta_bias=bias, delta_softplus=True)

    return both(forward, [u, dt, a, b, c, d, z, bias], options.rounds)


def short_convolution(batch, length, options, channels=1536):
    from causal_conv1d import causal_conv1d_fn

    x, weight, bias = random(batch, channels, length), random(channels, 4), random(channels)
    return both(lambda: causal_conv1d_fn(x, weight, bias, activation="silu"), [x, weight, bias], options.rounds)


def fft_convolution(batch, length, options, channels=768):
    """torch.fft; the released kernels of H3 and FlashFFTConv are timed by bench/flashconv.sh."""
    u, k = random(batch, channels, length), real(channels, length)

    def forward():
        return torch.fft.irfft(torch.fft.rfft(u.float(), n=2 * length) * torch.fft.rfft(k, n=2 * length), n=2 * length)[..., :length].to(u.dtype)

    return both(forward, [u, k], options.rounds)


def compile_alone(seed):
    """Each candidate of Triton's tuning runs once, in an order that the seed gives: processes with different seeds share the compiling, whose results
    are in a cache on the disk."""
    from triton.runtime.autotuner import Autotuner

    prune = Autotuner.prune_configs

    def shuffled(self, arguments):
        configs = list(prune(self, arguments))
        shuffle.Random(seed).shuffle(configs)
        return configs

    def once(call, quantiles):
        call()
        return [1.0, 1.0, 1.0]

    Autotuner.prune_configs = shuffled
    Autotuner.do_bench = property(lambda self: once)


WORKS = {call.__name__: call for call in (rates, attention, retention, ssd, ssd80, selective_scan, short_convolution, fft_convolution)}
for module in (cuda_models, cuda_generation):
    WORKS.update({name: call for name, call in vars(module).items() if name.endswith(("_training", "_generation"))})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="+", metavar="WORK:BATCHxLENGTH", help=", ".join(WORKS))
    parser.add_argument("--vocabulary", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=128, help="that are generated")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compile-only", type=int, metavar="SEED", help="fill the caches of compiled kernels; times are of no use")
    parser.add_argument("--eager", dest="compile", action="store_false")
    options = parser.parse_args()
    if options.compile_only is not None:
        compile_alone(options.compile_only)
    works = [re.fullmatch(r"(\w+):(\d+)x(\d+)", work) for work in options.works]
    for work, found in zip(options.works, works):
        if not found or found[1] not in WORKS:
            parser.error(f"'{work}' is no WORK:BATCHxLENGTH of " + ", ".join(WORKS))
    for name, batch, length in ((found[1], int(found[2]), int(found[3])) for found in works):
        row = {"work": name, "batch": batch, "length": length, "torch": torch.__version__}
        if not torch.cuda.is_available():
            row["skipped"] = "no CUDA device"
        else:
            row["device"] = torch.cuda.get_device_name()
            torch.cuda.reset_peak_memory_stats()
            try:
                row.update(WORKS[name](batch, length, options))
            except Exception as failure:  # whatever a framework throws; the next work is another's
                row["skipped"] = f"{type(failure).__name__}: {failure}".strip().splitlines()[0]
            torch.cuda.empty_cache()
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    sys.exit(main())
