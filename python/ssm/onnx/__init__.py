# SPDX-License-Identifier: Apache-2.0
"""Layers and language models of the library for ONNX Runtime.

    onnx.save(ssm.onnx.step_model("mamba-130m-hf"), "step.onnx")        # standard operators alone
    onnx.save(ssm.onnx.layer_model(layer, parameters), "layer.onnx")    # the operator ssm.Layer

    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(ssm.onnx.operators())           # for ssm.Layer
    session = onnxruntime.InferenceSession("layer.onnx", options)       # or providers=["CUDAExecutionProvider"]
"""
from __future__ import annotations

import json
import pathlib
import typing

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

from .. import _library
from .. import layer as _layer
from . import _graph, _h3, _mamba, _retnet

_OPSET = 17
_TYPES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "int64": TensorProto.INT64,
          "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


def operators() -> str:
    """The library that gives ONNX Runtime the operator ssm.Layer."""
    path = pathlib.Path(_library.path()).resolve().parent / "libssm_onnxruntime.so"
    if not path.is_file():
        raise _library.FileError(f"{path} is missing: build the target ssm_onnxruntime, or install the package with pip")
    return str(path)


def layer_model(layer: _layer.Layer, parameters: dict[str, typing.Any], *, states: bool = False,
                sequences: str | None = None) -> onnx.ModelProto:
    """A layer as a graph of one node, ssm.Layer.
    inputs     x [B, L, channels], and with `states` state.NAME for each tensor of the layer's state
    outputs    y, and with `states` next.NAME
    sequences  the scalar of x and y: the layer's, beside float32 also float16 and bfloat16"""
    scalar = _TYPES[sequences or layer.config["scalar"]]
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


def step_model(folder: str | pathlib.Path) -> onnx.ModelProto:
    """One token of a language model by standard operators, from a folder with config.json and model.safetensors: H3 and its
    hybrids with attention, Mamba, Mamba-2, RetNet, DenseMamba, DenseRetNet.
    inputs     tokens [B] int64, and a state, zero before the first token: position [B] int64 where the model counts, tensors
               NAME.I of layer I, caches [B, T, …] of attention, at first with T = 0
    outputs    logits [B, vocabulary as padded], and the state behind the token by the same names behind next."""
    step = _graph.Step(pathlib.Path(folder))
    for module in (_mamba, _h3, _retnet):
        if module.describes(step.config):
            return _model(module.build(step))
    raise _library.ArgumentError(f"{step.folder / 'config.json'}: a graph is made of H3, Mamba, Mamba-2, RetNet, DenseMamba and "
                                 "DenseRetNet models, this one is of another kind")
