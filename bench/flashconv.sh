#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks the CUDA convolution primitives against double and times them.
#   bench/flashconv.sh [check|bench|all] [results.json]    BIN: a folder with the program flashconv; without it it is built here,
#                                                          in build/cuda
# bench and all also time the growth of cost with the length, and draw it.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
mode=${1:-all}
results=${2:-$root/bench/baselines/flashconv_h200.json}
bin=${BIN:-$root/build/cuda/bin}
if [[ -z ${BIN:-} ]]; then
  (cd "$root" && cmake --preset cuda && cmake --build --preset cuda --target flashconv)
fi
if [[ $mode != bench ]]; then "$bin/flashconv" check; fi
if [[ $mode != check ]]; then
  mkdir -p "$(dirname "$results")"
  "$bin/flashconv" bench "$results"
  "$bin/flashconv" growth "${results%.json}_growth.json"
  python3 "$root/bench/plot_growth.py" "${results%.json}_growth.json" "${results%.json}_growth.svg"
fi
