#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# ssm convert writes what was there, in one file or in shards, and says what it cannot do.
cases=$(cd "$(dirname "$0")/../data/conformance/cases" && pwd)
source "$(dirname "$0")/program_checks.sh"

# tensors PATH: one line a tensor, without the file's name
tensors() { "$ssm" inspect "$1" | sed -n '/^tensor /,$p' | grep -v ' tensors in '; }

# A folder keeps its names, its config and its tensors, and the way back ends where it began
for model in mamba_original gpt2_bare h3_hybrid; do
  folder=$cases/model_$model
  cp -r "$folder" "$model" && rm -f "$model/expect.safetensors"
  expect 0 "$ssm" convert "$model" "$model-shards" --shard-size 1KB
  says "bytes of weights: $model-shards/model-00001-of-"
  same "$model/config.json" "$model-shards/config.json"
  expect 0 "$ssm" convert "$model-shards" "$model-whole" --quiet
  [[ ! -s err ]] || fail "--quiet says: $(cat err)"
  [[ $(tensors "$model") == "$(tensors "$model-shards")" ]] || fail "$model: other tensors in shards"
  [[ $(tensors "$model") == "$(tensors "$model-whole")" ]] || fail "$model: other tensors on the way back"
  expect 0 "$ssm" convert "$model" "$model.safetensors"
  expect 0 "$ssm" convert "$model-shards" "$model-again.safetensors"
  same "$model.safetensors" "$model-again.safetensors"
done

# Under the family's names
expect 0 "$ssm" convert mamba_original family --names family
grep -q '"model_type": "mamba"' family/config.json || fail "not the family's config: $(cat family/config.json)"
tensors family | grep '^backbone\.embeddings\.weight ' >/dev/null || fail "not the family's names: $(tensors family)"

# In another type; what config.json says of it is brought up to date
sed -i 's/{/{"torch_dtype": "float32",/' gpt2_bare/config.json
expect 0 "$ssm" convert gpt2_bare half --dtype bfloat16
grep -q '"torch_dtype": "bfloat16"' half/config.json || fail "the config says another type: $(cat half/config.json)"
tensors half | grep ' F32 ' >/dev/null && fail "not everything is bf16: $(tensors half)"
expect 0 "$ssm" inspect half

# The newest checkpoint of a run
make_text text
expect 0 "$ssm" train --text text --out run "${tiny[@]}" --steps 1
expect 0 "$ssm" convert run run-converted
expect 0 "$ssm" generate run-converted --tokens 3

expect 1 "$ssm" convert absent out && says "absent: does not exist"
expect 1 "$ssm" convert half half && says "half/model.safetensors: exists already"
expect 1 "$ssm" convert half.safetensors out && says "half.safetensors: does not exist"
expect 1 "$ssm" convert h3_hybrid.safetensors out --names family && says "has no config.json, which says the family"
expect 1 "$ssm" convert h3_hybrid out.safetensors --shard-size 1KB && says "is one file, shards need a folder"
expect 2 "$ssm" convert h3_hybrid out --shard-size 1XB && says "'1XB' is no size such as 500MB or 5GB"
expect 2 "$ssm" convert h3_hybrid out --dtype int4
sed -i 's/"n_head": 2/"n_head": 3/' gpt2_bare/config.json
expect 1 "$ssm" convert gpt2_bare out && says "config.json"
[[ ! -e out/model.safetensors ]] || fail "something was written"
ls | grep partial >/dev/null && fail "leftovers: $(ls)"
finish
