# SPDX-License-Identifier: Apache-2.0
"""What step graphs of all families are made with: a model's files, nodes of standard operators, states."""
import json
import struct

import numpy
from onnx import TensorProto, helper, numpy_helper

from .. import _library


def read_config(folder):
    path = folder / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _library.FileError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise _library.FileError(f"{path}: {error}") from None


def read_safetensors(path):
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


class Step:
    """A graph of one token as it grows. Operands and results of its methods are names."""

    def __init__(self, folder):
        self.folder, self.config = folder, read_config(folder)
        self._weights = None
        self._nodes, self._constants = [], []
        self._inputs, self._outputs = [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["B"])], []
        self._next = []  # of the state's tensors

    def refuse(self, what):
        raise _library.ArgumentError(f"{self.folder / 'config.json'}: {what}")

    # weights

    def has(self, name):
        self._read()
        return name in self._weights

    def weight(self, name):
        """A tensor of the file."""
        self._read()
        if name not in self._weights:
            raise _library.FileError(f"{self.folder / 'model.safetensors'} has no tensor {name}")
        return self._weights[name]

    def _read(self):
        if self._weights is None:
            self._weights = read_safetensors(self.folder / "model.safetensors")

    # nodes

    def __call__(self, kind, *inputs, outputs=1, **attributes):
        names = [f"{kind}_{len(self._nodes)}_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, array, scalar="f4"):
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(numpy.ascontiguousarray(array, scalar), name))
        return name

    def axes(self, *numbers):
        return self.constant(numpy.array(numbers, "i8"), "i8")

    def unsqueeze(self, x, *axes):
        return self("Unsqueeze", x, self.axes(*axes))

    def shaped(self, x, *extents):
        """0: as it was    -1: what is left"""
        return self("Reshape", x, self.axes(*extents))

    def sum(self, x, *axes):
        return self("ReduceSum", x, self.axes(*axes), keepdims=0)

    def part(self, x, axis, begin, end):
        return self("Slice", x, self.axes(begin), self.axes(end), self.axes(axis))

    def split(self, x, *widths):
        return self("Split", x, self.axes(*widths), axis=1, outputs=len(widths))

    def added(self, first, *more):
        for x in more:
            first = self("Add", first, x)
        return first

    def scaled(self, x, factor):
        return self("Mul", x, self.constant(factor))

    def linear(self, x, name, transposed=True):
        """By NAME.weight, and NAME.bias where there is one."""
        weight = self.weight(f"{name}.weight")
        y = self("MatMul", x, self.constant(weight.T if transposed else weight))
        return self("Add", y, self.constant(self.weight(f"{name}.bias"))) if self.has(f"{name}.bias") else y

    def silu(self, x):
        return self("Mul", x, self("Sigmoid", x))

    def gelu_tanh(self, x):
        cubed = self("Mul", x, self("Mul", x, x))
        inner = self("Tanh", self.scaled(self("Add", x, self.scaled(cubed, 0.044715)), (2 / numpy.pi) ** 0.5))
        return self("Mul", x, self.scaled(self("Add", inner, self.constant(1)), 0.5))

    def gelu_erf(self, x):
        return self("Mul", x, self.scaled(self("Add", self("Erf", self.scaled(x, 0.5 ** 0.5)), self.constant(1)), 0.5))

    def rms(self, x, eps):
        """x / √(mean of x² + eps) over the last axis; eps a number or a name."""
        mean = self("ReduceMean", self("Mul", x, x), axes=[-1])
        return self("Div", x, self("Sqrt", self("Add", mean, eps if isinstance(eps, str) else self.constant(eps))))

    def rms_norm(self, x, name, eps):
        return self.scaled(self.rms(x, eps), self.weight(name))

    def layer_norm(self, x, name, eps):
        centered = self("Sub", x, self("ReduceMean", x, axes=[-1]))
        return self("Add", self.scaled(self.rms(centered, eps), self.weight(f"{name}.weight")),
                    self.constant(self.weight(f"{name}.bias")))

    # the state

    def state(self, name, *extents, scalar=TensorProto.FLOAT):
        """A tensor of the state, [B, extents]; a text is an extent of its own."""
        self._inputs.append(helper.make_tensor_value_info(name, scalar, ["B", *extents]))
        return name

    def becomes(self, name, value, *extents, scalar=TensorProto.FLOAT):
        """What it is behind the token."""
        self._nodes.append(helper.make_node("Identity", [value], [f"next.{name}"]))
        self._next.append(helper.make_tensor_value_info(f"next.{name}", scalar, ["B", *extents]))
        return value

    def position(self):
        """How many tokens came before, [B] in float; counts on."""
        if not any(value.name == "position" for value in self._inputs):
            self.state("position", scalar=TensorProto.INT64)
            self.becomes("position", self("Add", "position", self.axes(1)), scalar=TensorProto.INT64)
            self._position = self("Cast", "position", to=TensorProto.FLOAT)
        return self._position

    def embedding(self, name, scale=1):
        x = self("Gather", self.constant(self.weight(name)), "tokens", axis=0)
        return x if scale == 1 else self.scaled(x, scale)

    def finish(self, x, head):
        """The graph, whose logits are x by the rows of a matrix."""
        matrix = self.weight(head)
        self._nodes.append(helper.make_node("MatMul", [x, self.constant(matrix.T)], ["logits"]))
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", matrix.shape[0]])
        return helper.make_graph(self._nodes, "step", self._inputs, [logits, *self._next], self._constants)
