#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""lm-evaluation-harness through ssm.LanguageModel and through transformers' models of the same weights: the same numbers of tasks on small made-up data
sets, one of multiple choice with answers that share their context, one of rolling log-likelihood, one of generated text.

    lm_eval_test.py DATA      DATA has tokenizers/gpt2; SSM_LIBRARY names the library, PYTHONPATH the package; exits with 77 and the reason where
                              something is absent
"""
import json
import logging
import pathlib
import sys
import tempfile

try:
    import lm_eval
    import tokenizers
    import torch
    import transformers
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

import perplexity_test  # the same models
import ssm.lm_eval

failures = 0

QUESTIONS = [("The sky on a clear day is", ["blue", "made of iron", "a small dog"], 0), ("Water freezes at", ["zero degrees", "noon", "the library"], 0),
             ("A spider has this many legs:", ["two", "eight", "one hundred"], 1), ("The opposite of up is", ["left", "down", "purple", "soon"], 1),
             ("na\u00efve \u5b57 is spelt", ["with \u2603", "without", " "], 0)]
PAGES = ["State space models carry a state from one position to the next. " * 6, "A short page.", "\u2603 snow, and more snow. " * 20]
COUNTED = [("one two three", "four"), ("a b c", "d"), ("red green", "blue")]

TASKS = {
    "choices": {"output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "{{answers}}", "doc_to_target": "{{right}}",
                "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]},
    "pages": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{page}}",
              "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}]},
    "counting": {"output_type": "generate_until", "doc_to_text": "{{asked}}", "doc_to_target": "{{said}}",
                 "generation_kwargs": {"until": ["\n", "e"], "max_gen_toks": 12, "do_sample": False}, "metric_list": [{"metric": "exact_match"}]},
}


def write_tasks(folder):
    rows = {"choices": [{"question": question, "answers": answers, "right": right} for question, answers, right in QUESTIONS],
            "pages": [{"page": page} for page in PAGES], "counting": [{"asked": asked, "said": said} for asked, said in COUNTED]}
    for name, task in TASKS.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows[name]), encoding="utf-8")
        (folder / f"{name}.yaml").write_text(json.dumps(
            {"task": f"ssm_{name}", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test", **task}))


def evaluate(model, folder):
    result = lm_eval.simple_evaluate(model=model, tasks=[f"ssm_{name}" for name in TASKS], task_manager=TaskManager(include_path=str(folder)),
                                     bootstrap_iters=0, log_samples=True, verbosity="ERROR")
    return result["results"], result["samples"]


def compare(family, ours, theirs):
    global failures
    (metrics, samples), (their_metrics, their_samples) = ours, theirs
    values = worst = 0
    for task in samples:
        for own, other in zip(samples[task], their_samples[task], strict=True):
            for a, b in zip(own["filtered_resps"], other["filtered_resps"], strict=True):
                if isinstance(a, str):
                    if a != b:
                        failures += 1
                        print(f"FAILED: {family}, {task}: wrote {a!r}, not {b!r}")
                    continue
                a, b = (a, b) if isinstance(a, (list, tuple)) else ([a], [b])
                worst = max(worst, abs(a[0] - b[0]) / max(1, abs(b[0])))
                values += 1
                if a[1:] != b[1:]:
                    failures += 1
                    print(f"FAILED: {family}, {task}: {a} is not {b}")
    for task, named in their_metrics.items():
        for name, value in named.items():
            if isinstance(value, float) and abs(metrics[task][name] - value) > 1e-4 * max(1, abs(value)):
                failures += 1
                print(f"FAILED: {family}, {task}: {name} is {metrics[task][name]}, not {value}")
    if worst > 1e-5 or values == 0:
        failures += 1
        print(f"FAILED: {family}: {values} log-likelihoods differ by {worst}")
    print(f"{family}: {values} log-likelihoods within {worst:.1e}, the same texts and metrics")


def main():
    gpt2 = pathlib.Path(sys.argv[1]) / "tokenizers/gpt2"
    if not (gpt2 / "vocab.bpe").exists():
        print(f"skipped: no {gpt2}")
        sys.exit(77)
    logging.disable(logging.WARNING)
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    bpe = tokenizers.ByteLevelBPETokenizer(str(gpt2 / "encoder.json"), str(gpt2 / "vocab.bpe"))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        write_tasks(work)
        for family in ("gpt2", "mamba"):
            model = perplexity_test.make(family)
            model.save_pretrained(work / family)
            harness = HFLM(pretrained=model, tokenizer=fast, max_length=64, batch_size=1, device="cpu")
            own = ssm.lm_eval.HarnessModel(work / family, tokenizer=gpt2, max_length=64, threads=2)
            compare(family, evaluate(own, work), evaluate(harness, work))
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
