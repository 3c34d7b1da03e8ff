# SPDX-License-Identifier: Apache-2.0
"""Layers of the library as functions of JAX, in float32 and float64, sequences also in bfloat16 and float16.

    layer = ssm.jax.Layer("h3", channels=64, state=64, head_dim=8)
    parameters = layer.initialize(seed=1)           # a dict of arrays by published names
    y = layer(parameters, x)                        # [B, L, 64]; under jax.jit, jax.grad and jax.vmap
    state = layer.initial_state(batch)              # a dict of arrays
    y, state = layer.prefill(parameters, x, state)  # differentiable in the state too
    y_t, state = layer.step(parameters, x[:, 0], state)

XLA calls the library by its foreign function interface, without Python between them, on the CPU and on CUDA devices where the
library was built for them. Arrays that do not fit are refused where a call is traced. The backward pass runs the layer forward
once more. There are no second derivatives.
"""
from __future__ import annotations

import json
import typing

import jax
import numpy

from . import _library
from . import layer as _layer

_TARGET = "ssm_layer"
for _platform in ("cpu", "CUDA"):
    jax.ffi.register_ffi_target(_TARGET, jax.ffi.pycapsule(_library.function("ssm_xla_call")), platform=_platform)

State = dict[str, jax.Array]


def _require(name, array, shape, scalars):
    """Refuses an array where the call is traced: what a device refuses JAX reports where the result is read, if at all."""
    if str(array.dtype) not in scalars:
        raise _library.TensorError(f"{name} is of {array.dtype}, must be of {' or '.join(scalars)}")
    if tuple(array.shape) != tuple(shape):
        raise _library.ShapeError(f"{name} must be {list(shape)}, is {list(array.shape)}")


class Layer:
    """A layer whose parameters are given with every call.

    scalar     "float32", or "float64" where jax_enable_x64 is set: of parameters; x and y are of it, beside float32 also of
               bfloat16 or float16
    threads    that work on one call
    sizes      as ssm.layer_kinds() lists
    """

    def __init__(self, kind: str, *, scalar: str = "float32", threads: int = 1, **sizes: typing.Any) -> None:
        self._layer = _layer.Layer(kind, scalar=scalar, threads=threads, **sizes)
        self._config = json.dumps(self._layer.config)
        if jax.default_backend() == "gpu":
            _library.find_cublas()
        self._config_on_cuda = json.dumps({**self._layer.config, "backend": "cuda"})
        self._states = self._layer.facts["state"]
        self._parameters = self._layer.facts["parameters"]
        self._alone = jax.custom_vjp(self._forward_alone)
        self._alone.defvjp(lambda listed, x: (self._forward_alone(listed, x), (listed, x)), self._backward_alone)
        self._between = jax.custom_vjp(self._forward_between)
        self._between.defvjp(
            lambda listed, x, state: (self._forward_between(listed, x, state), (listed, x, state)), self._backward_between)

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
        listed = self._listed(parameters)
        self._require_rows(x)
        return self._alone(listed, x)

    def initial_state(self, sequences: int = 1) -> State:
        """What has read nothing yet, a dict of arrays."""
        tensors = self._layer.initial_state(sequences).tensors()
        return {name: jax.numpy.asarray(numpy.array(value)) for name, value in tensors.items()}

    def prefill(self, parameters: dict[str, jax.Array], x: jax.Array, state: State) -> tuple[jax.Array, State]:
        """(y, the state behind it) of a chunk of any length from a state on.    x, y [B, L, channels] or [L, channels]"""
        names = [facts["name"] for facts in self._states]
        missing = [name for name in names if name not in state]
        if missing:
            raise KeyError(f"the state needs the tensor {missing[0]}")
        listed, before = self._listed(parameters), [jax.numpy.asarray(state[name]) for name in names]
        self._require_rows(x)
        for facts, array in zip(self._states, before):
            is_cache, sequences = facts["shape"][0] == 0, x.shape[0] if x.ndim == 3 else 1
            shape = (*array.shape[:1], sequences, *facts["shape"][2:]) if is_cache else (sequences, *facts["shape"][1:])
            _require(facts["name"], array, shape, ("int64", "int32") if facts["scalar"] == "int64" else (facts["scalar"],))
        y, after = self._between(listed, x, before)
        return y, dict(zip(names, after))

    def step(self, parameters: dict[str, jax.Array], x: jax.Array, state: State) -> tuple[jax.Array, State]:
        """(y, the state behind it) of one position.    x, y [B, channels] or [channels]"""
        y, after = self.prefill(parameters, x[..., None, :], state)
        return y[..., 0, :], after

    def _listed(self, parameters):
        missing = [name for name in self.names if name not in parameters]
        if missing:
            raise KeyError(f"the layer needs the parameter {missing[0]}")
        listed = [jax.numpy.asarray(parameters[name]) for name in self.names]
        for facts, array in zip(self._parameters, listed):
            _require(facts["name"], array, facts["shape"], (facts["scalar"],))
        return listed

    def _require_rows(self, x):
        scalar = self._layer.facts["scalar"]
        channels = self._layer.facts["channels"]
        length = x.shape[-2] if x.ndim > 1 else 1
        shape = (length, channels) if x.ndim < 3 else (x.shape[0], length, channels)
        _require("x", x, shape, (scalar,) if scalar == "float64" else (scalar, "bfloat16", "float16"))

    def _call(self, verb, results, *operands):
        shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in results]

        def on(config):
            return lambda *given: jax.ffi.ffi_call(_TARGET, shapes, vmap_method="sequential")(*given, config=config, verb=verb)

        return jax.lax.platform_dependent(*operands, cpu=on(self._config), cuda=on(self._config_on_cuda))

    def _forward_alone(self, listed, x):
        return self._call("forward", [(x.shape, x.dtype)], *listed, x)[0]

    def _backward_alone(self, kept, dy):
        listed, x = kept
        results = [(array.shape, array.dtype) for array in (*listed, x)]
        *gradients, dx = self._call("backward", results, *listed, x, dy)
        return gradients, dx

    def _state_after(self, x, state):
        """(shape, dtype) of each tensor: a cache, which has positions first, has grown by those of x."""
        for facts, array in zip(self._states, state):
            shape = array.shape
            if facts["shape"][0] == 0:
                shape = (shape[0] + x.shape[-2], *shape[1:])
            yield shape, array.dtype

    def _forward_between(self, listed, x, state):
        y, *after = self._call("forward", [(x.shape, x.dtype), *self._state_after(x, state)], *listed, x, *state)
        return y, after

    def _backward_between(self, kept, cotangents):
        listed, x, state = kept
        dy, dafter = cotangents
        dafter = [jax.numpy.zeros(d.shape, dtype) if d.dtype == jax.dtypes.float0 else d
                  for d, (_, dtype) in zip(dafter, self._state_after(x, state))]
        results = [(array.shape, array.dtype) for array in (*listed, x, *state)]
        found = self._call("backward_from_final", results, *listed, x, dy, *dafter, *state)
        count = len(listed)
        dstate = [d if jax.numpy.issubdtype(d.dtype, jax.numpy.floating) else numpy.zeros(d.shape, jax.dtypes.float0)
                  for d in found[count + 1:]]
        return found[:count], found[count], dstate
