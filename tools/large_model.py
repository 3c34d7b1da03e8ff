#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Opens a model of a published size and generates with it, and says what memory that takes at most.

    tools/large_model.py --ssm build/release/bin/ssm --preset mamba-2.8b --dtype bf16 --work /tmp/large --json docs/results/large_model.json

The weights are random and written to the disk some at a time; `ssm inspect --preset` says what the tensors are. For each form of --weights, the largest
resident set of `ssm generate` and its speed are measured: with the files out of the page cache as far as the system allows, and again.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from random_model import write_model


def write_preset(ssm, preset, dtype, folder):
    report = json.loads(subprocess.run([ssm, "inspect", "--preset", preset, "--json"], check=True, capture_output=True).stdout)
    config = dict(report["config"], vocab_size=256)  # bytes, so that `ssm generate` has a text; the embedding keeps its rows
    tensors = report["tensors"]
    rows = max(tensor["shape"][0] for tensor in tensors if "embed" in tensor["name"])
    config.pop("unpadded_vocab_size", None)
    if "model_type" in config:
        config.update(vocab_size=rows, unpadded_vocab_size=256)
    else:
        config.update(pad_vocab_size_multiple=rows)
    write_model(folder, config, tensors, dtype)
    with open(folder / "model.safetensors", "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return report["parameters"]


def measure(ssm, folder, weights, tokens):
    command = [ssm, "generate", str(folder), "--prompt", "a", "--tokens", str(tokens), "--seed", "1", "--weights", weights, "--statistics",
               "--no-echo"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = process.stderr.read().decode().strip()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(command)}: {said}")
    return {"weights": weights, "largest_resident_bytes": usage.ru_maxrss * 1024, "said": said}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--ssm", required=True)
    parser.add_argument("--preset", default="mamba-2.8b")
    parser.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--weights", default="bf16", help="forms, separated by commas")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--work", type=pathlib.Path, help="folder for the model, which stays there; else a temporary one")
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.work or pathlib.Path(temporary)) / f"{arguments.preset}-{arguments.dtype}"
        parameters = write_preset(arguments.ssm, arguments.preset, arguments.dtype, folder)
        size = (folder / "model.safetensors").stat().st_size
        runs = [measure(arguments.ssm, folder, weights, arguments.tokens) for weights in arguments.weights.split(",") for _ in range(2)]
        report = {"preset": arguments.preset, "parameters": parameters, "stored_as": arguments.dtype, "file_bytes": size, "runs": runs}
        for run in runs:
            over = (run["largest_resident_bytes"] - size) / 2**30
            print(f"{arguments.preset} in {arguments.dtype}, {size / 2**30:.2f} GiB, --weights {run['weights']}: at most "
                  f"{run['largest_resident_bytes'] / 2**30:.2f} GiB resident, {over:+.2f} GiB; {run['said']}")
        if arguments.json:
            arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
