#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains in bf16 and in float on a CUDA device, from the same seeds on the same text, and compares the curves of the losses.

    bench/cuda_curves.py build/cuda/bin/ssm --text book.txt [--out bench/baselines/cuda_curves_h200.json] [--families h3,mamba] [--jobs 2]

A curve is the training loss of every step, as a mean over each stretch of 50. One run in bf16 is made twice: it has to give the same bits. The figure
beside the numbers draws, for the first family, the loss of every seed; runs that are in the file are not made again.
"""
import argparse
import concurrent.futures
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tools"))
import figures  # noqa: E402

STRETCH = 50
OPTIONS = {"h3": ["--state", "64"], "mamba": [], "mamba2": ["--state", "64"], "retnet": ["--heads", "2"],
           "dense-retnet": ["--heads", "2"], "dense-mamba": [], "gpt2": ["--heads", "4", "--rate", "1e-3"]}


def train(arguments, family, numbers, seed):
    """The mean losses of the stretches, and every loss as it was written."""
    with tempfile.TemporaryDirectory() as folder:
        command = [arguments.ssm, "train", "--text", arguments.text, "--out", f"{folder}/run", "--backend", arguments.backend, "--numbers", numbers,
                   "--model", family, "--width", "256", "--layers", "4", "--batch", "16", "--length", "256", "--steps", str(arguments.steps),
                   "--seed", str(seed), "--log-every", "1", "--evaluate-every", "1000000", "--save-every", "1000000", "--quiet", *OPTIONS[family]]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
        rows = [json.loads(line) for line in open(f"{folder}/run/metrics.jsonl", encoding="utf-8")]
    losses = [row["loss"] for row in rows if "loss" in row]
    means = [statistics.mean(losses[i:i + STRETCH]) for i in range(0, len(losses) - STRETCH + 1, STRETCH)]
    return means, losses


def compare(rows):
    """For each family: the last means of both kinds of numbers, and the greatest distance of two curves of one seed."""
    table = []
    for family in dict.fromkeys(row["family"] for row in rows):
        curves = {(row["numbers"], row["seed"]): row["means"] for row in rows if row["family"] == family}
        seeds = sorted(seed for numbers, seed in curves if numbers == "bf16" and ("float", seed) in curves)
        if not seeds:
            continue
        gaps = [abs(a - b) for seed in seeds for a, b in zip(curves["bf16", seed], curves["float", seed])]
        last = {numbers: [curves[numbers, seed][-1] for seed in seeds] for numbers in ("float", "bf16")}
        table.append({"family": family, "seeds": len(seeds), "steps": len(curves["bf16", seeds[0]]) * STRETCH, "float": statistics.mean(last["float"]),
                      "bf16": statistics.mean(last["bf16"]), "seeds_apart": max(last["float"]) - min(last["float"]), "numbers_apart": max(gaps),
                      "last_apart": max(abs(a - b) for a, b in zip(last["float"], last["bf16"]))})
    return table


def draw(rows, family, path):
    drawing = figures.new(f"Training loss of {family}, nats a byte, mean of {STRETCH} steps: float solid, bf16 dotted")
    if drawing is None:
        return
    figure, axes = drawing
    colors = ["#1f6fb2", "#c9562e", "#4d8a4a"]
    for row in rows:
        if row["family"] == family:
            steps = [STRETCH * (i + 1) for i in range(len(row["means"]))]
            axes.plot(steps, row["means"], ":" if row["numbers"] == "bf16" else "-", color=colors[row["seed"] % 3], linewidth=2 if row["numbers"] == "bf16" else 1,
                      label=f"{row['numbers']}, seed {row['seed']}")
    axes.set_xlabel("step")
    axes.set_yscale("log")
    axes.legend(frameon=False)
    figures.save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ssm")
    parser.add_argument("--text", required=True)
    parser.add_argument("--out", default="cuda_curves.json")
    parser.add_argument("--families", default=",".join(OPTIONS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--backend", default="cuda")
    arguments = parser.parse_args()
    out = pathlib.Path(arguments.out)
    stored = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"rows": []}
    rows = stored["rows"]
    there = {(row["family"], row["numbers"], row["seed"]) for row in rows}
    wanted = [(family, numbers, seed) for family in arguments.families.split(",") for seed in range(1, arguments.seeds + 1)
              for numbers in ("bf16", "float") if (family, numbers, seed) not in there]

    def one(run):
        means, losses = train(arguments, *run)
        again = train(arguments, *run)[1] if run[1:] == ("bf16", 1) else None
        return run, means, None if again is None else again == losses

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for done, future in enumerate(concurrent.futures.as_completed([pool.submit(one, run) for run in wanted]), 1):
            (family, numbers, seed), means, same = future.result()
            row = {"family": family, "numbers": numbers, "seed": seed, "means": [round(mean, 5) for mean in means]}
            if same is not None:
                row["same_bits"] = same
            rows.append(row)
            rows.sort(key=lambda row: (list(OPTIONS).index(row["family"]), row["seed"], row["numbers"]))
            stored["table"] = compare(rows)
            out.write_text(json.dumps(stored).replace('{"family"', '\n{"family"') + "\n", encoding="utf-8")
            print(f"{done} of {len(wanted)}: {family} {numbers} seed {seed}: {means[-1]:.4f}" + ("" if same is None else f", the same bits again: {same}"), flush=True)
    for row in compare(rows):
        print(f"{row['family']}: float {row['float']:.4f}, bf16 {row['bf16']:.4f}; curves of a seed at most {row['numbers_apart']:.4f} apart, at the end "
              f"{row['last_apart']:.4f}; seeds {row['seeds_apart']:.4f}")
    draw(rows, rows[0]["family"], out.with_suffix(".svg"))
    return 0 if all(row.get("same_bits", True) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
