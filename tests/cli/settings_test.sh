#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What is asked for has an effect, or is wrong usage that names it; what a run was made with is what later commands use.
source "$(dirname "$0")/program_checks.sh"
make_text text
train=("$ssm" train --text text --layers 1 --width 16 --batch 2 --length 16 --quiet)

# Settings that a family does not have, or that would do nothing
refused() {
  local flag=$1
  shift
  expect 2 "${train[@]}" --out refused --steps 2 "$@"
  says "$flag"
  [[ ! -e refused ]] || fail "a folder was made for wrong usage: $*"
}
for option in "--attention-layers 0" "--heads 2" "--head-dim 3" "--sources 4" "--fusion carried" "--select-reduction 4"; do
  refused "${option%% *}" --model mamba $option && says "family mamba"
done
refused --state --model retnet --state 4
refused --heads --model h3 --heads 2
refused --rotary --model h3 --rotary 4
expect 2 "${train[@]}" --out idle --steps 2 --model mamba --ssm-rate 1e-9 && says --ssm-rate
expect 2 "${train[@]}" --out idle --steps 2 --schedule constant --rate-end 1e-4 && says --rate-end
expect 2 "${train[@]}" --out idle --steps 2 --weight-decay 0 --decay-norms-and-biases && says --decay-norms

[[ ! -e idle ]] || fail "a folder was made for a setting without effect"

# A config says everything of the model
cat >config.json <<'END'
{"d_model": 16, "n_layer": 1, "vocab_size": 256, "pad_vocab_size_multiple": 100, "ssm_cfg": {"d_state": 4}}
END
small=("$ssm" train --text text --batch 2 --length 16 --quiet)
for option in "--width 512" "--layers 8" "--model retnet"; do
  expect 2 "${small[@]}" --out from_config --config config.json --steps 2 $option && says "${option%% *}"
done
# and its padding is never drawn, before and after it is saved
expect 0 "${small[@]}" --out from_config --config config.json --steps 2
expect 0 "${small[@]}" --out from_config --resume --steps 4
grep -q '"vocab_size": 300' from_config/checkpoint-0000004/config.json || fail "no padded vocabulary"
expect 0 "$ssm" generate from_config --prompt the --tokens 200 --temperature 50
expect 0 "$ssm" perplexity from_config --text text
expect 0 "${small[@]}" --out from_config --resume --steps 6
# A dropout that the config has is dropped
sed 's/"n_layer": 1/"n_layer": 1, "d_inner": 32, "embed_dropout": 0.5/; s/"d_state": 4/"mode": "diag", "d_state": 4/' config.json >dropping.json
sed 's/"embed_dropout": 0.5/"embed_dropout": 0.0/' dropping.json >keeping.json
for name in dropping keeping; do
  expect 0 "${small[@]}" --out $name --config $name.json --steps 3
done
cmp -s {dropping,keeping}/checkpoint-0000003/model.safetensors && fail "the config's embed_dropout does nothing"
grep -q '"embed_dropout": 0.5' dropping/checkpoint-0000003/config.json || fail "the config's embed_dropout is lost"

# Resumed with what it has, and with something else; on another backend
expect 0 "${train[@]}" --out run --steps 2 --state 4
expect 0 "$ssm" train --text text --out run --resume --steps 3 --width 16 --state 4 --quiet
expect 2 "$ssm" train --text text --out run --resume --steps 4 --width 512 --quiet && says --width
expect 2 "$ssm" train --text text --out run --resume --steps 4 --model mamba --quiet && says --model
expect 0 "$ssm" train --text text --out run --resume --steps 4 --backend reference --quiet

# Numbers that would become others
for seed in -1 18446744073709551616 99999999999999999999999 1e3 "" 0x10; do
  expect 2 "$ssm" generate run --tokens 1 --seed "$seed" && says seed
  expect 2 "${train[@]}" --out seeds --steps 1 --seed "$seed" && says seed
done
[[ ! -e seeds ]] || fail "a folder was made for a wrong seed"
expect 0 "$ssm" generate run --tokens 20 --temperature 1 --seed 18446744073709551615
cp out largest
expect 0 "$ssm" generate run --tokens 20 --temperature 1 --seed 18446744073709551614
cmp -s out largest && fail "two seeds gave one text"
expect 2 "$ssm" generate run -n 1e3 && says "whole number"

# What was held out is what is measured
expect 0 "$ssm" train --text text --out apart --steps 20 --layers 1 --width 16 --held-out 0.02 --quiet
trained=$(sed -n 's/held-out bits per byte: //p' out)
expect 0 "$ssm" perplexity apart --text text --held-out
grep -q "bits per byte  $trained" out || fail "the run said $trained of what it held out: $(cat out)"
tr a-z A-Z <text >other
expect 1 "$ssm" perplexity apart --text other --held-out && says "not the text"
cp -r apart/checkpoint-0000020 bare && rm bare/trainer.json
expect 1 "$ssm" perplexity bare --text text --held-out && says "no record"

# Pipes and standard input
expect 0 "$ssm" generate run --prompt-file <(printf 'to be') --tokens 3
expect 0 "$ssm" generate run --prompt-file /dev/stdin --tokens 3 <text
expect 0 "$ssm" perplexity apart --text - --from 0.5 <text
cp out from_input
expect 0 "$ssm" perplexity apart --text text --from 0.5
same out from_input
mkfifo pipe
cat text >pipe &
expect 0 "$ssm" train --text pipe --out piped --steps 2 --layers 1 --width 16 --batch 2 --length 16 --quiet
expect 0 "${train[@]}" --out unpiped --steps 2
same piped/checkpoint-0000002/model.safetensors unpiped/checkpoint-0000002/model.safetensors
finish
