#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the CUDA convolution primitives with their check program, checks them against double and times them.
#   bench/flashconv.sh [check|bench|all|build] [results.json]    BUILD: where objects go; ARCH: sm_90a unless set
# bench and all also time the growth of cost with the length, and draw it.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
build=${BUILD:-$root/build/flashconv}
arch=${ARCH:-sm_90a}
mode=${1:-all}
results=${2:-$root/bench/baselines/flashconv_h200.json}
mkdir -p "$build"
pids=()
for source in "$root"/cuda/{causal_convolution,diagonal_scan,h3_mixer,shift_convolution}*.cu "$root"/bench/flashconv.cu; do
  object=$build/$(basename "$source" .cu).o
  if [[ ! -e $object || -n $(find "$root/cuda" "$root/bench" "$root/include/ssm/backend/cuda" -newer "$object" -name '*.[ch]*' -print -quit) ]]; then
    nvcc -O3 -std=c++20 --expt-relaxed-constexpr -arch="$arch" -lineinfo -I"$root/include" -c "$source" -o "$object" &
    pids+=($!)
  fi
done
for pid in "${pids[@]}"; do wait "$pid"; done
nvcc -arch="$arch" -cudart static "$build"/*.o -o "$build/flashconv"
if [[ $mode == build ]]; then exit; fi
if [[ $mode != bench ]]; then "$build/flashconv" check; fi
if [[ $mode != check ]]; then
  mkdir -p "$(dirname "$results")"
  "$build/flashconv" bench "$results"
  "$build/flashconv" growth "${results%.json}_growth.json"
  python3 "$root/bench/plot_growth.py" "${results%.json}_growth.json" "${results%.json}_growth.svg"
fi
