# SPDX-License-Identifier: Apache-2.0
"""Layers of the library as torch modules, in float32 and float64, sequences also in bfloat16 and float16.

Parameters have the names of published checkpoints, so state_dict and load_state_dict take those. Inside torch.compile a
layer is the operator ssm::layer, whose backward pass runs the layer forward once more.
"""
import collections
import contextlib
import ctypes
import json
import threading
import typing

import torch

from .. import _library, _tensor
from .. import layer as _layer
from . import _device
from ._primitives import apply, plain_apply

_SCALARS = {torch.float32: "float32", torch.float64: "float64"}
_SEQUENCES = {torch.float32: (torch.float32, torch.bfloat16, torch.float16), torch.float64: (torch.float64,)}
_SECOND = ("ssm: a layer has no second derivative: its gradient is computed by a backward pass that torch cannot "
           "differentiate; call backward without create_graph")
State = typing.Dict[str, torch.Tensor]


def _sequences_of(x, segments):
    return segments.shape[0] - 1 if segments is not None else x.shape[0] if x.dim() == 3 else 1


def _state_of(layer, sequences, tensors):
    """The library's state over these tensors, in the layer's order; None stays zero."""
    state = layer.initial_state(sequences)
    is_there = any([t is not None and t.is_cuda for t in tensors])
    must_go = state.on_host() if is_there else [False] * len(tensors)
    state.operands = [None if t is None else t.cpu() if goes else t.contiguous() for t, goes in zip(tensors, must_go)]
    for index, tensor in enumerate(state.operands):
        if tensor is not None:
            _library.call("ssm_layer_state_borrow", state._pointer, index, ctypes.byref(_tensor.of_torch(tensor)))
    return state


def _tensors_of(state, device):
    """Copies on a device."""
    return [torch.as_tensor(tensor, device=device).clone() for tensor in state.tensors().values()]


def _on(device):
    """What makes a device the current one, where states are made."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _run(layer, x, parameters, initial=(), segments=None, wants_state=False, tape=None):
    """[y, final states...]"""
    with _on(x.device):
        return _run_on_current(layer, x, parameters, initial, segments, wants_state, tape)


def _run_on_current(layer, x, parameters, initial, segments, wants_state, tape):
    layer.set_threads(torch.get_num_threads())
    layer.use_stream_of(x)
    segments = None if segments is None else segments.cpu()
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if not initial and not wants_state:
        layer.forward(parameters, x, y, segments=segments, tape=tape)
        return [y]
    sequences = _sequences_of(x, segments)
    at_first = _state_of(layer, sequences, initial) if initial else None
    at_last = layer.initial_state(sequences) if wants_state else None
    layer.forward(parameters, x, y, segments=segments, initial_state=at_first, final_state=at_last, tape=tape)
    if tape is not None:
        tape.initial_state = at_first
    return [y, *_tensors_of(at_last, x.device)] if wants_state else [y]


def _run_back(layer, tape, dy, dfinal, x, parameters, initial, segments):
    """[dx, gradients of parameters..., gradients of initial states...]"""
    with _on(x.device):
        return _run_back_on_current(layer, tape, dy, dfinal, x, parameters, initial, segments)


def _run_back_on_current(layer, tape, dy, dfinal, x, parameters, initial, segments):
    layer.set_threads(torch.get_num_threads())
    layer.use_stream_of(x)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    gradients = [torch.zeros(p.shape, dtype=p.dtype, device=x.device) for p in parameters]
    sequences = _sequences_of(x, segments)
    at_last = _state_of(layer, sequences, dfinal) if any(d is not None for d in dfinal) else None
    at_first = layer.initial_state(sequences) if initial else None
    if dy is None:
        dy = torch.zeros(x.shape, dtype=x.dtype, device=x.device)
    layer.backward(parameters, tape, dy, dx, gradients, dfinal_state=at_last, dinitial_state=at_first)
    return [dx, *gradients, *(_tensors_of(at_first, x.device) if initial else [])]


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, layer, segments, count, wants_state, x, *tensors):
        ctx.call = layer, layer.tape(), segments, count
        ctx.save_for_backward(x, *tensors)
        ctx.set_materialize_grads(False)
        results = _run(layer, x, tensors[:count], tensors[count:], segments, wants_state, ctx.call[1])
        ctx.finals = [(result.shape, result.dtype) for result in results[1:]]
        ctx.mark_non_differentiable(*[result for result in results if not result.is_floating_point()])
        return tuple(results)

    @staticmethod
    def backward(ctx, dy, *dfinal):
        x, *tensors = ctx.saved_tensors
        layer, tape, segments, count = ctx.call
        if any(d is not None for d in dfinal):
            dfinal = [torch.zeros(shape, dtype=dtype, device=x.device) if d is None and dtype.is_floating_point else d
                      for d, (shape, dtype) in zip(dfinal, ctx.finals)]
        gradients = _Backward.apply(layer, tape, segments, count, len(dfinal), dy, *dfinal, x, *tensors)
        return None, None, None, None, *[g if need else None for g, need in zip(gradients, ctx.needs_input_grad[4:])]


_plain_apply = plain_apply(_Forward)


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, layer, tape, segments, count, finals, dy, *tensors):
        dfinal, x, tensors = tensors[:finals], tensors[finals], tensors[finals + 1:]
        results = _run_back(layer, tape, dy, dfinal, x, tensors[:count], tensors[count:], segments)
        ctx.mark_non_differentiable(*[result for result in results if not result.is_floating_point()])
        return tuple(results)

    @staticmethod
    def backward(ctx, *_):
        raise NotImplementedError(_SECOND)


# The same as operators without objects among their operands, for torch.compile and torch.export.

_of_thread = threading.local()


def _made_layer(config, parameter):
    """A layer of the library for a parameter's scalar, where it lies."""
    fields = json.loads(config)
    backend = _device.backend_of(parameter.device)
    if backend == "cuda":
        fields["backend"] = backend
    return _layer.Layer(fields.pop("layer"), scalar=_SCALARS[parameter.dtype], **fields)


def _layer_of(config, parameter):
    layers = _of_thread.__dict__.setdefault("layers", collections.OrderedDict())
    key = config, parameter.dtype, parameter.device.type
    layer = layers.pop(key, None) or _made_layer(config, parameter)
    layers[key] = layer
    if len(layers) > 256:
        layers.popitem(last=False)
    return layer


def _require_scalar(x, dtype):
    if dtype not in _SCALARS:
        raise _library.TensorError(f"a layer's parameters are of float32 or float64, not {dtype}")
    if x.dtype not in _SEQUENCES[dtype]:
        allowed = " or ".join(str(taken).removeprefix("torch.") for taken in _SEQUENCES[dtype])
        raise _library.TensorError(f"x is of {str(x.dtype).removeprefix('torch.')}, and parameters are of "
                                   f"{_SCALARS[dtype]}: x must be of {allowed}")


@torch.library.custom_op("ssm::layer", mutates_args=(), device_types=("cpu", "cuda"))
def _layer_op(x: torch.Tensor, parameters: typing.List[torch.Tensor], initial: typing.List[torch.Tensor],
              segments: typing.Optional[torch.Tensor], wants_state: bool, config: str) -> typing.List[torch.Tensor]:
    _require_scalar(x, parameters[0].dtype)
    return _run(_layer_of(config, parameters[0]), x, parameters, initial, segments, wants_state)


@torch.library.custom_op("ssm::layer_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _layer_backward_op(dy: torch.Tensor, dfinal: typing.List[torch.Tensor], x: torch.Tensor,
                       parameters: typing.List[torch.Tensor], initial: typing.List[torch.Tensor],
                       segments: typing.Optional[torch.Tensor], config: str) -> typing.List[torch.Tensor]:
    layer = _layer_of(config, parameters[0])
    tape = layer.tape()
    _run(layer, x, parameters, initial, segments, False, tape)
    return _run_back(layer, tape, dy, dfinal, x, parameters, initial, segments)


def _state_shapes(x, parameters, initial, segments, config):
    """(shape, dtype) of the states behind x: [sequences, ...], or [positions, sequences, ...] of a cache."""
    facts = _layer_of(config, parameters[0]).facts["state"]
    sequences = _sequences_of(x, segments)
    for index, state in enumerate(facts):
        shape = list(state["shape"])
        if shape[0] == 0:
            shape[0] = x.shape[-2] + (initial[index].shape[0] if initial else 0)
            shape[1] = sequences
        else:
            shape[0] = sequences
        yield shape, getattr(torch, state["scalar"])


@_layer_op.register_fake
def _(x, parameters, initial, segments, wants_state, config):
    states = _state_shapes(x, parameters, initial, segments, config) if wants_state else ()
    return [x.new_empty(x.shape), *[x.new_empty(shape, dtype=dtype) for shape, dtype in states]]


@_layer_backward_op.register_fake
def _(dy, dfinal, x, parameters, initial, segments, config):
    return [t.new_empty(t.shape) for t in (x, *parameters, *initial)]


def _keep(ctx, inputs, output):
    x, parameters, initial, ctx.segments, _, ctx.config = inputs
    ctx.count = len(parameters)
    ctx.states = [result for result in output[1:]]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, *parameters, *initial)


def _layer_op_backward(ctx, given):
    x, *tensors = ctx.saved_tensors
    parameters, initial = tensors[:ctx.count], tensors[ctx.count:]
    dy, *dfinal = given
    dy = torch.zeros_like(x) if dy is None else dy
    if any(d is not None for d in dfinal):
        dfinal = [torch.zeros_like(state) if d is None else d for d, state in zip(dfinal, ctx.states)]
    else:
        dfinal = []
    dx, *gradients = _layer_backward_op(dy, dfinal, x, parameters, initial, ctx.segments, ctx.config)
    dinitial = [g if g.is_floating_point() else None for g in gradients[ctx.count:]]
    return dx, gradients[:ctx.count], dinitial, None, None, None


def _refuse_second(ctx, *_):
    raise NotImplementedError(_SECOND)


_layer_op.register_autograd(_layer_op_backward, setup_context=_keep)
_layer_backward_op.register_autograd(_refuse_second)


class _Scope(torch.nn.Module):
    """A part of a dotted name."""


class LayerModule(torch.nn.Module):
    """A layer of the library, by its name and sizes as ssm.layer_kinds() lists them.
    x and y    [B, L, channels], of the parameters' float32 or float64; beside float32 also bfloat16 or float16
    seed       of the published initialization
    """

    def __init__(self, kind, *, seed=0, dtype=None, device=None, backend="cpu", **sizes):
        super().__init__()
        device = device or torch.get_default_device()
        dtype = dtype or torch.get_default_dtype()
        if dtype not in _SCALARS:
            raise _library.TensorError(f"a layer's parameters are of float32 or float64, not {dtype}")
        fields = {"layer": kind, "backend": backend, **{n: v for n, v in sizes.items() if v is not None}}
        self._config = json.dumps(fields)
        self._layers = {}
        layer = self._layer(torch.empty(0, dtype=dtype, device="cpu"))
        self.channels = layer.facts["channels"]
        self._names = tuple(layer.names)
        self._places = tuple([(tuple(scopes), last) for *scopes, last in (name.split(".") for name in self._names)])
        self._states = tuple(tensor["name"] for tensor in layer.facts["state"])
        self._decays = {tensor["name"]: tensor["weight_decay"] for tensor in layer.facts["parameters"]}
        tensors = [torch.empty(tensor["shape"], dtype=dtype, device="cpu") for tensor in layer.facts["parameters"]]
        layer.initialize(seed, tensors)
        for name, tensor in zip(self._names, tensors):
            *scopes, last = name.split(".")
            at = self
            for scope in scopes:
                if scope not in at._modules:
                    at.add_module(scope, _Scope())
                at = at._modules[scope]
            at.register_parameter(last, torch.nn.Parameter(tensor.to(device)))
            at._parameters[last].no_weight_decay = not self._decays[name]

    def _layer(self, parameter):
        """The library's object for a parameter's scalar, where it lies."""
        if parameter.dtype not in _SCALARS:
            raise _library.TensorError(f"a layer's parameters are of float32 or float64, not {parameter.dtype}")
        key = parameter.dtype, parameter.device.type
        if key not in self._layers:
            self._layers[key] = _made_layer(self._config, parameter)
        return self._layers[key]

    def _tensors(self):
        """The parameters in the layer's order, without gaps."""
        result = []
        for scopes, last in self._places:
            at = self
            for scope in scopes:
                at = at._modules[scope]
            result.append(at._parameters[last].contiguous())
        return result

    def extra_repr(self):
        return self._config

    def forward(self, x: torch.Tensor, state: typing.Optional[State] = None, *,
                segments: typing.Optional[torch.Tensor] = None, return_state: bool = False):
        """Whole sequences: y, or (y, state) with `return_state`.
        x           [B, L, channels], or [L, channels]; y is the same
        state       before x, tensors by name as `state_tensors` gives them; zero where it is left out
        segments    int64 [S+1]: where packed sequences begin and end; then B = 1
        Differentiable in x, in the parameters and in the state."""
        parameters = self._tensors()
        _require_scalar(x, parameters[0].dtype)
        initial = []
        if state is not None:
            initial = [state[name] for name in self._state_names(state)]
        if torch.compiler.is_compiling():
            results = _layer_op(x, parameters, initial, segments, return_state, self._config)
        else:
            layer = self._layer(parameters[0])
            if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *parameters, *initial)):
                results = apply(_Forward, _plain_apply, layer, segments, len(parameters), return_state, x, *parameters, *initial)
            else:
                results = _run(layer, x, parameters, initial, segments, return_state)
        if return_state:
            return results[0], dict(zip(self._states, results[1:]))
        return results[0]

    def _state_names(self, state):
        missing = [name for name in self._states if name not in state]
        if missing:
            raise KeyError(f"the state of a layer {json.loads(self._config)['layer']} needs the tensor {missing[0]}")
        return self._states

    def state_tensors(self, sequences: int = 1) -> State:
        """Zeros by name, of what `forward` takes and gives as a state."""
        return dict(zip(self._states, _tensors_of(self.initial_state(sequences), next(self.parameters()).device)))

    def initial_state(self, sequences=1):
        """Zeros, of what the layer carries in `prefill` and `step`."""
        parameter = next(self.parameters())
        layer = self._layer(parameter)
        layer.use_stream_of(parameter)
        with _on(parameter.device):
            return layer.initial_state(sequences)

    @torch.no_grad()
    def prefill(self, x, state):
        """A chunk of any length from a state on, which is advanced; without gradients."""
        return self._advance("prefill", x, state)

    @torch.no_grad()
    def step(self, x, state):
        """One position, [B, channels] to the same; without gradients."""
        return self._advance("step", x, state)

    def _advance(self, verb, x, state):
        parameters = self._tensors()
        _require_scalar(x, parameters[0].dtype)
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        with _on(x.device):
            return getattr(self._layer(parameters[0]), verb)(parameters, x, state, y)

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
