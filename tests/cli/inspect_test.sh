#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# ssm inspect lists what is in a model's files, and says what does not fit.
cases=$(cd "$(dirname "$0")/../data/conformance/cases" && pwd)
source "$(dirname "$0")/program_checks.sh"

# A table: sizes, one line a tensor with its columns below one another, totals
expect 0 "$ssm" inspect "$cases/model_mamba_hf"
grep -Eq '^family +mamba$' out || fail "no family: $(cat out)"
grep -Eq '^state_size +4$' out || fail "no state_size: $(cat out)"
grep -Eq '^tensor +dtype +shape +parameters +bytes$' out || fail "no heading: $(cat out)"
grep -Eq '^backbone\.layers\.0\.mixer\.conv1d\.weight +F32 +\[20, 1, 4\] +80 +320$' out || fail "no tensor: $(cat out)"
grep -Eq '^22 tensors in 1 file +2390 +9560$' out || fail "no totals: $(tail -n 1 out)"
ends=$(sed -n '/^tensor /,$p' out | awk '{ print length($0) }' | sort -u | wc -l)
((ends == 1)) || fail "the last column is not aligned: $(cat out)"

# Every model at hand fits its config
for folder in "$cases"/model_*; do
  expect 0 "$ssm" inspect "$folder"
done
for pair in h3_hybrid:h3 mamba_original:mamba dense_mamba_m1:dense-mamba retnet:retnet dense_retnet_m2:dense-retnet gpt2:gpt2 gpt2_bare:gpt2; do
  expect 0 "$ssm" inspect "$cases/model_${pair%%:*}"
  grep -Eq "^family +${pair##*:}\$" out || fail "${pair%%:*} is not ${pair##*:}: $(head -n 1 out)"
done

mkdir unknown && cp "$cases/model_gpt2/model.safetensors" unknown/
sed 's/"gpt2"/"gpt9"/' "$cases/model_gpt2/config.json" >unknown/config.json
expect 0 "$ssm" inspect unknown
grep -Eq "^family +unknown \(model_type 'gpt9'\)\$" out || fail "gpt9 is not said to be unknown: $(head -n 1 out)"

# Layer 2 comes before layer 10
make_text text
expect 0 "$ssm" train --text text --out run "${tiny[@]}" --layers 11 --steps 1
expect 0 "$ssm" inspect run
grep -o 'layers\.[0-9]*' out | uniq | sed 's/.*\.//' >order
sort -n order | uniq | diff - order >/dev/null || fail "layers out of order: $(tr '\n' ' ' <order)"
grep -Eq '^d_model +16$' out || fail "a run's newest checkpoint was not read: $(cat out)"

# JSON says the same
expect 0 "$ssm" inspect "$cases/model_mamba_hf" --json
(($(wc -l <out) == 1)) || fail "JSON on several lines"
grep -q '"parameters":2390,"bytes":9560' out || fail "no totals: $(cat out)"
if command -v python3 >/dev/null; then
  python3 - <<'END' || fail "the JSON is not as described: $(cat out)"
import json
report = json.load(open("out"))
assert report["family"] == "mamba" and report["config"]["hidden_size"] == 10 and len(report["files"]) == 1
tensors = report["tensors"]
assert len(tensors) == 22 and sum(tensor["parameters"] for tensor in tensors) == report["parameters"]
assert {"name": "backbone.norm_f.weight", "dtype": "F32", "shape": [10], "parameters": 10, "bytes": 40,
        "file": report["files"][0]} in tensors
END
fi

# A single file, files that no index goes with, and shards
expect 0 "$ssm" inspect "$cases/h3_l7.safetensors"
grep -q '^family' out && fail "a file has no config"
mkdir loose && cp run/checkpoint-0000001/optimizer.safetensors loose/
expect 0 "$ssm" inspect loose
grep -q 'tensors in 1 file' out || fail "no totals: $(cat out)"
mkdir shards && cp "$cases/mamba_block_l2.safetensors" shards/a.safetensors
names=$("$ssm" inspect shards | sed -n 's/^\([^ ]*\) .*F.*/\1/p')
map=$(for name in $names; do printf '"%s": "a.safetensors", ' "$name"; done)
printf '{"weight_map": {%s}}' "${map%, }" >shards/model.safetensors.index.json
expect 0 "$ssm" inspect shards
expect 0 "$ssm" inspect shards/model.safetensors.index.json

# What cannot be read is one sentence
expect 1 "$ssm" inspect absent && says "does not exist"
mkdir empty && expect 1 "$ssm" inspect empty && says "holds no weights"
expect 1 "$ssm" inspect text && says "text: safetensors header"
cp "$cases/mamba_block_l2.safetensors" loose/ && cp "$cases/mamba_block_l2.safetensors" loose/again.safetensors
expect 1 "$ssm" inspect loose && says "as well"
printf '{"weight_map": {"x": "../text"}}' >shards/model.safetensors.index.json
expect 1 "$ssm" inspect shards && says "tensor 'x': is in '../text'"
printf '{"weight_map": {"x": "b.safetensors"}}' >shards/model.safetensors.index.json
expect 1 "$ssm" inspect shards && says "'b.safetensors', which does not exist"
cp -r "$cases/model_mamba_hf" broken && chmod -R u+w broken
truncate -s -1 broken/model.safetensors
expect 1 "$ssm" inspect broken && says "model.safetensors"

# What does not fit is listed all the same, and then said
rm -rf broken && cp -r "$cases/model_mamba_hf" broken && chmod -R u+w broken
sed -i 's/"hidden_size": 10/"hidden_size": 12/' broken/config.json
expect 1 "$ssm" inspect broken && says "tensor 'backbone.embeddings.weight': is [32, 10], config.json says [32, 12]"
grep -Eq '^22 tensors' out || fail "nothing was listed"
sed -i 's/"hidden_size": 12/"hidden_size": "x"/' broken/config.json
expect 1 "$ssm" inspect broken && says "'hidden_size' must be an integer"
expect 1 "$ssm" inspect broken --json && grep -q '"tensors":\[{' out || fail "nothing was listed"
printf 'no JSON' >broken/config.json
expect 1 "$ssm" inspect broken && says "config.json: is not JSON"

# Names that would move the cursor or fill the screen are made harmless
header='{"\u001b[2Jx":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
printf "\\x$(printf %02x ${#header})\\0\\0\\0\\0\\0\\0\\0%s\\1\\1\\1\\1" "$header" >hostile.safetensors
expect 0 "$ssm" inspect hostile.safetensors
grep -q '?\[2Jx' out || fail "$(cat -v out)"
grep -qP '\x1b' out && fail "an escape sequence went to the terminal"
if [[ -e /dev/full ]]; then
  status=0
  "$ssm" inspect "$cases/model_mamba_hf" >/dev/full 2>err || status=$?
  ((status == 1)) && says "standard output" || fail "writing to a full device: status $status"
fi
finish
