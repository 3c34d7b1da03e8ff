#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks and times `ssm train` on several CUDA devices of one machine, connected by NCCL.

    bench/cuda_ranks.py build/cuda/bin/ssm [PART…] [--only NAME…] [--seconds N] [--out bench/baselines/cuda_ranks_h200.json]

    losses     of every step, small models: two devices beside one, rows and windows shared, and the bits of two runs
    end        torchrun starts ranks; one that is killed ends the other with a sentence and leaves a whole checkpoint; ranks
               share documents
    rows       times of steps beside one device, losses of the first ones, bytes sent counted and measured
    rows_on_4  the same of four devices
    lengths    the longest window that fits one device, and two, held and recomputed

Each result is one line of JSON as soon as it is there; `--from FILE` takes lines that an earlier run has printed. `--out` keeps
what it holds of others.
Ranks are started with torchrun's variables set, one by torchrun itself. libnccl.so.2 must be where libraries are looked for
(LD_LIBRARY_PATH). What is started ends with this program, whatever happens.
"""
import argparse
import atexit
import contextlib
import hashlib
import json
import math
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

# 12 layers of H3 of 768 channels without attention, and its vocabulary as the published 125M model has it.
H3 = {"d_model": 768, "n_layer": 12, "d_inner": 3072, "vocab_size": 50257, "pad_vocab_size_multiple": 8}
FAMILIES = {"h3": ["--state", "16"], "mamba": [], "mamba2": ["--state", "32"], "retnet": ["--heads", "1"],
            "hybrid": ["--state", "16", "--attention-layers", "1", "--heads", "2"]}
QUIET = ["--evaluate-every", "1000000", "--save-every", "1000000", "--quiet"]
DEADLINE = [math.inf]


def free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


class Job:
    """A command on one rank or several, a device each."""

    def __init__(self, words, ranks):
        port, self.processes, self.output = free_port(), [], ""
        for rank in range(ranks):
            environment = dict(os.environ)
            if ranks > 1:
                environment |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank),
                                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            self.processes.append(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        atexit.register(self.end)

    def end(self):
        """What torchrun has started ends with it where it is asked to end, and not killed."""
        running = [process for process in self.processes if process.poll() is None]
        for process in running:
            process.terminate()
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()

    def wait(self, timeout=120):
        """What the ranks said, where one failed; else none."""
        until, said = min(time.time() + timeout, DEADLINE[0]), []
        try:
            for process in self.processes:
                output, errors = process.communicate(timeout=max(until - time.time(), 0.1))
                self.output = self.output or output
                said.append(errors.strip())
        except subprocess.TimeoutExpired:
            return "no end in time"
        finally:
            self.end()
        failed = [text[-300:] or f"status {process.returncode}" for process, text in zip(self.processes, said) if process.returncode != 0]
        return "; ".join(failed) or None


class Training:
    """A run of `ssm train` in a folder."""

    def __init__(self, program, folder, ranks, options, timeout=120):
        shutil.rmtree(folder, ignore_errors=True)
        self.folder = folder
        self.failed = Job([program, "train", *options, *QUIET, "--backend", "cuda", "--out", str(folder)], ranks).wait(timeout)

    def lines(self):
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]

    def losses(self):
        return [line["loss"] for line in self.lines()]

    def newest(self):
        return max(self.folder.glob("checkpoint-*"))

    def digest(self):
        names = ("model.safetensors", "optimizer.safetensors")
        return [hashlib.sha256((self.newest() / name).read_bytes()).hexdigest() for name in names]

    def parameter_count(self):
        with (self.newest() / "model.safetensors").open("rb") as file:
            tensors = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        return sum(math.prod(tensor["shape"]) for name, tensor in tensors.items() if name != "__metadata__")


def say(part, result):
    print(json.dumps({"part": part} | result), flush=True)
    return {"part": part} | result


def losses(program, text, work, only):
    """20 steps of small models: what two devices say beside one, and whether two runs have the same bits; one of them shares
    the optimizer's moments."""
    options = ["--text", text, "--width", "128", "--layers", "2", "--batch", "4", "--length", "1024", "--steps", "20", "--log-every", "1",
               "--seed", "3", "--schedule", "constant", "--warmup", "0", "--held-out", "0.01"]
    cases = [(family, numbers, carry) for family in ("retnet", "mamba2", "hybrid", "h3", "mamba") for numbers, carry in (("bf16", 1), ("float", 1))]
    cases += [("h3", "bf16", 4), ("mamba", "f16", 1)]
    for family, numbers, carry in cases:
        name = f"{family}-{numbers}" + (f"-carry-{carry}" if carry > 1 else "")
        if only and name not in only:
            continue
        more = ["--model", family.replace("hybrid", "h3"), *FAMILIES[family], "--numbers", numbers, "--carry", str(carry)]
        runs = {"one": (1, []), "rows": (2, []), "windows": (2, ["--sequence-parallel", "2"])}
        if numbers == "bf16" and family in ("h3", "mamba"):
            runs |= {"rows again": (2, ["--shard-optimizer"]), "windows again": (2, ["--sequence-parallel", "2"])}
        found, result = {}, {"model": family, "numbers": numbers, "carry": carry}
        for key, (ranks, extra) in runs.items():
            run = Training(program, work / "small", ranks, options + more + extra)
            if run.failed:
                result["failed"] = f"{key}: {run.failed}"
                break
            found[key] = run.losses(), run.digest()
        for key in ("rows", "windows"):
            if key in found:
                result[key] = {"first": abs(found["one"][0][0] - found[key][0][0]),
                               "most": max(abs(a - b) for a, b in zip(found["one"][0], found[key][0]))}
            if key + " again" in found:
                result[key]["same bits"] = found[key] == found[key + " again"]
        allowed = 3e-2 if numbers != "float" else 1e-3
        result["is_good"] = "failed" not in result and all(
            result[key]["most"] < allowed and result[key].get("same bits", True) for key in ("rows", "windows"))
        yield say("losses", result)


def end(program, text, work, only):
    """What launchers and failures are like."""
    del only
    options = ["--text", text, "--model", "h3", "--state", "16", "--width", "64", "--layers", "2", "--batch", "4", "--length", "250",
               "--evaluate-every", "1000000", "--quiet", "--backend", "cuda"]
    job = Job([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python", program, "train",
               *options, "--save-every", "1000000", "--steps", "20", "--out", str(work / "torchrun")], 1)
    failed = job.wait(60)
    yield say("end", {"of": "torchrun", "is_good": failed is None, "said": failed})

    killed = work / "killed"
    job = Job([program, "train", *options, "--steps", "10000000", "--log-every", "1", "--save-every", "100", "--out", str(killed)], 2)
    until = time.time() + 30
    while not list(killed.glob("checkpoint-*")) and job.processes[0].poll() is None and time.time() < until:
        time.sleep(0.05)
    time.sleep(0.5)
    job.processes[1].send_signal(signal.SIGKILL)
    begin = time.time()
    said = job.wait(30) or ""
    result = {"of": "a rank that is killed", "is_good": "rank 1 of 2 has ended" in said, "said": said, "seconds": round(time.time() - begin, 1)}
    if result["is_good"]:  # its last checkpoint is whole: another number of ranks goes on from it
        step = int(max(killed.glob("checkpoint-*")).name.split("-")[1])
        resumed = Job([program, "train", *options, "--resume", "--steps", str(step + 3), "--out", str(killed)], 1).wait(60)
        result |= {"is_good": resumed is None, "resumed after step": step} | ({"resumed": resumed} if resumed else {})
    yield say("end", result)
    if failed:
        return
    short = work / "short.txt"
    short.write_text(pathlib.Path(text).read_text()[:20000])
    words = [program, "perplexity", str(work / "torchrun"), "--text", str(short), "--separate", "--window", "200", "--json", "--backend", "cuda"]
    scored = []
    for ranks in (1, 2):
        job = Job(words, ranks)
        failed = job.wait(60)
        scored.append({"failed": failed} if failed else json.loads(job.output))
    is_same = all("nats" in score for score in scored) and scored[0]["tokens"] == scored[1]["tokens"] and (
        abs(scored[0]["nats"] / scored[1]["nats"] - 1) < 1e-5)
    yield say("end", {"of": "documents that ranks share", "is_good": is_same} | ({} if is_same else {"said": scored}))


def sent_bytes():
    """What device 0 has sent over NVLink so far; none where the driver does not count."""
    try:
        said = subprocess.run(["nvidia-smi", "nvlink", "-gt", "d", "-i", "0"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = [int(number) for number in re.findall(r"Tx[^\d]*(\d+) KiB", said)]
    return 1024 * sum(found) if found else None


def times(program, options, folder, ranks, steps, timeout):
    """Median step of stretches behind the first, which records; losses of the first steps."""
    before, begin = sent_bytes() if ranks > 1 else None, time.time()
    run = Training(program, folder, ranks, [*options, "--steps", str(4 * steps), "--log-every", "1", "--held-out", "0.001", "--numbers",
                                            "bf16", "--schedule", "constant", "--warmup", "0"], timeout)
    if run.failed:
        shutil.rmtree(folder, ignore_errors=True)
        return {"failed": run.failed}
    lines = run.lines()
    ends = [line for line in lines if line["step"] % steps == 0]
    each = [1e3 * (b["seconds"] - a["seconds"]) / (b["step"] - a["step"]) for a, b in zip(ends, ends[1:])]
    result = {"median_ms": round(statistics.median(each), 3), "least_ms": round(min(each), 3),
              "losses": [round(line["loss"], 5) for line in lines[:4]], "parameters": run.parameter_count(),
              "run_seconds": round(time.time() - begin, 1)}
    after = sent_bytes() if ranks > 1 else None
    if before is not None and after is not None and after > before:
        result["sent_MB"] = round((after - before) / 1e6 / (4 * steps), 1)
    shutil.rmtree(folder)  # a checkpoint of gigabytes
    return result


# Numbers of the states of one sequence, all layers: each goes over a cut once forward, its gradient once backward.
# Positions of which one device may hold what blocks keep.
HELD = {"h3": 262144, "mamba": 131072}
NAMES = {"h3": "H3 125M", "h3-bytes": "H3 of 88 million", "mamba": "Mamba 130M", "mamba-bytes": "Mamba of 91 million"}
STATES = {"h3": 12 * 768 * (32 * 2 + 64), "mamba": 24 * 1536 * (16 + 4)}


# Milliseconds that one layer's recurrence takes for 65536 positions, forwards and back; those of the optimizer for a parameter;
# bytes that a device sends in a millisecond.
RECURRENCE = {"h3": 1.9, "mamba": 4.2}
OPTIMIZER = 1.1e-8
BANDWIDTH = 300e6


def on_paper(row):
    """How many times as fast as one 2, 4 … 1024 devices are that share the windows of a row. Each makes the optimizer's pass,
    and is behind the one before it by the recurrence of one layer over its stretch."""
    one, parameters = row["one"]["median_ms"], row["one"]["parameters"]
    update, scan = OPTIMIZER * parameters, RECURRENCE[row["model"].split("-")[0]] * row["length"] / 65536
    times = {}
    for devices in (2**n for n in range(1, 11)):
        others = (devices - 1) / devices
        step = (one - update) / devices + update + scan * others + 8 * parameters * others / BANDWIDTH
        times[str(devices)] = round(one / step, 2)
    return {"model": row["model"], "name": row["name"], "shape": row["shape"], "length": row["length"], "one_ms": one} | times


def first_that_fits(attempts):
    """The first result of a run that did not fail, and its options; those of the last one otherwise."""
    for options, attempt in attempts:
        result = attempt()
        if "failed" not in result or time.time() > DEADLINE[0]:
            break
    return options, result


def rows(program, text, work, only, ranks=2):
    config = work / "h3.json"
    config.write_text(json.dumps(H3))
    models = {"h3": ["--config", str(config)], "h3-bytes": ["--model", "h3", "--width", "768", "--layers", "12", "--state", "64"],
              "mamba": ["--preset", "mamba-130m"]}
    # model, how it is shared, windows of a batch on one device, and on all, length, steps of a stretch
    todo = [(model, "rows", 8, 8 * ranks, 1024, 20) for model in models]
    todo += [(model, "windows", 1, 1, length, max(1, 6 * 65536 // length)) for length in (65536, 131072, 262144, 1048576) for model in ("h3", "mamba")]
    for model, how, batch, all_rows, length, steps in todo:
        if only and f"{model}-{how}-{length}" not in only:
            continue
        common = ["--text", text, *models[model], "--length", str(length), "--seed", "3"]
        shared = ["--sequence-parallel", str(ranks)] if how == "windows" else []
        row = {"model": model, "name": NAMES[model], "shared": how, "length": length,
               "shape": f"{batch}x{length}" + (" a device" if how == "rows" else "")}

        def attempts(devices, options, batch, model=model, length=length, steps=steps):
            """As they are where a device may hold what blocks keep, then recomputed."""
            own = length // devices if options else length
            kept = [] if own > HELD[model.split("-")[0]] else [[]]
            return [(again, lambda again=again: times(program, [*common, *again, *options, "--batch", str(batch)], work / "row", devices,
                                                      steps, 120)) for again in (*kept, ["--recompute"])]

        again, one = first_that_fits(attempts(1, [], batch))
        again_two, two = first_that_fits(attempts(ranks, shared, all_rows))
        key = "two" if ranks == 2 else f"devices_{ranks}"
        row |= {"recompute": bool(again), f"recompute_{key}": bool(again_two), "one": one, key: two}
        if "parameters" in two:
            states = 4 * STATES[model.split("-")[0]] if how == "windows" else 0
            row["counted_MB"] = round((8 * (ranks - 1) / ranks * two["parameters"] + states) / 1e6, 1)  # by device 0
        if "median_ms" in one and "median_ms" in two:
            row["speedup"] = round(one["median_ms"] / two["median_ms"] * (all_rows / batch), 3)
        yield say("rows" if ranks == 2 else f"rows_on_{ranks}", row)


def rows_on_4(program, text, work, only):
    yield from rows(program, text, work, only, 4)


def lengths(program, text, work, only):
    """The longest window, a power of two times 2 or 3, that fits, with what blocks keep held and recomputed."""
    config = work / "h3.json"
    config.write_text(json.dumps(H3))
    tried = (98304, 131072, 196608, 262144, 393216, 524288, 786432, 1048576, 1572864, 2097152, 3145728, 4194304)
    for model, options in (("h3", ["--config", str(config)]), ("mamba", ["--preset", "mamba-130m"])):
        for again in ([], ["--recompute"]):
            if only and model + "".join(again) not in only:
                continue
            fits = {1: 0, 2: 0}
            for ranks in (1, 2):
                for length in tried:
                    if length < max(fits[1], HELD[model] // 2 if not again else 4 * HELD[model]):
                        continue
                    run = Training(program, work / "length", ranks,
                                   ["--text", text, *options, *again, "--length", str(length), "--batch", "1", "--steps", "2",
                                    "--held-out", "0.001", "--numbers", "bf16", *(["--sequence-parallel", "2"] if ranks > 1 else [])])
                    shutil.rmtree(work / "length", ignore_errors=True)
                    if run.failed:
                        break
                    fits[ranks] = length
            yield say("lengths", {"model": model, "shape": "recomputed" if again else "kept", "one": fits[1], "two": fits[2], "then": run.failed})


PARTS = {"losses": losses, "end": end, "rows": rows, "lengths": lengths, "rows_on_4": rows_on_4}


def identity(line):
    """What a result is of: one of the same that comes later takes its place."""
    return tuple(str(line.get(key)) for key in ("model", "shape", "numbers", "carry", "of"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("program")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all without")
    parser.add_argument("--only", nargs="*", default=[], help="of these names alone, as h3-windows-262144 or retnet-bf16")
    parser.add_argument("--seconds", type=float, default=math.inf, help="after so many nothing runs any more")
    parser.add_argument("--from", dest="lines", type=pathlib.Path, help="make --out of these lines and run nothing")
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {min(unknown)}")
    program, found = str(pathlib.Path(options.program).resolve()), []
    DEADLINE[0] = time.time() + options.seconds
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    if options.lines:
        found = [json.loads(line) for line in options.lines.read_text().splitlines() if line.startswith('{"part"')]
    else:
        with tempfile.TemporaryDirectory(dir="/dev/shm" if pathlib.Path("/dev/shm").is_dir() else None) as folder:
            work = pathlib.Path(folder)
            text = work / "text.txt"
            text.write_text(" ".join(f"{n * n % 9973:x}" for n in range(1000000)))
            for part in options.parts or PARTS:
                for result in PARTS[part](program, str(text), work, options.only):
                    found.append(result)
                    if time.time() > DEADLINE[0]:
                        sys.exit("no time is left")
    if options.out:
        before = json.loads(options.out.read_text()) if options.out.exists() else {}
        result = before | {"device": "two NVIDIA H200 of one machine, NVLink, NCCL without multicast",
                           "method": "ssm train in bf16, a rank a device: median of three stretches of steps behind the first; models on "
                                     "bytes: LanguageModelTrainer, means of 4 steps and more behind the first"}
        for part in PARTS:
            new = [{key: value for key, value in line.items() if key != "part"} for line in found if line["part"] == part]
            if part.startswith("rows"):
                new = [line for line in new if "speedup" in line]
            known = {identity(line) for line in new}
            result[part] = [line for line in before.get(part, []) if identity(line) not in known] + new
        paper = [on_paper(row) for row in result["rows"] if row["shared"] == "windows"]
        known = {identity(line) for line in paper}
        result["paper"] = [line for line in before.get("paper", []) if identity(line) not in known] + paper
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(0 if all(line.get("is_good", True) for line in found) else 1)


if __name__ == "__main__":
    main()
