#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The library from Python: text, logits and scores of a language model; a layer on numpy arrays; a layer in a torch model.
Arguments: a model folder, a prompt. Exits with 77 and the reason where numpy or torch is not installed."""
import sys

try:
    import numpy
    import torch
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

folder, prompt = sys.argv[1:]

# [language model]
import ssm

model = ssm.LanguageModel(folder, threads=2)
print(model.generate(prompt, temperature=0.8, tokens=60))

tokens = model.encode(prompt)
logits = model.logits(tokens)  # numpy, [L, vocabulary]
state = model.initial_state()
model.prefill(numpy.array([tokens]), state)  # from here on by steps
print("perplexity", model.perplexity(tokens))
# [/language model]

# [numpy layer]
layer = ssm.Layer("h3", channels=16, state=8, scalar="float64")
parameters = layer.initialize(seed=1)  # numpy arrays by name
x = numpy.random.standard_normal((2, 100, 16))
tape = layer.tape()
y = layer.forward(parameters, x, tape=tape)
dx = numpy.empty_like(x)
gradients = {name: numpy.zeros_like(values) for name, values in parameters.items()}
layer.backward(parameters, tape, y, dx, gradients)  # the gradient of the half sum of y squared
# [/numpy layer]

# [numpy functions]
import ssm.numpy

dt = numpy.full((2, 100, 16), 0.01)
A, B, C = -numpy.ones((16, 8)), *numpy.random.standard_normal((2, 2, 100, 8))
y, state = ssm.numpy.selective_scan(x, dt, A, B, C, results=("y", "final_state"))
gradients = ssm.numpy.selective_scan.gradients({"y": y}, x, dt, A, B, C)  # "u", "dt", "A", "B", "C"
# [/numpy functions]
print("functions of numpy:", y.shape, state.shape, sorted(gradients))

# [torch layer]
import ssm.torch

network = torch.nn.Sequential(
    torch.nn.Linear(1, 16),
    ssm.torch.Mamba(channels=16, state=8),
    ssm.torch.H3(channels=16, state=8),
    torch.nn.Linear(16, 1),
)
optimizer = torch.optim.Adam(network.parameters(), 1e-2)
wave = torch.sin(torch.arange(101) * 0.2).reshape(1, 101, 1)
for step in range(30):
    optimizer.zero_grad()
    loss = torch.nn.functional.mse_loss(network(wave[:, :-1]), wave[:, 1:])
    loss.backward()
    optimizer.step()
print("loss", loss.item())
# [/torch layer]

# [torch steps]
mamba = network[1]
whole = mamba(torch.ones(1, 10, 16))
state = mamba.initial_state(1)
for t in range(10):
    y_t = mamba.step(torch.ones(1, 16), state)  # one position at a time
print("streaming differs by", (whole[:, -1] - y_t).abs().max().item())
# [/torch steps]

# [torch chunks]
# A long wave in pieces: the second loss reaches into the first piece by the state between them.
long = torch.sin(torch.arange(200) * 0.2).reshape(1, 200, 1) * torch.ones(16)
first, state = mamba(long[:, :100], return_state=True)
second, state = mamba(long[:, 100:], state, return_state=True)
second.square().mean().backward()
# [/torch chunks]

# [torch functions]
from ssm.torch import functional

u = torch.randn(1, 50, 16, requires_grad=True)
A, B, C = -torch.rand(16, 8), torch.randn(1, 50, 8), torch.randn(1, 50, 8)
y, state = functional.selective_scan(u, u * 0.1, A, B, C, dt_softplus=True, final_state=True)
(y.sum() + state.sum()).backward()
# [/torch functions]
print("gradients by functions", u.grad.abs().sum().item())

x = torch.randn(2, 100, 16)
# [five lines of torch]
layer = ssm.torch.Mamba(channels=16, state=8)
y, state = layer(x, return_state=True)
(y.sum() + state["ssm"].sum()).backward()
running = layer.initial_state(2)
y_0 = layer.step(x[:, 0], running)  # one position at a time
# [/five lines of torch]
print("streaming differs by", (y[:, 0] - y_0).abs().max().item())

x = numpy.random.standard_normal((2, 100, 16)).astype("f4")
# [five lines of numpy]
layer = ssm.Layer("mamba", channels=16, state=8)
parameters, tape = layer.initialize(seed=1), layer.tape()
y = layer.forward(parameters, x, tape=tape)
gradients = {name: numpy.zeros_like(value) for name, value in parameters.items()}
dx = layer.backward(parameters, tape, y, numpy.empty_like(x), gradients)
# [/five lines of numpy]
print("gradients by layers", abs(dx).sum())
