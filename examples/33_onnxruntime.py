#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A layer of the library in ONNX Runtime. Exits with 77 and the reason where onnx or onnxruntime is not installed."""
import pathlib
import sys
import tempfile

try:
    import numpy
    import onnx
    import onnxruntime
except ImportError as error:
    print("skipped:", error)
    sys.exit(77)
import ssm.onnx

layer = ssm.Layer("mamba", channels=16, state=8)
parameters = layer.initialize(seed=1)
x = numpy.random.standard_normal((2, 100, 16)).astype("f4")
file = pathlib.Path(tempfile.mkdtemp()) / "layer.onnx"

# [five lines of onnxruntime]
onnx.save(ssm.onnx.layer_model(layer, parameters), file)
options = onnxruntime.SessionOptions()
options.register_custom_ops_library(ssm.onnx.operators())
session = onnxruntime.InferenceSession(file, options)
(y,) = session.run(None, {"x": x})
# [/five lines of onnxruntime]
print("differs by", abs(y - layer.forward(parameters, x)).max())
