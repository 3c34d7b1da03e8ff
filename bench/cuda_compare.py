#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times the library, other frameworks and what the device allows, on one CUDA device in one run, and stores a row for each piece of work.

    bench/cuda_compare.py build/cuda/bin [--rows training decode] [--out bench/baselines/cuda_compare_h200.json]
    bench/cuda_compare.py --list

Ours is what a user has: `ssm train`, generation with a model object as `ssm generate` runs it (bench/cuda_generation.cpp), primitives through the
backend (bench/cuda_primitives.cpp). Peers are run by bench/peers/cuda_peer.py with this Python; one that is missing leaves its reason. Memory is the
most that nvidia-smi shows while a program runs. Rows of an earlier run stay in the file where they are not measured again.
Nothing else may run on the device.

Floors: of primitives, copying their operands, or where more, their products or exponentials alone; of a training step, the products of its
matrices and the optimizer's bytes; of a decoded token, its bytes; of a prompt, its products. At the rates of copies and products of this run.
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time

from cuda_rows import JOBS, self_test

HERE = pathlib.Path(__file__).resolve().parent


class Memory:
    """The most memory in use on the device while it is entered, in GiB, less what was in use before."""

    def __enter__(self):
        self.peak = self.base = None
        device = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", device]
        try:
            self.base = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            self.process = subprocess.Popen([*command, "-lms", "50"], stdout=subprocess.PIPE, text=True)
        except (OSError, ValueError, subprocess.CalledProcessError):
            return self
        self.peak = self.base
        self.thread = threading.Thread(target=self.read)
        self.thread.start()
        return self

    def read(self):
        for line in self.process.stdout:
            if line.strip().isdigit():
                self.peak = max(self.peak, int(line))

    def __exit__(self, *_):
        if self.base is not None:
            self.process.kill()
            self.thread.join()
            self.process.wait()

    def gib(self):
        return None if self.base is None else round((self.peak - self.base) / 1024, 2)


class Session:
    """Programs, a folder for their files, and the rates of the device."""

    def __init__(self, programs, work):
        self.programs, self.work = programs, work
        self.device = self.copy = self.product = self.multiprocessors = self.clock = None

    memory = Memory

    def program(self, name):
        return str(self.programs / name)

    def measure_rates(self):
        """Of copies in bytes a second, and of products in operations a second."""
        found = self.peer(["rates:1x1"], {})["rates:1x1"]
        self.device = found.get("device")
        if "skipped" in found:
            print(f"rates of copies and products: {found['skipped']}", file=sys.stderr)
            return
        self.copy, self.product = 1e9 * found["copy_gb_a_second"], 1e12 * found["matmul_tflops"]
        self.multiprocessors = found["multiprocessors"]
        self.clock = 1e6 * found["megahertz"]
        print(f"{self.device}: copies {found['copy_gb_a_second']:.0f} GB/s, products {found['matmul_tflops']:.0f} TFLOP/s", flush=True)

    def rates(self):
        return {"copy_gb_a_second": round(self.copy / 1e9), "matmul_tflops": round(self.product / 1e12)} if self.copy else {}

    @staticmethod
    def peer_command(works, options):
        return [sys.executable, str(HERE / "peers/cuda_peer.py"), *works, *(word for name, value in options.items() for word in (f"--{name}", str(value)))]

    def peer(self, works, options, limit=150):
        """What cuda_peer.py says of each work, by its name, while time lasts."""
        found = {}
        with Memory() as memory, tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(self.peer_command(works, options), stdout=subprocess.PIPE, stderr=errors, text=True)
            timer = threading.Timer(limit, process.kill)
            timer.start()
            for line in process.stdout:
                if line.startswith("{"):
                    row = json.loads(line)
                    found[f"{row['work']}:{row['batch']}x{row['length']}"] = row
            process.wait()
            is_late = not timer.is_alive()
            timer.cancel()
            errors.seek(0)
            reason = f"took more than {limit} s" if is_late else (errors.read().strip().splitlines() or ["said nothing"])[-1]
        for work in works:
            found.setdefault(work, {"skipped": reason})
        if len(works) == 1:
            next(iter(found.values()))["memory_gib"] = memory.gib()
        return found

    def warm_up(self, jobs):
        """Compiles what the peers compile, all at once: their caches are then filled when they are timed. What seems fastest
        meanwhile is not kept."""
        begin = time.monotonic()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": os.environ | {"FLA_CACHE_RESULTS": "0"}}
        running = []
        for job in jobs:
            for works, options, copies in job.warm:
                for seed in range(copies):
                    running.append((works, subprocess.Popen(self.peer_command(works, options | {"compile-only": seed, "rounds": 1}), **quiet)))
        for works, process in running:
            try:
                process.wait(max(1, 180 - (time.monotonic() - begin)))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            print(f"compiled for {' '.join(works)}: {time.monotonic() - begin:.0f} s, status {process.returncode}", flush=True)


def load(path):
    return json.loads(path.read_text()) if path and path.exists() else {"rows": []}


def store(path, session, rows):
    """The rows as JSON, and beside it as a table for the documentation."""
    if not path:
        return
    kept = {row["row"]: row for row in load(path)["rows"]} | {row["row"]: row for row in rows}
    order = {name: place for place, name in enumerate(name for job in JOBS for name in job.rows)}
    rows = sorted(kept.values(), key=lambda row: order.get(row["row"], len(order)))
    facts = {"device": session.device, "method": "bench/cuda_compare.py, medians"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts)[:-1] + ', "rows": [\n' + ",\n".join("  " + json.dumps(row) for row in rows) + "\n]}\n")
    path.with_suffix(".md").write_text("\n".join(table(rows)) + "\n")


def table(rows):
    yield "| work | ours | peers | floor | times the peer | must | aim | GiB, ours / peer |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in rows:
        missing = [name for name in row.get("skipped", {}) if name != "ours"]
        peers = "<br>".join([f"{name}: {number(value)}" for name, value in row["peers"].items()] + [f"{name}: not run" for name in missing])
        memory = f"{row['memory_gib']:.1f} / {row['peer_memory_gib']:.1f}" if row.get("memory_gib") and row.get("peer_memory_gib") else ""
        marks = [row[word] + {None: "", True: " ✓", False: " ✗"}[row[f"is_{word}"]] if row[f"is_{word}"] is not None else "" for word in ("must", "aim")]
        cells = [re.sub(r"(?<=\d)x(?=\d)", "×", row["row"]), f"{number(row['ours'])} {row['unit']}", peers, number(row["floor"]),
                 f"{row['times_peer']:.2f}" if row["times_peer"] else "", *marks, memory]
        yield "| " + " | ".join(cells) + " |"


def number(value):
    return "-" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def show(row):
    peers = ", ".join(f"{name} {number(value)}" for name, value in row["peers"].items()) or "-"
    skipped = "".join(f"; {name}: {reason}" for name, reason in row.get("skipped", {}).items())
    text = f"{row['row']}: ours {number(row['ours'])} {row['unit']}, {peers}, floor {number(row['floor'])}"
    if row.get("times_peer"):
        text += f", {row['times_peer']:.2f} times the peer"
    if row.get("memory_gib") or row.get("peer_memory_gib"):
        text += f", {row.get('memory_gib')} beside {row.get('peer_memory_gib')} GiB"
    verdict = {None: "", True: " (reached)", False: " (NOT reached)"}
    return f"{text}; must {row['must']}{verdict[row['is_must']]}, aim {row['aim']}{verdict[row['is_aim']]}{skipped}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=pathlib.Path, nargs="?", help="folder with ssm, cuda_generation and cuda_primitives")
    parser.add_argument("--rows", nargs="+", default=[], metavar="PART", help="those that have one of these in their name")
    parser.add_argument("--list", action="store_true", help="the rows, and about how long each takes")
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--no-warm-up", action="store_true", help="let each peer compile when it is timed")
    parser.add_argument("--warm-up-only", action="store_true", help="fill the peers' caches of compiled kernels, and time nothing")
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    if options.self_test:
        problems = self_test()
        print("\n".join(problems) or "rows follow from their numbers")
        sys.exit(bool(problems))
    jobs = [job for job in (job.only(options.rows) for job in JOBS) if job]
    if options.list or options.programs is None:
        for job in jobs:
            print(f"{job.seconds:4} s  " + "\n        ".join(job.rows))
        return
    with tempfile.TemporaryDirectory() as work:
        session = Session(options.programs.resolve(), pathlib.Path(work))
        session.measure_rates()
        if not options.no_warm_up:
            session.warm_up(jobs)
        if options.warm_up_only:
            return
        rows, left = [], sum(job.seconds for job in jobs)
        for place, job in enumerate(jobs, 1):
            print(f"[{place}/{len(jobs)}] {job.name}: about {job.seconds} s; {left / 60:.1f} minutes left", flush=True)
            begin = time.monotonic()
            for row in job.run(session):
                row |= session.rates()
                rows.append(row)
                print("  " + show(row), flush=True)
            left -= job.seconds
            print(f"  took {time.monotonic() - begin:.0f} s", flush=True)
            store(options.out, session, rows)


if __name__ == "__main__":
    main()
