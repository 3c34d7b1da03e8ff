#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Help, version, and wrong usage.
source "$(dirname "$0")/program_checks.sh"
make_text text

for command in "" train generate perplexity inspect logits; do
  expect 0 "$ssm" $command --help
  grep -q '^Examples:' out || fail "no examples in the help of '$command'"
done
expect 0 "$ssm" --version
grep -Eq '^ssm [0-9]+\.[0-9]+\.[0-9]+' out || fail "no version: $(cat out)"
grep -q 'FFTW is not linked' out || fail "nothing about FFTW"
if ldd "$ssm" | grep -i fftw; then fail "links FFTW, and says that it does not"; fi

wrong() {
  expect 2 "$ssm" "$@"
  [[ -s err ]] || fail "silent about: $*"
}
wrong
wrong fly
wrong train
wrong train --text text
wrong train --text text --out run --no-such-flag
wrong train --text text --out run --steps 0
wrong train --text text --out run --steps 1.5
wrong train --text text --out run --steps 5 --minutes 5
wrong train --text text --out run --minutes 0
wrong train --text text --out run --steps 5 --backend gpu
wrong train --text text --out run --steps 5 --schedule zigzag
wrong train --text text --out run --steps 5 --dropout 1
wrong train --text text --out run --steps 5 --width -3
wrong generate
wrong generate run --tokens -1
wrong generate run --top-p 0
wrong generate run --temperature -1
wrong generate run --prompt a --prompt-file text
wrong perplexity run
wrong inspect
wrong inspect run --tokens ids.npy
wrong logits run
wrong logits run --tokens ids.npy
wrong logits run --out logits.npy
wrong logits run --tokens ids.npy --out logits.npy --backend gpu
wrong perplexity run --text text --from 1.5
wrong perplexity run --text text --from 0.5 --held-out
[[ ! -e run ]] || fail "wrong usage made a folder"
finish
