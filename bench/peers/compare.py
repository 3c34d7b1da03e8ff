# SPDX-License-Identifier: Apache-2.0
"""Runs this library and its peers in turn on one machine, and stores a table, JSON and a chart under bench/baselines/.

    bench/peers/compare.sh [--rounds N] [--works selective_scan,retention]

Every round runs ours, then the peer, each in a process of its own with the same number of threads; the figure is the median
over the rounds of ours/peer, so that a machine whose speed drifts does not favour either. A peer that is not installed is
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
    lines = ["| work | shape | pass | ours ms | peer | peer ms | times as fast | least / aimed at | of the floor |",
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


def chart(rows):
    """Bars of how many times as fast, with a tick where the bar to reach is."""
    rows = [r for r in rows if "times_as_fast" in r]
    left, width, height = 330, 460, 26
    top = max([r["times_as_fast"] for r in rows] + [r["aim"] or 1 for r in rows] + [1])
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 90}" height="{height * len(rows) + 60}" font-family="sans-serif" font-size="13">',
             '<rect width="100%" height="100%" fill="white"/>',
             '<text x="12" y="22" font-size="15">Times as fast as the peer, same machine, in turn</text>']
    for i, r in enumerate(rows):
        y = 40 + i * height
        at = lambda value: left + width * value / top
        parts.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{r["work"]} {r["shape"]} {r["pass"]} ({r["peer"]})</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{at(r["times_as_fast"]) - left:.1f}" height="{height - 8}" fill="#3b6fb6"/>')
        parts.append(f'<text x="{at(r["times_as_fast"]) + 6:.1f}" y="{y + 14}">{r["times_as_fast"]:.1f}</text>')
        for bar, colour in ((r["must"], "#c0392b"), (r["aim"], "#27ae60")):
            if bar:
                parts.append(f'<line x1="{at(bar):.1f}" x2="{at(bar):.1f}" y1="{y - 2}" y2="{y + height - 6}" stroke="{colour}" stroke-width="2"/>')
    return "\n".join(parts + ["</svg>"]) + "\n"


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
    arguments = parser.parse_args()
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
    (arguments.out / "peers_cpu.md").write_text(table(rows))
    (arguments.out / "peers_cpu.svg").write_text(chart(rows))


if __name__ == "__main__":
    main()
