#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Input that cannot be used gets one sentence and status 1, and nothing that was there is lost.
source "$(dirname "$0")/program_checks.sh"
make_text text
: >empty
printf 'ab' >short
printf 'x' >file
train=("$ssm" train --out run "${tiny[@]}" --save-every 5)

# Texts
expect 1 "${train[@]}" --steps 10 --text absent && says absent
expect 1 "${train[@]}" --steps 10 --text empty && says "empty"
expect 1 "${train[@]}" --steps 10 --text . && says "is a folder"
expect 1 "${train[@]}" --steps 10 --text short && says "too short"
if ((EUID != 0)); then
  cp text locked && chmod 000 locked
  expect 1 "${train[@]}" --steps 10 --text locked && says "Permission denied"
fi

# Folders
expect 1 "$ssm" train --text text --out file "${tiny[@]}" --steps 10 && says "file"
expect 1 "$ssm" train --text text --out file/run "${tiny[@]}" --steps 10
if ((EUID != 0)); then
  mkdir locked_folder && chmod 500 locked_folder
  expect 1 "$ssm" train --text text --out locked_folder/run "${tiny[@]}" --steps 10
fi

# Models that do not fit together
expect 2 "$ssm" train --text text --out odd "${tiny[@]}" --steps 10 --state 5 && says "--state"
expect 2 "$ssm" train --text text --out odd "${tiny[@]}" --steps 10 --head-dim 3 && says "--head-dim"
expect 2 "$ssm" train --text text --out odd "${tiny[@]}" --steps 10 --attention-layers 1 && says "--attention-layers"
[[ ! -e odd ]] || fail "a folder was made for a model that cannot be"

# A run that exists
expect 0 "${train[@]}" --text text --steps 10
cp -r run before
expect 1 "${train[@]}" --text text --steps 20 && says "--resume"
expect 2 "${train[@]}" --text text --steps 20 --resume --rate 0.5 && says "--rate"
tr a-z A-Z <text >TEXT
expect 1 "${train[@]}" --text TEXT --steps 20 --resume && says "not the text"
same run before

# A loss that explodes keeps the last sound checkpoint
expect 1 "$ssm" train --text text --out wild "${tiny[@]}" --steps 500 --rate 1e6 --clip 0 --warmup 0 --save-every 1
says "finite" && says "--rate"
expect 0 "$ssm" perplexity run --text text

# Checkpoints that are damaged
damaged() {
  rm -rf run && cp -r before run
  "$@"
  expect 1 "${train[@]}" --text text --steps 20 --resume
}
newest=run/checkpoint-0000010
damaged truncate -s -1 $newest/model.safetensors && says model.safetensors
damaged truncate -s 100 $newest/optimizer.safetensors && says optimizer.safetensors
damaged rm $newest/optimizer.safetensors && says optimizer.safetensors
damaged rm $newest/state.safetensors && says state.safetensors
damaged cp run/checkpoint-0000005/optimizer.safetensors $newest/ && says "another step"
damaged sed -i 's/"step": 10/"step": 9/' $newest/trainer.json && says "another step"
damaged sed -i 's/"batch": 2/"batch": "x"/' $newest/trainer.json && says "batch"
damaged truncate -s 20 $newest/config.json && says config.json
damaged sed -i 's/"d_model": 16/"d_model": 32/' $newest/config.json
expect 1 "$ssm" generate run
expect 1 "$ssm" perplexity run --text text
rm -rf run && cp -r before run

# Generation and measurement
expect 1 "$ssm" generate absent && says "does not exist"
expect 1 "$ssm" generate . && says "no model"
expect 1 "$ssm" generate file
expect 0 "$ssm" generate run --prompt "" --tokens 3
expect 0 "$ssm" generate run --prompt-file empty --tokens 3
expect 1 "$ssm" perplexity run --text empty && says "empty"
expect 1 "$ssm" perplexity run --text absent && says "absent"
printf 'x' >one
expect 1 "$ssm" perplexity run --text one
sed -i 's/"vocab_size": 256/"vocab_size": 250/' $newest/config.json
expect 1 "$ssm" generate run && says "config.json says [250, 16]"
expect 1 "$ssm" perplexity run --text text && says "config.json says [250, 16]"
rm -rf run && cp -r before run
if [[ -e /dev/full ]]; then
  status=0
  "$ssm" generate run --tokens 5000 >/dev/full 2>err || status=$?
  ((status == 1)) && says "standard output" || fail "writing to a full device: status $status"
fi
same run before
finish
