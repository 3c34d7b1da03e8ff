#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs every benchmark program of a build and records medians with the machine and its flags under bench/baselines/.
#   bench/record.sh [BUILD]    default build/ci, which has the benchmarks
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build/ci}
mkdir -p bench/baselines
for program in "$build"/bin/*_bench; do
  name=$(basename "$program")
  echo "::: $name"
  "$program" --benchmark_repetitions=3 --benchmark_min_time=0.1 --benchmark_report_aggregates_only=true \
    --benchmark_out="bench/baselines/$name.json" --benchmark_out_format=json \
    --benchmark_context=cpu="$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" \
    --benchmark_context=compiler="$(sed -n 's/^CMAKE_CXX_COMPILER:[^=]*=//p' "$build/CMakeCache.txt")" \
    --benchmark_context=flags="$(sed -n 's/^CMAKE_CXX_FLAGS_RELEASE:[^=]*=//p' "$build/CMakeCache.txt") -march native"  # no "=" in a value
done
