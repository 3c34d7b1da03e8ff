# SPDX-License-Identifier: Apache-2.0
"""Layers of the library as functions of JAX, on the CPU in float32 and float64.

    layer = ssm.jax.Layer("h3", channels=64, state=64, head_dim=8)
    parameters = layer.initialize(seed=1)           # a dict of arrays by published names
    y = layer(parameters, x)                        # [B, L, 64]; under jax.jit, jax.grad and jax.vmap
    state = layer.initial_state(batch)              # a dict of arrays
    y_t, state = layer.step(parameters, x[:, 0], state)

A call is a pure callback: JAX hands its arrays to the library and takes the result. The backward pass runs the layer forward
once more. Gradients go through whole sequences, not through states; there are no second derivatives.
"""
from __future__ import annotations

import threading
import typing

import jax
import numpy

from . import layer as _layer


class Layer:
    """A layer whose parameters are given with every call.

    scalar     "float32", or "float64" where jax_enable_x64 is set: of parameters, x and y
    threads    that work on one call
    sizes      as ssm.layer_kinds() lists
    """

    def __init__(self, kind: str, *, scalar: str = "float32", threads: int = 1, **sizes: typing.Any) -> None:
        self._layer = _layer.Layer(kind, scalar=scalar, threads=threads, **sizes)
        self._scalar = numpy.dtype(scalar)
        self._lock = threading.Lock()  # a state is filled and read in one piece
        self._apply = jax.custom_vjp(self._forward)
        self._apply.defvjp(lambda listed, x: (self._forward(listed, x), (listed, x)), self._backward)

    @property
    def names(self) -> list[str]:
        """Of the parameters, in the layer's order."""
        return self._layer.names

    def initialize(self, seed: int = 0) -> dict[str, jax.Array]:
        """The published initialization: arrays by name."""
        made: typing.Any = self._layer.initialize(seed)
        return {name: jax.numpy.asarray(value) for name, value in made.items()}

    def __call__(self, parameters: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        """Whole sequences, each from an empty state.    x, y [B, L, channels] or [L, channels]"""
        return self._apply(self._listed(parameters), x)

    def initial_state(self, sequences: int = 1) -> dict[str, jax.Array]:
        """What has read nothing yet, a dict of arrays."""
        tensors = self._layer.initial_state(sequences).tensors()
        return {name: jax.numpy.asarray(numpy.array(value)) for name, value in tensors.items()}

    def prefill(self, parameters: dict[str, jax.Array], x: jax.Array,
                state: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        """(y, the state behind it) of a chunk of any length from a state on."""
        return self._advance(self._layer.prefill, parameters, x, state)

    def step(self, parameters: dict[str, jax.Array], x: jax.Array,
             state: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        """(y, the state behind it) of one position.    x, y [B, channels] or [channels]"""
        return self._advance(self._layer.step, parameters, x, state)

    def _listed(self, parameters):
        missing = [name for name in self.names if name not in parameters]
        if missing:
            raise KeyError(f"the layer needs the parameter {missing[0]}")
        return [parameters[name] for name in self.names]

    def _host(self, array):
        return numpy.ascontiguousarray(array, dtype=self._scalar)

    def _shape(self, array):
        return jax.ShapeDtypeStruct(array.shape, self._scalar)

    def _forward(self, listed, x):
        def run(listed, x):
            return self._layer.forward([self._host(p) for p in listed], self._host(x))

        return jax.pure_callback(run, self._shape(x), listed, x, vmap_method="sequential")

    def _backward(self, kept, dy):
        def run(listed, x, dy):
            listed, x = [self._host(p) for p in listed], self._host(x)
            tape = self._layer.tape()
            self._layer.forward(listed, x, tape=tape)
            dx, gradients = numpy.empty_like(x), [numpy.zeros_like(p) for p in listed]
            self._layer.backward(listed, tape, self._host(dy), dx, gradients)
            return gradients, dx

        listed, x = kept
        return jax.pure_callback(run, ([self._shape(p) for p in listed], self._shape(x)), listed, x, dy,
                                 vmap_method="sequential")

    def _advance(self, verb, parameters, x, state):
        shapes = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in state.items()}
        sequences = x.shape[0] if x.ndim > (1 if verb == self._layer.step else 2) else 1

        def run(listed, x, state):
            with self._lock:
                at = self._layer.initial_state(sequences)
                for name, tensor in at.tensors().items():
                    if tensor.shape != state[name].shape:
                        raise ValueError(f"the state's {name} is {list(state[name].shape)}, "
                                         f"not {list(tensor.shape)}: a state that grows cannot be carried by JAX")
                    tensor[...] = numpy.asarray(state[name])
                y = verb([self._host(p) for p in listed], self._host(x), at)
                return y, {name: numpy.array(tensor) for name, tensor in at.tensors().items()}

        return jax.pure_callback(run, (self._shape(x), shapes), self._listed(parameters), x, state,
                                 vmap_method="sequential")
