# SPDX-License-Identifier: Apache-2.0
"""Runs this library and its peers in turn on one machine, and stores a table, JSON and a chart under bench/baselines/.

    bench/peers/compare.sh [--rounds N] [--works selective_scan,retention]

Every round runs ours, then the peer, each in a process of its own with the same number of threads; the figure is the median
over the rounds of ours/peer, so that a machine whose speed drifts does not favor either. A peer that is not installed is
skipped by name.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import figures  # noqa: E402

# work, shape, pass, peer, must, aim: how many times as fast as the peer
CASES = [
    ("selective_scan", "1x768x512", "fwd", "jax", 4, 10),
    ("selective_scan", "4x1536x2048", "fwd", "jax", 4, 10),
    ("selective_scan", "1x768x512", "fwd+bwd", "jax", 8, 20),
    ("selective_scan", "4x1536x2048", "fwd+bwd", "jax", 8, 20),
    ("retention", "4x256x512x2048", "fwd", "torch", 1.3, 2),
    ("retention", "4x256x512x8192", "fwd", "torch", 1.3, 2),
    ("retention", "4x256x512x2048", "fwd+bwd", "torch", 1.5, 3),
    ("retention", "4x256x512x8192", "fwd+bwd", "torch", 1.5, 3),
    ("short_convolution", "4x1536x2048", "fwd", "torch", 8, 15),
    ("short_convolution", "4x1536x2048", "fwd+bwd", "torch", 8, 15),
    ("mamba_prompt", "512", "fwd", "transformers", None, None),
    ("mamba_decode", "16", "fwd", "transformers", None, None),
    ("mamba_decode", "16", "fwd-bf16", None, None, None),
    ("mamba_training", "512", "fwd+bwd", None, None, None),
]


def measure(command, threads):
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    environment["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen=true intra_op_parallelism_threads={threads}"
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        return None, reason
    return json.loads(result.stdout.strip().splitlines()[-1]), ""


def compare(case, arguments):
    work, shape, direction, peer, must, aim = case
    ours = [arguments.program, work, direction, shape, str(arguments.threads)]
    theirs = [sys.executable, str(HERE / "peer.py"), peer, work, direction, shape] if peer else None
    row = {"work": work, "shape": shape, "pass": direction, "peer": peer, "must": must, "aim": aim}
    rounds = []
    for _ in range(arguments.rounds):
        mine, reason = measure(ours, arguments.threads)
        if mine is None:
            raise SystemExit(f"{' '.join(ours)}: {reason}")
        other = None
        if theirs:
            other, reason = measure(theirs, arguments.threads)
            if other is None:
                print(f"skipped: {peer} for {work}: {reason}", file=sys.stderr)
                row["skipped"] = reason
                theirs = None
        rounds.append((mine, other))
    row["ms"] = statistics.median(mine["ms"] for mine, _ in rounds)
    row["rounds_ms"] = [round(mine["ms"], 4) for mine, _ in rounds]
    row["tokens_per_second"] = rounds[0][0]["tokens_per_second"]
    if rounds[0][0]["floor_ms"] > 0:
        row["floor_share"] = statistics.median(m["floor_ms"] / m["ms"] for m, _ in rounds)
    pairs = [(mine, other) for mine, other in rounds if other]
    if pairs:
        row["peer_ms"] = statistics.median(other["ms"] for _, other in pairs)
        row["peer_rounds_ms"] = [round(other["ms"], 4) for _, other in pairs]
        row["times_as_fast"] = statistics.median(other["ms"] / mine["ms"] for mine, other in pairs)
        row["peer_version"] = pairs[0][1]["version"]
    return row


def table(rows):
    lines = ["| work | shape | pass | ours ms | peer | peer ms | times as fast | least / aimed at | of the bandwidth |",
             "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    for r in rows:
        fast = f"{r['times_as_fast']:.1f}" if "times_as_fast" in r else "–"
        peer = f"{r['peer']} {r.get('peer_version', '')}".strip() if r["peer"] else "–"
        peer_ms = f"{r['peer_ms']:.4g}" if "peer_ms" in r else ("absent" if r["peer"] else "–")
        bar = f"{r['must']} / {r['aim']}" if r["must"] else "–"
        share = f"{100 * r['floor_share']:.0f} %" if "floor_share" in r else "–"
        speed = f" ({r['tokens_per_second']:.0f} tokens/s)" if r["tokens_per_second"] > 0 else ""
        lines.append(f"| {r['work']} | {r['shape']} | {r['pass']} | {r['ms']:.4g}{speed} | {peer} | {peer_ms} | {fast} | {bar} | {share} |")
    return "\n".join(lines) + "\n"


def draw(rows, path):
    """Bars of how many times as fast, with ticks at what was demanded and aimed at."""
    rows = [r for r in rows if "times_as_fast" in r]
    drawing = figures.new("Times as fast as the peer, on the same machine in turn", height=0.7 + 0.32 * len(rows))
    if drawing is None or not rows:
        return
    figure, axes = drawing
    places = range(len(rows))
    bars = axes.barh(places, [r["times_as_fast"] for r in rows], height=0.6, color="#3b6fb6")
    axes.bar_label(bars, fmt="%.1f", padding=4)
    for name, color, label in (("must", "#c0392b", "at least"), ("aim", "#27ae60", "aimed at")):
        marks = [(place, r[name]) for place, r in zip(places, rows) if r[name]]
        axes.vlines([x for _, x in marks], [y - 0.4 for y, _ in marks], [y + 0.4 for y, _ in marks], color=color,
                    linewidth=2, label=label)
    axes.set_yticks(places, [f"{r['work']} {r['shape']} {r['pass']} ({r['peer']})" for r in rows])
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.legend(loc="lower right", frameon=False)
    figures.save(figure, path)


def write_table_and_picture(rows, folder):
    (folder / "peers_cpu.md").write_text(table(rows))
    draw(rows, folder / "peers_cpu.svg")


def machine(arguments):
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
    return {"cpu": model, "threads": arguments.threads, "date": datetime.date.today().isoformat(),
            "python": platform.python_version(), "flags": arguments.flags}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--program", default=str(ROOT / "build/release/bin/ssm-peers"))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--works", default="", help="only these, separated by commas")
    parser.add_argument("--flags", default="", help="how ours was compiled")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench/baselines")
    parser.add_argument("--again", action="store_true", help="write table and picture anew from the stored numbers")
    parser.add_argument("--check", action="store_true", help="fail where the stored table is not that of the stored numbers")
    arguments = parser.parse_args()
    if arguments.again or arguments.check:
        rows = json.loads((arguments.out / "peers_cpu.json").read_text())["results"]
        if arguments.again:
            write_table_and_picture(rows, arguments.out)
        if (arguments.out / "peers_cpu.md").read_text() != table(rows):
            raise SystemExit("peers_cpu.md differs from peers_cpu.json: --again writes it")
        return
    wanted = set(filter(None, arguments.works.split(",")))
    rows = []
    for case in CASES:
        if wanted and case[0] not in wanted:
            continue
        rows.append(compare(case, arguments))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(arguments), "rounds": arguments.rounds, "results": rows}
    (arguments.out / "peers_cpu.json").write_text(json.dumps(report, indent=1) + "\n")
    write_table_and_picture(rows, arguments.out)


if __name__ == "__main__":
    main()
