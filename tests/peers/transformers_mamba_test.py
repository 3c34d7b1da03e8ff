#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Mamba and Mamba-2 models that Hugging Face's transformers makes and saves: `ssm logits` and `ssm generate` say what transformers says,
and `ssm-conformance` finds its loss and gradients.

    transformers_mamba_test.py SSM CONFORMANCE      exits with 77 and the reason where transformers is not installed
"""
import json
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy
    import safetensors.numpy
    import torch
    import transformers
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

FAMILIES = {
    "mamba": (transformers.MambaConfig, transformers.MambaForCausalLM, {"state_size": 16}),
    # 2 · 32 channels in 8 heads; sequences longer than a chunk
    "mamba2": (transformers.Mamba2Config, transformers.Mamba2ForCausalLM,
               {"state_size": 16, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8, "tie_word_embeddings": True}),
}
MODELS = [
    ("mamba", "one file, tied head", {}, "5GB"),
    ("mamba", "shards", {"num_hidden_layers": 3}, "60KB"),
    ("mamba", "untied head, other widths and expansion",
     {"hidden_size": 40, "expand": 3, "intermediate_size": 120, "state_size": 6, "conv_kernel": 3, "time_step_rank": 5,
      "tie_word_embeddings": False}, "5GB"),
    ("mamba", "no bias in the convolution", {"use_conv_bias": False}, "5GB"),
    ("mamba", "biases everywhere", {"use_bias": True}, "5GB"),
    ("mamba2", "one file, tied head", {}, "5GB"),
    ("mamba2", "shards", {"num_hidden_layers": 3}, "60KB"),
    ("mamba2", "untied head, groups, other widths and expansion",
     {"hidden_size": 40, "expand": 3, "num_heads": 12, "head_dim": 10, "n_groups": 4, "state_size": 6, "conv_kernel": 3,
      "tie_word_embeddings": False}, "5GB"),
    ("mamba2", "steps clamped, another eps", {"time_step_limit": (0.2, 1.5), "layer_norm_epsilon": 1e-3, "chunk_size": 256}, "5GB"),
    ("mamba2", "no bias in the convolution", {"use_conv_bias": False}, "5GB"),
    ("mamba2", "biases everywhere", {"use_bias": True}, "5GB"),
]


def run(*command):
    result = subprocess.run([str(word) for word in command], capture_output=True)
    if result.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: {result.stderr.decode()}{result.stdout.decode()}")
    return result.stdout


def make(family, options):
    config_of, model_of, sizes = FAMILIES[family]
    config = config_of(**{"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, **sizes, **options})
    torch.manual_seed(1)
    model = model_of(config).eval()
    with torch.no_grad():  # far from the initialization, so that every tensor counts
        for name, parameter in model.named_parameters():
            if not name.endswith("A_log"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def check_text(program, model, folder):
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
    return error


def check_gradients(conformance, family, model, folder):
    """Loss and gradients of one training step, as a case for ssm-conformance. Returns its largest error."""
    tokens = torch.randint(256, (2, 21), generator=torch.Generator().manual_seed(2))
    model.zero_grad()
    result = model(tokens, labels=tokens)
    result.loss.backward()
    gradients = {name: parameter.grad.double() for name, parameter in model.named_parameters()}
    expect = {"input/tokens": tokens, "output/logits": result.logits.detach().double(), "output/loss": result.loss.detach().double()[None],
              "output/grad_norm": torch.stack([g.norm() for g in gradients.values()]).norm()[None],
              **{f"grad/param/{name}": gradient for name, gradient in gradients.items()}}
    case = {"format": "ssm-conformance-1", "kind": "model", "name": family, "source": "huggingface/transformers", "splits": "[]",
            "config": json.dumps({"op": f"{family}_lm"})}
    safetensors.numpy.save_file({name: tensor.numpy() for name, tensor in expect.items()}, folder / "expect.safetensors", case)
    for backend in ("reference", "cpu"):
        said = run(conformance, "--backend", backend, "--scalar", "float", folder).decode()
    return said.split()[2]


def check(programs, family, name, options, shard, folder):
    model = make(family, options)
    model.save_pretrained(folder, max_shard_size=shard)
    shards = len(list(folder.glob("*.safetensors")))
    assert (shards > 1) == (name == "shards"), f"{shards} files"
    error = check_text(programs[0], model, folder)
    gradients = check_gradients(programs[1], family, model, folder)
    print(f"{family}, {name}: {shards} file(s), logits within {error:.1e}, the same 24 greedy tokens, gradients within {gradients}")


def main():
    failures = 0
    for family, name, options, shard in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                check(sys.argv[1:3], family, name, options, shard, pathlib.Path(folder))
            except AssertionError as error:
                failures += 1
                print(f"FAILED: {family}, {name}: {error}")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
