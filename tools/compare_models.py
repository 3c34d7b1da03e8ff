#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains language models of about the same number of parameters on one text, from several seeds, and compares their
held-out loss.

    tools/compare_models.py --text tinyshakespeare.txt --out runs/comparison
    tools/compare_models.py --study hybrid --vocabulary 2048 --text text.txt --out runs/hybrid

With --vocabulary a byte pair encoding of so many tokens is made first, from the part of the text that is trained on.
Writes comparison.json, comparison.md and, where matplotlib is installed, comparison.svg into --out. Runs that are
finished are not repeated, and a run that was interrupted goes on, so the command may be stopped and given again.
"""
import argparse
import concurrent.futures
import json
import pathlib
import statistics
import subprocess
import sys
import time

import figures

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


def train(arguments, model, seed):
    folder = arguments.out / f"{model}-{seed}"
    command = [arguments.ssm, "train", "--text", arguments.text, "--out", folder, *sizes_of(arguments, model).split(),
               "--steps", arguments.steps, "--batch", arguments.batch, "--length", arguments.length, "--carry", 1,
               "--rate", arguments.rate, "--seed", seed, "--backend", arguments.backend, "--numbers", arguments.numbers,
               "--threads", arguments.threads, "--quiet", "--resume"]
    if arguments.vocabulary:
        command += ["--tokenizer", arguments.out / "tokenizer.json"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{model} from seed {seed}: {done.stderr.strip()}")
    report = json.loads(subprocess.run([arguments.ssm, "inspect", str(folder), "--json"], check=True,
                                       capture_output=True, text=True).stdout)
    last = result_of(folder, arguments.steps)
    return {"model": model, "seed": seed, "parameters": report["parameters"], "held_out_loss": last["held_out_loss"],
            "bits_per_byte": last["bits_per_byte"], "seconds": round(last["seconds"], 1),
            "curve": [(e["step"], round(e["held_out_loss"], 4)) for e in entries(folder) if "held_out_loss" in e]}


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
            rows.append({"model": model, "parameters": of_model[0]["parameters"], "seeds": len(losses),
                         "mean": statistics.mean(losses), "least": min(losses), "most": max(losses),
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
    lines = [f"{arguments.steps} updates of {arguments.batch} × {arguments.length} {unit}s of {pathlib.Path(arguments.text).name}, "
             f"rate {arguments.rate}, the same for all; loss in nats per {unit} on the held-out last tenth.", "",
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
    return "token" if arguments.vocabulary else "byte"


def draw(arguments, runs, path):
    """Held-out losses over updates, a line for each seed, the best model first in the legend."""
    drawing = figures.new(f"Held-out loss, nats per {unit_of(arguments)} (a line for each seed)")
    if drawing is None:
        return
    figure, axes = drawing
    for row in sorted(summary(arguments, runs), key=lambda row: -row["mean"]):
        label = f"{row['model']} {row['mean']:.3f}"
        for r in (r for r in runs if r["model"] == row["model"]):
            steps, losses = zip(*r["curve"])
            axes.plot(steps, losses, color=figures.COLORS[row["model"]], linewidth=1.3, label=label)
            label = None
    axes.set_xlabel("updates")
    axes.set_xlim(left=0)
    axes.legend(loc="upper right", frameon=False)
    figures.save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--text")
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
    parser.add_argument("--backend", default="cpu", help="that trains: cpu, cuda or cuda-tf32")
    parser.add_argument("--numbers", default="float", help="of sequences: float, bf16 or f16")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--draw", metavar="JSON", type=pathlib.Path, help="draw comparison.svg from a finished comparison.json")
    arguments = parser.parse_args()
    arguments.models = arguments.models or ",".join(STUDIES[arguments.study]["models"])
    if arguments.draw:
        finished = json.loads(arguments.draw.read_text())
        arguments.study = finished["settings"].get("study", "dense")
        arguments.vocabulary = int(finished["settings"].get("vocabulary", 0))
        draw(arguments, finished["runs"], arguments.out / "comparison.svg")
        return
    if arguments.text is None:
        parser.error("--text is missing")
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.vocabulary:
        make_tokenizer(arguments)
    models = {model: sizes_of(arguments, model) for model in STUDIES[arguments.study]["models"]}
    wanted = [(model, seed) for seed in range(1, arguments.seeds + 1) for model in arguments.models.split(",")]
    runs, start = [], time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        futures = [pool.submit(train, arguments, model, seed) for model, seed in wanted]
        for future in concurrent.futures.as_completed(futures):
            runs.append(future.result())
            left = (time.monotonic() - start) / len(runs) * (len(wanted) - len(runs))
            print(f"{len(runs)}/{len(wanted)}  {runs[-1]['model']} #{runs[-1]['seed']}: "
                  f"{runs[-1]['held_out_loss']:.4f} nats per {unit_of(arguments)}  ETA {left / 60:.0f} min", file=sys.stderr)
            runs.sort(key=lambda run: (list(models).index(run["model"]), run["seed"]))
            settings = {name: str(value) for name, value in vars(arguments).items() if name not in ("out", "ssm", "text", "draw")}
            (arguments.out / "comparison.json").write_text(
                json.dumps({"settings": settings, "models": models, "summary": summary(arguments, runs),
                            "differences": differences(arguments, runs), "runs": runs}, indent=1) + "\n")
            (arguments.out / "comparison.md").write_text(markdown(arguments, runs))
    draw(arguments, runs, arguments.out / "comparison.svg")
    print((arguments.out / "comparison.md").read_text())


if __name__ == "__main__":
    main()
