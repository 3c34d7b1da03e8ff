#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# ssm tokenize --out and ssm train --tokens: corpora as files of tokens, windows in a shuffled order, documents kept apart.
data=$(cd "$(dirname "$0")/../data/tokenizers" && pwd)
source "$(dirname "$0")/program_checks.sh"
make_text text

if ! "$ssm" tokenize --tokenizer "$data/gpt2" <text >/dev/null 2>err && grep -q 'built without' err; then
  echo "skipped: $(cat err)"
  exit 77
fi
expect 0 "$ssm" tokenizer-train text --vocabulary 300 --out own.json
vocabulary=$(sed -nE 's/^([0-9]+) tokens in.*/\1/p' err)
tokenize=("$ssm" tokenize --tokenizer own.json)
# The numbers of a file of tokens of two bytes, one a line
numbers() {
  tail -c +129 "$1" | od -An -v -tu2 -w2 | tr -d ' '
}

# Files, lines, JSON and separators: the same documents, the same tokens; the end behind each
grep -m 200 -v '^$' text >lines
mkdir parts
split -l 1 -a 3 lines parts/
for part in parts/*; do printf %s "$(cat "$part")" >"$part"; done
sed 's/.*/{"id": 1, "text": "&"}/' lines >lines.jsonl
awk '{ printf "%s##", $0 }' lines >separated
expect 0 "${tokenize[@]}" parts/* --out parts.npy
grep -q '200 documents, <u2' err || fail "no account of the documents: $(cat err)"
expect 0 "${tokenize[@]}" --lines lines --out lines.npy
expect 0 "${tokenize[@]}" --jsonl text lines.jsonl --out json.npy --quiet
[[ ! -s err ]] || fail "not quiet"
expect 0 "${tokenize[@]}" --separator '##' - --out separated.npy <separated
for other in parts json separated; do same lines.npy $other.npy; done
expect 0 "${tokenize[@]}" --text lines
awk '{ gsub(" ", "\n"); print; print 0 }' out >expected  # the special token has the number 0
numbers lines.npy >found
same expected found
expect 0 "${tokenize[@]}" --lines lines --no-end --out bare.npy
numbers bare.npy >found
grep -vx 0 expected >without
same without found
expect 0 "${tokenize[@]}" --lines lines --end '<|endoftext|>' --out named.npy
same lines.npy named.npy

# What is wrong is said, and what was there stays
cp lines.npy before.npy
expect 1 "${tokenize[@]}" --lines lines --end '<|none|>' --out lines.npy && says "no special token '<|none|>'"
expect 1 "${tokenize[@]}" lines --out lines && says 'would be overwritten'
expect 1 "${tokenize[@]}" lines --out own.json && says 'would be overwritten'
expect 1 "${tokenize[@]}" lines missing --out lines.npy && says missing
expect 1 "${tokenize[@]}" --jsonl text lines --out lines.npy && says 'lines, line 1'
: >empty
expect 1 "${tokenize[@]}" empty --out lines.npy && says 'no text'
for wrong in "lines" "--out x.npy" "lines --out x.npy --json" "lines --out x.npy --whole" "--lines" "lines --out x.npy --end a --no-end" \
  "lines --out x.npy --lines --jsonl text"; do
  expect 2 "${tokenize[@]}" $wrong
done
same before.npy lines.npy
[[ -z $(find . -name '*partial*') ]] || fail "leftovers: $(find . -name '*partial*')"
mkfifo endless
(while cat text; do :; done >endless) 2>/dev/null &
"${tokenize[@]}" text endless --out lines.npy --quiet >out 2>err &
process=$!
sleep 0.5
kill -9 $process
{ wait $process || true; } 2>/dev/null
same before.npy lines.npy

# Training on tokens is training on the text that they are of
train=("$ssm" train "${tiny[@]}" --steps 20)
expect 0 "${tokenize[@]}" text --no-end --out text.npy --quiet
expect 0 "${train[@]}" --text text --tokenizer own.json --out of_text
cp out from_text
expect 0 "${train[@]}" --tokens text.npy --tokenizer own.json --out of_tokens
same of_text/checkpoint-0000020/model.safetensors of_tokens/checkpoint-0000020/model.safetensors
grep -q 'bits per byte' out || fail "no bits per byte"
same from_text out
tail -c +129 text.npy >text.bin
expect 0 "${train[@]}" --tokens text.bin --bare uint16 --vocabulary "$vocabulary" --out of_bare
same of_text/checkpoint-0000020/model.safetensors of_bare/checkpoint-0000020/model.safetensors
grep -q 'bits per token' out || fail "no bits per token"
expect 0 "$ssm" generate of_tokens --prompt 'the king' --tokens 5

expect 1 "${train[@]}" --tokens text.npy --vocabulary 100 --out small
at=$(sed -nE 's/.*token ([0-9]+) at position ([0-9]+) is outside.*vocabulary of 100$/\2 \1/p' err)
[[ -n $at ]] && (($(numbers text.npy | sed -n "$((${at% *} + 1))p") == ${at#* })) || fail "not what is at that place: $(cat err)"
says text.npy
expect 2 "${train[@]}" --tokens text.npy --out none && says --vocabulary
expect 2 "${train[@]}" --out none && says --text
expect 2 "${train[@]}" --text text --tokens text.npy --out none
expect 2 "${train[@]}" --tokens text.npy --tokenizer own.json --vocabulary 300 --out none && says --vocabulary
expect 2 "${train[@]}" --text text --bare uint16 --out none
expect 1 "${train[@]}" --tokens text.bin --tokenizer own.json --out none && says 'not a .npy file'
[[ ! -e none && ! -e small/checkpoint-0000000 ]] || fail "a folder was made for wrong usage"

# Shuffled windows and separate documents: resumed with the same ones, and with no others
options=(--tokens lines.npy --tokenizer own.json --order shuffled --documents separate --dropout 0.1 --accumulation 2)
expect 0 "${train[@]}" "${options[@]}" --out whole --steps 30
expect 0 "${train[@]}" "${options[@]}" --out part --steps 13 --schedule constant --warmup 0
expect 0 "${train[@]}" "${options[@]}" --out once --steps 30 --schedule constant --warmup 0
expect 0 "$ssm" train --tokens lines.npy --out part --resume --steps 30 --quiet
same part/checkpoint-0000030/model.safetensors once/checkpoint-0000030/model.safetensors
same part/checkpoint-0000030/optimizer.safetensors once/checkpoint-0000030/optimizer.safetensors
for setting in '"order": "shuffled"' '"documents": "separate"' '"end_token": 0'; do
  grep -q "$setting" whole/checkpoint-0000030/trainer.json || fail "no $setting in the record"
done
grep -q '"eos_token_id": 0' whole/checkpoint-0000030/config.json || fail "the model does not know what ends a text"
for change in "--order streams" "--documents joined" "--end-token 5" "--beta1 0.5" "--eps 1e-6"; do
  expect 2 "$ssm" train --tokens lines.npy --out part --resume --steps 40 --quiet $change && says "${change%% *}"
done
# with a state that is carried, too
carried=(--tokens lines.npy --tokenizer own.json --documents separate --carry 4 --schedule constant --warmup 0)
expect 0 "${train[@]}" "${carried[@]}" --out carried --steps 30
expect 0 "${train[@]}" "${carried[@]}" --out stopped --steps 14
expect 0 "$ssm" train --tokens lines.npy --out stopped --resume --steps 30 --quiet
same carried/checkpoint-0000030/model.safetensors stopped/checkpoint-0000030/model.safetensors
# bytes, where a line is a document
expect 0 "${train[@]}" --text text --documents separate --end-token 10 --out bytes
expect 0 "$ssm" train --text text --documents separate --end-token 10 --model gpt2 --layers 1 --width 16 --batch 2 --length 16 --steps 5 --quiet --out attention
expect 2 "${train[@]}" --text text --documents separate --out none && says --end-token
expect 2 "${train[@]}" --text text --end-token 10 --out none && says --end-token
expect 2 "${train[@]}" --text text --order shuffled --carry 4 --out none && says --carry
expect 2 "${train[@]}" --text text --order sorted --out none
expect 1 "${train[@]}" --text text --documents separate --end-token 256 --out none && says 256

# Schedules and AdamW
expect 2 "${train[@]}" --text text --schedule constant --rate-end 1e-4 --out none && says --rate-end
expect 2 "${train[@]}" --text text --rate 1e-3 --rate-end 2e-3 --out none && says --rate-end
for setting in "--beta1 1" "--beta2 1" "--eps 0" "--rate 0" "--beta1 -0.1"; do
  expect 2 "${train[@]}" --text text $setting --out none && says "${setting%% *}"
done
for setting in "--beta1 0.5" "--beta2 0.9" "--eps 1e-3" "--rate-end 1e-3" "--schedule linear" "--schedule linear --rate-end 1e-3"; do
  expect 0 "${train[@]}" --text text $setting --out "other$setting"
  expect 0 "${train[@]}" --text text --out default
  cmp -s "other$setting/checkpoint-0000020/model.safetensors" default/checkpoint-0000020/model.safetensors &&
    fail "$setting does nothing"
  rm -r default
done
finish
