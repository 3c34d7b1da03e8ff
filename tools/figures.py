# SPDX-License-Identifier: Apache-2.0
"""Pictures of results as SVG, by matplotlib (Debian: python3-matplotlib), for the scripts that compare and measure.

    figure, axes = figures.new("Held-out loss")    # None where matplotlib is absent: said once, and no picture is made
    figures.save(figure, "comparison.svg")
"""
import sys

COLORS = {"h3": "#1f6fb2", "mamba": "#7b4fa3", "dense-mamba": "#c43d7e", "retnet": "#b28a1f", "dense-retnet": "#8a4b1f",
          "dense-mamba-carried": "#e08ab5", "gau-retnet": "#3f3f3f",
          "s4d": "#2f8f83", "gss": "#777777", "attention": "#4d8a4a",
          "hybrid": "#c9562e", "transformer": "#4d8a4a"}


def new(title, width=7.6, height=4.2):
    """A figure and its axes, or None."""
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is not installed (Debian: python3-matplotlib)", file=sys.stderr)
        return None
    matplotlib.use("svg")
    from matplotlib import pyplot
    pyplot.rcParams.update({
        "svg.fonttype": "none", "svg.hashsalt": "ssm",  # text stays text, and the same data gives the same file
        "font.family": "sans-serif", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "grid.color": "#dddddd", "axes.axisbelow": True})
    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    figure.suptitle(title, x=0.01, horizontalalignment="left", fontsize=11)
    return figure, axes


def save(figure, path):
    figure.savefig(path, format="svg", metadata={"Date": None})
