#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Layers and a language model on a GPU, on arrays of CuPy. Arguments: a model folder, or none.
Exits with 77 and the reason where CuPy, a GPU or the library's CUDA half is not there."""
import sys

try:
    import cupy
    cupy.zeros(1)
except Exception as error:  # without a GPU CuPy has errors of its own
    print("skipped:", error)
    sys.exit(77)
import numpy

import ssm

try:
    ssm.Layer("h3", channels=16, state=8, backend="cuda")
except ssm.ArgumentError as error:
    print("skipped:", error)
    sys.exit(77)

x = cupy.asarray(numpy.random.default_rng(1).standard_normal((2, 100, 16), dtype="float32"))
for kind in ("h3", "mamba"):
    # [five lines of cupy]
    layer = ssm.Layer(kind, channels=16, state=8, backend="cuda")
    parameters = {name: cupy.asarray(value) for name, value in layer.initialize(seed=1).items()}
    tape, gradients = layer.tape(), {name: cupy.zeros_like(value) for name, value in parameters.items()}
    y = layer.forward(parameters, x, tape=tape)  # queued on CuPy's current stream
    dx = layer.backward(parameters, tape, y, cupy.empty_like(x), gradients)  # of the half sum of y squared
    # [/five lines of cupy]
    on_the_host = ssm.Layer(kind, channels=16, state=8)
    expected = on_the_host.forward({name: value.get() for name, value in parameters.items()}, x.get())
    difference = numpy.abs(y.get() - expected).max()
    print(kind, "differs from the CPU by", difference, "and has gradients", float(sum(abs(g).sum() for g in gradients.values())))
    assert difference < 1e-4

if len(sys.argv) > 1:
    model = ssm.LanguageModel(sys.argv[1], backend="cuda", numbers="bf16")
    print("a model in", model.facts["numbers"], "gives logits", model.logits([1, 2, 3]).shape)
