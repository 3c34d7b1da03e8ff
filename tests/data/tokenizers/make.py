#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the small tokenizers of this folder, and what the library `tokenizers` makes of some texts with them.

Needs `pip install tokenizers`. usage: make.py
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent
CORPUS = [
    "the state of a state-space model is what it remembers; the model's state isn't the model",
    "To be, or not to be: that is the question. We'll see what they've said, and I'd say you're right",
    "1 2 3 10 100 1000 1984 2024 3.14159 12:30",
    "naïve café résumé Übergröße garçon",
    "数学 数字 状態 空間",
    "    indented    by    four    spaces",
] * 4
TEXTS = [
    "", " ", "  ", "a", "To be", " the state's model", "We'll  see\n\n what\tthey've", "I'D DON'T isn't 'twas ''s",
    "x   y    z", "trailing   ", "\n\n\n", "\r\n", "1984 and 3.14", "a1b22c333", "na\u00efve", "nai\u0308ve", "e\u0301\u0327",
    "\u1100\u1161\u11a8 \uac01 \uac00\u11a7", "\u2126 \u212b \ufb01", "\u6570\u5b66\u304c\u304b\u3099",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u270c\U0001f3fd", "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd",
    "\u0645\u0631\u062d\u0628\u0627", "\u00a0\u1680\u2003\u2028\u3000\u0085", "\u180e\u200b\ufeff", "\u0000\u0001\u001f\u007f",
    "\ud7ff\ue000\ufffd\uffff\U0010ffff", "<|end|>", "a<|end|>b", "a <|end|> b", "<|end", "<s>", "a <s> b</s>", "<s>\u2581",
    "<0x41> <0x0A>", "\u2581\u2581the", "left [MASK] right", "left[MASK]right [MASK]", "word WORD words WORD", "aWORDb",
    "      six", "a" * 50, " " * 50, "ab " * 30, "the" * 40, "\u0301" * 40, "~}|{`_^\\", "model model model",
]


def added(tokenizer):
    tokenizer.add_special_tokens([AddedToken("<|end|>", normalized=False)])
    tokenizer.add_tokens([
        AddedToken("[MASK]", lstrip=True, rstrip=True, normalized=False),
        AddedToken("WORD", single_word=True, normalized=False),
        AddedToken("      ", normalized=True),
    ])


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    added(tokenizer)
    return tokenizer


def split():
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    pattern = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
               r"|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=380, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    added(tokenizer)
    return tokenizer


def fallback(spaces):
    """With bytes for characters outside the vocabulary; `spaces`: how they are marked."""
    marks = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(CORPUS[:4], trainers.BpeTrainer(vocab_size=160, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + sorted(model["vocab"], key=model["vocab"].get)
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [tuple(m) for m in model["merges"]], unk_token="<unk>", fuse_unk=True,
                                     byte_fallback=True))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    if spaces == "normalizer":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        tokenizer.pre_tokenizer = marks
    tokenizer.add_special_tokens([AddedToken(name, normalized=spaces == "normalizer") for name in names[:3]])
    return tokenizer


def unknown():
    """Without bytes: what is outside the vocabulary is one unknown token, or several."""
    tokenizer = Tokenizer(models.BPE(unk_token="?", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Digits(individual_digits=True)])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(CORPUS[:2], trainers.BpeTrainer(vocab_size=90, special_tokens=["?"], show_progress=False))
    return tokenizer


def main():
    expected = {}
    for name, tokenizer in {"byte_level": byte_level(), "split": split(), "fallback": fallback("normalizer"),
                            "metaspace": fallback("pre_tokenizer"), "unknown": unknown()}.items():
        (HERE / name).mkdir(exist_ok=True)
        text = json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=True, separators=(",", ":"))
        (HERE / name / "tokenizer.json").write_text(text + "\n")
        expected[name] = [[t, e := tokenizer.encode(t, add_special_tokens=False).ids,
                           tokenizer.decode(e, skip_special_tokens=False)] for t in TEXTS]
    byte = json.loads((HERE / "byte_level" / "tokenizer.json").read_text())["model"]
    (HERE / "gpt2").mkdir(exist_ok=True)
    (HERE / "gpt2" / "encoder.json").write_text(json.dumps(byte["vocab"] | {"<|endoftext|>": len(byte["vocab"])}) + "\n")
    merges = "".join(" ".join(merge) + "\n" for merge in byte["merges"])
    (HERE / "gpt2" / "vocab.bpe").write_text("#version: 0.2\n" + merges, encoding="utf-8")
    plain = Tokenizer(models.BPE.from_file(str(HERE / "gpt2" / "encoder.json"), str(HERE / "gpt2" / "vocab.bpe")))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    plain.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])
    expected["gpt2"] = [[t, e := plain.encode(t).ids, plain.decode(e, skip_special_tokens=False)]
                        for t in TEXTS + ["a<|endoftext|>b"]]
    lines = ",\n".join(json.dumps(name) + ": [\n" + ",\n".join(json.dumps(row) for row in rows) + "]"
                       for name, rows in expected.items())
    (HERE / "expected.json").write_text("{" + lines + "}\n")


if __name__ == "__main__":
    main()
