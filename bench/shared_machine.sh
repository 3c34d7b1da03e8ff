#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# How fast `ssm train` is alone on two cores, and beside one process that keeps a core busy. Programs take turns; the medians are printed
# and recorded as bench/baselines/shared_machine.json. Wants a machine that does nothing else, and python3.
#   bench/shared_machine.sh [PROGRAM]              default build/release/bin/ssm
#   bench/shared_machine.sh PROGRAM OTHER          and the same for another build of it
#   ROUNDS=9 STEPS=200 bench/shared_machine.sh     more of it (5 rounds of 120 updates)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
ours=$(realpath "${1:-$root/build/release/bin/ssm}")
other=${2:+$(realpath "$2")}
rounds=${ROUNDS:-5} steps=${STEPS:-120}

work=$(mktemp -d)
busy=
stop_busy() { if [ -n "$busy" ]; then kill "$busy" && wait "$busy" || true; busy=; fi 2>/dev/null; }
trap 'stop_busy; rm -rf "$work"' EXIT
cat "$root"/docs/*.md "$root"/include/ssm/*/*.hpp >"$work/text"

# The first two processors that this process may use.
pair=$(python3 -c 'import os; print(",".join(map(str, sorted(os.sched_getaffinity(0))[:2])))')

# tokens_per_second PROGRAM THREADS: of the updates after the first twenty
tokens_per_second() {
  rm -rf "$work/run"
  taskset -c "$pair" "$1" train --text "$work/text" --out "$work/run" --steps "$steps" --evaluate-every 1000000 \
    --save-every 1000000 --held-out 0.01 --threads "$2" --quiet >/dev/null 2>&1
  python3 - "$work/run/metrics.jsonl" <<'PY'
import json, sys
rows = [r for r in map(json.loads, open(sys.argv[1])) if "tokens" in r and r["step"] >= 20]
first, last = rows[0], rows[-1]
print(f"{(last['tokens'] - first['tokens']) / (last['seconds'] - first['seconds']):.0f}")
PY
}

for ((round = 0; round < rounds; ++round)); do
  for program in "$ours" ${other:+"$other"}; do
    for threads in 2 1; do
      echo "$program $threads alone $(tokens_per_second "$program" $threads)"
      taskset -c "$pair" sh -c 'while :; do :; done' & busy=$!
      echo "$program $threads beside $(tokens_per_second "$program" $threads)"
      stop_busy
    done
  done
done | tee "$work/samples"

python3 - "$work/samples" "$root/bench/baselines/shared_machine.json" "$ours" "$(nproc)" <<'PY'
import json, platform, statistics, sys
samples, out, ours, processors = sys.argv[1:]
values = {}
for line in open(samples):
    program, threads, where, rate = line.rsplit(" ", 3)
    values.setdefault((program, int(threads)), {}).setdefault(where, []).append(float(rate))
cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
rows = []
print(f"\n{'program':40} {'threads':>7} {'alone':>9} {'beside one':>11} {'kept':>6}")
for (program, threads), by in values.items():
    alone, beside = statistics.median(by["alone"]), statistics.median(by["beside"])
    name = "this build" if program == ours else "other build"
    print(f"{name:40} {threads:7} {alone:9.0f} {beside:11.0f} {beside / alone:6.0%}")
    rows.append({"program": name, "threads": threads, "alone": alone, "beside_one_busy_process": beside,
                 "kept": round(beside / alone, 3), "samples": by})
json.dump({"unit": "tokens/s", "cpu": cpu, "processors": int(processors), "kernel": platform.release(), "rows": rows},
          open(out, "w"), indent=1)
print(f"recorded in {out}")
PY
