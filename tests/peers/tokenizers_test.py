#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tokens of `ssm tokenize` against the library tokenizers, for real tokenizers, real texts, and texts made to be difficult.

usage: tokenizers_test.py SSM_PROGRAM DATA_DIR
DATA_DIR has tokenizers/{gpt2,gpt_neox,llama} and text/*.txt. Exit status 77 where it or the library is absent.
"""

import json
import os
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
SKIPPED = 77
POOLS = {
    "ascii": range(1, 127),
    "latin": range(0x80, 0x250),
    "marks": [*range(0x300, 0x370), 0x483, 0x591, 0x5B0, 0x64B, 0x651, 0x93C, 0x94D, 0x9BC, 0x1AB0, 0x1DC0, 0x20D0, 0x302A, 0x3099,
              0x309A, 0xFE20],
    "spaces": [9, 10, 11, 12, 13, 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x2010), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000, 0x180E,
               0x200B, 0xFEFF],
    "cjk": [*range(0x4E00, 0x4F00), *range(0x3040, 0x3100), *range(0xF900, 0xFA6D), *range(0x20000, 0x20100), *range(0x2F800, 0x2F900)],
    "hangul": [*range(0xAC00, 0xAC80), *range(0x1100, 0x1113), *range(0x1161, 0x1176), *range(0x11A7, 0x11C3)],
    "right_to_left": [*range(0x590, 0x700), 0x200E, 0x200F, 0x202A, 0x202B, 0x202E, 0x2066, 0x2069],
    "emoji": [*range(0x1F300, 0x1F650), 0x200D, 0xFE0F, 0x1F3FB, 0x1F3FD, 0x1F1E6, 0x1F1E7, 0x20E3],
    "control": [*range(32), *range(0x7F, 0xA0), 0xAD, 0x2060, 0xFFF9, 0xFFFE, 0xFFFF, 0x1FFFF, 0x10FFFF, 0xD7FF, 0xE000, 0xFFFD],
    "indic": range(0x900, 0xDFF),
    "numbers": [0x30, 0x39, 0x660, 0x966, 0xB2, 0xBC, 0x2160, 0x2460, 0x3007, 0x10107, 0x1D7CE],
    "any": None,
}
WORDS = ["<|endoftext|>", "<|unk|>", "<s>", "</s>", "<unk>", "<0x0A>", "\u2581", "  ", "   ", "'s", "'re", "'LL", " '", "don't",
         "<|endoftext", "|>", " <s>", "<s> "]


def character(source, pool):
    while True:
        code = source.randrange(source.choice([0x800, 0x10000, 0x20000, 0x110000])) if pool == "any" else source.choice(POOLS[pool])
        # What Python's version of Unicode does not know may be a letter in one that is newer.
        if not 0xD800 <= code < 0xE000 and (unicodedata.category(chr(code)) != "Cn" or code & 0xFFFE == 0xFFFE):
            return chr(code)


def difficult_texts(count):
    source = random.Random(7)
    texts = []
    for _ in range(count):
        pools = source.sample(list(POOLS), source.choice([1, 2, 3]))
        text = ""
        for _ in range(source.choice([1, 2, 3, 5, 8, 20])):
            kind = source.random()
            if kind < 0.1:
                text += source.choice(WORDS)
            elif kind < 0.15:
                text += character(source, source.choice(pools)) * source.choice([2, 3, 7, 30])
            elif kind < 0.25:
                text += " " * source.choice([1, 1, 2, 3, 24, 25, 30])
            else:
                text += "".join(character(source, source.choice(pools)) for _ in range(source.choice([1, 1, 2, 4])))
        texts.append(text)
    texts += [c * 3000 for c in ["a", " ", "\n", "\u2581", "\u00e9", "\u0301", "\u6f22", "\U0001f600", "\u200d", "0", ".", "-", "\t", "ab", "a "]]
    texts.append("".join(chr(0x300 + i % 60) for i in range(2000)))
    return texts


def reference(folder):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    if (folder / "tokenizer.json").exists():
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer = Tokenizer(models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])
    return tokenizer


def run(program, arguments, text):
    result = subprocess.run([program, "tokenize", "--json", *arguments], input=text, stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in result.stdout.splitlines()]


def same(what, ours, theirs, texts):
    wrong = [i for i, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]]
    if len(ours) != len(theirs) or wrong:
        print(f"{what}: {len(wrong)} of {len(theirs)} differ ({len(ours)} lines)")
        for i in wrong[:3]:
            print(f"  {ascii(texts[i])[:200]}\n  ours {str(ours[i])[:200]}\n  theirs {str(theirs[i])[:200]}")
        return False
    print(f"{what}: {len(theirs)} equal")
    return True


def main(arguments):
    program, data = arguments[0], Path(arguments[1])
    try:
        from tokenizers import normalizers
    except ImportError:
        print("skipped: this Python has no library tokenizers")
        return SKIPPED
    if not (data / "tokenizers").is_dir():
        print(f"skipped: {data} has no tokenizers")
        return SKIPPED
    # The library's normal forms are of an older Unicode: what it does not know how to order is left out.
    nfc = normalizers.NFC()
    every = difficult_texts(10000)
    texts = [text for text in every if nfc.normalize_str(text) == unicodedata.normalize("NFC", text)]
    if len(texts) < 0.99 * len(every):
        print(f"{len(every) - len(texts)} texts have another normal form")
        return 1
    good = True
    for folder in sorted((data / "tokenizers").iterdir()):
        theirs = reference(folder)
        encode = lambda text: theirs.encode(text, add_special_tokens=False).ids  # noqa: E731
        ours = lambda *options, text=b"": run(program, ["--tokenizer", str(folder), *options], text)  # noqa: E731
        for file in sorted((data / "text").glob("*.txt")):
            text = file.read_bytes()
            lines = text.decode().split("\n")
            lines = lines[:-1] if lines[-1] == "" else lines
            good &= same(f"{folder.name}, lines of {file.name}", ours(text=text), [encode(line) for line in lines], lines)
            good &= same(f"{folder.name}, all of {file.name}", ours("--whole", text=text), [encode(text.decode())], [""])
        strings = "\n".join(json.dumps(text) for text in texts).encode()
        tokens = [encode(text) for text in texts]
        good &= same(f"{folder.name}, difficult texts", ours("--json-input", text=strings), tokens, texts)
        # Bytes that are no character are replaced otherwise there, one by one.
        whole = [(t, i) for t, i in zip(texts, tokens) if "\ufffd" not in theirs.decode(i, skip_special_tokens=False)]
        lists = "\n".join(json.dumps(i) for _, i in whole).encode()
        good &= same(f"{folder.name}, text of tokens", ours("--decode", text=lists),
                     [theirs.decode(i, skip_special_tokens=False) for _, i in whole], [t for t, _ in whole])
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
