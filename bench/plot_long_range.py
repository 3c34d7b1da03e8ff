#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws what bench/peers/long_range.py measured: milliseconds of an update by task and model.

usage: plot_long_range.py RESULTS.json PLOT.svg"""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tools"))
import figures  # noqa: E402

MODELS = {"ssm s4d": ("S4D, ours", "#1f6fb2"), "ssm h3": ("H3, ours", "#7fb2d9"), "torch.fft s4d": ("S4D, torch.fft", "#c9562e"),
          "fused transformer": ("Transformer, fused attention", "#8bbd88"), "transformer": ("Transformer, plain attention", "#4d8a4a")}


def main():
    rows = json.loads(pathlib.Path(sys.argv[1]).read_text())["rows"]
    drawing = figures.new("Milliseconds of a training update (forward, backward, AdamW) at the Long Range Arena's shapes", height=3.6)
    if drawing is None:
        return
    figure, axes = drawing
    groups = list(dict.fromkeys((row["task"], row["numbers"]) for row in sorted(rows, key=lambda row: row["numbers"] != "bf16")))
    width = 0.8 / len(MODELS)
    for place, (model, (label, color)) in enumerate(MODELS.items()):
        times = {(row["task"], row["numbers"]): row["milliseconds"] for row in rows if row["model"] == model}
        at = [i for i, group in enumerate(groups) if group in times]
        bars = axes.bar([i + (place - 2) * width for i in at], [times[groups[i]] for i in at], width, color=color, label=label)
        axes.bar_label(bars, [f"{times[groups[i]]:.0f}" for i in at], fontsize=7, padding=1)
    axes.set_yscale("log")
    axes.set_xticks(range(len(groups)), [f"{task}\n{numbers}" for task, numbers in groups])
    axes.grid(False, axis="x")
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")
    axes.set_ylim(top=axes.get_ylim()[1] * 8)
    figures.save(figure, sys.argv[2])


if __name__ == "__main__":
    main()
