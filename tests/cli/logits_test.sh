#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# ssm logits reads tokens and writes logits as .npy.
cases=$(cd "$(dirname "$0")/../data/conformance/cases" && pwd)
source "$(dirname "$0")/program_checks.sh"
model=$cases/model_h3_hybrid_rotary # a vocabulary of 31, padded to 32

# npy FILE DTYPE SHAPE BYTES…: an array whose data are those bytes.
npy() {
  local file=$1 header="{'descr': '$2', 'fortran_order': False, 'shape': $3, }"
  shift 3
  printf '\x93NUMPY\x01\0'"\\x$(printf %02x $((${#header} + 1)))"'\0%s\n' "$header" >"$file"
  (($# == 0)) || printf "$(printf '\\x%02x' "$@")" >>"$file"
}
# words WIDTH NUMBER…: small numbers as integers of so many bytes.
words() {
  local width=$1 number byte
  shift
  for number in "$@"; do
    printf '%d ' "$number"
    for ((byte = 1; byte < width; ++byte)); do printf '0 '; done
  done
}
logits() { expect 0 "$ssm" logits "$model" --tokens "$1" --out "$2" "${@:3}"; }
# has_shape FILE SHAPE NUMBERS
has_shape() {
  head -c 200 "$1" | grep -aqF "'descr': '<f4', 'fortran_order': False, 'shape': $2" || fail "$1 is not $2"
  local data=$(($(stat -c %s "$1") - 4 * $3))
  ((data > 0 && data % 64 == 0)) || fail "$1 has not $3 numbers"
}

npy ids.npy '<i8' '(1, 5)' $(words 8 3 1 4 1 5)
logits ids.npy logits.npy
[[ ! -s out && ! -s err ]] || fail "not silent: $(cat out err)"
has_shape logits.npy '(5, 32, ), }' 160

# Types and shapes that mean the same
npy short.npy '<i4' '(1, 5)' $(words 4 3 1 4 1 5)
logits short.npy again.npy && same again.npy logits.npy
npy flat.npy '<i4' '(5,)' $(words 4 3 1 4 1 5)
logits flat.npy again.npy && same again.npy logits.npy

# Several sequences are each what they are alone; later tokens do not change earlier logits
npy two.npy '<i8' '(2, 5)' $(words 8 9 2 6 5 3 3 1 4 1 5)
logits two.npy two_logits.npy
has_shape two_logits.npy '(2, 5, 32, ), }' 320
tail -c 640 two_logits.npy | cmp -s - <(tail -c 640 logits.npy) || fail "the second sequence is not what it is alone"
npy other.npy '<i8' '(1, 5)' $(words 8 9 2 6 5 3)
logits other.npy other_logits.npy
cmp -s other_logits.npy logits.npy && fail "other tokens have the same logits"
npy one.npy '<i8' '(1, 1)' $(words 8 3)
logits one.npy one_logits.npy && has_shape one_logits.npy '(1, 32, ), }' 32
npy none.npy '<i8' '(1, 0)'
logits none.npy none_logits.npy && has_shape none_logits.npy '(0, 32, ), }' 0

# The published numbers, on both backends
if command -v python3 >/dev/null; then
  cat >compare.py <<'END'
import array, json, struct, sys

def tensor(path, name):
    file = open(path, "rb").read()
    start = 8 + struct.unpack("<Q", file[:8])[0]
    entry = json.loads(file[8:start])[name]
    kind = {"F64": "d", "I64": "q", "I32": "i"}[entry["dtype"]]
    return entry["shape"], array.array(kind, file[start + entry["data_offsets"][0]:start + entry["data_offsets"][1]])

def write(path, shape, values):
    header = "{'descr': '<i8', 'fortran_order': False, 'shape': (%s), }\n" % "".join("%d, " % n for n in shape)
    data = array.array("q", values).tobytes()
    open(path, "wb").write(b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header.encode() + data)

shape, expected = tensor(sys.argv[1] + "/expect.safetensors", "output/logits")
if len(sys.argv) == 2:
    write("published.npy", *tensor(sys.argv[1] + "/expect.safetensors", "input/tokens"))
else:
    file = open(sys.argv[2], "rb").read()
    data = array.array("f", file[10 + struct.unpack("<H", file[8:10])[0]:])
    assert len(data) == len(expected), (len(data), shape)
    assert max(abs(a - b) for a, b in zip(data, expected)) < 1e-4 * max(map(abs, expected))
END
  for model in "$cases"/model_{h3,mamba,retnet,dense}* "$cases/model_attention_positions"; do
    python3 compare.py "$model" || fail "$model"
    for backend in cpu reference; do
      logits published.npy ours.npy --backend $backend
      python3 compare.py "$model" ours.npy || fail "$model: other logits on $backend"
    done
  done
fi

# A model in shards, and a trained one
model=$cases/model_h3_hybrid_rotary
mkdir shards && cp "$model/config.json" shards/ && cp "$model/model.safetensors" shards/a.safetensors
map=$("$ssm" inspect "$model" | sed -n 's/^\(.*[^ ]\) *F32 .*/"\1": "a.safetensors",/p' | tr -d '\n')
printf '{"weight_map": {%s}}' "${map%,}" >shards/model.safetensors.index.json
expect 0 "$ssm" logits shards --tokens ids.npy --out again.npy && same again.npy logits.npy
make_text text
expect 0 "$ssm" train --text text --out run "${tiny[@]}" --steps 1
expect 0 "$ssm" logits run --tokens ids.npy --out run.npy
has_shape run.npy '(5, 256, ), }' 1280

# What cannot be read or written is one sentence, and nothing is left behind
cp logits.npy kept.npy
refused() {
  expect 1 "$ssm" logits "$model" --tokens "$1" --out kept.npy && says "$2"
  same kept.npy logits.npy
}
refused absent.npy "absent.npy: cannot be opened"
refused text "text: is not a .npy file"
npy float.npy '<f4' '(1, 1)' 0 0 0 0
refused float.npy "float.npy: is of type <f4, asked for integers"
npy bool.npy '|b1' '(1, 1)' 1
refused bool.npy "bool.npy: is of type |b1"
npy cube.npy '<i8' '(1, 1, 1)' $(words 8 3)
refused cube.npy "cube.npy: is [1, 1, 1], tokens must be [L] or [B, L]"
npy scalar.npy '<i8' '()' $(words 8 3)
refused scalar.npy "scalar.npy: is [], tokens"
npy cut.npy '<i8' '(1, 5)' $(words 8 3)
refused cut.npy "cut.npy: has 8 bytes of data, not [1, 5]"
npy huge.npy '<i8' '(1, 4611686018427387904)'
refused huge.npy "huge.npy"
npy outside.npy '<i8' '(1, 3)' $(words 8 3 1 32)
refused outside.npy "outside.npy: has token 32 at [0, 2], the model knows 0 to 31"
npy negative.npy '<i4' '(1, 1)' 255 255 255 255
refused negative.npy "has token -1 at [0, 0]"
npy wide.npy '<i8' '(1, 1)' 0 0 0 0 1 0 0 0
refused wide.npy "wide.npy: holds 4294967296, beyond the integers asked for"
npy long.npy '<i8' "(1, 33)" $(words 8 $(seq 33 | sed 's/.*/1/'))
model=$cases/model_attention_positions refused long.npy "has learned 32 positions"
expect 1 "$ssm" logits "$model" --tokens ids.npy --out absent/logits.npy && says "absent/logits.npy"
mkdir folder && expect 1 "$ssm" logits "$model" --tokens ids.npy --out folder
expect 1 "$ssm" logits absent --tokens ids.npy --out kept.npy && says "does not exist"
mkdir unknown && cp "$cases/model_gpt2/model.safetensors" unknown/
sed 's/"gpt2"/"gpt9"/' "$cases/model_gpt2/config.json" >unknown/config.json
expect 1 "$ssm" logits unknown --tokens ids.npy --out kept.npy && says "known families are"
same kept.npy logits.npy
ls | grep partial >/dev/null && fail "leftovers: $(ls)"
finish
