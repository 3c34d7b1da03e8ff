#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Trains a small H3 language model on English text and lets it write, on a fresh Debian 12 machine: installs what is
# missing, builds, trains on 2 cores or more, prints bits per byte on held-out text, and streams generated text.
#   tools/demo.sh [FILE] [--minutes M]    default: the King James Bible, 5 minutes
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

text="" minutes=5
while (($# > 0)); do
  case $1 in
    --minutes) minutes=${2:?--minutes needs a number}; shift 2 ;;
    -h | --help) sed -n '3,5s/^# *//p' "$0"; exit 0 ;;
    -*) echo "demo: unknown option $1" >&2; exit 2 ;;
    *) text=$(realpath -- "$1"); shift ;;
  esac
done
if [[ -n $text && ! -s $text ]]; then
  echo "demo: $text does not exist or is empty" >&2
  exit 1
fi

cd "$root"
if [[ -n $text ]]; then tools/setup.sh; else tools/setup.sh bible-kjv; fi
cmake --preset release -DSSM_BUILD_TESTS=OFF -DSSM_BUILD_EXAMPLES=OFF -DSSM_BUILD_BENCHMARKS=OFF >/dev/null
cmake --build --preset release --target ssm-cli
ssm=$root/build/release/bin/ssm

mkdir -p runs
if [[ -z $text ]]; then
  text=$root/runs/bible.txt
  # The verses without their labels, "Gen1:1 ".
  bible -f gen1:1-rev22:21 </dev/null | sed 's/^[^ ]* //' >"$text"
fi
run=$(mktemp -d "runs/demo-XXXXXX")

echo
echo "Training on $text for $minutes minutes"
"$ssm" train --text "$text" --out "$run" --minutes "$minutes"
echo
echo "Writing, one byte at a time in recurrent mode:"
# The prompt is the beginning of the first line that is wholly in the held-out part.
size=$(stat -c %s "$text")
head -c 60 < <(tail -c "+$((size * 9 / 10 + 1))" "$text" | tail -n +2) >"$run/prompt.txt"
[[ -s $run/prompt.txt ]] || echo >"$run/prompt.txt"
"$ssm" generate "$run" --prompt-file "$run/prompt.txt" --tokens 800 --temperature 0.7 --statistics
echo
echo "More:   $ssm generate $run --prompt 'And the king' --tokens 400"
echo "Curve:  $run/loss.svg"
