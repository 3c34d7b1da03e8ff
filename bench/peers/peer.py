# SPDX-License-Identifier: Apache-2.0
"""Times one piece of work in another framework and prints a line of JSON, as ssm-peers does.

    python peer.py torch retention fwd 4x256x512x2048

Each function returns a callable that does the work once and waits until it is done.
"""
import json
import math
import os
import statistics
import sys
import time

THREADS = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count()))


def torch_short_convolution(trains, shape):
    import torch

    batch, width, length = shape
    x = torch.randn(batch, width, length, requires_grad=trains)
    weight = torch.randn(width, 1, 4, requires_grad=trains)
    bias = torch.randn(width, requires_grad=trains)
    dy = torch.randn(batch, width, length)

    def forward():
        y = torch.nn.functional.conv1d(x, weight, bias, padding=3, groups=width)
        return torch.nn.functional.silu(y[..., :length])

    return torch_work(forward, trains, dy, [x, weight, bias])


def torch_work(forward, trains, dy, inputs):
    import torch

    def run():
        if not trains:
            with torch.no_grad():
                forward()
            return
        for tensor in inputs:
            tensor.grad = None
        forward().backward(dy)

    return run


def torch_retention(trains, shape, chunk=256):
    """The chunkwise form, chunks of 256: scores inside a chunk, the state between chunks."""
    import torch

    heads, keys, values, length = shape
    q = torch.randn(1, heads, length, keys, requires_grad=trains)
    k = torch.randn(1, heads, length, keys, requires_grad=trains)
    v = torch.randn(1, heads, length, values, requires_grad=trains)
    dy = torch.randn(1, heads, length, values)
    decay = torch.log1p(-torch.exp2(-5 - torch.arange(heads, dtype=torch.float32)))
    at = torch.arange(chunk, dtype=torch.float32)
    distance = at[:, None] - at[None, :]
    mask = torch.where(distance >= 0, torch.exp(distance * decay[:, None, None]), torch.zeros(()))
    into = torch.exp((at + 1) * decay[:, None])[..., None]
    onward = torch.exp((chunk - 1 - at) * decay[:, None])[..., None]
    across = torch.exp(chunk * decay)[:, None, None]

    def forward():
        state = torch.zeros(1, heads, keys, values)
        parts = []
        for begin in range(0, length, chunk):
            qc, kc, vc = (t[:, :, begin : begin + chunk] for t in (q, k, v))
            inner = (qc @ kc.transpose(-1, -2) * mask) @ vc
            parts.append(inner + (qc * into) @ state)
            state = across * state + (kc * onward).transpose(-1, -2) @ vc
        return torch.cat(parts, dim=2)

    return torch_work(forward, trains, dy, [q, k, v])


def scan_inputs(shape):
    import numpy

    batch, width, length = shape
    numbers = numpy.random.default_rng(1)
    normal = lambda *extents: numbers.standard_normal(extents, dtype=numpy.float32)
    return {
        "u": normal(batch, length, width),
        "dt": numbers.uniform(1e-3, 0.1, (batch, length, width)).astype(numpy.float32),
        "A": -numbers.uniform(1, 16, (width, 16)).astype(numpy.float32),
        "B": normal(batch, length, 16),
        "C": normal(batch, length, 16),
        "dy": normal(batch, length, width),
    }


def jax_selective_scan(trains, shape):
    import jax
    import jax.numpy as jnp

    data = {name: jnp.asarray(value) for name, value in scan_inputs(shape).items()}

    def forward(u, dt, A, B, C):
        def step(state, inputs):
            u_t, dt_t, B_t, C_t = inputs
            state = jnp.exp(dt_t[..., None] * A) * state + (dt_t * u_t)[..., None] * B_t[:, None, :]
            return state, jnp.einsum("bdn,bn->bd", state, C_t)

        first = jnp.zeros((u.shape[0], u.shape[2], A.shape[1]), u.dtype)
        along = [jnp.swapaxes(t, 0, 1) for t in (u, dt, B, C)]
        return jnp.swapaxes(jax.lax.scan(step, first, tuple(along))[1], 0, 1)

    arguments = [data[name] for name in ("u", "dt", "A", "B", "C")]
    if trains:

        def loss(*inputs):
            return jnp.sum(forward(*inputs) * data["dy"])

        compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3, 4)))
    else:
        compiled = jax.jit(forward)
    return lambda: jax.block_until_ready(compiled(*arguments))


def transformers_mamba(trains, shape, mode):
    import torch
    import transformers

    (length,) = shape
    config = transformers.MambaConfig(
        vocab_size=50280, hidden_size=768, num_hidden_layers=24, state_size=16, pad_token_id=0
    )
    model = transformers.MambaForCausalLM(config).eval()
    tokens = torch.arange(length)[None] * 7919 % 50000
    if mode == "prompt":

        def run():
            with torch.no_grad():
                model(tokens, use_cache=True)

        return run
    with torch.no_grad():
        cache = model(tokens[:, :4], use_cache=True).cache_params

    def decode():
        with torch.no_grad():
            for t in range(length):
                model(tokens[:, t : t + 1], cache_params=cache, use_cache=True,
                      cache_position=torch.tensor([4 + t]))

    return decode


WORKS = {
    ("torch", "short_convolution"): torch_short_convolution,
    ("torch", "retention"): torch_retention,
    ("jax", "selective_scan"): jax_selective_scan,
    ("transformers", "mamba_prompt"): lambda t, s: transformers_mamba(t, s, "prompt"),
    ("transformers", "mamba_decode"): lambda t, s: transformers_mamba(t, s, "decode"),
}


def main():
    framework, work, direction, shape = sys.argv[1:5]
    shape = [int(n) for n in shape.split("x")]
    if framework in ("torch", "transformers"):
        import torch

        torch.set_num_threads(THREADS)
        torch.manual_seed(1)
    module = __import__(framework)
    run = WORKS[framework, work](direction == "fwd+bwd", shape)
    run()
    seconds = []
    begin = time.perf_counter()
    while len(seconds) < 5 or (len(seconds) < 200 and time.perf_counter() - begin < 2):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
        if time.perf_counter() - begin > 60:
            break
    median = statistics.median(seconds)
    tokens = shape[0] if work.startswith("mamba_") else math.nan
    print(
        json.dumps(
            {
                "ms": 1e3 * median,
                "best_ms": 1e3 * min(seconds),
                "runs": len(seconds),
                "tokens_per_second": tokens / median if tokens == tokens else 0,
                "version": module.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
