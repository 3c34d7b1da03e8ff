# SPDX-License-Identifier: Apache-2.0
"""A training step of transformers' MambaForCausalLM: as it is, and with ssm.torch.compat in place of its functions.

    SSM_LIBRARY=build/release/bin/libssm_api.so PYTHONPATH=python python bench/peers/transformers_training.py \
        [--batch 1] [--length 512] [--width 768] [--layers 4] [--threads 2] [--device cpu] [--weights float32] [--profile]
        [--out OUT.json]

On the CPU transformers has a path of its own, in float32. On a GPU (--device cuda) its functions are mamba_ssm's and
causal_conv1d's, weights are float32 and sequences bf16 (torch.autocast), or both bf16 (--weights bfloat16). A step is loss,
gradients and an update by AdamW, of random tokens. Prints seconds, the least of three steps, on a GPU the least mean of ten, five
times in turn (with each of the five, and how long until all ten are queued), and how far the losses differ. On a GPU also how far the loss and the
gradients of the first step are from those of float32, by the relative norm; --profile prints what the GPU spends its time with.
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

    def loss_and_gradients(in_bf16):
        model.zero_grad()
        with torch.autocast(chosen.device, torch.bfloat16, enabled=in_bf16):
            loss = model(tokens, labels=tokens).loss
        loss.backward()
        return loss.detach()

    def step(optimizer):
        loss = loss_and_gradients(is_mixed)
        optimizer.step()
        return loss

    def first_step(in_float32):
        """The loss and the gradients of the first step; in float32 throughout, or as it is timed."""
        model.to(torch.float32 if in_float32 else getattr(torch, chosen.weights)).load_state_dict(begin)
        loss = loss_and_gradients(is_mixed and not in_float32).item()
        gradients = [parameter.grad.float() for parameter in model.parameters()]
        model.zero_grad()
        return loss, gradients

    def distance(found, expected):
        """(of losses, of gradients by the relative norm)"""
        difference, size = (sum(float(torch.sum(d.double() ** 2)) for d in all_of_them) for all_of_them in (
            (a - b for a, b in zip(found[1], expected[1])), expected[1]))
        return {"loss": abs(found[0] - expected[0]), "gradients": (difference / size) ** 0.5}

    def timed():
        """Seconds of a step, those until it is queued, and the losses of the first three from the same weights on."""
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
            queued = (time.perf_counter() - start) / 10
            torch.cuda.synchronize()
            return (time.perf_counter() - start) / 10, queued, losses
        return min(seconds), min(seconds), losses

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
    for _ in range(5 if on_gpu else 1):
        for name, use in (("theirs", theirs), ("ours", ours)):
            use()
            found[name].append(timed())
    (their_seconds, their_queued, their_losses), (our_seconds, our_queued, our_losses) = (
        min(found[name]) for name in ("theirs", "ours"))
    more = {}
    if on_gpu:
        more = {"their_seconds_until_queued": round(their_queued, 4), "ssm_seconds_until_queued": round(our_queued, 4),
                "their_seconds_of_each": [round(seconds, 4) for seconds, _, _ in found["theirs"]],
                "ssm_seconds_of_each": [round(seconds, 4) for seconds, _, _ in found["ours"]]}
        ours()
        full = first_step(True)
        for name, use in (("theirs", theirs), ("ssm", ours)):
            use()
            more[f"{name}_from_float32"] = distance(first_step(False), full)
    text = json.dumps({"batch": chosen.batch, "length": chosen.length, "width": chosen.width, "layers": chosen.layers,
                       "vocabulary": chosen.vocabulary, "threads": chosen.threads, "weights": chosen.weights,
                       "device": torch.cuda.get_device_name() if on_gpu else "cpu",
                       "theirs": "mamba_ssm" if on_gpu else "transformers",
                       "their_seconds": round(their_seconds, 4), "ssm_seconds": round(our_seconds, 4),
                       "ratio": round(their_seconds / our_seconds, 2),
                       "loss_difference": max(abs(a - b) for a, b in zip(their_losses, our_losses)),
                       "their_losses": their_losses, "ssm_losses": our_losses, **more}, indent=2)
    print(text)
    if chosen.out:
        pathlib.Path(chosen.out).write_text(text + "\n")
    if on_gpu and chosen.profile:
        for name, use in (("theirs", theirs), ("ours", ours)):
            use()
            profiled(name)


if __name__ == "__main__":
    main()
