#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# SIGTERM and SIGINT save a checkpoint; the clock of a run bounded by minutes goes on where it stopped.
source "$(dirname "$0")/program_checks.sh"
make_text text
train=("$ssm" train --text text --layers 1 --width 16 --state 4 --batch 2 --length 16)

# Ctrl-C and kill: background processes of a script ignore SIGINT, so that one comes from a subshell with job control.
for signal in TERM HUP INT; do
  set -m
  "${train[@]}" --out $signal --steps 1000000 >out 2>err &
  process=$!
  set +m
  for ((i = 0; i < 200; ++i)); do [[ -d $signal/checkpoint-0000001 ]] && break; sleep 0.05; done
  sleep 0.3
  kill -$signal $process
  status=0
  wait $process || status=$?
  ((status == 0)) || fail "$signal: status $status"
  says "continue with --resume"
  [[ $(ls $signal | grep -c checkpoint) == 2 ]] || fail "$signal: $(ls $signal)"
done

# A signal and --resume: the same bits as without.
saved=$(ls -d TERM/checkpoint-* | tail -n 1)
steps=$((10#${saved#TERM/checkpoint-} + 10))
expect 0 "${train[@]}" --out TERM --steps $steps --resume
# The rate at each step depends on the total, so the whole run cannot be compared; a constant one can.
expect 0 "${train[@]}" --out whole --steps 40 --schedule constant --warmup 0
expect 0 "${train[@]}" --out parts --steps 15 --schedule constant --warmup 0
expect 0 "${train[@]}" --out parts --steps 40 --resume
same whole/checkpoint-0000040/model.safetensors parts/checkpoint-0000040/model.safetensors

# Minutes
begin=$SECONDS
expect 0 "${train[@]}" --out minutes --minutes 0.03
((SECONDS - begin <= 60)) || fail "two seconds took $((SECONDS - begin))"
expect 0 "${train[@]}" --out minutes --resume
says "resuming after step"
[[ $(ls -d minutes/checkpoint-* | wc -l) == 2 ]] || fail "a finished run went on"
expect 0 "${train[@]}" --out minutes --resume --minutes 0.05
[[ $(ls -d minutes/checkpoint-* | tail -n 1) != $(ls -d minutes/checkpoint-* | head -n 1) ]] || fail "not extended"

# Two at once
"${train[@]}" --out twice --steps 1000000 >/dev/null 2>&1 &
process=$!
for ((i = 0; i < 200; ++i)); do [[ -d twice/checkpoint-0000001 ]] && break; sleep 0.05; done
expect 1 "${train[@]}" --out twice --steps 5 --resume && says "in use"
kill -9 $process
wait $process 2>/dev/null || true
finish
