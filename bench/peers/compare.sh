#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Builds ssm-peers, makes a virtual environment with PyTorch, JAX and transformers where there is none, and compares.
#   bench/peers/compare.sh [--rounds N] [--works selective_scan,retention]
# PEERS_ENV names the environment (build/peers-env); a framework that cannot be installed is skipped by name.
set -euo pipefail
cd "$(dirname "$0")/../.."
environment=${PEERS_ENV:-build/peers-env}
if [[ ! -x $environment/bin/python ]]; then
  python3 -m venv "$environment"
  # PyTorch alone: its CUDA wheels are some gigabytes, and only the library files that it loads at start are needed.
  "$environment/bin/pip" install --quiet --no-deps torch==2.11.0 nvidia-cusparselt-cu13==0.8.0 \
    nvidia-nvshmem-cu13==3.4.5 nvidia-cufile || echo "PyTorch could not be installed" >&2
  for packages in "filelock typing_extensions sympy networkx jinja2 fsspec numpy" jax transformers; do
    # shellcheck disable=SC2086
    "$environment/bin/pip" install --quiet $packages || echo "not installed: $packages" >&2
  done
fi
cmake --preset release -DSSM_BUILD_BENCHMARKS=ON >/dev/null
cmake --build --preset release --target ssm-peers
flags="$(sed -n 's/^CMAKE_CXX_COMPILER:[^=]*=//p' build/release/CMakeCache.txt) $(sed -n 's/^CMAKE_CXX_FLAGS_RELEASE:[^=]*=//p' build/release/CMakeCache.txt) -march=native"
exec "$environment/bin/python" bench/peers/compare.py --flags "$flags" "$@"
