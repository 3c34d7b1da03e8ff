#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks and times `ssm train` on several CUDA devices of one machine, connected by NCCL.

    bench/cuda_ranks.py build/cuda/bin/ssm --checks                      the losses of one device, and an end when a rank dies
    bench/cuda_ranks.py build/cuda/bin/ssm --rows [--out ranks.json]     times beside one device
    bench/cuda_ranks.py build/cuda/bin/ssm --lengths                     the longest window that fits one device, and two

Ranks are started with torchrun's variables set; one of the checks starts them by torchrun itself. libnccl.so.2 must be where
libraries are looked for (LD_LIBRARY_PATH).
"""
import argparse
import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

H3 = {"d_model": 768, "n_layer": 12, "d_inner": 3072, "vocab_size": 50257, "pad_vocab_size_multiple": 8}  # no attention
FAMILIES = {"h3": ["--state", "16"], "mamba": [], "mamba2": ["--state", "32"], "retnet": ["--heads", "1"]}
QUIET = ["--evaluate-every", "1000000", "--save-every", "1000000", "--quiet"]


def free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


class Job:
    """A training run, or another command, of one rank or several, a device each."""

    def __init__(self, program, options, folder, ranks, command=None):
        self.folder, port, self.processes, self.output = folder, free_port(), [], ""
        for rank in range(ranks):
            environment = dict(os.environ)
            if ranks > 1:
                environment |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank),
                                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            words = command or [program, "train", *options, "--backend", "cuda", "--out", str(folder)]
            self.processes.append(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE,
                                                   stderr=subprocess.PIPE, text=True))

    def wait(self, timeout=120):
        """What the ranks said, where one failed."""
        said = []
        for process in self.processes:
            try:
                output, errors = process.communicate(timeout=timeout)
                self.output = self.output or output
                said.append(errors)
            except subprocess.TimeoutExpired:
                for other in self.processes:
                    other.kill()
                raise SystemExit(f"{self.folder.name}: no end after {timeout} seconds") from None
        failed = [text.strip() for process, text in zip(self.processes, said) if process.returncode != 0]
        return "; ".join(failed) if failed else None

    def lines(self):
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]


def digest(folder):
    newest = max(folder.glob("checkpoint-*"))
    return [hashlib.sha256((newest / name).read_bytes()).hexdigest() for name in ("model.safetensors", "optimizer.safetensors")]


def check(program, text, work, few):
    """Losses of two devices beside one's, and the same bits of two runs, and of one whose ranks share the optimizer's moments.
    few   not every family in every scalar"""
    def run(name, ranks, options):
        job = Job(program, ["--text", text, "--width", "128", "--layers", "2", "--batch", "4", "--length", "1024", "--steps", "20",
                            "--log-every", "1", "--seed", "3", "--schedule", "constant", "--warmup", "0", "--held-out", "0.01", *QUIET, *options],
                  work / name, ranks)
        failed = job.wait()
        if failed:
            return failed
        return [line["loss"] for line in job.lines()], digest(job.folder)

    def compare(case):
        family, numbers, carry = case
        options = ["--model", family, *FAMILIES[family], "--numbers", numbers, "--carry", carry]
        name = f"{family}-{numbers}-{carry}"
        runs = {"one": (1, []), "data": (2, []), "again": (2, ["--shard-optimizer"]), "windows": (2, ["--sequence-parallel", "2"]),
                "windows again": (2, ["--sequence-parallel", "2"])}
        found = {key: run(f"{name}-{key.replace(' ', '-')}", ranks, options + more) for key, (ranks, more) in runs.items()}
        for key, result in found.items():
            if isinstance(result, str):
                return False, f"{name}, {key}: {result}"
        text, is_good = name, True
        for key, again in (("data", "again"), ("windows", "windows again")):
            difference = max(abs(a - b) for a, b in zip(found["one"][0], found[key][0]))
            is_same = found[key] == found[again]
            is_good &= difference < (1e-3 if numbers == "float" else 3e-2) and is_same and len(found[key][0]) == 20
            text += f"; {key}: {difference:.1e} from one device's losses, two runs {'alike' if is_same else 'DIFFER'}"
        return is_good, text

    cases = [(family, numbers, "1") for family in FAMILIES for numbers in ("float", "bf16")]
    cases += [("h3", "bf16", "4"), ("mamba", "f16", "1")]
    if few:
        cases = [("h3", "bf16", "1"), ("mamba", "bf16", "1"), ("h3", "float", "4"), ("mamba", "float", "1")]
    results = []
    for case in cases:  # one after the other: ranks of two jobs on a device would wait for each other's turns
        results.append(compare(case))
        print(("right: " if results[-1][0] else "WRONG: ") + results[-1][1], flush=True)
    return all(is_good for is_good, _ in results)


def check_end(program, text, work):
    """A rank that is killed ends the other with a sentence; torchrun starts ranks too; ranks share documents."""
    options = ["--text", text, "--model", "h3", "--width", "64", "--layers", "2", "--batch", "4", "--length", "250", *QUIET]
    job = Job(program, [*options, "--steps", "10000000", "--log-every", "1"], work / "killed", 2)
    deadline = time.time() + 60
    while not (job.folder / "metrics.jsonl").exists() and time.time() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    job.processes[1].send_signal(signal.SIGKILL)
    begin = time.time()
    said = job.wait(40)
    print(f"killed: the other says «{said}» after {time.time() - begin:.1f} s", flush=True)
    is_good = said is not None and "rank 1 of 2 has ended" in said
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python", program, "train",
               *options, "--steps", "20", "--backend", "cuda", "--out", str(work / "torchrun")]
    started = subprocess.run(command, capture_output=True, text=True, timeout=120)
    print(f"torchrun: status {started.returncode} {started.stderr.strip()[-300:] if started.returncode else ''}", flush=True)
    words = [program, "perplexity", str(work / "torchrun"), "--text", text + ".short", "--separate", "--window", "200", "--json",
             "--backend", "cuda"]
    pathlib.Path(text + ".short").write_text(pathlib.Path(text).read_text()[:20000])
    scored = []
    for ranks in (1, 2):
        job = Job(program, [], work / "scored", ranks, words)
        failed = job.wait()
        scored.append(None if failed else json.loads(job.output))
        if failed:
            print(f"perplexity on {ranks}: {failed}", flush=True)
    is_same = None not in scored and abs(scored[0]["nats"] / scored[1]["nats"] - 1) < 1e-5 and scored[0]["tokens"] == scored[1]["tokens"]
    print(f"perplexity: {'the same' if is_same else scored}", flush=True)
    return is_good and started.returncode == 0 and is_same


def times(program, options, folder, ranks, steps):
    """Median step of stretches behind the first, which records."""
    job = Job(program, [*options, "--steps", str(4 * steps), "--log-every", str(steps), "--held-out", "0.001", "--numbers", "bf16",
                        *QUIET], folder, ranks)
    failed = job.wait(600)
    if failed:
        return {"failed": failed[-300:]}
    lines = [line for line in job.lines() if line["step"] % steps == 0]
    shutil.rmtree(folder)  # a checkpoint of gigabytes
    each = [1e3 * (b["seconds"] - a["seconds"]) / (b["step"] - a["step"]) for a, b in zip(lines, lines[1:])]
    return {"median_ms": round(statistics.median(each), 3), "least_ms": round(min(each), 3), "loss": lines[-1]["loss"]}


def rows(program, text, work, chosen):
    config = work / "h3.json"
    config.write_text(json.dumps(H3))
    models = {"h3": ["--config", str(config)], "mamba": ["--preset", "mamba-130m"], "h3-125m": ["--preset", "h3-125m"]}
    # name, model, batch of one device, of all, length, how windows are shared, steps of a stretch
    todo = [("h3", "data", 8, 16, 1024, 20), ("mamba", "data", 8, 16, 1024, 20), ("h3-125m", "data", 8, 16, 1024, 20)]
    todo += [("h3", "windows", 1, 1, length, 3) for length in (65536, 262144)]
    todo += [("mamba", "windows", 1, 1, length, 3) for length in (65536, 262144)]
    found = []
    for number, (model, how, batch, all_rows, length, steps) in enumerate(todo):
        if chosen and f"{model}-{how}-{length}" not in chosen:
            continue
        common = ["--text", text, *models[model], "--length", str(length), "--seed", "3"]
        one = times(program, [*common, "--batch", str(batch)], work / f"one-{number}", 1, steps)
        two = times(program, [*common, "--batch", str(all_rows), *(["--sequence-parallel", "2"] if how == "windows" else [])],
                    work / f"two-{number}", 2, steps)
        row = {"model": model, "shared": how, "shape": f"{all_rows}x{length}", "one": one, "two": two}
        if "median_ms" in one and "median_ms" in two:
            row["speedup"] = round(one["median_ms"] / two["median_ms"] * (all_rows / batch), 3)
        print(json.dumps(row), flush=True)
        found.append(row)
    return found


def lengths(program, text, work):
    """The longest window, a power of two times 3 or 4, that fits."""
    config = work / "h3.json"
    config.write_text(json.dumps(H3))
    found = []
    for model, options in (("h3", ["--config", str(config)]), ("mamba", ["--preset", "mamba-130m"])):
        fits = 131072
        for ranks in (1, 2):
            for length in (196608, 262144, 393216, 524288, 786432, 1048576, 1572864):
                if length <= fits:
                    continue
                job = Job(program, ["--text", text, *options, "--length", str(length), "--batch", "1", "--steps", "2", "--held-out",
                                    "0.001", "--numbers", "bf16", *QUIET,
                                    *(["--sequence-parallel", "2"] if ranks > 1 else [])], work / f"{model}-{ranks}-{length}", ranks)
                if job.wait(300):
                    break
                fits = length
            found.append({"model": model, "devices": ranks, "longest": fits})
            print(json.dumps(found[-1]), flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("program")
    parser.add_argument("--checks", choices=["all", "few"], nargs="?", const="all")
    parser.add_argument("--rows", nargs="*", help="of these names alone, as h3-data-1024")
    parser.add_argument("--lengths", action="store_true")
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    program, is_good, result = str(pathlib.Path(options.program).resolve()), True, {}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if pathlib.Path("/dev/shm").is_dir() else None) as folder:
        work = pathlib.Path(folder)
        text = work / "text.txt"
        words = [f"{n * n % 9973:x}" for n in range(500000)]
        text.write_text(" ".join(words))
        if options.checks:
            is_good = check(program, str(text), work, options.checks == "few")
            is_good &= check_end(program, str(text), work)
        if options.rows is not None:
            result["rows"] = rows(program, str(text), work, options.rows)
        if options.lengths:
            result["lengths"] = lengths(program, str(text), work)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
