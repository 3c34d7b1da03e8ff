#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# ssm evaluate: tasks, where their items are, examples, results.
data=$(cd "$(dirname "$0")/../data/evaluate" && pwd)
source "$(dirname "$0")/program_checks.sh"
make_text text
expect 0 "$ssm" train --text text --out run --steps 5 "${tiny[@]}"

expect 0 "$ssm" evaluate --list
grep -q '^hellaswag  *acc, acc_norm ' out && grep -q '^superglue-h3 = wsc-h3 ' out || fail "--list: $(cat out)"
expect 2 "$ssm" evaluate
expect 2 "$ssm" evaluate run

# A table, and the same as JSON; every task of a group, from hub's files and from authors' folders.
expect 0 "$ssm" evaluate run superglue-h3 --data "$data" --json --quiet --out results.json --items items.jsonl --eos 0
cmp -s out results.json || fail "--out differs from --json"
(($(grep -c '"acc_tokens":' out) == 7)) && grep -q '"em_stderr"' out && grep -q '"f1a"' out || fail "metrics: $(cat out)"
(($(wc -l <items.jsonl) == 4 + 5 + 5 + 6 + 8 + 3 + 6 + 6)) || fail "items: $(wc -l <items.jsonl)"
scores() { grep -v 'seconds\|"file"\|"model"' "$1" >"$2"; }
scores results.json hub
expect 0 "$ssm" evaluate run superglue-h3 --data "$data/authors" --json --quiet --eos 0 --batch 1
scores out authors
same hub authors
expect 0 "$ssm" evaluate run piqa boolq --data "$data" --limit 2
grep -q '^piqa  *2  acc ' out && grep -q '^boolq  *2  acc ' out && grep -q '^average ' out || fail "table: $(cat out)"
grep -q 'piqa: 2 items, .* a second' err || fail "nothing about the speed: $(cat err)"

# Examples: of a file, of --data, of the items; the same again, and others by another seed.
shots() { expect 0 "$ssm" evaluate run "$@" --json --quiet --items "items"; grep -o '"prompt":"[^}]*' items | sort -u >prompts; }
shots piqa --data "$data" --shots 2 && cp prompts first
grep -q 'To open a jar\|To clean a window\|To carry soup' first || fail "no examples: $(cat first)"
shots "piqa=$data/piqa.jsonl" --examples "$data/piqa.train.jsonl" --shots 2 && same prompts first
shots piqa --data "$data" --shots 2 --seed 7 && ! cmp -s prompts first || fail "another seed, the same examples"
shots "piqa=$data/piqa.jsonl" --shots 2 && ! grep -q 'To open a jar' prompts || fail "examples of nowhere"

# A task of one's own; texts that the model writes
echo '{"kind": "generation", "prompt": "{{q}}", "references": "a", "tokens": 5, "metrics": ["em", "f1"]}' >say.json
printf '{"q": "the king ", "a": ["x", "y"]}\n{"q": "the king of", "a": "x"}\n' >say.jsonl
expect 0 "$ssm" evaluate run say.json=say.jsonl --json --quiet --items items
grep -q '"em": 0.0' out && (($(grep -c '"text":' items) == 2)) || fail "generation: $(cat out items)"

# One sentence for what is wrong
expect 1 "$ssm" evaluate run nothing=x && says "no task 'nothing'"
expect 1 "$ssm" evaluate run piqa && says "piqa=FILE"
expect 1 "$ssm" evaluate run piqa --data "$work" && says "piqa.jsonl"
expect 1 "$ssm" evaluate run superglue=x && says "several tasks"
expect 1 "$ssm" evaluate run piqa=missing.jsonl && says "missing.jsonl"
echo '{"goal": "g", "sol1": "a", "sol2": 3, "label": 4}' >bad.jsonl
expect 1 "$ssm" evaluate run piqa=bad.jsonl && says "bad.jsonl, line 1" && says "'label'"
expect 1 "$ssm" evaluate run "piqa=$data/piqa.jsonl" --shots 5 && says "5 examples of 4"
expect 1 "$ssm" evaluate run "rte-h3=$data/rte.jsonl" --shots 1 && says "must be of another file"
expect 0 "$ssm" evaluate run superglue-h3 --data "$data" --shots 3 --eos 0 --quiet
expect 1 "$ssm" evaluate run "lambada=$data/lambada.jsonl" --max-tokens 2 && says "lambada.jsonl, line 1"
expect 1 "$ssm" evaluate run "piqa=$data/piqa.jsonl" --examples "rte=x" --shots 1 && says "'rte'"
echo '{"prompt": "p"}' >empty.json
expect 1 "$ssm" evaluate run empty.json=bad.jsonl && says "neither choices nor options"
finish
