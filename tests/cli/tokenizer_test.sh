#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# ssm tokenize, and the commands that take --tokenizer.
data=$(cd "$(dirname "$0")/../data/tokenizers" && pwd)
cases=$(cd "$(dirname "$0")/../data/conformance/cases" && pwd)
source "$(dirname "$0")/program_checks.sh"
make_text text

if ! "$ssm" tokenize --tokenizer "$data/gpt2" <text >/dev/null 2>err && grep -q 'built without' err; then
  echo "skipped: $(cat err)"
  exit 77
fi

# Lines and back, whatever they hold.
printf "The model's state\n\n  na\xc3\xafve <|end|> 1984\n" >lines
for name in byte_level split fallback gpt2; do
  expect 0 "$ssm" tokenize --tokenizer "$data/$name" --json --text lines
  cp out ids
  expect 0 "$ssm" tokenize --tokenizer "$data/$name" --decode --text ids
  same out lines
done
expect 0 "$ssm" tokenize --tokenizer "$data/gpt2/vocab.bpe" --json-input <<<'"a\nb"'
cp out lines_of_json
printf 'a\nb' >two
expect 0 "$ssm" tokenize --tokenizer "$data/gpt2/encoder.json" --whole --text two
same out lines_of_json

expect 1 "$ssm" tokenize --tokenizer "$work" --text lines
says 'has no tokenizer'
expect 1 "$ssm" tokenize --tokenizer "$data/gpt2" --decode <<<'[1, x]'
says 'standard input, line 1: is not a list of tokens'
expect 1 "$ssm" tokenize --tokenizer "$data/gpt2" --decode <<<'[1000000]'
says 'is no token'
expect 1 "$ssm" tokenize --tokenizer "$data/gpt2" --text missing
expect 2 "$ssm" tokenize --text lines

# A run keeps its tokenizer, and everything finds it there.
expect 0 "$ssm" train --text text --out run --tokenizer "$data/byte_level" --steps 4 "${tiny[@]}"
cmp -s run/tokenizer.json "$data/byte_level/tokenizer.json" || fail "no copy of the tokenizer"
for model in run run/checkpoint-0000004; do
  expect 0 "$ssm" generate "$model" --prompt 'the king' --tokens 10 --seed 3
  grep -q '^the king' out || fail "no prompt in: $(cat out)"
done
cp out generated
expect 0 "$ssm" generate run/checkpoint-0000004 --tokenizer "$data/byte_level" --prompt 'the king' --tokens 10 --seed 3
same out generated
expect 0 "$ssm" perplexity run --text text --held-out --json
expect 0 "$ssm" logits run --text lines --out logits.npy
expect 0 "$ssm" train --text text --out run --resume --steps 5 --quiet
expect 0 "$ssm" train --text text --out pair --tokenizer "$data/gpt2" --steps 1 "${tiny[@]}"
[[ -f pair/encoder.json && -f pair/vocab.bpe ]] || fail "no copy of the two files"

# A tokenizer of one's own; a second training gives the same.
expect 0 "$ssm" tokenizer-train text lines --vocabulary 300 --out own.json --quiet
expect 0 "$ssm" tokenizer-train text lines --vocabulary 300 --out again.json --quiet
same own.json again.json
expect 0 "$ssm" tokenize --tokenizer own.json --whole --text text
(($(wc -w <out) < $(wc -c <text) / 2)) || fail "trained tokens are not much longer than bytes"
cp out ids
expect 0 "$ssm" tokenize --tokenizer own.json --decode --text ids
printf '\n' | cat text - >with_line
same out with_line
expect 0 "$ssm" train --text text --out own --tokenizer own.json --steps 1 "${tiny[@]}"
expect 1 "$ssm" tokenizer-train text --vocabulary 100 --out no.json
says 'from 257 to'
expect 1 "$ssm" tokenizer-train missing --out no.json
[[ ! -e no.json ]] || fail "a file in spite of a failure"

# A model whose vocabulary is too small for the tokenizer.
expect 1 "$ssm" generate "$cases/model_h3_hybrid_rotary" --tokenizer "$data/byte_level" --prompt 'the king'
says 'the model knows 0 to 30'
expect 1 "$ssm" generate "$cases/model_h3_hybrid_rotary" --prompt 'the king'
says 'no tokenizer is with it'
finish
