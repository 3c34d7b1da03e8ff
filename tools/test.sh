#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, builds everything, and runs every test: unit tests, layer laws, examples, consumer
# projects, and the conformance cases.
#   tools/test.sh [PRESET]    default ci: clang, with FFTW, and g++ for the projects that use the library
set -euo pipefail
cd "$(dirname "$0")/.."

preset=${1:-ci}
tools/setup.sh clang lld
cmake --preset "$preset"
cmake --build --preset "$preset"
ctest --preset "$preset" --parallel "$(nproc)" --output-junit "$PWD/build/$preset/ctest.xml"
