#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs of ssm-synthetics that were stopped end as those that were not; finished ones are not repeated.
source "$(dirname "$0")/program_checks.sh"
synthetics=$2
runs=("$synthetics" recall --models s4d,attention --seeds 1 --training 640 --test 64 --epochs 12)

# Accuracies and losses of every epoch; seconds differ.
curves() {
  grep -vE '"seconds"' "$1/recall.json"
}

expect 0 "${runs[@]}" --out whole
"${runs[@]}" --out parts >out 2>err &
process=$!
sleep 1
kill -TERM $process
status=0
wait $process || status=$?
((status == 0)) || fail "stopped: status $status"
before=$(find parts -type f -exec sha256sum {} + | sort)
expect 0 "${runs[@]}" --jobs 0 --out parts
[[ $(find parts -name "state*" -o -name "curve*" | sort | xargs -r sha256sum | sort) == "$(grep -E "state|curve" <<<"$before")" ]] || fail "a report trained"
expect 0 "${runs[@]}" --out parts
diff <(curves whole) <(curves parts) >/dev/null || fail "a run that was stopped differs"
[[ -z $(find parts -name state.safetensors) ]] || fail "a finished run has a state"

# Nothing is trained again: what is kept of a finished run is what is told of it.
curve=parts/recall-runs/s4d-32-0/curve.json
sed -i 's/"seconds":[0-9.e+-]*/"seconds":123456.5/' $curve
expect 0 "${runs[@]}" --out parts
grep -q '"seconds": 123456.5' parts/recall.json || fail "a finished run was made again"

# Other settings do not mix with those.
status=0
"${runs[@]}" --rate 1e-3 --out parts >out 2>err || status=$?
((status == 1)) || fail "other settings: status $status"
says "was made with other settings"

# An accuracy that is enough ends a run.
expect 0 "${runs[@]}" --until 0.01 --out enough
(($(grep -c '"best_epoch": 1' enough/recall.json) == 2)) || fail "runs went on: $(grep best_epoch enough/recall.json)"
finish
