# SPDX-License-Identifier: Apache-2.0
"""A training step of transformers' MambaForCausalLM: as it is, and with ssm.torch.compat in place of its functions.

    SSM_LIBRARY=build/release/bin/libssm_api.so PYTHONPATH=python python bench/peers/transformers_training.py \
        [--batch 1] [--length 512] [--width 768] [--layers 4] [--threads 2] [--device cpu] [--weights float32] [--profile]
        [--out OUT.json]

On the CPU transformers has a path of its own, in float32. On a GPU (--device cuda) its functions are mamba_ssm's and causal_conv1d's,
weights are float32 and sequences bf16 (torch.autocast), or both bf16 (--weights bfloat16). A step is loss, gradients and an update by AdamW, of random tokens. Prints
seconds, the least of three steps, on a GPU the least mean of ten, three times in turn, and how far the losses differ; --profile prints what the
GPU spends its time with.
"""
import argparse
import json
import pathlib
import time

import torch
import transformers
from transformers.models.mamba import modeling_mamba

import ssm.torch


def use_mamba_ssm():
    """The functions of mamba_ssm and causal_conv1d by transformers' names, whatever its version loads by itself."""
    import causal_conv1d
    from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn, selective_scan_fn
    theirs = {"mamba_inner_fn": mamba_inner_fn, "selective_scan_fn": selective_scan_fn, "mamba_selective_scan": selective_scan_fn,
              "causal_conv1d_fn": causal_conv1d.causal_conv1d_fn}
    for name, function in theirs.items():
        if hasattr(modeling_mamba, name):
            setattr(modeling_mamba, name, function)
    if hasattr(modeling_mamba, "is_fast_path_available"):
        modeling_mamba.is_fast_path_available = True


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("batch", 1), ("length", 512), ("width", 768), ("layers", 4), ("vocabulary", 5000), ("threads", 2)):
        options.add_argument(f"--{name}", type=int, default=value)
    options.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options.add_argument("--weights", default="float32", choices=("float32", "bfloat16"))
    options.add_argument("--profile", action="store_true")
    options.add_argument("--out")
    chosen = options.parse_args()
    on_gpu = chosen.device == "cuda"
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(1)
    config = transformers.MambaConfig(vocab_size=chosen.vocabulary, hidden_size=chosen.width,
                                      num_hidden_layers=chosen.layers, state_size=16)
    is_mixed = on_gpu and chosen.weights == "float32"
    with torch.device(chosen.device):
        model = transformers.MambaForCausalLM(config).train().to(getattr(torch, chosen.weights))
    begin = {name: value.clone() for name, value in model.state_dict().items()}
    tokens = torch.randint(3, chosen.vocabulary, (chosen.batch, chosen.length), device=chosen.device)

    def step(optimizer):
        optimizer.zero_grad()
        with torch.autocast(chosen.device, torch.bfloat16, enabled=is_mixed):
            loss = model(tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        return loss.detach()

    def timed():
        """Seconds of a step, and the losses of the first three from the same weights on."""
        model.load_state_dict(begin)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=on_gpu)
        seconds, losses = [], []
        for _ in range(3):
            start = time.perf_counter()
            losses.append(step(optimizer).item())
            seconds.append(time.perf_counter() - start)
        if on_gpu:
            start = time.perf_counter()
            for _ in range(10):
                step(optimizer)
            torch.cuda.synchronize()
            seconds = [(time.perf_counter() - start) / 10]
        return min(seconds), losses

    def profiled(what):
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            step(optimizer)
            torch.cuda.synchronize()
        print(what, profile.key_averages().table(sort_by="cuda_time_total", row_limit=25, max_name_column_width=90), sep="\n")

    plain = dict(vars(modeling_mamba))
    if on_gpu:
        use_mamba_ssm()
        theirs_functions = dict(vars(modeling_mamba))

    def theirs():
        vars(modeling_mamba).update(theirs_functions if on_gpu else plain)

    def ours():
        ssm.torch.compat.patch(modeling_mamba)

    found = {"theirs": [], "ours": []}
    for _ in range(3 if on_gpu else 1):
        for name, use in (("theirs", theirs), ("ours", ours)):
            use()
            found[name].append(timed())
    if on_gpu and chosen.profile:
        for name, use in (("theirs", theirs), ("ours", ours)):
            use()
            profiled(name)
    (their_seconds, their_losses), (our_seconds, our_losses) = (min(found[name]) for name in ("theirs", "ours"))
    text = json.dumps({"batch": chosen.batch, "length": chosen.length, "width": chosen.width, "layers": chosen.layers,
                       "vocabulary": chosen.vocabulary, "threads": chosen.threads, "weights": chosen.weights,
                       "device": torch.cuda.get_device_name() if on_gpu else "cpu",
                       "theirs": "mamba_ssm" if on_gpu else "transformers",
                       "their_seconds": round(their_seconds, 4), "ssm_seconds": round(our_seconds, 4),
                       "ratio": round(their_seconds / our_seconds, 2),
                       "loss_difference": max(abs(a - b) for a, b in zip(their_losses, our_losses))}, indent=2)
    print(text)
    if chosen.out:
        pathlib.Path(chosen.out).write_text(text + "\n")


if __name__ == "__main__":
    main()
