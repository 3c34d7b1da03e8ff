#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws the cost of the CUDA convolutions against the length, with the floor: both axes logarithmic.
usage: plot_growth.py RESULTS.json PLOT.svg"""
import json
import math
import sys

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 440, 64, 150, 40, 48
SERIES = [  # work, field, label, colour, dashes
    ("arbitrary", "ms", "arbitrary kernel", "#c0392b", ""),
    ("ssm", "ms", "state-space kernel", "#2166ac", ""),
    ("ssm", "floor_ms", "copy of the same bytes", "#888888", "4 3"),
]


def main():
    rows = [row for row in json.load(open(sys.argv[1])) if row["pass"] == "fwd"]
    lengths = sorted({length_of(row) for row in rows})
    values = [row[field] for work, field, *_ in SERIES for row in rows if row["work"] == work]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))

    def x(length):
        first, last = math.log2(lengths[0]), math.log2(lengths[-1])
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log2(length) - first) / (last - first)

    def y(ms):
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - math.log10(ms)) / (high - low)

    batch, channels, _ = rows[0]["shape"].split("x")
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="14">Forward pass in {rows[0]["dtype"]}, {batch} × {channels} sequences, '
        "against the length</text>",
    ]
    for power in range(low, high + 1):
        svg.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(10**power):.1f}" y2="{y(10**power):.1f}" stroke="#ddd"/>')
        svg.append(f'<text x="{LEFT - 8}" y="{y(10**power) + 4:.1f}" text-anchor="end">{10**power:g} ms</text>')
    for length in lengths:
        name = f"{length >> 20}M" if length >= 1 << 20 else f"{length >> 10}K"
        svg.append(f'<text x="{x(length):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{name}</text>')
    for work, field, label, colour, dashes in SERIES:
        points = sorted((length_of(row), row[field]) for row in rows if row["work"] == work)
        path = " ".join(f"{x(length):.1f},{y(ms):.1f}" for length, ms in points)
        svg.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"/>')
        svg += [f'<circle cx="{x(l):.1f}" cy="{y(m):.1f}" r="2.5" fill="{colour}"/>' for l, m in points if not dashes]
        length, ms = points[-1]
        svg.append(f'<text x="{x(length) + 8:.1f}" y="{y(ms) + 4:.1f}" fill="{colour}">{label}</text>')
    svg.append("</svg>")
    with open(sys.argv[2], "w") as out:
        out.write("\n".join(svg) + "\n")


def length_of(row):
    return int(row["shape"].split("x")[2])


main()
