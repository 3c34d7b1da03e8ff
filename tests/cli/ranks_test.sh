#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Ranks that mpirun starts: the losses of one, checkpoints that any number resumes, and an end when one of them dies.
source "$(dirname "$0")/program_checks.sh"
if ! command -v mpirun >/dev/null; then
  echo "skipped: there is no mpirun"
  exit 77
fi
# Open MPI: also as root, and more ranks than cores.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
make_text text
options=(--text text "${tiny[@]}" --threads 1 --carry 4 --eval-every 10 --log-every 1 --schedule constant --warmup 0)
on() {
  local ranks=$1
  shift
  timeout 120 mpirun -n "$ranks" "$ssm" train "$@" --quiet
}

status=0
on 2 --out two "${options[@]}" --steps 20 >out 2>err || status=$?
if grep -q "built without MPI" err; then
  echo "skipped: ssm was built without MPI"
  exit 77
fi
((status == 0)) || { fail "two ranks: status $status"; cat err >&2; }
(($(grep -c 'held-out bits' out) == 1)) || fail "not the first rank alone speaks: $(cat out)"

losses() { sed -nE 's/.*"loss":([0-9.]+).*/\1/p' "$1/metrics.jsonl"; }
# alike ONE OTHER: as many losses, and each as far from the other's as floats may be.
alike() {
  paste <(losses "$1") <(losses "$2") | awk -v names="$1 and $2" '
    NF != 2 || ($1 - $2) ^ 2 > 1e-6 { bad = 1; print names " differ at step " NR ": " $0 > "/dev/stderr" }
    END { exit bad || NR < 20 }' || fail "losses of $1 and $2 differ"
}
expect 0 "$ssm" train --out one "${options[@]}" --steps 20
alike one two
# The same ranks, the same bits; also where they share the moments of the optimizer.
weights() { cat "$1"/checkpoint-0000020/{model,optimizer}.safetensors | cksum; }
expect 0 on 2 --out again "${options[@]}" --steps 20
expect 0 on 2 --out shards "${options[@]}" --steps 8 --shard-optimizer
expect 0 on 2 --out shards --text text --resume --steps 20 --shard-optimizer
for other in again shards; do
  [[ $(losses two) == "$(losses $other)" ]] || fail "other losses in $other"
  [[ $(weights two) == "$(weights $other)" ]] || fail "other weights in $other"
done
expect 0 on 2 --out windows "${options[@]}" --steps 10 --sequence-parallel 2
expect 0 "$ssm" train --out windows --text text --quiet --resume --steps 15   # alone,
expect 0 on 2 --out windows --text text --resume --steps 20                  # and together again
alike one windows

expect 0 on 2 --out moments "${options[@]}" --steps 10 --shard-optimizer
expect 0 "$ssm" train --out moments --text text --quiet --resume --steps 20   # one has them all
alike one moments

status=0
on 2 --out wrong "${options[@]}" --steps 3 --sequence-parallel 3 >out 2>err || status=$?
((status != 0)) || fail "windows are shared by three of two ranks"
says "ssm: rank 0 of 2: training: windows cannot be shared by 3 of 2 ranks: the one must divide the other"
(($(grep -c '^ssm: ' err) == 1)) || fail "not one sentence: $(cat err)"

# Processes that MPI does not know of each other.
status=0
RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 "$ssm" train --out alone "${options[@]}" --steps 1 >out 2>err || status=$?
((status != 0)) || fail "one of two processes trains alone"
grep -q '^ssm: torchrun started 2 processes of this program, which MPI does not bring together: ' err || fail "said: $(cat err)"

# Ranks share documents.
expect 0 "$ssm" perplexity one --text text --separate --window 16 --json
cp out alone
expect 0 timeout 120 mpirun -n 2 "$ssm" perplexity one --text text --separate --window 16 --json
nats() { sed -nE 's/.*"nats":([0-9.]+).*"tokens":([0-9]+).*/\1 \2/p' "$1"; }
paste -d' ' <(nats alone) <(nats out) | awk 'NF != 4 || $2 != $4 || ($1 - $3) ^ 2 > 1e-6 * $1 ^ 2 { exit 1 }' ||
  fail "other losses: $(cat alone) and $(cat out)"

# A rank that is killed ends the others, and what was saved is whole.
mpirun -n 2 "$ssm" train --out killed "${options[@]}" --steps 1000000 --save-every 5 >out 2>err &
process=$!
for ((i = 0; i < 1200; ++i)); do [[ -d killed/checkpoint-0000005 ]] && break; sleep 0.05; done
kill -9 "$(pgrep -P $process -f -- '--out killed' | tail -n 1)" || fail "there is no rank to kill"
status=0
begin=$SECONDS
wait $process || status=$?
((status != 0)) || fail "a rank was killed and nobody says so"
((SECONDS - begin <= 30)) || fail "the others went on for $((SECONDS - begin)) seconds"
expect 0 "$ssm" generate killed --tokens 1
finish
