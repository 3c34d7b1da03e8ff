# SPDX-License-Identifier: Apache-2.0
"""What a call costs besides its work: tensors without elements, or with so few that the work is nothing.

    SSM_LIBRARY=build/release/bin/libssm_api.so PYTHONPATH=python python bench/peers/call_overhead.py \
        [--device cuda] [--only-torch] [OUT.json]

Prints microseconds of processor time, which other programs do not lengthen, the least of nine times a thousand calls: the
function of the library by ctypes, functions of ssm.torch.functional with autograd and without, those of ssm.torch.compat with
autograd, a module of ssm.torch, and a layer inside one jitted loop of JAX. Tensors of torch are on the device, sequences there in
bf16. What is not installed is left out.
"""
import argparse
import ctypes
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import time


def microseconds(run, count=1000, times=9):
    run()
    found = []
    for _ in range(times):
        begin = time.process_time()
        for _ in range(count):
            run()
        found.append((time.process_time() - begin) / count * 1e6)
    return round(min(found), 2)


def bare():
    """ssm_primitive_forward of a short convolution of no positions, headers made before."""
    import numpy

    import ssm
    from ssm import _library, _tensor

    convolution = ssm.Primitive("short_convolution")
    arrays = [numpy.zeros(shape, "f4") for shape in ((1, 0, 8), (8, 4), (1, 0, 8))]
    at = {"x": 0, "weight": 1, "y": 2}
    listed = _tensor.pointers([_tensor.of_numpy(arrays[at[o.name]]) if o.name in at else None
                               for o in convolution.kind.operands])
    function = _library.function("ssm_primitive_forward")
    handle = ctypes.c_void_p(convolution._owned.pointer.value)
    count = len(listed)
    if function(handle, listed, count, None, None):
        raise SystemExit(_library.ask("ssm_last_error").decode())
    return microseconds(lambda: function(handle, listed, count, None, None))


def torch_calls(device):
    import torch

    import ssm.torch

    torch.set_num_threads(1)
    sequences = torch.bfloat16 if device == "cuda" else torch.float32

    def sequence(*shape):
        return torch.zeros(*shape, dtype=sequences, device=device, requires_grad=True)

    def parameter(*shape):
        return torch.zeros(*shape, device=device, requires_grad=True)

    functional, compat = ssm.torch.functional, ssm.torch.compat
    x, weight = sequence(1, 0, 8), parameter(8, 4)
    function = functional.short_convolution
    found = {"torch function with autograd": microseconds(lambda: function(x, weight))}
    y = function(x, weight)
    dy = torch.zeros_like(y)
    found["torch function and its backward pass"] = microseconds(
        lambda: torch.autograd.grad(function(x, weight), (x, weight), dy))
    u, A, B, D = sequence(1, 0, 8), parameter(8, 4), sequence(1, 0, 4), parameter(8)
    found["torch selective_scan with autograd"] = microseconds(
        lambda: functional.selective_scan(u, u, A, B, B, gate=u, dt_softplus=True))
    H, pairs = parameter(2), parameter(2, 4, 2)
    found["torch h3_mixer with autograd"] = microseconds(
        lambda: functional.h3_mixer(x, x, x, A, A, D, H, pairs, pairs, pairs, H))
    ut, Bt = sequence(1, 8, 0), sequence(1, 4, 0)
    found["compat selective_scan_fn with autograd"] = microseconds(
        lambda: compat.selective_scan_fn(ut, ut, A, Bt, Bt, D, ut, D, True))
    found["compat causal_conv1d_fn with autograd"] = microseconds(
        lambda: compat.causal_conv1d_fn(ut, weight, D, activation="silu"))
    xz, low, up, out = sequence(1, 16, 0), parameter(10, 8), parameter(8, 2), parameter(8, 8)
    found["compat mamba_inner_fn with autograd"] = microseconds(
        lambda: compat.mamba_inner_fn(xz, weight[:, None], D, low, up, out, None, A, None, None, D, D, delta_softplus=True))
    with torch.no_grad():
        found["torch function without autograd"] = microseconds(lambda: function(x, weight))
    layer = ssm.torch.S4D(1, state=2).to(device)
    one = torch.zeros(1, 1, 1, device=device)
    found["torch module with autograd"] = microseconds(lambda: layer(one))
    return found


def jax_calls():
    import jax

    import ssm.jax

    layer = ssm.jax.Layer("s4d", channels=1, state=2)
    parameters = layer.initialize()
    count = 1000

    def loop(call):
        step = jax.jit(lambda x: jax.lax.fori_loop(0, count, lambda _, x: call(x), x))
        x = jax.numpy.zeros((1, 1, 1))
        return microseconds(lambda: step(x).block_until_ready(), count=1) / count

    return {"JAX layer in a jitted loop": round(loop(lambda x: layer(parameters, x)), 2),
            "JAX addition in a jitted loop": round(loop(lambda x: x + parameters["D"].sum()), 2)}


def where(device):
    """The processor, the device, and the version of what is installed."""
    named = {"python": platform.python_version()}
    if device == "cuda":
        import torch
        named["device"] = torch.cuda.get_device_name()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        named["cpu"] = f"{models[0]}, {os.cpu_count()} cores" if models else platform.machine()
    for package in ("torch", "jax"):
        try:
            named[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    return named


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options.add_argument("--only-torch", action="store_true")
    options.add_argument("out", nargs="?")
    chosen = options.parse_args()
    found = {} if chosen.only_torch else {"bare call by ctypes": bare()}
    for more in ((lambda: torch_calls(chosen.device)), *(() if chosen.only_torch else (jax_calls,))):
        try:
            found.update(more())
        except ImportError as error:
            print(f"left out: {error}", file=sys.stderr)
    text = json.dumps({"unit": "microseconds", "where": where(chosen.device), "calls": found}, indent=2)
    print(text)
    if chosen.out:
        pathlib.Path(chosen.out).write_text(text + "\n")


if __name__ == "__main__":
    main()
