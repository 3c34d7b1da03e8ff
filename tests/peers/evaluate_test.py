#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`ssm evaluate` against lm-evaluation-harness on the same models and items, by the harness' own descriptions of its tasks, with and without examples: the
same metrics and standard errors, and log-probabilities of every choice within rounding. Prompts and scores of the tasks of the H3 paper against a
recomputation in double, with transformers.

    evaluate_test.py SSM DATA ITEMS      DATA has tokenizers/gpt2, ITEMS the made-up data sets; exits with 77 and the reason where something is absent
"""
import json
import logging
import math
import os
import pathlib
import re
import string
import subprocess
import sys
import tempfile
import types

os.environ["TQDM_DISABLE"] = "1"
try:
    import datasets
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

END = perplexity_test.END
HARNESS = pathlib.Path(lm_eval.__file__).parent / "tasks"
failures = 0

# Ours: (the description of it in the harness, examples of the runs with them). Where there is no file of examples, items show each other.
TASKS = {
    "boolq": ("super_glue/boolq/default.yaml", 2), "cb": ("super_glue/cb/default.yaml", 2), "copa": ("super_glue/copa/default.yaml", None),
    "multirc": ("super_glue/multirc/default.yaml", None), "record": ("super_glue/record/default.yaml", None),
    "rte": ("super_glue/rte/default.yaml", 1), "wic": ("super_glue/wic/default.yaml", 2), "wsc": ("super_glue/wsc/default.yaml", 1),
    "hellaswag": ("hellaswag/hellaswag.yaml", None), "piqa": ("piqa/piqa.yaml", 3), "winograd": ("wsc273/default.yaml", None),
    "winogrande": ("winogrande/default.yaml", 2), "storycloze": ("storycloze/storycloze_2016.yaml", 2),
    "openbookqa": ("openbookqa/openbookqa.yaml", 2), "sciq": ("sciq/sciq.yaml", 2), "arc_easy": ("arc/arc_easy.yaml", 2),
    "arc_challenge": ("arc/arc_challenge.yaml", None), "lambada": ("lambada/lambada_openai.yaml", None), "wikitext": ("wikitext/wikitext.yaml", None),
}
OUR_NAMES = {"cb": {"f1": "f1_macro"}}
# What transformers reads one token after the other takes long.
FEW = ["copa", "rte", "hellaswag", "winogrande", "lambada", "wikitext"]
# A task of texts that are written, described for both.
COUNTING = [("one two three", "four"), ("a b c", "d"), ("red green", "blue")]


def expect(is_true, sentence):
    global failures
    if not is_true:
        failures += 1
        print(f"FAILED: {sentence}")


def near(actual, expected, tolerance=1e-5):
    return math.isfinite(actual) and abs(actual - expected) <= tolerance * max(1.0, abs(expected))


def make(family):
    """Random weights, far from the initialization, so that texts are told apart."""
    if family != "gpt2":
        return perplexity_test.make(family)
    torch.manual_seed(4)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**perplexity_test.SIZES, n_head=4, n_positions=1024)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def run(program, folder, *options):
    """(results by task, what came of each item by task)"""
    items = folder / "items.jsonl"
    command = [str(word) for word in (program, "evaluate", *options, "--json", "--quiet", "--items", items)]
    result = subprocess.run(command, capture_output=True)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {result.stderr.decode()}")
    by_task = {}
    for line in items.read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        by_task.setdefault(item["task"], []).append(item)
    return json.loads(result.stdout)["results"], by_task


# lm-evaluation-harness.

def answer_words(text):
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def squad_f1(right, answer):
    right, answer = answer_words(right), answer_words(answer)
    if not right or not answer:
        return int(right == answer)
    common = sum(min(right.count(word), answer.count(word)) for word in set(answer))
    return 2 * common / (len(right) + len(answer))


def add_squad_metrics():
    """The harness' ReCoRD takes these two functions from a module that newer versions of transformers do not have."""
    module = types.ModuleType("transformers.data.metrics.squad_metrics")
    module.compute_f1 = squad_f1
    module.compute_exact = lambda right, answer: int(answer_words(right) == answer_words(answer))
    package = types.ModuleType("transformers.data.metrics")
    package.squad_metrics = module
    sys.modules.setdefault("transformers.data.metrics", package)
    sys.modules.setdefault("transformers.data.metrics.squad_metrics", module)


def write_tasks(folder, items, names, shots):
    folder.mkdir()
    for name in names:
        path, count = TASKS[name]
        train = items / f"{name}.train.jsonl"
        files = {"test": str(items / f"{name}.jsonl"), **({"train": str(train)} if train.exists() else {})}
        (folder / f"{name}.yaml").write_text(json.dumps({
            "include": str(HARNESS / path), "task": f"ssm_{name}", "tag": None, "dataset_path": "json", "dataset_name": None,
            "dataset_kwargs": {"data_files": files}, "training_split": None, "validation_split": None, "test_split": "test",
            **({"fewshot_split": "train" if train.exists() else "test", "num_fewshot": count} if shots else {})}))


def run_harness(model, folder):
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    result = lm_eval.simple_evaluate(model=model, tasks=[f"ssm_{name}" for name in names], task_manager=TaskManager(include_path=str(folder)),
                                     bootstrap_iters=2, log_samples=True, verbosity="ERROR")
    return {name: (result["results"][f"ssm_{name}"], sorted(result["samples"][f"ssm_{name}"], key=lambda sample: sample["doc_id"])) for name in names}


def compare(what, name, ours, items, metrics, samples):
    """Metrics to the last digit but for sums of log-probabilities, which are rounded: one model is ours."""
    expect(ours["items"] == len(samples), f"{what}: {ours['items']} items, not {len(samples)}")
    compared = worst = 0
    for field, value in metrics.items():
        metric, _, _ = field.partition(",")
        is_error = metric.endswith("_stderr")
        metric = OUR_NAMES.get(name, {}).get(metric, metric)
        if not isinstance(value, float) or "perplexity_stderr" in metric:  # the harness draws samples for those
            continue
        is_sum = "perplexity" in metric or "bits" in metric
        own = ours.get(metric)
        if own is None:
            expect(False, f"{what}: no {metric}")
            continue
        if is_sum and "bits" not in metric:  # an error of a perplexity, relative, is that of the nats
            own, value = math.log(own), math.log(value)
        expect(near(own, value, 1e-5 if is_sum else 1e-14), f"{what}: {metric} is {own!r}, not {value!r}")
        compared += not is_error
    for item, sample in zip(items, samples, strict=True):
        values = [choice["logprob"] for choice in item["choices"]]
        theirs = [response[0] if isinstance(response, (list, tuple)) else response for response in sample["filtered_resps"]]
        expect(len(values) == len(theirs), f"{what}: {len(values)} choices, not {len(theirs)}")
        worst = max([worst] + [abs(a - b) / max(1, abs(b)) for a, b in zip(values, theirs)])
        if name != "wikitext":
            greedy = [response[1] for response in sample["filtered_resps"]]
            expect([choice["greedy"] for choice in item["choices"]] == greedy, f"{what}: {item['place']}: greedy or not")
            expect(item["prompt"] == sample["arguments"][0][0], f"{what}: the prompt is {item['prompt']!r}, not {sample['arguments'][0][0]!r}")
    expect(compared > 0 and worst <= 1e-5, f"{what}: {compared} metrics, log-probabilities differ by {worst}")
    return compared, sum(len(item["choices"]) for item in items), worst


def check_harness(program, family, model, longest, names, shots, items, fast, tokenizer_folder, work):
    harness = HFLM(pretrained=model, tokenizer=fast, max_length=longest, batch_size=1, device="cpu")
    names = [name for name in names if not shots or TASKS[name][1] is not None]
    folder = work / f"{family}_{longest}_{shots}"
    write_tasks(folder, items, names, shots)
    theirs = run_harness(harness, folder)
    total = [0, 0, 0]
    for count in sorted({TASKS[name][1] for name in names} if shots else {0}):
        asked = [name for name in names if not shots or TASKS[name][1] == count]
        results, by_task = run(program, work, work / family, *asked, "--data", items, "--tokenizer", tokenizer_folder, "--max-tokens", longest,
                               "--shots", count, "--eos", END)
        for name in asked:
            metrics, samples = theirs[name]
            found = compare(f"{family}, {name}, {count} examples", name, results[name], by_task[name], metrics, samples)
            total = [total[0] + found[0], total[1] + found[1], max(total[2], found[2])]
    print(f"{family}, at most {longest} tokens, {'with' if shots else 'without'} examples: {len(names)} tasks, {total[0]} metrics the same, "
          f"{total[1]} log-probabilities within {total[2]:.1e}", flush=True)
    return harness


def check_generation(program, family, harness, tokenizer_folder, work):
    rows = "".join(json.dumps({"asked": asked, "said": said}) + "\n" for asked, said in COUNTING)
    folder = work / f"{family}_counting"
    folder.mkdir()
    (folder / "counting.jsonl").write_text(rows)
    until, count = ["\n", "e"], 12
    (folder / "counting.yaml").write_text(json.dumps({
        "task": "ssm_counting", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "counting.jsonl")}}, "test_split": "test",
        "output_type": "generate_until", "doc_to_text": "{{asked}}", "doc_to_target": "{{said}}", "num_fewshot": 1, "fewshot_split": "test",
        "generation_kwargs": {"until": until, "max_gen_toks": count, "do_sample": False}, "metric_list": [{"metric": "exact_match"}]}))
    (metrics, samples), = run_harness(harness, folder).values()
    said = [sample["filtered_resps"][0] for sample in samples]
    # One of the texts is the right one, so that something counts.
    task = folder / "counting.json"
    task.write_text(json.dumps({"kind": "generation", "prompt": "{{asked}}", "references": "said", "tokens": count, "stop": until,
                                "metrics": ["exact_match", "em", "f1"]}))
    results, by_task = run(program, work, work / family, f"{task}={folder / 'counting.jsonl'}", "--tokenizer", tokenizer_folder, "--shots", 1)
    texts = [item["text"] for item in by_task["counting"]]
    expect(texts == said, f"{family}: wrote {texts}, not {said}")
    expect(results["counting"]["exact_match"] == metrics["exact_match,none"], f"{family}: exact_match {results['counting']['exact_match']}")
    _, by_task = run(program, work, work / family, f"{task}={folder / 'counting.jsonl'}", "--tokenizer", tokenizer_folder)
    right = by_task["counting"][1]["text"] + " The answer!"
    (folder / "right.jsonl").write_text("".join(json.dumps({"asked": asked, "said": [right, "x"] if i == 1 else answer}) + "\n"
                                                for i, (asked, answer) in enumerate(COUNTING)))
    results, _ = run(program, work, work / family, f"{task}={folder / 'right.jsonl'}", "--tokenizer", tokenizer_folder)
    items = [json.loads(line) for line in (work / "items.jsonl").read_text().splitlines()]
    wanted = [max(squad_f1(reference, item["text"]) for reference in item["references"]) for item in items]
    expect(sum(wanted) > 0, f"{family}: no words are right")
    expect(near(results["counting"]["f1"], sum(wanted) / len(wanted), 1e-14), f"{family}: f1 {results['counting']['f1']}, not {wanted}")
    print(f"{family}: {len(said)} texts the same, exact match {metrics['exact_match,none']:.2f}, F1 {results['counting']['f1']:.4f}")


# The tasks of the H3 paper, written down a second time.

def h3_boolq(row):
    return f"Context: {row['passage']}\nQuestion: {row['question']}?\nAnswer:", ["no", "yes"], row["label"]


def h3_cb(row):
    return f"{row['premise']}\nQuestion: {row['hypothesis']}. True, False, or Neither?", ["true", "false", "neither"], row["label"]


def h3_copa(row):
    sentence = row["premise"].strip()[:-1]
    return f"Context: {sentence} {'because' if row['question'] == 'cause' else 'so'}", [row["choice1"], row["choice2"]], row["label"]


def h3_multirc(row):
    return (f"Passage: {row['paragraph']}\nQuestion: Based on the previous passage, {row['question']}\nIs \"{row['answer']}\" a correct answer?\nAnswer:",
            ["no", "yes"], row["label"])


def h3_record(row):
    text = row["passage"].replace("@highlight", "").strip().replace("\n\n", ". ")
    left, right = row["query"].split("@placeholder")
    entities = sorted(set(row["entities"]))
    return f"Context: {text}\n\nAnswer: {left}", [entity + right for entity in entities], entities.index(sorted(row["answers"])[0])


def h3_rte(row):
    return f"{row['premise']}\nQuestion: {row['hypothesis']} True or False?", ["true", "false"], row["label"]


def h3_wic(row):
    return (f"{row['sentence1']}\n{row['sentence2']}\nQuestion: Is the word '{row['word']}' used in the same way in the two sentences above?",
            ["no", "yes"], row["label"])


def h3_wsc(row):
    words = row["text"].split(" ")
    words[row["span2_index"]:row["span2_index"] + len(row["span2_text"].split())] = [f'"{row["span2_text"]}"']
    passage = " ".join(words).strip(".").strip() + "."
    return (f"Passage: {passage}\nQuestion: In the passage above, does the pronoun \"{row['span2_text']}\" refer to {row['span1_text']}?\nAnswer:",
            ["no", "yes"], row["label"])


H3_TASKS = {"boolq": (h3_boolq, "Answer the question.\n\n", "\n\n"), "cb": (h3_cb, "", "\n\n\n"),
            "copa": (h3_copa, "Pick the more likely continuation to the following sentence.\n\n\n", "\n\n"),
            "multirc": (h3_multirc, "Answer if the possible answer is a correct answer to the question.\n\n", "\n\n"),
            "record": (h3_record, "", "\n\n----\n\n"), "rte": (h3_rte, "", "\n\n\n"), "wic": (h3_wic, "", "\n\n"), "wsc": (h3_wsc, "", "\n\n")}


def h3_metrics(name, asked, predicted, rows):
    right = [answer for _, _, answer in asked]
    accuracy = sum(a == b for a, b in zip(predicted, right)) / len(right)
    if name == "multirc":
        hits = sum(a == b == 1 for a, b in zip(predicted, right))
        precision, recall = hits / predicted.count(1) if 1 in predicted else 1, hits / right.count(1)
        groups = {}
        for row, a, b in zip(rows, predicted, right):
            groups.setdefault((row["idx"]["paragraph"], row["idx"]["question"]), []).append(a == b)
        return {"f1a": 2 * precision * recall / (precision + recall) if hits else 0, "acc_tokens": accuracy,
                "exact_questions": sum(map(all, groups.values())) / len(groups)}
    if name == "record":
        taken = [sorted(set(row["entities"]))[k] for row, k in zip(rows, predicted)]
        return {"em": sum(any(answer_words(a) == answer_words(t) for a in row["answers"]) for row, t in zip(rows, taken)) / len(rows),
                "f1": sum(max(squad_f1(a, t) for a in row["answers"]) for row, t in zip(rows, taken)) / len(rows)}
    return {"acc_tokens": accuracy}


def check_superglue(program, model, items, fast, tokenizer_folder, work):
    model = model.double()

    def score(prompt, choice):
        context, continuation = fast.encode(prompt.strip()), fast.encode(" " + choice.strip())
        with torch.no_grad():
            rows = torch.log_softmax(model(torch.tensor([context + continuation])).logits[0], -1)
        values = [rows[len(context) - 1 + i, token].item() for i, token in enumerate(continuation)]
        return sum(values), len(values)

    for shots in (0, 3):
        results, by_task = run(program, work, work / "gpt2", "superglue-h3", "--data", items, "--tokenizer", tokenizer_folder, "--shots", shots)
        values = worst = 0
        for name, (ask, instruction, separator) in H3_TASKS.items():
            rows = [json.loads(line) for line in (items / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
            pool = [json.loads(line) for line in (items / f"{name}.train.jsonl").read_text(encoding="utf-8").splitlines()]
            shown = [f"{prompt.rstrip()} {choices[answer].strip()}{separator}" if name != "record" else f"{prompt.rstrip()} {choices[answer]}{separator}"
                     for prompt, choices, answer in map(ask, pool)]
            asked = [ask(row) for row in rows]
            predicted, heads = [], set()
            for item, (prompt, choices, _) in zip(by_task[f"{name}-h3"], asked, strict=True):
                expect(item["prompt"].startswith(instruction) and item["prompt"].endswith(prompt), f"{name}: the prompt is {item['prompt']!r}")
                heads.add(item["prompt"][len(instruction):len(item["prompt"]) - len(prompt)])
                means = []
                for choice, theirs in zip(item["choices"], choices, strict=True):
                    total, tokens = score(item["prompt"], theirs)
                    expect(choice["text"] == " " + theirs.lstrip() or choice["text"] == " " + theirs, f"{name}: the choice is {choice['text']!r}")
                    expect(choice["tokens"] == tokens, f"{name}: {choice['tokens']} tokens, not {tokens}")
                    worst = max(worst, abs(choice["logprob"] - total) / max(1, abs(total)))
                    values += 1
                    means.append(total / tokens)
                predicted.append(means.index(max(means)))
            expect(len(heads) == 1, f"{name}: {len(heads)} different examples")
            # So many different examples of those that there are.
            rest, count = heads.pop(), 0
            while rest:
                match = [text for text in shown if rest.startswith(text)]
                if not match:
                    break
                rest, count = rest[len(match[0]):], count + 1
            expect(not rest and count == shots, f"{name}: {count} examples, and {rest!r}")
            for metric, value in h3_metrics(name, asked, predicted, rows).items():
                own = results[f"{name}-h3"][metric]
                expect(near(own, value, 1e-14), f"{name}: {metric} is {own}, not {value}")
        expect(worst <= 1e-5 and values > 0, f"SuperGLUE with prompts of H3: {values} log-probabilities differ by {worst}")
        print(f"SuperGLUE with prompts of H3, {shots} examples: {values} log-probabilities within {worst:.1e} of transformers in double, metrics the same")


def main():
    program, data, items = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    gpt2 = data / "tokenizers/gpt2"
    if not (gpt2 / "vocab.bpe").exists():
        print(f"skipped: no {gpt2}")
        sys.exit(77)
    logging.disable(logging.WARNING)
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    add_squad_metrics()
    bpe = tokenizers.ByteLevelBPETokenizer(str(gpt2 / "encoder.json"), str(gpt2 / "vocab.bpe"))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        models = {family: make(family) for family in ("gpt2", "mamba")}
        for family, model in models.items():
            model.save_pretrained(work / family)
        for family, longest, names, shots in (("gpt2", 400, TASKS, False), ("gpt2", 400, TASKS, True), ("gpt2", 24, FEW, False), ("mamba", 100, FEW, False)):
            harness = check_harness(program, family, models[family], longest, names, shots, items, fast, gpt2, work)
        check_generation(program, "mamba", harness, gpt2, work)
        check_superglue(program, models["gpt2"], items, fast, gpt2, work)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
