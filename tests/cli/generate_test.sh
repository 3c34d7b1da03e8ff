#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Several texts at once, where they end, what is told of them, and what is kept.
source "$(dirname "$0")/program_checks.sh"
make_text text
for run in run other; do
  expect 0 "$ssm" train --text text --out $run "${tiny[@]}" --steps 30 --rate 0.01 --seed $((${#run}))
done
generate=("$ssm" generate run --tokens 30)

# Prompts of different lengths side by side are what each is alone.
for prompt in "the king" "a" "all his lords and men"; do
  expect 0 "${generate[@]}" --prompt "$prompt" --seed 5
  cat out >>alone
done
expect 0 "${generate[@]}" --seed 5 --prompt "the king" --prompt "a" --prompt "all his lords and men"
grep -c '^==> prompt [123] <==$' out | grep -x 3 >/dev/null || fail "no three texts: $(cat out)"
grep -v '^==> prompt' out | grep -v '^$' >together
grep -v '^$' alone | cmp -s - together || fail "in company a text is another one"
printf 'the king\na\nall his lords and men\n' >lines
expect 0 "${generate[@]}" --seed 5 --prompts lines --json
(($(wc -l <out) == 3)) || fail "not three lines of JSON"

# Continuations are those of the following seeds.
expect 0 "${generate[@]}" --seed 5 --prompt "116 104 101" --n 3 --ids --no-echo
sed -n 's/^\([0-9 ]*\)$/\1/p' out | grep . >several
for seed in 5 6 7; do
  expect 0 "${generate[@]}" --seed $seed --prompt "116 104 101" --ids --no-echo
  cat out
done >one_by_one
same several one_by_one

# Ends
expect 0 "${generate[@]}" --prompt the --stop " " --logit-bias 32:1e4 --no-echo
[[ $(cat out) == "" ]] || fail "not stopped: $(cat out)"
expect 0 "${generate[@]}" --prompt the --eos 32 --logit-bias 32:1e4 --json
grep -q '"tokens":\[\],"end":"end_token"' out || fail "no end token: $(cat out)"
expect 0 "${generate[@]}" --prompt the --stop '\n' --logit-bias 10:-inf --no-echo
(($(wc -l <out) == 1)) || fail "a forbidden token came"
expect 0 "${generate[@]}" --prompt 97 --temperature 0 --frequency-penalty 1000 --ids --no-echo
(($(tr ' ' '\n' <out | sort -u | wc -l) == 30)) || fail "a token came twice: $(cat out)"

# Log-probabilities
expect 0 "${generate[@]}" --prompt the --logprobs - --top-logprobs 2 --temperature 0
(($(wc -l <out) == 30)) || fail "not a line for each token"
grep -Eq '^\{"prompt":0,"continuation":0,"index":0,"token":([0-9]+),.*"logprob":(-[0-9.]+),"top":\[\{"token":\1,"logprob":\2\}' out ||
  fail "the likeliest is not the first: $(head -1 out)"
expect 0 "${generate[@]}" --prompt the --logprobs log.jsonl --n 2
(($(wc -l <log.jsonl) == 60)) || fail "the log is not whole"

# What was kept goes on as one text, in this model alone.
expect 0 "${generate[@]}" --prompt "the king" --tokens 20 --temperature 0
cp out whole
expect 0 "${generate[@]}" --prompt "the king" --tokens 0 --save-state cache
expect 0 "${generate[@]}" --load-state cache --tokens 8 --temperature 0 --save-state further
cp out first
expect 0 "${generate[@]}" --load-state further --tokens 12 --temperature 0
[[ "the king$(cat first)$(cat out)" == "$(cat whole)" ]] || fail "the state lost something"
expect 1 "$ssm" generate other --load-state cache
says "is of another model"
head -c 100 cache >damaged
expect 1 "$ssm" generate run --load-state damaged
expect 1 "$ssm" generate run --load-state absent

# Line by line
printf 'the king\n/undo\nthe king\n/save kept\n/nonsense\n/reset\nthe king\n/load kept\n/quit\nnever\n' |
  "$ssm" generate run --interactive --tokens 10 --temperature 0 >out 2>err || fail "interactive failed: $(cat err)"
says "no order is named /nonsense"
expect 0 "$ssm" generate run --prompt $'the king\n' --tokens 10 --temperature 0 --no-echo
grep -v '^$' out >answer
(printf 'the king\n/undo\nthe king\n' | "$ssm" generate run --interactive --tokens 10 --temperature 0) | grep -v '^$' >twice
cat answer answer | cmp -s - twice || fail "an undone turn was not forgotten: $(cat twice)"

# Wrong usage
for bad in "--n 0" "--eos x" "--logit-bias 5" "--logit-bias x:1" "--logit-bias 5:nan" "--save-state f --n 2" \
  "--interactive --json" "--repetition-penalty 0" "--no-eos --eos 3" "--prompt a --prompts f"; do
  # shellcheck disable=SC2086
  expect 2 "$ssm" generate run $bad
done
expect 1 "${generate[@]}" --prompt "1 x" --ids && says "is no whole number"
expect 1 "${generate[@]}" --prompt "999" --ids && says "outside the vocabulary"
expect 1 "${generate[@]}" --prompt a --logit-bias 999:1 && says "outside the vocabulary"
finish
