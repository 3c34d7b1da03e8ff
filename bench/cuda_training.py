#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times training steps of language models on a CUDA device through `ssm train`, and a plain GPT in PyTorch beside them.

    bench/cuda_training.py build/cuda/bin/ssm [--out bench/baselines/cuda_training_h200.json] [--families h3,mamba]

12 blocks of width 768 on bytes, bf16, the text of the documentation; no evaluation and no checkpoint falls into the time.
Each figure is the median of four stretches of 30 steps behind the first 30. PyTorch is timed by bench/peers/cuda_peer.py
where it is installed. One device, nothing else on it.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHAPES = [(8, 1024), (2, 8192)]
OPTIONS = {
    "h3": ["--state", "64"],
    "gpt2": ["--heads", "12", "--positions", "8192"],
    "mamba": [],
    "mamba2": ["--state", "128"],
    "retnet": ["--heads", "3"],
}
STRETCH = 30  # steps


def text_of_docs(folder):
    """A text for models of bytes."""
    text = folder / "text.txt"
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text.write_text("".join(page.read_text(encoding="utf-8") for page in pages) * 8, encoding="utf-8")
    return text


def train(program, model, corpus, batch, length, folder, stretch=STRETCH):
    """Times of steps.
    model    options of `ssm train` that say what the model is
    corpus   what it reads
    stretch  steps of which each of four times is made"""
    command = [program, "train", *corpus, *model, "--batch", str(batch), "--length", str(length), "--steps", str(5 * stretch)]
    command += ["--log-every", str(stretch), "--evaluate-every", "1000000", "--save-every", "1000000", "--held-out", "0.001"]
    command += ["--numbers", "bf16", "--backend", "cuda", "--quiet", "--out", str(folder)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "loss" in line and line["step"] % stretch == 0]
    times = sorted(1e3 * (b["seconds"] - a["seconds"]) / (b["step"] - a["step"]) for a, b in zip(logged, logged[1:]))
    median = statistics.median(times)
    return {"median_ms": median, "least_ms": times[0], "most_ms": times[-1], "tokens_per_second": 1e3 * batch * length / median,
            "loss": logged[-1]["loss"]}


def peer(batch, length):
    command = [sys.executable, str(ROOT / "bench/peers/cuda_peer.py"), f"gpt_training:{batch}x{length}"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        return {"skipped": (result.stderr.strip().splitlines() or ["no reason given"])[-1]}
    return json.loads(result.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("program")
    parser.add_argument("--families", default=",".join(OPTIONS))
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    rows, device = [], None
    with tempfile.TemporaryDirectory() as work:
        corpus = ["--text", str(text_of_docs(pathlib.Path(work)))]
        for family in options.families.split(","):
            model = ["--model", family, "--width", "768", "--layers", "12", *OPTIONS[family]]
            for batch, length in SHAPES:
                row = {"model": family, "shape": f"{batch}x{length}"}
                row |= train(options.program, model, corpus, batch, length, pathlib.Path(work, f"{family}-{batch}"))
                print(f"{family} {batch}x{length}: {row['median_ms']:.1f} ms, {row['tokens_per_second'] / 1e3:.0f} k tokens/s", flush=True)
                rows.append(row)
        for batch, length in SHAPES:
            found = peer(batch, length)
            if "skipped" in found:
                print(f"PyTorch GPT: skipped: {found['skipped']}", file=sys.stderr)
                continue
            device = found["device"]
            row = {"model": "PyTorch GPT", "shape": f"{batch}x{length}", "torch": found["torch"]}
            rows.append(row | {name: found[name] for name in ("median_ms", "least_ms", "most_ms", "tokens_per_second")})
            print(f"PyTorch GPT {batch}x{length}: {found['median_ms']:.1f} ms", flush=True)
    if options.out:
        options.out.write_text(json.dumps({"device": device, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
