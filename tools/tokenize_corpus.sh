#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Trains a byte pair encoding on a corpus of tools/english_corpus.py, and writes its texts as tokens.
#   tools/tokenize_corpus.sh FOLDER [VOCABULARY]    default 8192; SSM is the program ssm, default build/release/bin/ssm
# Reads training.txt and held_out.txt, writes tokenizer.json, training.npy and held_out.npy; what is there is kept.
set -euo pipefail
folder=${1:?a folder is missing}
ssm=${SSM:-$(dirname "$0")/../build/release/bin/ssm}
[[ -s $folder/tokenizer.json ]] || "$ssm" tokenizer-train "$folder/training.txt" --vocabulary "${2:-8192}" --out "$folder/tokenizer.json"
for part in training held_out; do
  [[ -s $folder/$part.npy ]] ||
    "$ssm" tokenize --tokenizer "$folder/tokenizer.json" --separator $'\n<|endoftext|>\n' "$folder/$part.txt" --out "$folder/$part.npy"
done
