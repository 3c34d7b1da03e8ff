# SPDX-License-Identifier: Apache-2.0
"""Writes a model of given sizes with random weights, for measurements that do not ask what it says."""
import json
import struct

import numpy

BLOCK = 1 << 22  # numbers that are drawn, and repeated


def write_model(folder, config, tensors, dtype):
    """tensors   as `ssm inspect --json` lists them
    dtype     bf16 or fp32"""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    width = {"bf16": 2, "fp32": 4}[dtype]
    header, end = {}, 0
    for tensor in tensors:
        size = numpy.prod(tensor["shape"], dtype=int) * width
        header[tensor["name"]] = {"dtype": {"bf16": "BF16", "fp32": "F32"}[dtype], "shape": tensor["shape"], "data_offsets": [end, end + int(size)]}
        end += int(size)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    normal = numpy.random.default_rng(1).standard_normal(BLOCK, dtype=numpy.float32)

    def some(scale):
        numbers = normal * numpy.float32(scale)
        return (numbers.view(numpy.uint32) >> 16).astype(numpy.uint16) if dtype == "bf16" else numbers

    matrices, vectors = some(0.02), some(0.1)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            numbers = matrices if len(tensor["shape"]) > 1 else vectors
            size = int(numpy.prod(tensor["shape"], dtype=int))
            for begin in range(0, size, BLOCK):
                file.write(numbers[: min(BLOCK, size - begin)].data)
