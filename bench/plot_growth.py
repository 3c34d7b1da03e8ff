#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws the cost of the CUDA convolutions against the length, with the floor: both axes logarithmic.
usage: plot_growth.py RESULTS.json PLOT.svg"""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tools"))
import figures  # noqa: E402

SERIES = [  # work, field, label, color, line
    ("arbitrary", "ms", "arbitrary kernel", "#c0392b", "o-"),
    ("ssm", "ms", "state-space kernel", "#2166ac", "o-"),
    ("ssm", "floor_ms", "copy of the same bytes", "#888888", "--"),
]


def length_of(row):
    return int(row["shape"].split("x")[2])


def main(results, path):
    rows = [row for row in json.loads(pathlib.Path(results).read_text()) if row["pass"] == "fwd"]
    batch, channels, _ = rows[0]["shape"].split("x")
    drawing = figures.new(f"Forward pass in {rows[0]['dtype']}, {batch} × {channels} sequences", height=4.6)
    if drawing is None:
        return
    figure, axes = drawing
    for work, field, label, color, line in SERIES:
        points = sorted((length_of(row), row[field]) for row in rows if row["work"] == work)
        axes.plot(*zip(*points), line, color=color, label=label, markersize=4)
    lengths = sorted({length_of(row) for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [f"{n >> 20}M" if n >= 1 << 20 else f"{n >> 10}K" for n in lengths])
    axes.yaxis.set_major_formatter(lambda ms, _: f"{ms:g}")
    axes.set_xlabel("length")
    axes.set_ylabel("milliseconds")
    axes.legend(frameon=False)
    figures.save(figure, path)


main(*sys.argv[1:])
