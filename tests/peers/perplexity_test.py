#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Perplexities of a real text by `ssm perplexity` against transformers by the same protocol: disjoint and strided windows and the whole text from one
state, for GPT-2, Mamba and Mamba-2 with random weights and the tokenizer of GPT-2; every token's log-probability and rank. Where lm_eval is
installed, against its rolling loglikelihood and the metrics of its WikiText task.

    perplexity_test.py SSM DATA      DATA has tokenizers/gpt2 and text/wikitext2_valid.txt; exits with 77 and the reason where something is absent
"""
import json
import math
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy
    import tokenizers
    import torch
    import transformers
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

TOLERANCE = 1e-5  # relative
VOCABULARY, END = 50257, 50256
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "bos_token_id": END, "eos_token_id": END}
MODELS = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**SIZES, n_head=4, n_positions=64)),
    "mamba": lambda: transformers.MambaForCausalLM(transformers.MambaConfig(**SIZES, state_size=8)),
    "mamba2": lambda: transformers.Mamba2ForCausalLM(
        transformers.Mamba2Config(**SIZES, state_size=16, num_heads=8, head_dim=8, n_groups=1, chunk_size=16, tie_word_embeddings=True)),
}
failures = 0


def expect(is_true, sentence):
    global failures
    if not is_true:
        failures += 1
        print(f"FAILED: {sentence}")


def near(actual, expected):
    return abs(actual - expected) <= TOLERANCE * max(1.0, abs(expected))


def make(family):
    torch.manual_seed(1)
    model = MODELS[family]().eval()
    with torch.no_grad():  # far from the initialization, so that texts are told apart
        for name, parameter in model.named_parameters():
            if not name.endswith("A_log"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def measure(program, folder, *options):
    log = folder / "log.jsonl"
    command = [program, "perplexity", folder, *options, "--json", "--quiet", "--logprobs", log]
    result = subprocess.run([str(word) for word in command], capture_output=True)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {result.stderr.decode()}")
    return json.loads(result.stdout), [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def log_probabilities(model, tokens, begin, end, first):
    """{position: (log-probability, its smallest and its largest rank)} of tokens first … end − 1, read from `begin` on. In double."""
    with torch.no_grad():
        logits = model(torch.tensor([tokens[begin:end - 1]])).logits[0].double()
    found = {}
    for position in range(first, end):
        row = logits[position - 1 - begin]
        own = row[tokens[position]]
        found[position] = ((own - torch.logsumexp(row, 0)).item(), 1 + torch.count_nonzero(row > own + 1e-4).item(),
                           1 + torch.count_nonzero(row > own - 1e-4).item())
    return found


def disjoint(model, tokens, window):
    """Inputs of `window` tokens, targets one further: a data loader for language models."""
    found = {}
    for begin in range(0, len(tokens) - 1, window):
        end = min(begin + window + 1, len(tokens))
        found.update(log_probabilities(model, tokens, begin, end, begin + 1))
    return found


def strided(model, tokens, window, stride):
    """The loop of "Perplexity of fixed-length models": labels that were scored before are masked, the loss shifts labels by one."""
    found, before = {}, 0
    for begin in range(0, len(tokens), stride):
        end = min(begin + window, len(tokens))
        found.update(log_probabilities(model, tokens, begin, end, max(before, begin + 1)))
        before = end
        if end == len(tokens):
            break
    return found


def compare(what, result, lines, expected, tokens, tokenizer, text):
    positions = sorted(expected)
    expect([line["position"] for line in lines] == positions == list(range(1, len(tokens))), f"{what}: not every token once, in order")
    expect(result["tokens"] == len(positions), f"{what}: {result['tokens']} tokens, not {len(positions)}")
    worst, bytes_scored = 0, 0
    for line in lines:
        at = line["position"]
        log_probability, least, most = expected[at]
        worst = max(worst, abs(line["logprob"] - log_probability) / max(1, abs(log_probability)))
        expect(line["token"] == tokens[at], f"{what}: token {line['token']} at {at}, not {tokens[at]}")
        expect(least <= line["rank"] <= most, f"{what}: rank {line['rank']} at {at}, not {least} to {most}")
        written = bytes(line["bytes"]) if "bytes" in line else line["text"].encode()
        bytes_scored += len(written)
        expect(written == tokenizer(tokens[at]), f"{what}: {written} at {at}, not {tokenizer(tokens[at])}")
    nats = -sum(value[0] for value in expected.values())
    words = len(text.split())
    for name, value in {"nats": nats, "loss": nats / len(positions), "perplexity": math.exp(nats / len(positions)),
                        "bits_per_byte": nats / math.log(2) / bytes_scored, "word_perplexity": math.exp(nats / words),
                        "bytes": bytes_scored, "words": words}.items():
        # The logarithm of a perplexity of words is large: an error of it, relative, is that of the nats times as much.
        expect(near(math.log(result[name]), math.log(value)), f"{what}: {name} is {result[name]}, not {value}")
    expect(near(result["perplexity"], math.exp(nats / len(positions))), f"{what}: perplexity {result['perplexity']}")
    expect(worst <= TOLERANCE, f"{what}: log-probabilities differ by {worst}")
    print(f"{what}: perplexity {result['perplexity']:.6f} and {math.exp(nats / len(positions)):.6f}, "
          f"{len(lines)} log-probabilities within {worst:.1e}")


def bytes_of_tokens(fast):
    """The bytes of a token of a byte-level vocabulary, from its characters."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in shown}
    table.update({chr(256 + i): byte for i, byte in enumerate(byte for byte in range(256) if byte not in shown)})
    return lambda token: bytes(table[character] for character in fast.convert_ids_to_tokens(token))


def check(program, family, fast, tokenizer_folder, text, work):
    model = make(family)
    folder = work / family
    model.save_pretrained(folder)
    model = model.double()
    (work / "text").write_bytes(text.encode())
    tokens = fast.encode(text)
    numpy.save(work / "ids.npy", numpy.array(tokens))
    source = ["--text", work / "text", "--tokenizer", tokenizer_folder]
    as_bytes = bytes_of_tokens(fast)
    protocols = [("windows of 64", ["--window", 64], disjoint(model, tokens, 64)),
                 ("windows of 64, stride 24", ["--window", 64, "--stride", 24], strided(model, tokens, 64, 24)),
                 ("windows of 40, stride 39", ["--window", 40, "--stride", 39], strided(model, tokens, 40, 39))]
    if family != "gpt2":
        protocols.append(("one state", ["--stateful"], log_probabilities(model, tokens, 0, len(tokens), 1)))
    for name, options, expected in protocols:
        result, lines = measure(program, folder, *source, *options)
        compare(f"{family}, {name}", result, lines, expected, tokens, as_bytes, text)
        again, _ = measure(program, folder, "--tokens", work / "ids.npy", "--tokenizer", tokenizer_folder, *options)
        expect(again["nats"] == result["nats"] and again["words"] == result["words"], f"{family}, {name}: the token file says otherwise")
    # One behind the other, an end-of-text behind each.
    documents = [part for part in text.split("\n") if part.strip()]
    (work / "documents.jsonl").write_text("".join(json.dumps({"text": part, "meta": {}}) + "\n" for part in documents), encoding="utf-8")
    joined = [token for part in documents for token in fast.encode(part) + [END]]
    result, lines = measure(program, folder, "--text", work / "documents.jsonl", "--jsonl", "text", "--tokenizer", tokenizer_folder, "--protocol", "pile",
                            "--window", 64)
    expected = -sum(value[0] for value in disjoint(model, joined, 64).values())
    expect(near(result["nats"], expected), f"{family}, documents: {result['nats']} nats, not {expected}")
    expect([line["token"] for line in lines] == joined[1:], f"{family}, documents: other tokens")
    print(f"{family}, {len(documents)} documents: {result['nats']:.4f} nats and {expected:.4f}")
    return model, documents


def check_harness(program, family, model, documents, fast, tokenizer_folder, work):
    """lm-evaluation-harness: each document behind an end-of-text, in windows of which the last is filled up."""
    try:
        from lm_eval.api.instance import Instance
        from lm_eval.api.metrics import bits_per_byte, weighted_perplexity
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks.wikitext.preprocess_wikitext import process_results, wikitext_detokenizer
    except ImportError as error:
        print(f"lm_eval left out: {error}")
        return
    # Documents of several windows, with whitespace at their ends as WikiText's pages have.
    pages = [" " + "\n ".join(documents[i::3]) + " \n" for i in range(3)] + [documents[0]]
    texts = [wikitext_detokenizer({"page": page}) for page in pages]
    expect(texts != pages, "nothing to detokenize")
    (work / "pages.jsonl").write_text("".join(json.dumps({"text": text, "original": page}) + "\n" for text, page in zip(texts, pages)),
                                      encoding="utf-8")
    harness = HFLM(pretrained=model.float(), tokenizer=fast, max_length=64, batch_size=2, device="cpu")
    requests = [Instance(request_type="loglikelihood_rolling", doc={"page": page}, arguments=(text,), idx=0)
                for text, page in zip(texts, pages)]
    values = harness.loglikelihood_rolling(requests, disable_tqdm=True)
    counted = [process_results({"page": page}, (value,)) for page, value in zip(pages, values)]
    result, lines = measure(program, work / family, "--text", work / "pages.jsonl", "--jsonl", "text", "--tokenizer", tokenizer_folder, "--protocol",
                            "lm-eval", "--window", 64)
    expect(near(result["nats"], -sum(values)), f"{family}, lm_eval: {result['nats']} nats, not {-sum(values)}")
    for i, value in enumerate(values):
        own = sum(line["logprob"] for line in lines if line["document"] == i)
        expect(near(own, value), f"{family}, lm_eval: document {i} has {own}, not {value}")
    for name, metric in {"word_perplexity": weighted_perplexity, "byte_perplexity": weighted_perplexity, "bits_per_byte": bits_per_byte}.items():
        expected = metric([document[name] for document in counted])
        expect(near(math.log(result[name]), math.log(expected)), f"{family}, lm_eval: {name} is {result[name]}, not {expected}")
        print(f"{family}, lm_eval: {name} {result[name]:.6g} and {expected:.6g}")


def main():
    program, data = sys.argv[1], pathlib.Path(sys.argv[2])
    gpt2, book = data / "tokenizers/gpt2", data / "text/wikitext2_valid.txt"
    if not (gpt2 / "vocab.bpe").exists() or not book.exists():
        print(f"skipped: no tokenizers/gpt2 or text/wikitext2_valid.txt in {data}")
        sys.exit(77)
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    bpe = tokenizers.ByteLevelBPETokenizer(str(gpt2 / "encoder.json"), str(gpt2 / "vocab.bpe"))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    text = book.read_text(encoding="utf-8")[:900] + "na\u00efve \u2603\U0001f40d \u5b57"  # with characters of several tokens
    with tempfile.TemporaryDirectory() as work:
        for family in MODELS:
            model, documents = check(program, family, fast, gpt2, text, pathlib.Path(work))
            if family != "mamba2":
                check_harness(program, family, model, documents, fast, gpt2, pathlib.Path(work))
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
