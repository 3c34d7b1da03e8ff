#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""numpy, PyTorch and JAX in one process, over one library: the same layer gives the same outputs and gradients in each, and
they keep working in turn, in threads, and after a fork. Also which of a wheel's libraries a processor gets.

    together_test.py      exits with 77 and the reason where numpy, torch or JAX is not installed
"""
import multiprocessing
import pathlib
import sys
import tempfile
import threading
import warnings

try:
    import jax
    import numpy
    import torch
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

import ssm
import ssm.jax
import ssm.torch
from ssm import _library


def in_torch(parameters, x):
    module = ssm.torch.Mamba(channels=16, state=8)
    module.load_state_dict({name: torch.from_numpy(numpy.array(value)) for name, value in parameters.items()})
    given = torch.from_numpy(x.copy()).requires_grad_()
    y = module(given)
    y.square().sum().backward()
    return y.detach().numpy(), given.grad.numpy(), module.A_log.grad.numpy()


def in_jax(layer, parameters, x):
    y = jax.jit(layer)(parameters, x)
    dx, gradients = jax.jit(jax.grad(lambda x, p: (layer(p, x) ** 2).sum(), argnums=(0, 1)))(x, parameters)
    return numpy.asarray(y), numpy.asarray(dx), numpy.asarray(gradients["A_log"])


def in_numpy(parameters, x):
    layer = ssm.Layer("mamba", channels=16, state=8)
    parameters = {name: numpy.array(value) for name, value in parameters.items()}
    tape = layer.tape()
    y = layer.forward(parameters, x, tape=tape)
    dx = numpy.empty_like(x)
    gradients = {name: numpy.zeros_like(value) for name, value in parameters.items()}
    layer.backward(parameters, tape, 2 * y, dx, gradients)
    return y, dx, gradients["A_log"]


def check(holds, what):
    if not holds:
        sys.exit(f"FAILED: {what}")


def same(results, expected, who):
    for found, wanted, what in zip(results, expected, ("y", "dx", "dA_log")):
        worst = float(numpy.abs(found - wanted).max())
        check(worst <= 1e-5 * float(numpy.abs(wanted).max()), f"{what} in {who} differs by {worst:g}")


def child(parameters, x, expected):
    same(in_numpy(parameters, x), expected, "a forked child")


def choose():
    """The best library that a processor can run, and the one for every processor behind it."""
    v3 = _library._INSTRUCTION_SETS["x86-64-v3"]
    v4 = _library._INSTRUCTION_SETS["x86-64-v4"]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for place in ("", "glibc-hwcaps/x86-64-v3", "glibc-hwcaps/x86-64-v4"):
            (folder / place).mkdir(parents=True, exist_ok=True)
            (folder / place / "libssm_api.so").touch()
        for has, expected in ((v4, ["x86-64-v4", "x86-64-v3", folder.name]), (v4 - {"avx512vl"}, ["x86-64-v3", folder.name]),
                              (v3 - {"fma"}, [folder.name]), (set(), [folder.name])):
            found = [path.parent.name for path in _library._beside(folder, has)]
            check(found == expected, f"a processor with {sorted(has)} gets {found}")


def main():
    choose()
    layer = ssm.jax.Layer("mamba", channels=16, state=8)
    parameters = layer.initialize(seed=1)
    x = numpy.random.default_rng(1).standard_normal((2, 50, 16)).astype(numpy.float32)
    expected = in_numpy(parameters, x)
    for _ in range(3):  # in turn
        same(in_torch(parameters, x), expected, "torch")
        same(in_jax(layer, parameters, x), expected, "JAX")
    failed = []

    def beside(function, *operands):
        try:
            for _ in range(5):
                same(function(*operands), expected, f"{function.__name__} beside others")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=beside, args=(in_torch, parameters, x)),
               threading.Thread(target=beside, args=(in_jax, layer, parameters, x)),
               threading.Thread(target=beside, args=(in_numpy, parameters, x))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(not failed, failed)
    numbers = {name: numpy.array(value) for name, value in parameters.items()}
    process = multiprocessing.get_context("fork").Process(target=child, args=(numbers, x, expected))
    with warnings.catch_warnings():  # JAX itself does not work in the child
        warnings.simplefilter("ignore")
        process.start()
    process.join(120)
    check(process.exitcode == 0, f"a forked child ended with {process.exitcode}")
    print(f"torch {torch.__version__}, jax {jax.__version__}, numpy {numpy.__version__}: the same numbers, by "
          f"{_library._library._name}")


if __name__ == "__main__":
    main()
