#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kill -9 at random moments and --resume, again and again: the same bits as a run that was never touched.
source "$(dirname "$0")/program_checks.sh"
make_text text
RANDOM=${SEED:-$$}
echo "seed ${SEED:-$$}"
options=(--text text "${tiny[@]}" --dropout 0.1 --accumulation 2 --save-every 20 --eval-every 50)
steps=600

begin=$(date +%s%N)
expect 0 "$ssm" train --out whole "${options[@]}" --steps $steps
milliseconds=$((($(date +%s%N) - begin) / 1000000))

kills=0
for ((attempt = 0; attempt < 12; ++attempt)); do
  "$ssm" train --out killed "${options[@]}" --steps $steps --resume >out 2>err &
  process=$!
  pause=$((RANDOM % (milliseconds / 8 + 20)))
  sleep "$(printf '%d.%03d' $((pause / 1000)) $((pause % 1000)))"
  if kill -9 $process 2>/dev/null; then kills=$((kills + 1)); fi
  status=0
  wait $process 2>/dev/null || status=$?
  ((status == 0 || status == 137)) || { fail "attempt $attempt: status $status"; cat err >&2; }
  # Whatever is there now is whole.
  if compgen -G "killed/checkpoint-*" >/dev/null; then expect 0 "$ssm" generate killed --tokens 1; fi
  ((status != 0)) || break
done
expect 0 "$ssm" train --out killed --text text --quiet --resume
echo "killed $kills times"
((kills > 0)) || fail "no process was killed"

same whole/checkpoint-0000600/model.safetensors killed/checkpoint-0000600/model.safetensors
same whole/checkpoint-0000600/optimizer.safetensors killed/checkpoint-0000600/optimizer.safetensors
# Each entry once, and with the same numbers but for the clock's.
for run in whole killed; do
  sed -E 's/,"(tokens_per_second|seconds)":[^,}]*//g' $run/metrics.jsonl >$run.metrics
done
same whole.metrics killed.metrics
[[ -z $(find killed -name '*partial*') ]] || fail "leftovers: $(find killed -name '*partial*')"

# A run may be extended, too.
expect 0 "$ssm" train --out killed --text text --quiet --resume --steps 610
[[ -d killed/checkpoint-0000610 ]] || fail "not extended"
# A run of another family, with a state that holds positions, goes on as well.
retnet=(--text text --layers 1 --width 16 --batch 2 --length 16 --quiet --schedule constant --warmup 0 --model dense-retnet --heads 2 --carry 4 --dropout 0.1)
expect 0 "$ssm" train --out whole_retnet "${retnet[@]}" --steps 30
expect 0 "$ssm" train --out part_retnet "${retnet[@]}" --steps 17
expect 0 "$ssm" train --out part_retnet --text text --quiet --resume --steps 30
same whole_retnet/checkpoint-0000030/state.safetensors part_retnet/checkpoint-0000030/state.safetensors
finish
