#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# ssm classify: what it learns and writes, the same bits after an interruption, files of others, one sentence for what is wrong.
source "$(dirname "$0")/program_checks.sh"
small=(--layers 1 --width 16 --state 8 --batch 16 --rate 0.01 --quiet)
lists=(listops --min-length 3 --max-length 12 --max-depth 3 --max-arguments 3 --training 400 --test 100 "${small[@]}")

expect 0 "$ssm" classify "${lists[@]}" --out whole --steps 60 --evaluate-every 20 --save-every 25
accuracy=$(sed -nE 's/^test accuracy: ([0-9]+)\..*/\1/p' out)
((accuracy > 15)) || fail "accuracy of $accuracy %, guessing has 10: $(cat out)"
(($(grep -c '"accuracy":' whole/metrics.jsonl) == 3 && $(grep -c '"loss":' whole/metrics.jsonl) == 6)) || fail "metrics: $(cat whole/metrics.jsonl)"
grep -q '</svg>' whole/accuracy.svg && grep -q '"published_s4d": 0.583' whole/result.json || fail "no curve or result"

# Bounded by steps, and interrupted: the same weights.
expect 0 "$ssm" classify "${lists[@]}" --out part --steps 60 --save-every 25
rm -r part/checkpoint-0000060
expect 0 "$ssm" classify "${lists[@]}" --out part --steps 60 --resume
same whole/checkpoint-0000060/model.safetensors part/checkpoint-0000060/model.safetensors
same whole/checkpoint-0000060/optimizer.safetensors part/checkpoint-0000060/optimizer.safetensors
expect 1 "$ssm" classify "${lists[@]}" --out part --steps 70 && says "already holds a run"
expect 1 "$ssm" classify "${lists[@]}" --out part --steps 70 --resume --rate 0.02 && says "started with other settings"

# Images, H3, and the time of an update
expect 0 "$ssm" classify pathfinder --training 20 --test 10 "${small[@]}" --out images --steps 2 --mixer h3
grep -q '"longest": 1024' images/result.json || fail "images: $(cat images/result.json)"
expect 0 "$ssm" classify pathfinder "${small[@]}" --batch 1 --time 1
grep -q '"length":1024.*"milliseconds":' out || fail "--time: $(cat out)"

# Published files
mkdir lists
printf 'Source\tTarget\n( ( ( [MAX 2 ) 9 ) ] )\t9\n[MIN 4 3 ]\t3\n' >lists/basic_train.tsv
printf 'Source\tTarget\n[SM 4 3 ]\t7\n' >lists/basic_test.tsv
expect 0 "$ssm" classify listops --data lists "${small[@]}" --out files --steps 2
grep -q '"training": 2' files/result.json || fail "files: $(cat files/result.json)"
printf 'Source\tTarget\n[SM 4 3 ]\t8\n' >lists/basic_test.tsv
expect 1 "$ssm" classify listops --data lists "${small[@]}" --out other --steps 2 && says "line 2: the value is 7, not '8'"
expect 2 "$ssm" classify imdb --out other --steps 2 && says "--data: is required: imdb has no generator"
expect 1 "$ssm" classify imdb --data missing --out other --steps 2 && says "cannot be read"
expect 2 "$ssm" classify listops --steps 2 && says "out"
expect 2 "$ssm" classify listops --out other --steps 2 --numbers bf16 && says "bf16 needs --backend cuda"
expect 2 "$ssm" classify poetry --out other
expect 2 "$ssm" classify listops --out other --backend reference
finish
