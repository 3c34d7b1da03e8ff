#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every family of models through every command, with weights in full precision, in bf16, f16 and int8.
source "$(dirname "$0")/program_checks.sh"
make_text text
head -c 2000 text >prompt

# ids.npy: the same tokens, [1, 64], as 32-bit integers
header="{'descr': '<i4', 'fortran_order': False, 'shape': (1, 64), }"
printf '\x93NUMPY\x01\0'"\\x$(printf %02x $((${#header} + 1)))"'\0%s\n' "$header" >ids.npy
printf "$(printf '\\x%02x\\0\\0\\0' $(seq 97 160))" >>ids.npy

# value FIELD: of the JSON line in ./out
value() { sed "s/.*\"$1\":\([0-9.e+-]*\).*/\1/" out; }
# near A B BOUND: |A − B| ≤ BOUND, and not the same
near() { awk -v a="$1" -v b="$2" -v bound="$3" 'BEGIN { d = a - b; if (d < 0) d = -d; exit !(d > 0 && d <= bound) }'; }

train=("$ssm" train --text text --width 32 --batch 4 --length 32 --rate 0.01 --schedule constant --warmup 0 --quiet)

# check NAME OPTION…: trains a model, stops half-way and goes on, and uses it in every way
check() {
  local name=$1
  shift
  expect 0 "${train[@]}" "$@" --out "$name" --steps 20
  expect 0 "${train[@]}" "$@" --out "$name" --steps 40 --resume

  expect 0 "$ssm" perplexity "$name" --text text --held-out --json
  local full=$(value bits_per_byte)
  local weights
  for weights in bf16 f16 int8; do
    expect 0 "$ssm" perplexity "$name" --text text --held-out --json --weights $weights
    near "$full" "$(value bits_per_byte)" 0.05 || fail "$name: $full bits per byte, $(value bits_per_byte) in $weights"
  done

  expect 0 "$ssm" logits "$name" --tokens ids.npy --out full.npy
  for weights in bf16 f16 int8; do
    expect 0 "$ssm" logits "$name" --tokens ids.npy --out rounded.npy --weights $weights
    expect 0 "$ssm" logits "$name" --tokens ids.npy --out again.npy --weights $weights --backend reference
    (($(stat -c %s full.npy) == $(stat -c %s rounded.npy))) || fail "$name: logits of another shape in $weights"
    cmp -s full.npy rounded.npy && fail "$name: --weights $weights rounded nothing"
    if command -v python3 >/dev/null; then
      # In int8 a few logits, of tokens that the text does not have, lie further away: 95 of 100 are asked to be near.
      python3 "$work/distance.py" full.npy rounded.npy 0.1 $([ $weights = int8 ] && echo 0.95) ||
        fail "$name: $weights is far from full precision"
      python3 "$work/distance.py" rounded.npy again.npy 1e-3 || fail "$name: $weights differs between backends"
    fi

    expect 0 "$ssm" generate "$name" --prompt-file prompt --tokens 40 --seed 3 --weights $weights
    cp out first
    (($(wc -c <first) > 2000)) || fail "$name: generated nothing"
    expect 0 "$ssm" generate "$name" --prompt-file prompt --tokens 40 --seed 3 --weights $weights
    same out first
  done
}
cat >distance.py <<'END'
import array, struct, sys
def read(path):
    file = open(path, "rb").read()
    return array.array("f", file[10 + struct.unpack("<H", file[8:10])[0]:])
a, b = read(sys.argv[1]), read(sys.argv[2])
share = float(sys.argv[4]) if len(sys.argv) > 4 else 1  # of the numbers that must be near
apart = sorted(abs(x - y) for x, y in zip(a, b))
assert apart[int(share * (len(apart) - 1))] <= float(sys.argv[3]) * max(map(abs, a))
END

h3=(--model h3 --layers 2 --state 4)
mamba=(--model mamba --layers 2 --state 4)
mamba2=(--model mamba2 --layers 2 --state 4 --head-dim 16 --groups 2)
retnet=(--model retnet --layers 2 --heads 2 --dropout 0.1)
dense_retnet=(--model dense-retnet --layers 3 --heads 2 --select-reduction 4 --dropout 0.1)
dense_mamba=(--model dense-mamba --layers 3 --state 4 --select-reduction 4)
check h3 "${h3[@]}" --residual-dropout 0.1
check hybrid "${h3[@]}" --attention-layers 1 --heads 2
check mamba "${mamba[@]}"
check mamba2 "${mamba2[@]}"
check retnet "${retnet[@]}"
check gpt2 --model gpt2 --layers 2 --heads 2 --positions 4096 --dropout 0.1 --residual-dropout 0.1
for fusion in readout carried; do
  check dense-retnet-$fusion "${dense_retnet[@]}" --fusion $fusion
  check dense-mamba-$fusion "${dense_mamba[@]}" --fusion $fusion
  for family in retnet mamba; do
    expect 0 "$ssm" inspect dense-$family-$fusion
    grep -Eq "^dense_fusion +$fusion\$" out || fail "dense-$family does not say that it is $fusion: $(head -n 30 out)"
  done
done
for family in retnet mamba; do
  cmp -s dense-$family-{readout,carried}/checkpoint-0000040/model.safetensors && fail "dense-$family: --fusion does nothing"
done

# A run that was stopped ends as one that was not, whatever is dropped in it and carried on
same_as_whole() {
  local name=$1
  shift
  expect 0 "${train[@]}" "$@" --out whole-$name --steps 40
  for file in model state optimizer; do
    same {whole-,}$name/checkpoint-0000040/$file.safetensors
  done
}
same_as_whole h3 "${h3[@]}" --residual-dropout 0.1
same_as_whole mamba2 "${mamba2[@]}"
same_as_whole retnet "${retnet[@]}"
same_as_whole dense-mamba-carried "${dense_mamba[@]}" --fusion carried
same_as_whole dense-retnet-readout "${dense_retnet[@]}" --fusion readout
finish
