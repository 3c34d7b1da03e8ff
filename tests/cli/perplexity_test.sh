#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# ssm perplexity: protocols, inputs, log-probabilities.
data=$(cd "$(dirname "$0")/../data/tokenizers" && pwd)
cases=$(cd "$(dirname "$0")/../data/conformance/cases" && pwd)
source "$(dirname "$0")/program_checks.sh"
make_text whole
head -c 6000 whole >text
expect 0 "$ssm" train --text text --out run --steps 150 "${tiny[@]}"

value() { sed -n "s/.*\"$1\":\([-0-9.e+]*\).*/\1/p" out; }
near() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a - b <= 1e-5 * b && b - a <= 1e-5 * b) }'; }
# measure NAME OPTION…: what the sum of nats is.
measure() {
  expect 0 "$ssm" perplexity run --json --quiet "$@"
  nats=$(value nats)
}

# A carried state is one window over all; a stride of the window is no overlap; batches change nothing.
measure --text text && carried=$nats
(($(value tokens) == 5999 && $(value bytes) == 5999 && $(value words) == $(wc -w <text))) || fail "counts: $(cat out)"
measure --text text --stateful && near "$nats" "$carried" || fail "--stateful: $nats, not $carried"
measure --text text --window 5999 && near "$nats" "$carried" || fail "one window: $nats, not $carried"
measure --text text --window 0 && near "$nats" "$carried" || fail "--window 0: $nats, not $carried"
measure --text text --window 32 && windows=$nats
measure --text text --context 32 --batch 1 && near "$nats" "$windows" || fail "one by one: $nats, not $windows"
measure --text text --window 32 --stride 32 && near "$nats" "$windows" || fail "stride 32: $nats, not $windows"
measure --text text --window 33 --stride 32 && near "$nats" "$windows" || fail "one of overlap: $nats, not $windows"
near "$windows" "$carried" && fail "windows are as good as the whole text"
measure --text text --window 32 --stride 8 && near "$nats" "$windows" && fail "overlapping windows are as good as others"
grep -q '"protocol":{"kind":"strided","window":32,"stride":8}' out || fail "no protocol: $(cat out)"
measure --text text --stateful --batch 4 && near "$nats" "$carried" && fail "four parts are as good as the whole"
(($(value tokens) == 5999)) || fail "four parts: $(value tokens) tokens"
measure --text text --protocol wikitext-103 && named=$nats
measure --text text --window 1024 && near "$nats" "$named" || fail "wikitext-103: $named, not $nats"
measure --text text --protocol wikitext-103 --window 32 && near "$nats" "$windows" || fail "a protocol with another window"

# Standard input, and tokens
measure --text - <text && near "$nats" "$carried" || fail "standard input: $nats"
npy() { # of int32 from numbers
  local header="{'descr': '<i4', 'fortran_order': False, 'shape': ($(wc -w <<<"$1"),), }"
  printf '\x93NUMPY\x01\x00\x76\x00%-117s\n' "$header"
  for number in $1; do printf "\\x$(printf %02x $((number % 256)))\\x$(printf %02x $((number / 256)))\\0\\0"; done
}
npy "$(head -c 300 text | od -An -v -tu1 | tr -s ' \n' ' ')" >ids.npy
head -c 300 text >start
measure --text start && part=$nats && words=$(value words)
measure --tokens ids.npy && near "$nats" "$part" || fail "--tokens: $nats, not $part"
[[ $(value words) == "$words" && $(value bytes) == 299 ]] || fail "sizes of tokens: $(cat out)"
tail -c +129 ids.npy >bare
measure --tokens bare --bare uint32 && near "$nats" "$part" || fail "--bare: $nats, not $part"
npy "1 2 300" >wild.npy
expect 1 "$ssm" perplexity run --tokens wild.npy && says "wild.npy" && says "300 at 2"
# No tokenizer is with it: no bytes, no words
npy "1 2 3 4 5 6 7 8" >few.npy
expect 0 "$ssm" perplexity "$cases/model_mamba_original" --tokens few.npy --json
grep -q '"tokens":7' out && ! grep -q 'bytes\|words' out || fail "without a tokenizer: $(cat out)"
expect 1 "$ssm" perplexity "$cases/model_mamba_original" --text text && says "no tokenizer is with it"

# Standard output is the same again; how fast it went is told elsewhere.
expect 0 "$ssm" perplexity run --text text && says "a second"
cp out first
expect 0 "$ssm" perplexity run --text text --quiet
same out first
[[ ! -s err ]] || fail "--quiet says: $(cat err)"

# Documents
printf '{"text": "the king", "meta": [1]}\n\n{"text": "of\\nmen \\u2603"}' >lines.jsonl
printf 'the king\nof\nmen \xe2\x98\x83\n' >joined
measure --text joined && joined=$nats
measure --text lines.jsonl --jsonl text --append-eos --eos 10 && near "$nats" "$joined" || fail "documents: $nats, not $joined"
(($(value documents) == 2 && $(value tokens) == 19 && $(value bytes) == 17 && $(value words) == 5)) || fail "documents: $(cat out)"
measure --text lines.jsonl --jsonl text --separate --prepend-eos --eos 10
(($(value tokens) == 18 && $(value bytes) == 18)) || fail "documents by themselves: $(cat out)"
printf '\nthe king' >first
printf '\nof\nmen \xe2\x98\x83' >second
separate=$nats
measure --text first && one=$nats
measure --text second && two=$nats
near "$separate" "$(awk -v a="$one" -v b="$two" 'BEGIN { print a + b }')" || fail "documents by themselves: $separate, not $one + $two"
measure --text lines.jsonl --jsonl text --protocol lm-eval --eos 10 && near "$nats" "$separate" || fail "lm-eval: $nats, not $separate"
expect 1 "$ssm" perplexity run --text text --protocol pile && says "--eos"
printf '{"text": "of men", "original": " of the men "}\n' >lines.jsonl
measure --text lines.jsonl --jsonl text --separate --prepend-eos --eos 10
(($(value tokens) == 6 && $(value bytes) == 12 && $(value words) == 3)) || fail "an original: $(cat out)"
measure --text lines.jsonl --jsonl text --protocol lm-eval --eos 10
(($(value words) == 5)) || fail "words of lm-eval: $(cat out)"
printf '{"text": "a", "original": 1}\n' >lines.jsonl
expect 1 "$ssm" perplexity run --text lines.jsonl --jsonl text && says 'line 1: has an '"'original'"' that is no string'
printf '{"text": "a"}\n{"words": 3}\n' >lines.jsonl
expect 1 "$ssm" perplexity run --text lines.jsonl --jsonl text && says 'lines.jsonl, line 2: has no string '"'text'"
printf '{"text": "a"\n' >lines.jsonl
expect 1 "$ssm" perplexity run --text lines.jsonl --jsonl text && says 'lines.jsonl, line 1: is not JSON'

# Log-probabilities: one line a token, in order, and their sum is the whole.
printf 'na\xc3\xafve' | cat - start >text2
for protocol in "" "--window 16 --stride 4" "--window 16 --batch 7" "--stateful --batch 3"; do
  measure --text text2 $protocol --logprobs log.jsonl --top-logprobs 2
  (($(wc -l <log.jsonl) == $(value tokens))) || fail "$protocol: $(wc -l <log.jsonl) lines"
  sed -n 's/.*"position":\([0-9]*\).*/\1/p' log.jsonl | awk '$1 != NR { exit 1 }' || fail "$protocol: not in order"
  near "$(sed 's/.*"logprob":\(-[0-9.e+-]*\),"rank".*/\1/' log.jsonl | awk '{ sum -= $1 } END { printf "%.9f", sum }')" "$nats" ||
    fail "$protocol: log-probabilities are not $nats"
done
grep -q $'"position":3,"token":175,"text":"\xef\xbf\xbd","bytes":\\[175\\],"logprob":-' log.jsonl || fail "half a character: $(sed -n 3p log.jsonl)"
if command -v python3 >/dev/null; then
  python3 -c 'import json, sys; [json.loads(line) for line in open(sys.argv[1], "rb").read().decode().splitlines()]' log.jsonl || fail "not JSON"
fi
expect 0 "$ssm" perplexity run --text start --logprobs - --json --quiet
(($(wc -l <out) == 299)) && says '"tokens":299' || fail "--logprobs -: $(wc -l <out) lines"
expect 1 "$ssm" perplexity run --text text --logprobs absent/log && says "absent/log"
(
  trap '' XFSZ
  ulimit -f 8 # kB
  "$ssm" perplexity run --text text --logprobs limited --quiet >out 2>err
) && fail "a limited file"
says "limited: cannot be written"
[[ ! -e limited && -z $(ls | grep partial) ]] || fail "leftovers: $(ls)"
"$ssm" perplexity run --text - --logprobs stopped --quiet >out 2>err < <(for ((i = 0; i < 400; ++i)); do cat whole; done) &
process=$!
for ((i = 0; i < 400; ++i)); do compgen -G 'stopped.partial*' >/dev/null && break; sleep 0.05; done
kill -TERM $process
wait $process && fail "a signal: status 0"
says "stopped" && [[ ! -e stopped && -z $(ls | grep partial) ]] || fail "leftovers of a signal: $(ls)"

# Learned positions
gpt2=("$ssm" perplexity gpt2 --text text --quiet)
expect 0 "$ssm" train --model gpt2 --positions 32 --text text --out gpt2 --steps 2 --layers 1 --width 16 --heads 2 --batch 2 --length 16 --quiet
expect 0 "${gpt2[@]}" --window 32
expect 0 "${gpt2[@]}" --window 32 --stride 16
expect 1 "${gpt2[@]}" --window 33 && says "32 positions" && says "--window 32"
expect 1 "${gpt2[@]}" --stateful && says "32 positions"
expect 1 "${gpt2[@]}" --protocol wikitext-103 && says "--window 32"
expect 0 "${gpt2[@]}" --protocol lm-eval --eos 0 --json
grep -q '"kind":"rolling","window":32' out || fail "windows of lm-eval: $(cat out)"

# A tokenizer of words
if "$ssm" tokenize --tokenizer "$data/byte_level" --text text >/dev/null 2>&1; then
  expect 0 "$ssm" train --text text --out words --tokenizer "$data/byte_level" --steps 2 "${tiny[@]}"
  expect 0 "$ssm" perplexity words --text text --json --quiet --prepend-eos --eos 0
  (($(value bytes) == 6000 && $(value words) == $(wc -w <text) && $(value tokens) < 6000)) || fail "sizes: $(cat out)"
  expect 0 "$ssm" perplexity words --text text --held-out --logprobs log.jsonl
  expect 0 "$ssm" perplexity words --text text --from 0.5 --json
fi

# Options that make no sense
for options in "--window 4 --stateful" "--window 4 --stride 5" "--stride 5" "--stride 0 --window 4" "--window x" "--window -1" \
  "--protocol none" "--batch 0" "--top-logprobs 3" "--tokens ids.npy" "--separate --from 0.5" "--bare uint16" "--protocol lm-eval --from 0.5" "--eos -1"; do
  expect 2 "$ssm" perplexity run --text text $options
done
expect 2 "$ssm" perplexity run --tokens ids.npy --jsonl text
finish
