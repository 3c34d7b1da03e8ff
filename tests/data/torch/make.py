#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the files of torch.save in this folder, which tests/io/torch_file_test.cpp reads.

    make.py      made with PyTorch 2.11
"""
import collections
import os
import pathlib

import torch

FOLDER = pathlib.Path(__file__).parent


def numbers(*shape, dtype=torch.float32):
    count = 1
    for extent in shape:
        count *= extent
    return (torch.arange(count, dtype=torch.float32) / 4 - 2).reshape(shape).to(dtype)


def state_dict():
    tensors = collections.OrderedDict()
    tensors["weight"] = numbers(3, 4)
    tensors["transposed"] = numbers(4, 3).t()
    tensors["view"] = tensors["weight"][1:, 1:3]  # of the same storage
    tensors["tied"] = tensors["weight"]
    tensors["expanded"] = numbers(1, 3).expand(2, 3)
    tensors["bf16"] = numbers(2, 5, dtype=torch.bfloat16)
    tensors["f16"] = numbers(2, 5, dtype=torch.float16)
    tensors["f64"] = numbers(7, dtype=torch.float64)
    tensors["int64"] = torch.arange(6).reshape(2, 3)
    tensors["bool"] = torch.ones(2, dtype=torch.bool)
    tensors["empty"] = torch.zeros(0, 3)
    tensors["scalar"] = torch.tensor(1.5)
    tensors["parameter"] = torch.nn.Parameter(numbers(2, 2))
    tensors._metadata = collections.OrderedDict(version=1)
    return tensors


class Call:
    def __reduce__(self):
        return os.system, ("exit 1",)


def main():
    tensors = state_dict()
    torch.save(tensors, FOLDER / "state_dict.pt")
    torch.save(tensors, FOLDER / "before_zip.pt", _use_new_zipfile_serialization=False)
    model = {"model." + name: tensors[name] for name in ("weight", "transposed")}
    torch.save({
        "pytorch-lightning_version": "1.8.6", "epoch": 3, "global_step": 100,
        "state_dict": {**model, "metrics.count": torch.tensor(5)},
        "optimizer_states": [{"state": {0: {"exp_avg": numbers(3, 4)}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]}],
        "lr_schedulers": [], "hyper_parameters": {"rate": 1e-3, "path": pathlib.PurePosixPath("/data")},
    }, FOLDER / "lightning.ckpt")
    torch.save({"weight": numbers(2, 2), "other": Call()}, FOLDER / "calls.pt")
    torch.save({"step": 7}, FOLDER / "no_tensors.pt")


if __name__ == "__main__":
    main()
