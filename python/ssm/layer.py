# SPDX-License-Identifier: Apache-2.0
"""Layers as functions of tensors that others own: numpy arrays, torch tensors, whatever has __dlpack__."""
from __future__ import annotations

import collections.abc
import ctypes
import json
import threading
import typing

from . import _tensor
from ._library import ArgumentError, Owned, Tensor, ask, call, find_cublas, made, options


Parameters = typing.Union[dict[str, typing.Any], collections.abc.Sequence[typing.Any]]  # by name, or in the layer's order


def layer_kinds() -> dict[str, typing.Any]:
    """What kinds of layers there are: the fields of each, those that must be given and the others."""
    return json.loads(ask("ssm_layer_kinds"))


class LayerState:
    """What a layer carries from one call to the next. Made by Layer.initial_state."""

    def __init__(self, pointer, layer):
        self._owned = Owned(pointer, "ssm_layer_state_free")
        self._layer = layer

    @property
    def _pointer(self):
        return self._owned.pointer

    def copy(self) -> LayerState:
        return LayerState(made("ssm_layer_state_copy", self._pointer), self._layer)

    def on_host(self) -> list[bool]:
        """Whether each of its tensors lies on the host."""
        tensor: typing.Any = Tensor()
        result = []
        for index in range(ask("ssm_layer_state_count", self._pointer)):
            call("ssm_layer_state_tensor", self._pointer, index, None, ctypes.byref(tensor))
            result.append(tensor.device.type == 1)
        return result

    def tensors(self) -> dict[str, typing.Any]:
        """Its tensors by name, over the same memory and valid until the state is used next: numpy arrays, and on a CUDA device
        what has __cuda_array_interface__, for cupy.asarray and torch.as_tensor."""
        import numpy
        result = {}
        for index in range(ask("ssm_layer_state_count", self._pointer)):
            name: typing.Any = ctypes.c_char_p()
            tensor: typing.Any = Tensor()
            call("ssm_layer_state_tensor", self._pointer, index, ctypes.byref(name), ctypes.byref(tensor))
            shape = tuple(tensor.shape[:tensor.ndim])
            scalar = numpy.dtype({0: "i", 2: "f"}[tensor.type.code] + str(tensor.type.bits // 8))
            if tensor.device.type != 1:
                result[name.value.decode()] = _tensor.DeviceTensor(tensor, shape, scalar, self._owned)
                continue
            if 0 in shape:
                result[name.value.decode()] = numpy.empty(shape, dtype=scalar)
                continue
            size = scalar.itemsize
            for extent in shape:
                size *= extent
            memory: typing.Any = (ctypes.c_char * size).from_address(tensor.data)
            memory.owner = self._owned
            result[name.value.decode()] = numpy.frombuffer(memory, dtype=scalar).reshape(shape)
        return result


class Tape:
    """What Layer.forward remembers for Layer.backward."""

    def __init__(self, layer):
        self._layer = layer
        self._owned = Owned(made("ssm_tape_create", layer._pointer), "ssm_tape_free")
        self.operands = None  # x and the parameters, which must live on


class Layer:
    """A layer of the library; tensors are the caller's, and nothing is copied.

        layer = ssm.Layer("h3", channels=64, state=64, head_dim=8)
        parameters = layer.initialize(seed=1)              # numpy arrays by published names
        y = layer.forward(parameters, x)                   # [B, L, 64]

    scalar     "float32" or "float64", of all tensors
    backend    "cpu" or "reference"; "cuda" for tensors on one CUDA device, whose current stream in torch or cupy calls go to
    threads    that work on one call
    sizes      as layer_kinds() lists
    """

    names: list[str]
    facts: dict[str, typing.Any]

    def __init__(self, kind: str, *, scalar: str = "float32", backend: str = "cpu", threads: int = 1,
                 **sizes: typing.Any) -> None:
        self.config = {"layer": kind, "scalar": scalar, "backend": backend, "threads": threads,
                       **{name: value for name, value in sizes.items() if value is not None}}
        self._make()

    def _make(self):
        if self.config["backend"] == "cuda":
            find_cublas()
        self._owned = Owned(made("ssm_layer_create", options(**self.config)), "ssm_layer_free")
        self._lock = threading.Lock()
        self._threads = self.config["threads"]
        self._is_on_host = self.config["backend"] != "cuda"
        self._stream = None
        self.facts = json.loads(ask("ssm_layer_facts", self._pointer))
        self.names = [tensor["name"] for tensor in self.facts["parameters"]]

    def __getstate__(self):  # copies and other processes make their own
        return self.config

    def __setstate__(self, config):
        self.config = config
        self._make()

    @property
    def _pointer(self):
        return self._owned.pointer

    def set_threads(self, threads: int) -> None:
        if threads != self._threads:
            with self._lock:
                call("ssm_layer_set_threads", self._pointer, threads)
                self._threads = threads

    def use_stream_of(self, x: typing.Any) -> None:
        """What is made from here on, states, is in order with the stream that x's package has made current. Calls see to
        that themselves."""
        with self._lock:
            self._use_stream_of(x)

    def _use_stream_of(self, x):
        """Within the lock."""
        if self._is_on_host:
            return
        stream = _tensor.stream_of(x)
        if stream != self._stream:
            call("ssm_layer_set_stream", self._pointer, stream)
            self._stream = stream

    def _listed(self, parameters, written=False):
        if isinstance(parameters, dict):
            missing = [name for name in self.names if name not in parameters]
            if missing:
                raise KeyError(f"the layer {self.config['layer']} needs the parameter {missing[0]}")
            parameters = [parameters[name] for name in self.names]
        listed = _tensor.listed(parameters, written)
        return listed, len(listed)

    def initialize(self, seed: int = 0, parameters: Parameters | None = None) -> Parameters:
        """The published initialization, in new numpy arrays by name or in tensors that are given."""
        if parameters is None:
            if not self._is_on_host:
                return Layer(**{"kind" if name == "layer" else name: value for name, value in self.config.items()
                                if name != "backend"}).initialize(seed)
            import numpy
            parameters = {tensor["name"]: numpy.empty(tensor["shape"], dtype=tensor["scalar"])
                          for tensor in self.facts["parameters"]}
        listed, count = self._listed(parameters, True)
        with self._lock:
            self._use_stream_of(next(iter(parameters.values())) if isinstance(parameters, dict) else parameters[0])
            call("ssm_layer_initialize", self._pointer, seed, listed, count)
        return parameters

    def _operands(self, x, y):
        """x, y and their memory; y is made where it is left out."""
        read = _tensor.of(x)
        if y is None and not self._is_on_host:
            y = _tensor.empty_like(x)
            if y is None:
                raise ArgumentError(f"y is missing, and is not made for a {type(x).__name__}")
        elif y is None:
            import numpy
            is_half = read.type.bits == 16
            y = numpy.empty(read.shape[:read.ndim], dtype=numpy.asarray(x).dtype if is_half else self.config["scalar"])
        return y, read, _tensor.of(y, True)

    def tape(self) -> Tape:
        return Tape(self)

    def initial_state(self, sequences: int = 1) -> LayerState:
        return LayerState(made("ssm_layer_state_create", self._pointer, sequences), self)

    def forward(self, parameters: Parameters, x: typing.Any, y: typing.Any = None, *, segments: typing.Any = None,
                initial_state: LayerState | None = None, final_state: LayerState | None = None,
                tape: Tape | None = None) -> typing.Any:
        """Whole sequences.
        x, y         [B, L, channels] or [L, channels]; y is made as a numpy array where it is left out
        parameters   by name, or a list in the layer's order
        segments     int64 [S+1]: where packed sequences begin and end
        tape         for `backward`; x and the parameters must stay as they are until then"""
        y, read, written = self._operands(x, y)
        listed, count = self._listed(parameters)
        ends = None if segments is None else _tensor.of(segments)
        with self._lock:
            self._use_stream_of(x)
            call("ssm_layer_forward", self._pointer, listed, count, read, written, ends,
                 initial_state and initial_state._pointer, final_state and final_state._pointer,
                 tape and tape._owned.pointer)
        if tape is not None:
            tape.operands = (x, parameters, listed)
        return y

    def backward(self, parameters: Parameters, tape: Tape, dy: typing.Any, dx: typing.Any, gradients: Parameters, *,
                 dfinal_state: LayerState | None = None, dinitial_state: LayerState | None = None) -> typing.Any:
        """dx is overwritten, gradients are added to."""
        listed, count = self._listed(parameters)
        sums, _ = self._listed(gradients, True)
        with self._lock:
            self._use_stream_of(dy)
            call("ssm_layer_backward", self._pointer, listed, count, tape._owned.pointer, _tensor.of(dy),
                 _tensor.of(dx, True), sums, dfinal_state and dfinal_state._pointer,
                 dinitial_state and dinitial_state._pointer)
        return dx

    def prefill(self, parameters: Parameters, x: typing.Any, state: LayerState, y: typing.Any = None) -> typing.Any:
        """A chunk of any length from a state on, which is advanced."""
        y, read, written = self._operands(x, y)
        listed, count = self._listed(parameters)
        with self._lock:
            self._use_stream_of(x)
            call("ssm_layer_prefill", self._pointer, listed, count, read, written, state._pointer)
        return y

    def step(self, parameters: Parameters, x: typing.Any, state: LayerState, y: typing.Any = None) -> typing.Any:
        """One position.    x, y [B, channels] or [channels]"""
        y, read, written = self._operands(x, y)
        listed, count = self._listed(parameters)
        with self._lock:
            self._use_stream_of(x)
            call("ssm_layer_step", self._pointer, listed, count, read, written, state._pointer)
        return y
