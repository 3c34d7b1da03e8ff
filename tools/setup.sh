#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs what building and testing needs and this machine lacks (Debian 12). Safe to run again.
#   tools/setup.sh            compilers, libraries, test frameworks
#   tools/setup.sh PACKAGE…   these Debian packages too
set -euo pipefail

packages=(
  g++ cmake ninja-build ccache pkg-config python3
  libeigen3-dev libxsimd-dev libfftw3-dev nlohmann-json3-dev libcli11-dev libutf8proc-dev libpcre2-dev libpng-dev
  doctest-dev libbenchmark-dev
  "$@"
)

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  echo "setup: not a Debian system; install the equivalents of: ${packages[*]}" >&2
  exit 0
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $status == installed* ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  echo "setup: nothing is missing"
  exit 0
fi

root=()
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "setup: as root, run: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  root=(sudo)
fi
echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${root[@]}" apt-get -o DPkg::Lock::Timeout=300 update -qq </dev/null
"${root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "${missing[@]}" </dev/null
