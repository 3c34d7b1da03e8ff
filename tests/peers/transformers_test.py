#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Mamba, Mamba-2 and GPT-2 models that Hugging Face's transformers makes and saves: `ssm logits` and `ssm generate` say what transformers says,
and `ssm-conformance` finds its loss and gradients. The same models in the files that others publish: `pytorch_model.bin` of torch.save in float and
bf16, Mamba as state-spaces/mamba has it, GPT-2 without its prefix, H3 as a .pt. `ssm convert` writes what Python's safetensors reads.

    transformers_test.py SSM CONFORMANCE CASES      exits with 77 and the reason where transformers is not installed
"""
import json
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy
    import safetensors.numpy
    import safetensors.torch
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
    "gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel,
             {"n_head": 4, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0}),
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
    ("gpt2", "one file, tied head", {}, "5GB"),
    ("gpt2", "shards", {"num_hidden_layers": 3}, "60KB"),
    ("gpt2", "untied head, other widths and function",
     {"hidden_size": 40, "n_inner": 56, "n_head": 5, "activation_function": "gelu", "layer_norm_epsilon": 1e-3,
      "tie_word_embeddings": False}, "5GB"),
    ("gpt2", "scores scaled by the layer", {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}, "5GB"),
    ("gpt2", "scores not scaled", {"scale_attn_weights": False}, "5GB"),
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
    generated = run(program, "generate", folder, "--prompt-file", folder / "prompt", "--tokens", 24, "--temperature", 0, "--no-eos")
    # What is not UTF-8 is shown as such by both.
    wanted = bytes(text[0].tolist()).decode(errors="replace")
    generated = generated.decode()
    assert wanted in generated, f"greedy text {generated!r} lacks {wanted!r}"
    return error


def published_mamba(model):
    """As state-spaces/mamba-130m: the names and the config.json of the original package."""
    config = model.config
    state = {name.replace("embeddings.", "embedding."): tensor for name, tensor in model.state_dict().items()}
    return state, {"d_model": config.hidden_size, "n_layer": config.num_hidden_layers, "vocab_size": config.vocab_size,
                   "ssm_cfg": {"d_state": config.state_size}, "rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True,
                   "pad_vocab_size_multiple": 8}


def bare_gpt2(model):
    """As gpt2: no prefix, the causal mask as a buffer, no head."""
    config = model.config.to_dict()
    n = config["n_positions"]
    state = {name.removeprefix("transformer."): tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    for layer in range(config["n_layer"]):
        state[f"h.{layer}.attn.bias"] = torch.tril(torch.ones(n, n, dtype=torch.uint8)).view(1, 1, n, n)
        state[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return state, config


def as_saved(model):
    return model.state_dict(), model.config.to_dict()


FILES = [  # family, what, tensors and config.json, dtype, file
    ("mamba", "torch.save", as_saved, torch.float32, "pytorch_model.bin"),
    ("mamba2", "torch.save in bf16", as_saved, torch.bfloat16, "pytorch_model.bin"),
    ("gpt2", "torch.save", as_saved, torch.float32, "pytorch_model.bin"),
    ("gpt2", "torch.save in bf16", as_saved, torch.bfloat16, "pytorch_model.bin"),
    ("mamba", "the published package's files", published_mamba, torch.float32, "pytorch_model.bin"),
    ("gpt2", "no prefix, no head, masks", bare_gpt2, torch.float32, "model.safetensors"),
]


def write_folder(folder, state, config, dtype, file):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    if file.endswith(".safetensors"):
        safetensors.torch.save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, folder / file)
    else:
        torch.save(state, folder / file)
    return state


def check_conversion(program, folder, state, work):
    """What `ssm convert` writes is what was there, bit for bit; as bf16 what torch rounds to; and under the family's names the same model."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values()) // 3
    run(program, "convert", folder, work / "same", "--shard-size", f"{size}", "--quiet")
    files = sorted((work / "same").glob("*.safetensors"))
    assert len(files) > 1, "no shards"
    stored = {}
    for file in files:
        stored.update(safetensors.torch.load_file(file))
    assert stored.keys() == state.keys(), f"other names: {stored.keys() ^ state.keys()}"
    for name, tensor in state.items():
        assert stored[name].dtype == tensor.dtype and torch.equal(stored[name], tensor), f"{name} is not what it was"
    run(program, "convert", folder, work / "half.safetensors", "--dtype", "bfloat16", "--quiet")
    half = safetensors.torch.load_file(work / "half.safetensors")
    for name, tensor in state.items():
        expected = tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
        assert half[name].dtype == expected.dtype and torch.equal(half[name], expected), f"{name} is rounded otherwise"
    run(program, "convert", folder, work / "family", "--names", "family", "--quiet")
    for place in ("same", "family"):
        run(program, "logits", work / place, "--tokens", folder / "ids.npy", "--out", work / f"{place}.npy")
        assert (work / f"{place}.npy").read_bytes() == (folder / "logits.npy").read_bytes(), f"{place}: other logits"
    run(program, "convert", work / "same", work / "again.safetensors", "--quiet")
    again = safetensors.torch.load_file(work / "again.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items()), "not the same after the way back"


def check_file(programs, family, what, shape, dtype, file, work):
    model = make(family, {}).to(dtype).float()
    state, config = shape(model)
    folder = work / "model"
    state = write_folder(folder, state, config, dtype, file)
    error = check_text(programs[0], model, folder)
    check_conversion(programs[0], folder, state, work)
    if shape is published_mamba:  # transformers reads what it is converted to
        other = transformers.MambaForCausalLM.from_pretrained(work / "family", dtype=torch.float32)
        assert all(torch.equal(a, b) for a, b in zip(other.parameters(), model.parameters())), "transformers reads other weights"
    print(f"{family}, {what}: logits within {error:.1e}, the same 24 greedy tokens, converted bit for bit")


def check_h3(program, cases, work):
    """A published H3 model is a .pt beside its config; the numbers are those of a conformance case."""
    case = cases / "model_h3_hybrid"
    expect = safetensors.numpy.load_file(case / "expect.safetensors")
    state = safetensors.torch.load_file(case / "model.safetensors")
    folder = work / "model"
    state = write_folder(folder, state, json.loads((case / "config.json").read_text()), torch.float32, "H3-125M.pt")
    numpy.save(folder / "ids.npy", expect["input/tokens"])
    run(program, "logits", folder, "--tokens", folder / "ids.npy", "--out", folder / "logits.npy")
    error = numpy.abs(numpy.load(folder / "logits.npy") - expect["output/logits"]).max()
    assert error < 2e-5, f"logits differ by {error}"
    check_conversion(program, folder, state, work)
    print(f"h3, a .pt: logits within {error:.1e}, converted bit for bit")


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
    for family, what, shape, dtype, file in FILES:
        with tempfile.TemporaryDirectory() as folder:
            try:
                check_file(sys.argv[1:3], family, what, shape, dtype, file, pathlib.Path(folder))
            except AssertionError as error:
                failures += 1
                print(f"FAILED: {family}, {what}: {error}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            check_h3(sys.argv[1], pathlib.Path(sys.argv[3]), pathlib.Path(folder))
        except AssertionError as error:
            failures += 1
            print(f"FAILED: h3, a .pt: {error}")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
