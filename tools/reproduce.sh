#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Measures one of the claims of docs/70_results.md again, and says before how long it takes.
#   tools/reproduce.sh                   which claims there are, and how long each takes
#   tools/reproduce.sh CLAIM [TEXT]      builds what is needed, runs, and writes into runs/reproduce/CLAIM; TEXT where the claim is about one
#   tools/reproduce.sh --dry CLAIM [TEXT]    the commands alone
# BUILD is the build folder whose programs are taken (build/release, or build/cuda for a claim on a GPU; made where it is absent).
set -euo pipefail
cd "$(dirname "$0")/.."
is_dry=""
if [[ ${1:-} == --dry ]]; then
  is_dry=yes
  shift
fi
# What tools/claims.json says of a claim, a line for each value: time and place, preset, build folder, targets, command, stored files.
claim() {
  python3 - "$@" <<'PYTHON'
import json, os, shlex, sys
name, text, build, out = sys.argv[1:]
claims = json.load(open("tools/claims.json", encoding="utf-8"))
def time_of(claim):
    if "time" in claim:
        return f"{claim['time']} on {'a ' if claim['on'] == 'CPU' else ''}{claim['on']}"
    cores = os.cpu_count() or 1
    return f"about {claim['core_minutes']} core-minutes of a {claim['on']}: {max(1, round(claim['core_minutes'] / cores))} minutes on these {cores} cores"
if not name:
    for claim in claims:
        print(f"{claim['name']:14} {claim['about']}\n{'':14} {time_of(claim)}")
    sys.exit()
found = [claim for claim in claims if claim["name"] == name]
if not found:
    sys.exit(f"reproduce: there is no claim '{name}'; it is one of " + ", ".join(claim["name"] for claim in claims))
claim = found[0]
if "input" in claim and not text:
    sys.exit(f"reproduce: {name} needs {claim['input']}: tools/reproduce.sh {name} TEXT")
if "input" in claim and not os.path.exists(text):
    sys.exit(f"reproduce: there is no {text}")
preset = claim.get("preset", "release")
build = build or f"build/{preset}"
print(time_of(claim))
print(preset)
print(build)
print(claim.get("target", ""))
print(claim["run"].format(bin=shlex.quote(f"{build}/bin"), out=shlex.quote(out), input=shlex.quote(text)))
print(" ".join(claim["stored"]))
PYTHON
}
if [[ -z ${1:-} ]]; then
  claim "" "" "" ""
  exit
fi
out=runs/reproduce/$1
said=$(claim "$1" "${2:-}" "${BUILD:-}" "$out")
{ read -r time; read -r preset; read -r build; read -r target; read -r command; read -r stored || true; } <<<"$said"
echo "$1: $time"
steps=()
if [[ -n $target ]]; then
  [[ -e $build/CMakeCache.txt ]] || steps+=("cmake --preset $preset -B $build")
  steps+=("cmake --build $build --target $target")
fi
steps+=("mkdir -p $out" "$command")
for step in "${steps[@]}"; do
  echo "+ $step"
  [[ -n $is_dry ]] || bash -c "$step"
done
[[ -n $is_dry ]] || echo "written: $out"
[[ -z $stored ]] || echo "stored numbers: $stored"
