# SPDX-License-Identifier: Apache-2.0
# Sourced by the tests of the ssm program:  SCRIPT PROGRAM
set -euo pipefail
ssm=$1
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"
export OMP_NUM_THREADS=2

# A model so small that a step takes about a millisecond.
tiny=(--layers 1 --width 16 --state 4 --batch 2 --length 16 --quiet)
failures=0

fail() {
  echo "FAILED: $*" >&2
  failures=$((failures + 1))
}
finish() {
  ((failures == 0)) || exit 1
}

# A text of about 40 kB with some structure.
make_text() {
  awk 'BEGIN { srand(1); split("the king of men shall speak and all his lords be still", w, " ");
    for (i = 0; i < 8000; ++i) printf "%s%s", w[int(rand() * 12) + 1], i % 9 == 8 ? ".\n" : " " }' >"$1"
}

# expect STATUS COMMAND…: runs it into ./out and ./err, and checks how it ends. A failure says one sentence.
expect() {
  local wanted=$1 status=0
  shift
  "$@" >out 2>err || status=$?
  if ((status != wanted)); then
    fail "status $status, not $wanted: $*"
    cat err >&2
  fi
  if ((wanted == 1)) && ! { (($(wc -l <err) == 1)) && grep -q '^ssm: ' err; }; then
    fail "not one sentence: $*"
    cat err >&2
  fi
}

# says WORDS: the last command's complaint has them.
says() {
  grep -qF -- "$1" err || { fail "no '$1' in: $(cat err)"; }
}

# The same files with the same contents.
same() {
  diff -r "$1" "$2" >/dev/null || fail "$1 and $2 differ"
}
