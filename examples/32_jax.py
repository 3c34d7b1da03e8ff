#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A layer of the library in JAX: trained on a wave, then one position at a time.
Exits with 77 and the reason where JAX is not installed."""
import sys

try:
    import jax
except ImportError as error:
    print("skipped:", error)
    sys.exit(77)
import ssm.jax

# [jax layer]
layer = ssm.jax.Layer("mamba", channels=16, state=8)
parameters = layer.initialize(seed=1)
wave = jax.numpy.sin(jax.numpy.arange(101) * 0.2).reshape(1, 101, 1) * jax.numpy.ones(16)


def loss(parameters):
    return ((layer(parameters, wave[:, :-1]) - wave[:, 1:]) ** 2).mean()


update = jax.jit(lambda p: jax.tree.map(lambda v, g: v - 0.3 * g, p, jax.grad(loss)(p)))
for step in range(30):
    parameters = update(parameters)
print("loss", loss(parameters))
# [/jax layer]

# [jax steps]
state = layer.initial_state(1)
step = jax.jit(layer.step)
for t in range(100):
    y_t, state = step(parameters, wave[:, t], state)
# [/jax steps]
print("streaming differs by", abs(layer(parameters, wave[:, :-1])[:, -1] - y_t).max())

x = jax.numpy.ones((2, 100, 16))
# [five lines of jax]
layer = ssm.jax.Layer("mamba", channels=16, state=8)
parameters = layer.initialize(seed=1)
y, state = jax.jit(layer.prefill)(parameters, x, layer.initial_state(2))
gradients = jax.grad(lambda parameters: (layer(parameters, x) ** 2).sum())(parameters)
y_t, state = layer.step(parameters, x[:, 0], state)  # one position at a time
# [/five lines of jax]
print("gradients by layers", abs(gradients["D"]).sum())
