#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains language models of about the same number of parameters on one text, from several seeds, and compares their
held-out loss.

    tools/compare_models.py --text tinyshakespeare.txt --out runs/comparison
    tools/compare_models.py --study hybrid --vocabulary 2048 --text text.txt --out runs/hybrid
    tools/compare_models.py --study papers --corpus runs/corpus --backend cuda --gpus 2 --out runs/papers

With --vocabulary a byte pair encoding of so many tokens is made first, from the part of the text that is trained on.
With --corpus, a folder of tools/tokenize_corpus.sh, windows are read in a random order, and the held-out tokens are scored
in windows of --length, so that no model sees more than it was trained with; also by kind, see tools/recall_losses.py.
Writes comparison.json, comparison.md and, where matplotlib is installed, comparison.svg into --out. Runs that are
finished are not repeated, and a run that was interrupted goes on, so the command may be stopped and given again.
--search RATE,RATE,… trains each model with each of these rates from the first seed and writes search.json.
"""
import argparse
import concurrent.futures
import json
import math
import os
import pathlib
import queue
import shutil
import statistics
import subprocess
import sys
import time

import figures
from recall_losses import recall_losses

ROOT = pathlib.Path(__file__).resolve().parent.parent
HELD_OUT = 0.1  # of the text, as `ssm train` does it

# Sizes that give each model of a study about the same number of parameters; everything else is the same for all.
STUDIES = {
    "dense": {
        "models": {
            "h3": "--model h3 --layers 4 --width 108",
            "mamba": "--model mamba --layers 8 --width 104 --inner 210",
            "dense-mamba": "--model dense-mamba --layers 8 --width 104 --sources 2 --select-reduction 32",
            "retnet": "--model retnet --layers 4 --width 104 --inner 214 --heads 2",
            "dense-retnet": "--model dense-retnet --layers 8 --width 104 --heads 2 --sources 2 --select-reduction 32 "
                            "--initializer-range 0.02",
        },
        "pairs": [("dense-retnet", "retnet"), ("dense-mamba", "mamba")],
    },
    # As the paper does: the second block and the one half the depth further attend; heads of one channel in the
    # hybrid, of eight without attention.
    "hybrid": {
        "models": {
            "hybrid": "--model h3 --layers 6 --width {width} --attention-layers 1,4 --heads 4",
            "h3": "--model h3 --layers 6 --width {width} --head-dim 8",
            "transformer": "--model gpt2 --layers 6 --width {width} --heads 4 --positions {length}",
        },
        "pairs": [("hybrid", "h3"), ("hybrid", "transformer")],
    },
    # About 30M parameters with a vocabulary of 8192. H3 has heads of one channel, with and without attention. RetNet and
    # DenseRetNet have a head of their own, as published; gau-retnet is DenseRetNet without its connections.
    "papers": {
        "models": {
            "transformer": "--model gpt2 --layers 8 --width 512 --heads 8 --positions {length}",
            "h3": "--model h3 --layers 8 --width 512 --state 64",
            "hybrid": "--model h3 --layers 8 --width 512 --state 64 --attention-layers 1,5 --heads 8",
            "mamba": "--model mamba --layers 15 --width 512",
            "dense-mamba": "--model dense-mamba --layers 15 --width 512 --sources 2 --fusion readout",
            "dense-mamba-carried": "--model dense-mamba --layers 15 --width 512 --sources 2 --fusion carried",
            "retnet": "--model retnet --layers 6 --width 512 --heads 4",
            "gau-retnet": "--model dense-retnet --layers 12 --width 512 --heads 4 --sources 0 --initializer-range 0.02",
            "dense-retnet": "--model dense-retnet --layers 12 --width 512 --heads 4 --sources 2 --initializer-range 0.02",
        },
        "pairs": [("hybrid", "transformer"), ("hybrid", "h3"), ("dense-mamba", "mamba"), ("dense-mamba-carried", "mamba"),
                  ("dense-retnet", "retnet"),
                  ("dense-retnet", "gau-retnet")],
    },
    # What H3 without attention lacks: models of the study above, and H3 changed in one thing each.
    "h3": {
        "models": {
            "transformer": "--model gpt2 --layers 8 --width 512 --heads 8 --positions {length}",
            "hybrid": "--model h3 --layers 8 --width 512 --state 64 --attention-layers 1,5 --heads 8",
            "mamba": "--model mamba --layers 15 --width 512",
            "h3": "--model h3 --layers 8 --width 512 --state 64",
            "h3-head2": "--model h3 --layers 8 --width 512 --state 64 --head-dim 2",
            "h3-head8": "--model h3 --layers 8 --width 512 --state 64 --head-dim 8",
            "h3-state16": "--model h3 --layers 8 --width 512 --state 16",
        },
        "pairs": [("h3", "transformer"), ("h3-head2", "h3"), ("h3-head8", "h3"), ("h3-state16", "h3")],
    },
}


def entries(folder):
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def result_of(folder, steps):
    """The loss on the whole held-out part after the last step, or None."""
    whole = [e for e in entries(folder) if "held_out_loss" in e and e["step"] == steps]
    return whole[-1] if whole else None


def sizes_of(arguments, model):
    """A model's options, with those sizes filled in that a study leaves to the command line."""
    return STUDIES[arguments.study]["models"][model].format(width=arguments.width, length=arguments.length)


def train(arguments, model, seed, rate, device=0):
    """One run, or what it has left in its folder."""
    folder = arguments.out / (f"{model}-{seed}" + (f"-{rate:g}" if arguments.search else ""))
    finished = folder / "result.json"
    if finished.exists():
        return json.loads(finished.read_text())
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": str(device)} if arguments.gpus > 1 else None

    def ssm(*words):
        done = subprocess.run([str(word) for word in (arguments.ssm, *words)], capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            raise RuntimeError(f"{model} from seed {seed}: {done.stderr.strip()}")
        return done.stdout

    options = ["--out", folder, *sizes_of(arguments, model).split(), "--steps", arguments.steps, "--batch", arguments.batch,
               "--length", arguments.length, "--rate", rate, "--seed", seed, "--backend", arguments.backend, "--numbers", arguments.numbers,
               "--threads", arguments.threads, "--quiet", "--resume"]
    if arguments.corpus:
        options += ["--tokens", arguments.corpus / "training.npy", "--tokenizer", arguments.corpus / "tokenizer.json", "--order", "shuffled",
                    "--held-out", 0, "--log-every", max(1, arguments.steps // 100), "--save-every", arguments.steps]
    else:
        options += ["--text", arguments.text, "--carry", 1]
    if arguments.vocabulary:
        options += ["--tokenizer", arguments.out / "tokenizer.json"]
    ssm("train", *options)
    result = {"model": model, "seed": seed, "rate": rate, "parameters": json.loads(ssm("inspect", folder, "--json"))["parameters"]}
    if arguments.corpus:
        result |= scored(arguments, folder, ssm)
    else:
        last = result_of(folder, arguments.steps)
        result |= {"held_out_loss": last["held_out_loss"], "bits_per_byte": last["bits_per_byte"], "seconds": round(last["seconds"], 1),
                   "curve": [(e["step"], round(e["held_out_loss"], 4)) for e in entries(folder) if "held_out_loss" in e]}
    finished.write_text(json.dumps(result) + "\n")
    return result


def scored(arguments, folder, ssm):
    """The held-out loss of a finished run, and its training loss as the curve: while no window is read twice, that is the loss
    on text that was not seen before. Its checkpoint is removed."""
    each = folder / "each.jsonl"
    report = json.loads(ssm("perplexity", folder, "--tokens", arguments.corpus / "held_out.npy", "--window", arguments.length,
                            "--backend", arguments.backend, "--json", "--quiet", "--logprobs", each))
    recall = recall_losses(each, arguments.length)
    each.unlink()
    losses = [(e["step"], e["loss"], e["seconds"]) for e in entries(folder) if "loss" in e]
    width = max(1, len(losses) // 25)
    bins = [losses[i:i + width] for i in range(0, len(losses), width)]
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return {"held_out_loss": report["loss"], "bits_per_byte": report["bits_per_byte"], "held_out_tokens": report["tokens"],
            "recall": recall, "seconds": round(losses[-1][2], 1),
            "curve": [(part[-1][0], round(statistics.mean(loss for _, loss, _ in part), 4)) for part in bins]}


def make_tokenizer(arguments):
    """A byte pair encoding of the part of the text that is trained on."""
    file = arguments.out / "tokenizer.json"
    if file.exists():
        return
    text = pathlib.Path(arguments.text).read_bytes()
    part = arguments.out / "training_part.txt"
    part.write_bytes(text[:int(len(text) * (1 - HELD_OUT))])
    subprocess.run([arguments.ssm, "tokenizer-train", str(part), "--vocabulary", str(arguments.vocabulary),
                    "--out", str(file), "--quiet"], check=True)
    part.unlink()


def summary(arguments, runs):
    rows = []
    for model in STUDIES[arguments.study]["models"]:
        of_model = [r for r in runs if r["model"] == model]
        if of_model:
            losses = [r["held_out_loss"] for r in of_model]
            rows.append({"model": model, "parameters": of_model[0]["parameters"], "rate": of_model[0].get("rate"), "seeds": len(losses),
                         "mean": statistics.mean(losses), "least": min(losses), "most": max(losses),
                         "perplexity": math.exp(statistics.mean(losses)),
                         "bits_per_byte": statistics.mean(r["bits_per_byte"] for r in of_model)})
    return rows


def differences(arguments, runs):
    """One model minus another, seed by seed: the same seed reads the text in the same order."""
    rows = []
    for one, other in STUDIES[arguments.study]["pairs"]:
        by = {(r["model"], r["seed"]): r["held_out_loss"] for r in runs}
        both = [by[one, s] - by[other, s] for m, s in by if m == one and (other, s) in by]
        if both:
            rows.append({"one": one, "other": other, "mean": statistics.mean(both), "each": both})
    return rows


def markdown(arguments, runs):
    unit = unit_of(arguments)
    text = pathlib.Path(arguments.text or arguments.corpus).name
    part = "in windows as long" if arguments.corpus else "on the held-out last tenth"
    lines = [f"{arguments.steps} updates of {arguments.batch} × {arguments.length} {unit}s of {text}, rate {arguments.rates or arguments.rate}; "
             f"held-out loss in nats per {unit}, {part}.", "",
             "| model | parameters | seeds | held-out loss | least to most | bits per byte |",
             "| --- | --- | --- | --- | --- | --- |"]
    for r in summary(arguments, runs):
        lines.append(f"| {r['model']} | {r['parameters']:,} | {r['seeds']} | {r['mean']:.4f} | "
                     f"{r['least']:.4f} to {r['most']:.4f} | {r['bits_per_byte']:.3f} |")
    lines += ["", "| pair | difference in loss, mean | seed by seed |", "| --- | --- | --- |"]
    for d in differences(arguments, runs):
        lines.append(f"| {d['one']} − {d['other']} | {d['mean']:+.4f} | {', '.join(f'{x:+.4f}' for x in d['each'])} |")
    return "\n".join(lines) + "\n"


def unit_of(arguments):
    return "token" if arguments.vocabulary or arguments.corpus else "byte"


def rate_of(arguments, model):
    """The learning rate of --rates, else that of all."""
    rates = dict(pair.split("=") for pair in arguments.rates.split(",")) if arguments.rates else {}
    return float(rates.get(model, arguments.rate))


def draw(arguments, runs, path):
    """Held-out losses over updates, a line for each seed, the best model first in the legend."""
    what = "Loss on text not seen before" if arguments.corpus else "Held-out loss"
    drawing = figures.new(f"{what}, nats per {unit_of(arguments)} (a line for each seed)")
    if drawing is None:
        return
    figure, axes = drawing
    for row in sorted(summary(arguments, runs), key=lambda row: -row["mean"]):
        label = f"{row['model']} {row['mean']:.3f}"
        for r in (r for r in runs if r["model"] == row["model"]):
            steps, losses = zip(*r["curve"])
            axes.plot(steps, losses, color=figures.COLORS.get(row["model"]), linewidth=1.3, label=label)
            label = None
    axes.set_xlabel("updates")
    axes.set_xlim(left=0)
    axes.legend(loc="upper right", frameon=False)
    figures.save(figure, path)


def run_all(arguments, wanted):
    """Results of (model, seed, rate), as they come; each GPU, or the CPU, has --jobs runs at a time."""
    places = queue.SimpleQueue()
    for job in range(arguments.jobs):
        for device in range(arguments.gpus):
            places.put(device)

    def place(model, seed, rate):
        device = places.get()
        try:
            return train(arguments, model, seed, rate, device)
        finally:
            places.put(device)

    start, done = time.monotonic(), 0
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs * arguments.gpus) as pool:
        futures = [pool.submit(place, *run) for run in wanted]
        for future in concurrent.futures.as_completed(futures):
            try:
                result = future.result()
            except RuntimeError as error:  # the other runs do not depend on it
                print(error, file=sys.stderr, flush=True)
                continue
            done += 1
            left = (time.monotonic() - start) / done * (len(wanted) - done)
            print(f"{done}/{len(wanted)}  {result['model']} #{result['seed']} rate {result['rate']:g}: {result['held_out_loss']:.4f} nats per "
                  f"{unit_of(arguments)}, {result['seconds']:.1f} s  ETA {left / 60:.1f} min", file=sys.stderr, flush=True)
            yield result


def search(arguments, models):
    """Trains every model at every rate, and says which one is best for each."""
    rates = [float(rate) for rate in arguments.search.split(",")]
    runs = list(run_all(arguments, [(model, 1, rate) for rate in rates for model in models]))
    best = {}
    for run in runs:
        if run["model"] not in best or run["held_out_loss"] < best[run["model"]]["held_out_loss"]:
            best[run["model"]] = run
    (arguments.out / "search.json").write_text(json.dumps({"settings": settings_of(arguments), "runs": runs}, indent=1) + "\n")
    print(",".join(f"{model}={best[model]['rate']:g}" for model in models if model in best))


def settings_of(arguments):
    return {name: str(value) for name, value in vars(arguments).items() if name not in ("out", "ssm", "text", "draw", "corpus") and value}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--text")
    parser.add_argument("--corpus", type=pathlib.Path, help="folder with training.npy, held_out.npy and tokenizer.json, in place of --text")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--ssm", default=str(ROOT / "build/release/bin/ssm"))
    parser.add_argument("--study", choices=STUDIES, default="dense")
    parser.add_argument("--models", help="some of the study's")
    parser.add_argument("--vocabulary", type=int, default=0, help="tokens of a byte pair encoding made of the text; 0: bytes")
    parser.add_argument("--width", type=int, default=128, help="channels of the hybrid study's models")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--rates", default="", metavar="MODEL=RATE,…", help="of models that have another than --rate")
    parser.add_argument("--search", default="", metavar="RATE,…", help="look for the best of these rates")
    parser.add_argument("--backend", default="cpu", help="that trains: cpu, cuda or cuda-tf32")
    parser.add_argument("--numbers", default="float", help="of sequences: float, bf16 or f16")
    parser.add_argument("--gpus", type=int, default=1, help="that runs are spread over")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, on each GPU")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--draw", metavar="JSON", type=pathlib.Path, help="draw comparison.svg from a finished comparison.json")
    arguments = parser.parse_args()
    if arguments.draw:
        finished = json.loads(arguments.draw.read_text())
        arguments.study = finished["settings"].get("study", "dense")
        arguments.vocabulary = int(finished["settings"].get("vocabulary", 0))
        arguments.corpus = "held_out_tokens" in finished["runs"][0]
        draw(arguments, finished["runs"], arguments.out / "comparison.svg")
        return
    if (arguments.text is None) == (arguments.corpus is None):
        parser.error("--text or --corpus is missing")
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.vocabulary:
        make_tokenizer(arguments)
    models = {model: sizes_of(arguments, model) for model in STUDIES[arguments.study]["models"]
              if not arguments.models or model in arguments.models.split(",")}
    if arguments.search:
        search(arguments, models)
        return
    runs = []
    for result in run_all(arguments, [(model, seed, rate_of(arguments, model)) for seed in range(1, arguments.seeds + 1) for model in models]):
        runs.append(result)
        runs.sort(key=lambda run: (list(models).index(run["model"]), run["seed"]))
        (arguments.out / "comparison.json").write_text(
            json.dumps({"settings": settings_of(arguments), "models": models, "summary": summary(arguments, runs),
                        "differences": differences(arguments, runs), "runs": runs}, indent=1) + "\n")
        (arguments.out / "comparison.md").write_text(markdown(arguments, runs))
    draw(arguments, runs, arguments.out / "comparison.svg")
    print((arguments.out / "comparison.md").read_text())


if __name__ == "__main__":
    main()
