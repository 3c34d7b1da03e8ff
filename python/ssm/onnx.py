# SPDX-License-Identifier: Apache-2.0
"""Layers and language models of the library for ONNX Runtime.

    onnx.save(ssm.onnx.step_model("mamba-130m-hf"), "step.onnx")        # standard operators alone
    onnx.save(ssm.onnx.layer_model(layer, parameters), "layer.onnx")    # the operator ssm.Layer

    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(ssm.onnx.operators())           # for ssm.Layer
    session = onnxruntime.InferenceSession("layer.onnx", options)
"""
from __future__ import annotations

import json
import pathlib
import struct
import typing

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

from . import _library
from . import layer as _layer

_OPSET = 17
_TYPES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "int64": TensorProto.INT64}


def operators() -> str:
    """The library that gives ONNX Runtime the operator ssm.Layer."""
    path = pathlib.Path(_library.path()).resolve().parent / "libssm_onnxruntime.so"
    if not path.is_file():
        raise _library.FileError(f"{path} is missing: build the target ssm_onnxruntime, or install the package with pip")
    return str(path)


def layer_model(layer: _layer.Layer, parameters: dict[str, typing.Any], *, states: bool = False) -> onnx.ModelProto:
    """A layer as a graph of one node, ssm.Layer.
    inputs     x [B, L, channels], and with `states` state.NAME for each tensor of the layer's state
    outputs    y, and with `states` next.NAME"""
    scalar = _TYPES[layer.config["scalar"]]
    facts = layer.facts["state"] if states else []
    before, after = ([f"{way}.{state['name']}" for state in facts] for way in ("state", "next"))
    node = helper.make_node("Layer", ["x", *layer.names, *before], ["y", *after], domain="ssm", config=json.dumps(layer.config))
    sequence = ["B", "L", layer.facts["channels"]]

    def state_info(name, state):  # a cache, which grows, has positions first
        shape = [None if extent == 0 or axis == 0 or (axis == 1 and state["shape"][0] == 0) else extent
                 for axis, extent in enumerate(state["shape"])]
        return helper.make_tensor_value_info(name, _TYPES[state["scalar"]], shape)

    graph = helper.make_graph(
        [node], layer.config["layer"],
        [helper.make_tensor_value_info("x", scalar, sequence), *map(state_info, before, facts)],
        [helper.make_tensor_value_info("y", scalar, sequence), *map(state_info, after, facts)],
        [numpy_helper.from_array(numpy.ascontiguousarray(parameters[name]), name) for name in layer.names])
    return _model(graph, [helper.make_opsetid("ssm", 1)])


def _model(graph, more=()):
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET), *more], producer_name="ssm")
    model.ir_version = 9
    return model


def _read_safetensors(path):
    """Tensors of a file in float32, by name."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _library.FileError(f"{path}: {error.strerror}") from None
    try:
        size, = struct.unpack("<Q", data[:8])
        header = json.loads(data[8:8 + size])
        result = {}
        for name, facts in header.items():
            if name == "__metadata__":
                continue
            begin, end = facts["data_offsets"]
            bytes_of_it = data[8 + size + begin:8 + size + end]
            if facts["dtype"] == "BF16":
                values = (numpy.frombuffer(bytes_of_it, "<u2").astype("<u4") << 16).view("<f4")
            else:
                values = numpy.frombuffer(bytes_of_it, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[facts["dtype"]])
            result[name] = values.reshape(facts["shape"]).astype("f4")
        return result
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise _library.FileError(f"{path} is no safetensors file of floating-point numbers: {error!r}") from None


class _Graph:
    """Nodes of standard operators, named as they come."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def __call__(self, kind, *inputs, outputs=1, **attributes):
        names = [f"{kind}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, array):
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(numpy.ascontiguousarray(array), name))
        return name

    def axes(self, *numbers):
        return self.constant(numpy.array(numbers, "i8"))

    def linear(self, x, weight, bias=None):
        y = self("MatMul", x, self.constant(weight.T))
        return y if bias is None else self("Add", y, self.constant(bias))

    def silu(self, x):
        return self("Mul", x, self("Sigmoid", x))

    def rms_norm(self, x, weight, eps):
        mean = self("ReduceMean", self("Mul", x, x), axes=[-1])
        root = self("Sqrt", self("Add", mean, self.constant(numpy.array(eps, "f4"))))
        return self("Mul", self("Div", x, root), self.constant(weight))


def _mamba_config(folder):
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _library.FileError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise _library.FileError(f"{path}: {error}") from None
    original = config.get("ssm_cfg")  # of mamba_ssm's files, which have no model_type
    is_mamba = original.get("layer", "Mamba1") == "Mamba1" and not original.get("mode") if isinstance(original, dict) else \
        config.get("model_type") == "mamba"
    if not is_mamba or config.get("attn_layer_idx") or config.get("rms_norm") is False:
        raise _library.ArgumentError(f"{path}: a graph is made of Mamba models with RMSNorm, this one is of another kind")
    if config.get("hidden_act", "silu") != "silu":
        raise _library.ArgumentError(f"{path}: hidden_act must be silu, it is {config['hidden_act']}")
    return config


def step_model(folder: str | pathlib.Path) -> onnx.ModelProto:
    """One token of a Mamba language model by standard operators, from a folder with config.json and model.safetensors.
    inputs     tokens [B] int64; conv.I [B, D, W] and ssm.I [B, D, N] of layer I, zero before the first token
    outputs    logits [B, vocabulary as padded]; next.conv.I, next.ssm.I"""
    folder = pathlib.Path(folder)
    config = _mamba_config(folder)
    weights = _read_safetensors(folder / "model.safetensors")
    eps = config.get("layer_norm_epsilon", 1e-5)
    embedding = weights.get("backbone.embeddings.weight", weights.get("backbone.embedding.weight"))
    graph = _Graph()

    def weight(name, layer=None):
        name = name if layer is None else f"backbone.layers.{layer}.{name}"
        if name not in weights:
            raise _library.FileError(f"{folder / 'model.safetensors'} has no tensor {name}")
        return weights[name]

    if embedding is None:
        weight("backbone.embeddings.weight")
    inputs = [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["B"])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", embedding.shape[0]])]
    x = graph("Gather", graph.constant(embedding), "tokens", axis=0)
    count = config.get("num_hidden_layers", config.get("n_layer"))
    for layer in range(count):
        of = lambda name: weight("mixer." + name, layer)
        bias = lambda name: weights.get(f"backbone.layers.{layer}.mixer.{name}")
        filters = of("conv1d.weight")[:, 0]
        channels, width = filters.shape
        states, rank = of("A_log").shape[1], of("dt_proj.weight").shape[1]
        for name, extent in (("conv", width), ("ssm", states)):
            for way, infos in (("", inputs), ("next.", outputs)):
                infos.append(helper.make_tensor_value_info(f"{way}{name}.{layer}", TensorProto.FLOAT, ["B", channels, extent]))
        normed = graph.rms_norm(x, weight("norm.weight", layer), eps)
        u, gate = graph("Split", graph.linear(normed, of("in_proj.weight"), bias("in_proj.bias")),
                        graph.axes(channels, channels), axis=1, outputs=2)
        earlier = graph("Slice", f"conv.{layer}", graph.axes(1), graph.axes(width), graph.axes(2))
        window = graph("Concat", earlier, graph("Unsqueeze", u, graph.axes(2)), axis=2)
        graph.nodes.append(helper.make_node("Identity", [window], [f"next.conv.{layer}"]))
        u = graph("ReduceSum", graph("Mul", window, graph.constant(filters)), graph.axes(2), keepdims=0)
        if bias("conv1d.bias") is not None:
            u = graph("Add", u, graph.constant(bias("conv1d.bias")))
        u = graph.silu(u)
        dt, B, C = graph("Split", graph.linear(u, of("x_proj.weight")), graph.axes(rank, states, states), axis=1, outputs=3)
        dt = graph("Softplus", graph.linear(dt, of("dt_proj.weight"), of("dt_proj.bias")))
        decay = graph("Exp", graph("Mul", graph("Unsqueeze", dt, graph.axes(2)), graph.constant(-numpy.exp(of("A_log")))))
        taken = graph("Mul", graph("Unsqueeze", graph("Mul", dt, u), graph.axes(2)), graph("Unsqueeze", B, graph.axes(1)))
        state = graph("Add", graph("Mul", decay, f"ssm.{layer}"), taken)
        graph.nodes.append(helper.make_node("Identity", [state], [f"next.ssm.{layer}"]))
        y = graph("ReduceSum", graph("Mul", state, graph("Unsqueeze", C, graph.axes(1))), graph.axes(2), keepdims=0)
        y = graph("Add", y, graph("Mul", u, graph.constant(of("D"))))
        y = graph.linear(graph("Mul", y, graph.silu(gate)), of("out_proj.weight"), bias("out_proj.bias"))
        x = graph("Add", x, y)
    x = graph.rms_norm(x, weight("backbone.norm_f.weight"), eps)
    graph.nodes.append(helper.make_node("MatMul", [x, graph.constant(weights.get("lm_head.weight", embedding).T)], ["logits"]))
    return _model(helper.make_graph(graph.nodes, "step", inputs, outputs, graph.constants))
