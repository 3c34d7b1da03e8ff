#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What the commands print and leave behind.
source "$(dirname "$0")/program_checks.sh"
make_text text
train=("$ssm" train --text text --layers 1 --width 16 --state 4 --batch 4 --length 32 --rate 0.01)

expect 0 "${train[@]}" --out run --steps 60
grep -Eq '^held-out bits per byte: [0-9]+\.[0-9]{4}$' out || fail "no result: $(cat out)"
trained=$(sed 's/.*: //' out)
grep -q 'held-out loss' err || fail "no evaluation on standard error"
grep -qP '\r|\x1b' err && fail "terminal control in a file"
expect 0 "${train[@]}" --out quiet --steps 5 --quiet
[[ ! -s err ]] || fail "not quiet: $(cat err)"

# Metrics and the curve
(($(grep -c '"loss"' run/metrics.jsonl) == 6)) || fail "not six entries"
grep -q '"bits_per_byte"' run/metrics.jsonl || fail "no evaluation in the metrics"
grep -q '<polyline' run/loss.svg || fail "no curve"
if command -v python3 >/dev/null; then
  python3 - <<'END' || fail "metrics.jsonl or loss.svg cannot be parsed"
import json, xml.dom.minidom
entries = [json.loads(line) for line in open("run/metrics.jsonl")]
losses = [entry["loss"] for entry in entries if "loss" in entry]
assert losses[-1] < losses[0] and all(entry["seconds"] >= 0 for entry in entries)
xml.dom.minidom.parse("run/loss.svg")
END
fi

# Perplexity
expect 0 "$ssm" perplexity run --text text --held-out
grep -q "bits per byte  $trained" out || fail "training said $trained: $(cat out)"
expect 0 "$ssm" perplexity run --text text --held-out --json
(($(wc -l <out) == 1)) || fail "JSON on several lines"
for field in bits_per_byte loss perplexity tokens bytes; do
  grep -Eq "\"$field\":[0-9.]+" out || fail "no $field: $(cat out)"
done
grep -q "\"bits_per_byte\":${trained%?}" out || fail "JSON says something else: $(cat out)"
expect 0 "$ssm" perplexity run/checkpoint-0000060 --text text --from 0.9
grep -q "bits per byte  $trained" out || fail "--from 0.9 is not --held-out"
expect 0 "$ssm" perplexity run --text text --backend reference --held-out
grep -q "bits per byte  ${trained%??}" out || fail "the reference backend says something else: $(cat out)"

# Generation
expect 0 "$ssm" generate run --prompt "the king" --tokens 50 --seed 3
cp out first
head -c 8 out | grep '^the king$' >/dev/null || fail "the prompt is not there"
expect 0 "$ssm" generate run --prompt "the king" --tokens 50 --seed 3
same out first
expect 0 "$ssm" generate run --prompt "the king" --tokens 50 --seed 4
cmp -s out first && fail "another seed gave the same text"
expect 0 "$ssm" generate run --prompt "the king" --tokens 50 --seed 3 --no-echo
[[ "the king$(cat out)" == "$(cat first)" ]] || fail "--no-echo changed the text"
printf 'the king' | "$ssm" generate run --prompt-file - --tokens 50 --seed 3 >out
same out first
expect 0 "$ssm" generate run --prompt x --tokens 0
[[ $(cat out) == x ]] || fail "no tokens were asked for: $(cat out)"
expect 0 "$ssm" generate run --temperature 0 --tokens 20 --statistics
grep -q 'tokens/s' err || fail "no statistics"
iconv -f UTF-8 -t UTF-8 <first >/dev/null || fail "not UTF-8"

# An untrained model babbles bytes; what comes out is UTF-8 all the same.
expect 0 "$ssm" generate run/../quiet --temperature 5 --tokens 500
iconv -f UTF-8 -t UTF-8 <out >/dev/null || fail "not UTF-8"

# Several threads, several runs: the same bits
expect 0 "${train[@]}" --out again --steps 60
same run/checkpoint-0000060/model.safetensors again/checkpoint-0000060/model.safetensors
expect 0 "${train[@]}" --out other --steps 60 --seed 2
cmp -s run/checkpoint-0000060/model.safetensors other/checkpoint-0000060/model.safetensors && fail "the seed does nothing"

# Hybrid models, and a short text
expect 0 "${train[@]}" --out hybrid --steps 20 --layers 2 --attention-layers 1 --heads 2
expect 0 "$ssm" perplexity hybrid --text text --held-out
expect 0 "$ssm" generate hybrid --prompt "the" --tokens 20
printf 'to be or not to be' >short
expect 0 "$ssm" train --text short --out short_run --steps 3 --layers 1 --width 16 --state 4
finish
