# SPDX-License-Identifier: Apache-2.0
"""A training step of transformers' MambaForCausalLM: by its own path for the CPU, and with ssm.torch.compat in place of it.

    SSM_LIBRARY=build/release/bin/libssm_api.so PYTHONPATH=python python bench/peers/transformers_training.py \
        [--batch 1] [--length 512] [--width 768] [--layers 4] [--threads 2] [--out OUT.json]

A step is loss, gradients and an update by AdamW, of random tokens in float32. Prints seconds, the least of three, and how far
the losses differ.
"""
import argparse
import json
import pathlib
import time

import torch
import transformers
from transformers.models.mamba import modeling_mamba

import ssm.torch


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("batch", 1), ("length", 512), ("width", 768), ("layers", 4), ("vocabulary", 5000), ("threads", 2)):
        options.add_argument(f"--{name}", type=int, default=value)
    options.add_argument("--out")
    chosen = options.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(1)
    config = transformers.MambaConfig(vocab_size=chosen.vocabulary, hidden_size=chosen.width,
                                      num_hidden_layers=chosen.layers, state_size=16)
    model = transformers.MambaForCausalLM(config).train()
    begin = {name: value.clone() for name, value in model.state_dict().items()}
    tokens = torch.randint(3, chosen.vocabulary, (chosen.batch, chosen.length))

    def timed():
        model.load_state_dict(begin)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
        seconds, losses = [], []
        for _ in range(3):
            start = time.perf_counter()
            optimizer.zero_grad()
            loss = model(tokens, labels=tokens).loss
            loss.backward()
            optimizer.step()
            seconds.append(time.perf_counter() - start)
            losses.append(loss.item())
        return min(seconds), losses

    theirs, their_losses = timed()
    ssm.torch.compat.patch(modeling_mamba)
    ours, our_losses = timed()
    text = json.dumps({"batch": chosen.batch, "length": chosen.length, "width": chosen.width, "layers": chosen.layers,
                       "threads": chosen.threads, "transformers_seconds": round(theirs, 3), "ssm_seconds": round(ours, 3),
                       "ratio": round(theirs / ours, 1),
                       "loss_difference": max(abs(a - b) for a, b in zip(their_losses, our_losses))}, indent=2)
    print(text)
    if chosen.out:
        pathlib.Path(chosen.out).write_text(text + "\n")


if __name__ == "__main__":
    main()
