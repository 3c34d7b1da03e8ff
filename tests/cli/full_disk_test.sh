#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# No room for a file: one sentence, and the last checkpoint stays whole.
source "$(dirname "$0")/program_checks.sh"
make_text text
options=(--text text --layers 1 --width 64 --state 4 --batch 2 --length 16 --quiet --save-every 10)

# A limit on the size of files stands for the full disk where none can be made.
expect 0 "$ssm" train --out run "${options[@]}" --steps 10
cp -r run before
status=0
(
  trap '' XFSZ
  ulimit -f 100 # kB; the model alone takes more
  "$ssm" train --out run "${options[@]}" --resume --steps 20 >out 2>err
) || status=$?
((status == 1)) || fail "a limited file: status $status"
says "cannot be written"
(($(wc -l <err) == 1)) || fail "not one sentence: $(cat err)"
same run/checkpoint-0000010 before/checkpoint-0000010
[[ $(ls -A run) == $(ls -A before) ]] || fail "leftovers: $(ls -A run)"
expect 0 "$ssm" train --out run "${options[@]}" --resume --steps 20

# A real one, where an unprivileged mount is allowed.
if ! unshare --user --map-root-user --mount true 2>/dev/null; then
  echo "no unprivileged mounts here: the real full disk is left out"
  finish
  exit 0
fi
mkdir disk
unshare --user --map-root-user --mount bash -s "$ssm" "${options[@]}" <<'END' || fail "on a full disk"
set -euo pipefail
ssm=$1
shift
mount -t tmpfs -o size=4m tmpfs disk
"$ssm" train --out disk/run "$@" --steps 10
head -c 10m /dev/zero >disk/filler 2>/dev/null || true
status=0
"$ssm" train --out disk/run "$@" --resume --steps 20 2>err || status=$?
((status == 1)) || { echo "status $status"; exit 1; }
grep -q "No space left" err && (($(wc -l <err) == 1)) || { cat err; exit 1; }
"$ssm" generate disk/run --tokens 3 >/dev/null
rm disk/filler
"$ssm" train --out disk/run "$@" --resume --steps 20
END
finish
