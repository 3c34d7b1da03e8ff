#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws how much faster more devices are where they share windows: on paper to 1024 devices (bench/cuda_ranks.py), and measured.
usage: plot_ranks.py bench/baselines/cuda_ranks_h200.json PLOT.svg"""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tools"))
import figures  # noqa: E402


def main(results, path):
    file = json.loads(pathlib.Path(results).read_text())
    measured = {(row["model"], row["length"]): row["speedup"] for row in file["rows"] if row["shared"] == "windows"}
    longest = {}
    for line in sorted(file["paper"], key=lambda line: (line["length"], (line["model"], line["length"]) in measured)):
        longest[line["model"].split("-")[0]] = line
    drawing = figures.new("A step on one window that devices share", height=4.4)
    if drawing is None:
        return
    figure, axes = drawing
    ranks = [2**n for n in range(11)]
    axes.plot(ranks, ranks, ":", color="#888888", label="as many times as devices")
    for model, line in longest.items():
        color, shape = figures.COLORS[model], line["shape"].replace("x", " × ")
        axes.plot(ranks, [1, *(line[str(n)] for n in ranks[1:])], "-", color=color, label=f"{line['name']}, {shape}, on paper")
        two = measured.get((line["model"], line["length"]))
        if two is not None:
            axes.plot([1, 2], [1, two], "o", color=color, label=f"{line['name']}, measured")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(ranks, [str(n) for n in ranks])
    axes.set_ylim(0.9, 128)
    axes.yaxis.set_major_formatter(lambda times, _: f"{times:g}")
    axes.set_xlabel("devices")
    axes.set_ylabel("times as fast as one")
    axes.legend(frameon=False)
    figures.save(figure, path)


main(*sys.argv[1:])
