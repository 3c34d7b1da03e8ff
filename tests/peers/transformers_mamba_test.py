#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Mamba models that Hugging Face's transformers makes and saves: `ssm logits` and `ssm generate` say what transformers says.

    transformers_mamba_test.py PROGRAM      exits with 77 and the reason where transformers is not installed
"""
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy
    import torch
    import transformers
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

MODELS = {
    "one file, tied head": ({}, "5GB"),
    "shards": ({"num_hidden_layers": 3}, "60KB"),
    "untied head, other widths and expansion": (
        {"hidden_size": 40, "expand": 3, "intermediate_size": 120, "state_size": 6, "conv_kernel": 3, "time_step_rank": 5,
         "tie_word_embeddings": False}, "5GB"),
    "no bias in the convolution": ({"use_conv_bias": False}, "5GB"),
    "biases everywhere": ({"use_bias": True}, "5GB"),
}


def run(*command):
    result = subprocess.run([str(word) for word in command], capture_output=True)
    if result.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: {result.stderr.decode()}")
    return result.stdout


def make(options):
    config = transformers.MambaConfig(**{"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 16, **options})
    torch.manual_seed(1)
    model = transformers.MambaForCausalLM(config).eval()
    with torch.no_grad():  # far from the initialization, so that every tensor counts
        for name, parameter in model.named_parameters():
            if not name.endswith("A_log"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def check(program, name, options, shard, folder):
    model = make(options)
    model.save_pretrained(folder, max_shard_size=shard)
    shards = len(list(folder.glob("*.safetensors")))
    assert (shards > 1) == (name == "shards"), f"{shards} files"
    prompt = b"To be, or not to be"
    tokens = torch.tensor([list(prompt)])
    with torch.no_grad():
        expected = model(tokens).logits[0].double().numpy()
        text = tokens
        for _ in range(24):
            text = torch.cat([text, model(text).logits[:, -1:].argmax(-1)], dim=1)
    numpy.save(folder / "ids.npy", tokens.numpy())
    run(program, "logits", folder, "--tokens", folder / "ids.npy", "--out", folder / "logits.npy")
    actual = numpy.load(folder / "logits.npy").astype("f8")
    assert actual.shape == expected.shape, f"{actual.shape}, not {expected.shape}"
    error = numpy.abs(actual - expected).max() / max(1, numpy.abs(expected).max())
    assert error < 2e-5, f"logits differ by {error}"
    (folder / "prompt").write_bytes(prompt)
    generated = run(program, "generate", folder, "--prompt-file", folder / "prompt", "--tokens", 24, "--temperature", 0)
    # What is not UTF-8 is shown as such by both.
    wanted = bytes(text[0].tolist()).decode(errors="replace")
    generated = generated.decode()
    assert wanted in generated, f"greedy text {generated!r} lacks {wanted!r}"
    print(f"{name}: {shards} file(s), logits within {error:.1e}, the same 24 greedy tokens")


def main():
    program = sys.argv[1]
    failures = 0
    for name, (options, shard) in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                check(program, name, options, shard, pathlib.Path(folder))
            except AssertionError as error:
                failures += 1
                print(f"FAILED: {name}: {error}")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
