# SPDX-License-Identifier: Apache-2.0
"""Layers of the library as torch modules, on the CPU in float32 and float64.

    layer = ssm.torch.H3(channels=64, state=64, head_dim=8)
    y = layer(x)                  # [B, L, 64]; differentiable in x and in the parameters
    state = layer.initial_state(batch)
    y_t = layer.step(x[:, 0], state)

Parameters have the names of published checkpoints, so state_dict and load_state_dict take those. Inside torch.compile a
layer is the operator ssm::layer, whose backward pass runs the layer forward once more.
"""
import collections
import json
import threading
import typing

import torch

from . import _library
from . import layer as _layer

_SCALARS = {torch.float32: "float32", torch.float64: "float64"}
_SECOND = ("ssm: a layer has no second derivative: its gradient is computed by a backward pass that torch cannot "
           "differentiate; call backward without create_graph")


def _run(layer, x, parameters, tape=None):
    layer.set_threads(torch.get_num_threads())
    y = torch.empty(x.shape, dtype=x.dtype)
    layer.forward(parameters, x, y, tape=tape)
    return y


def _run_back(layer, tape, dy, x, parameters):
    layer.set_threads(torch.get_num_threads())
    dx = torch.empty(x.shape, dtype=x.dtype)
    gradients = [torch.zeros(p.shape, dtype=p.dtype) for p in parameters]
    layer.backward(parameters, tape, dy, dx, gradients)
    return [dx, *gradients]


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, layer, x, *parameters):
        ctx.layer, ctx.tape = layer, layer.tape()
        ctx.save_for_backward(x, *parameters)
        return _run(layer, x, parameters, ctx.tape)

    @staticmethod
    def backward(ctx, dy):
        x, *parameters = ctx.saved_tensors
        return None, *_Backward.apply(ctx.layer, ctx.tape, dy, x, *parameters)


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, layer, tape, dy, x, *parameters):
        return tuple(_run_back(layer, tape, dy, x, parameters))

    @staticmethod
    def backward(ctx, *_):
        raise NotImplementedError(_SECOND)


# The same as operators without objects among their operands, for torch.compile and torch.export.

_of_thread = threading.local()


def _layer_of(config, scalar):
    layers = _of_thread.__dict__.setdefault("layers", collections.OrderedDict())
    layer = layers.pop((config, scalar), None)
    if layer is None:
        fields = json.loads(config)
        layer = _layer.Layer(fields.pop("layer"), scalar=_SCALARS[scalar], **fields)
    layers[config, scalar] = layer
    if len(layers) > 256:
        layers.popitem(last=False)
    return layer


def _require_scalar(x):
    if x.dtype not in _SCALARS:
        raise _library.TensorError(f"x is of {str(x.dtype).removeprefix('torch.')}, must be of float32 or float64")


@torch.library.custom_op("ssm::layer", mutates_args=(), device_types="cpu")
def _layer_op(x: torch.Tensor, parameters: typing.List[torch.Tensor], config: str) -> torch.Tensor:
    _require_scalar(x)
    return _run(_layer_of(config, x.dtype), x, parameters)


@torch.library.custom_op("ssm::layer_backward", mutates_args=(), device_types="cpu")
def _layer_backward_op(dy: torch.Tensor, x: torch.Tensor, parameters: typing.List[torch.Tensor],
                       config: str) -> typing.List[torch.Tensor]:
    layer = _layer_of(config, x.dtype)
    tape = layer.tape()
    _run(layer, x, parameters, tape)
    return _run_back(layer, tape, dy, x, parameters)


@_layer_op.register_fake
def _(x, parameters, config):
    return x.new_empty(x.shape)


@_layer_backward_op.register_fake
def _(dy, x, parameters, config):
    return [t.new_empty(t.shape) for t in (x, *parameters)]


def _keep(ctx, inputs, output):
    x, parameters, ctx.config = inputs
    ctx.save_for_backward(x, *parameters)


def _layer_op_backward(ctx, dy):
    x, *parameters = ctx.saved_tensors
    dx, *gradients = _layer_backward_op(dy, x, parameters, ctx.config)
    return dx, gradients, None


def _refuse_second(ctx, *_):
    raise NotImplementedError(_SECOND)


_layer_op.register_autograd(_layer_op_backward, setup_context=_keep)
_layer_backward_op.register_autograd(_refuse_second)


class _Scope(torch.nn.Module):
    """A part of a dotted name."""


class LayerModule(torch.nn.Module):
    """A layer of the library, by its name and sizes as ssm.layer_kinds() lists them.
    x and y    [B, L, channels], float32 or float64 as the parameters
    seed       of the published initialization
    """

    def __init__(self, kind, *, seed=0, dtype=None, backend="cpu", **sizes):
        super().__init__()
        dtype = dtype or torch.get_default_dtype()
        if dtype not in _SCALARS:
            raise _library.TensorError(f"a layer's parameters are of float32 or float64, not {dtype}")
        fields = {"layer": kind, "backend": backend, **{n: v for n, v in sizes.items() if v is not None}}
        self._config = json.dumps(fields)
        self._layers = {}
        layer = self._layer(dtype)
        self.channels = layer.facts["channels"]
        self._names = tuple(layer.names)
        self._decays = {tensor["name"]: tensor["weight_decay"] for tensor in layer.facts["parameters"]}
        tensors = [torch.empty(tensor["shape"], dtype=dtype) for tensor in layer.facts["parameters"]]
        layer.initialize(seed, tensors)
        for name, tensor in zip(self._names, tensors):
            *scopes, last = name.split(".")
            at = self
            for scope in scopes:
                if scope not in at._modules:
                    at.add_module(scope, _Scope())
                at = at._modules[scope]
            at.register_parameter(last, torch.nn.Parameter(tensor))
            at._parameters[last].no_weight_decay = not self._decays[name]

    def _layer(self, dtype):
        """The library's object for a scalar."""
        if dtype not in _SCALARS:
            raise _library.TensorError(f"a layer's parameters are of float32 or float64, not {dtype}")
        if dtype not in self._layers:
            fields = json.loads(self._config)
            self._layers[dtype] = _layer.Layer(fields.pop("layer"), scalar=_SCALARS[dtype], **fields)
        return self._layers[dtype]

    def _tensors(self):
        """The parameters in the layer's order, without gaps."""
        result = []
        for name in self._names:
            *scopes, last = name.split(".")
            at = self
            for scope in scopes:
                at = at._modules[scope]
            result.append(at._parameters[last].contiguous())
        return result

    def extra_repr(self):
        return self._config

    def forward(self, x):
        """Whole sequences: [B, L, channels] to the same."""
        parameters = self._tensors()
        if torch.compiler.is_compiling():
            return _layer_op(x, parameters, self._config)
        layer = self._layer(parameters[0].dtype)
        if torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in parameters)):
            return _Forward.apply(layer, x, *parameters)
        return _run(layer, x, parameters)

    def initial_state(self, sequences=1):
        """Zeros, of what the layer carries in `prefill` and `step`."""
        return self._layer(next(self.parameters()).dtype).initial_state(sequences)

    @torch.no_grad()
    def prefill(self, x, state):
        """A chunk of any length from a state on, which is advanced; without gradients."""
        y = torch.empty(x.shape, dtype=x.dtype)
        return self._layer(x.dtype).prefill(self._tensors(), x, state, y)

    @torch.no_grad()
    def step(self, x, state):
        """One position, [B, channels] to the same; without gradients."""
        y = torch.empty(x.shape, dtype=x.dtype)
        return self._layer(x.dtype).step(self._tensors(), x, state, y)

    def __getstate__(self):  # each copy has library objects of its own
        return {**self.__dict__, "_layers": {}}


class S4D(LayerModule):
    """The S4D block: an SSM per channel, GELU, an output projection."""

    def __init__(self, channels, state=64, **more):
        super().__init__("s4d", channels=channels, state=state, **more)


class H3(LayerModule):
    """H3: a shift SSM for keys, a diagonal SSM for key-value products, queries that read them."""

    def __init__(self, channels, state=64, head_dim=1, **more):
        super().__init__("h3", channels=channels, state=state, head_dim=head_dim, **more)


class Mamba(LayerModule):
    """The Mamba block: a gated selective SSM behind a short convolution."""

    def __init__(self, channels, state=16, conv_width=4, expand=2, **more):
        super().__init__("mamba", channels=channels, state=state, conv_width=conv_width, expand=expand, **more)


class Mamba2(LayerModule):
    """The Mamba-2 block: heads with one decay rate each."""

    def __init__(self, channels, state=128, head_dim=64, conv_width=4, expand=2, **more):
        super().__init__("mamba2", channels=channels, state=state, head_dim=head_dim, conv_width=conv_width,
                         expand=expand, **more)


class Retention(LayerModule):
    """RetNet's multi-scale retention."""

    def __init__(self, channels, value_dim, heads, **more):
        super().__init__("retention", channels=channels, value_dim=value_dim, heads=heads, **more)


class DenseMamba(LayerModule):
    """Pre-norm residual Mamba blocks that read the hidden states of `sources` earlier ones (DenseSSM)."""

    def __init__(self, channels, blocks, sources, state=16, **more):
        super().__init__("dense_mamba", channels=channels, blocks=blocks, sources=sources, state=state, **more)


class DenseRetNet(LayerModule):
    """Gated attention units with retention whose keys and values take in those of `sources` earlier ones (DenseSSM)."""

    def __init__(self, channels, query_key_dim, value_dim, heads, k_hidden, v_hidden, blocks, sources, **more):
        super().__init__("dense_retnet", channels=channels, query_key_dim=query_key_dim, value_dim=value_dim, heads=heads,
                         k_hidden=k_hidden, v_hidden=v_hidden, blocks=blocks, sources=sources, **more)


class Attention(LayerModule):
    """Causal multi-head attention with a key-value cache."""

    def __init__(self, channels, heads, rotary_dim=0, **more):
        super().__init__("attention", channels=channels, heads=heads, rotary_dim=rotary_dim, **more)
