#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How many times faster ssm::tokenizer is than the library tokenizers, on one thread: the whole of a text at once, and by lines.

usage: tokenizer_compare.py TOKENIZER_SPEED_PROGRAM DATA_DIR OUT.json
The program is build target tokenizer_speed. DATA_DIR has tokenizers/{gpt2,gpt_neox,llama} and text/*.txt. Runs of both take
turns; each number is the ratio of the medians. Neither has met a word of the text before: the tokenizer is opened anew.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
ROUNDS = 5


def reference(folder):
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    if (folder / "tokenizer.json").exists():
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer = Tokenizer(models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])
    return tokenizer


def theirs(folder, texts):
    tokenizer = reference(folder)
    begin = time.perf_counter()
    tokens = sum(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts)
    return time.perf_counter() - begin, tokens


def main(program, data, out):
    result = {}
    for folder in sorted((Path(data) / "tokenizers").iterdir()):
        for file in sorted((Path(data) / "text").glob("*.txt")):
            text = file.read_bytes().decode()
            lines = text.removesuffix("\n").split("\n")
            for kind, texts in {"whole": [text], "lines": lines}.items():
                both = []
                for _ in range(ROUNDS):
                    run = subprocess.run([program, str(folder), str(file), kind], stdout=subprocess.PIPE, check=True)
                    seconds, tokens = run.stdout.split()
                    other, expected = theirs(folder, texts)
                    if int(tokens) != expected:
                        sys.exit(f"{folder.name}, {file.name}, {kind}: {int(tokens)} tokens, not {expected}")
                    both.append((float(seconds), other))
                ratio = statistics.median(b for _, b in both) / statistics.median(a for a, _ in both)
                result[f"{folder.name}/{file.stem}/{kind}"] = {"times_faster": round(ratio, 1)}
                print(folder.name, file.stem, kind, round(ratio, 1), flush=True)
    Path(out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
