# SPDX-License-Identifier: Apache-2.0
"""The rows of cuda_compare.py: what is run for each, what the device allows, and what is asked of it."""
import dataclasses
import json
import math
import pathlib
import re
import subprocess
import sys

from cuda_training import ROOT, text_of_docs, train

BYTES = 256


@dataclasses.dataclass(frozen=True)
class Goal:
    """What must be reached and what is aimed at: so many times a peer's speed (the best peer's, or that of the one named), milliseconds or tokens a
    second, or so large a part of the floor."""

    kind: str
    must: float
    aim: float
    against: str = ""

    def text(self, value):
        words = {"times": f"{value:g} times " + (self.against or "the peer"), "floor": f"{100 * value:g} % of the floor"}
        return words.get(self.kind, f"{value:g} {self.kind}")

    def is_reached(self, value, row):
        if self.kind == "times":
            return None if row["times_peer"] is None else row["times_peer"] >= value
        if self.kind == "floor":
            return None if row["floor"] is None else row["floor"] / row["ours"] >= value
        return row["ours"] <= value if self.kind == "ms" else row["ours"] >= value


def row_of(name, unit, ours, floor, peers, skipped, goal, **more):
    """A row with what follows from its numbers; less is better of milliseconds alone."""
    peers = {peer: round(value, 4) for peer, value in peers.items() if value is not None}
    better = (lambda a, b: b / a) if unit == "ms" else (lambda a, b: a / b)
    against = [value for peer, value in peers.items() if goal is None or goal.against in ("", peer)]
    row = {"row": name, "unit": unit, "ours": ours and round(ours, 4), "floor": floor and round(floor, 4), "peers": peers,
           "times_peer": round(min(better(ours, value) for value in against), 3) if ours and against else None}
    for word, value in (("must", goal and goal.must), ("aim", goal and goal.aim)):
        row[word] = goal.text(value) if goal else "nothing"
        row[f"is_{word}"] = bool(goal.is_reached(value, row)) if goal and ours and goal.is_reached(value, row) is not None else None
    if skipped:
        row["skipped"] = skipped
    return row | {key: value for key, value in more.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Job:
    name: str
    seconds: int  # about what it takes

    @property
    def rows(self):
        return [self.name]

    def only(self, wanted):
        return self if not wanted or any(word in row for word in wanted for row in self.rows) else None

    @property
    def warm(self):
        """What makes the peers compile: works, options, and how many processes share it."""
        return []


def inspected(session, *arguments):
    command = [session.program("ssm"), "inspect", *arguments, "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def products_of(tensors):
    """Weights that each token is multiplied with. An embedding is one where it is the head too."""
    has_head = any("head" in tensor["name"] for tensor in tensors)
    matrices = [t for t in tensors if len(t["shape"]) == 2 and min(t["shape"]) > 64 and "wpe" not in t["name"] and not (has_head and "embed" in t["name"])]
    return sum(t["parameters"] for t in matrices)


def retnet(session):
    """The sizes of 130M beside flash-linear-attention's with the same."""
    config = inspected(session, "--preset", "retnet-1.3b")["config"]
    config |= {"d_model": 768, "n_layer": 12, "num_heads": 3, "d_value": 1536, "d_inner": 1024, "vocab_size": 50280}
    path = session.work / "retnet.json"
    path.write_text(json.dumps(config))
    return ["--config", str(path)]


@dataclasses.dataclass(frozen=True)
class Training(Job):
    model: object  # options of `ssm train`, or what makes them
    batch: int
    length: int
    peer: str
    peer_name: str
    vocabulary: int
    goal: Goal

    @property
    def work(self):
        return f"{self.peer}:{self.batch}x{self.length}"

    @property
    def warm(self):
        # Triton's kernels depend on the batch no more than on whether it is 1 or divisible by 16; torch.compile's do.
        work = self.work if self.peer == "gpt_training" else f"{self.peer}:2x{self.length}"
        copies = {"gpt_training": 1, "mamba_training": 1, "mamba2_training": 3, "retnet_training": 5}
        return [([work], {"vocabulary": self.vocabulary}, copies[self.peer])]

    def corpus(self, session):
        if self.vocabulary == BYTES:
            return ["--text", str(text_of_docs(session.work))]
        import numpy

        path = session.work / "tokens.npy"
        numpy.save(path, numpy.random.default_rng(1).integers(50257, size=4_000_000, dtype=numpy.uint16))
        return ["--tokens", str(path)]

    def run(self, session):
        folder = session.work / self.name.replace(" ", "_").replace("/", "_")
        model = self.model(session) if callable(self.model) else self.model
        ours, tensors, reason = None, [], {}
        with session.memory() as memory:
            try:
                ours = train(session.program("ssm"), model, self.corpus(session), self.batch, self.length, folder, stretch=10)
                tensors = inspected(session, str(folder))["tensors"]
            except subprocess.CalledProcessError as failure:
                reason["ours"] = (failure.stderr.strip().splitlines() or ["said nothing"])[-1]
        found = session.peer([self.work], {"vocabulary": self.vocabulary})[self.work]
        if "skipped" in found:
            reason[self.peer_name] = found["skipped"]
        tokens, parameters, floor = self.batch * self.length, sum(t["parameters"] for t in tensors), None
        if session.copy and ours:
            floor = tokens / (6 * products_of(tensors) * tokens / session.product + 30 * parameters / session.copy)
        yield row_of(self.name, "tokens/s", ours and ours["tokens_per_second"], floor, {self.peer_name: found.get("tokens_per_second")}, reason, self.goal,
                     ours_ms=ours and ours["median_ms"], peer_ms=found.get("median_ms"), parameters=parameters or None,
                     peer_parameters=found.get("parameters"), memory_gib=memory.gib(), peer_memory_gib=found.get("memory_gib"),
                     peer_reserved_gib=found.get("reserved_gib"))


@dataclasses.dataclass(frozen=True)
class Primitive:
    title: str
    ours: str  # beginning of cuda_primitives' "primitive:shape"
    peer: str
    peer_names: dict  # by what the peer's line calls them, "" where it has one
    output: int  # numbers of y
    goals: tuple  # forward, forward and gradient
    operations: float = 0  # multiplications and additions, forward; the gradient has two and a half times as many
    exponentials: float = 0  # in each pass


def primitives():
    mamba, fla, fft = {"": "mamba_ssm"}, {"": "flash-linear-attention"}, {"": "torch.fft"}
    elements = 8 * 8192 * 1536
    equal = Goal("times", 0.952, 1)
    return [
        Primitive("attention 8x8192, 16 heads of 128", "attention:8x8192, 16 of 128", "attention:8x8192", {"cudnn": "cuDNN", "flash": "PyTorch's flash"},
                  8 * 8192 * 2048, (equal, equal), operations=2 * 8 * 2048 * 8192**2),
        Primitive("retention 8x8192, 8 heads of 256/512", "decayed_attention:8x8192, 8 of 256, 512", "retention:8x8192", fla, 8 * 8192 * 4096,
                  (Goal("ms", 1.5, 1.0), Goal("ms", 8, 5))),
        Primitive("SSD 8x2048, 24 heads of 64, 128 states", "ssd_scan:8x2048, 24 of", "ssd:8x2048", mamba, 8 * 2048 * 1536, (None, None)),
        Primitive("SSD 8x2048, 80 heads of 64, 128 states", "ssd_scan:8x2048, 80 of", "ssd80:8x2048", mamba, 8 * 2048 * 5120, (None, None)),
        Primitive("selective scan 8x1536x8192, 16 states", "selective_scan:8x8192x1536", "selective_scan:8x8192", mamba, elements,
                  (Goal("ms", 0.9, 0.55), Goal("ms", 4.0, 2.2)), exponentials=16 * elements),
        Primitive("short convolution 8x1536x8192, 4 taps", "short_convolution:8x8192x1536", "short_convolution:8x8192", {"": "causal-conv1d"}, elements,
                  (None, None)),
        Primitive("SSM convolution 32x768x8192", "diagonal_scan:32x8192x768", "fft_convolution:32x8192", fft, 32 * 8192 * 768,
                  (None, Goal("floor", 0.55, 0.7))),
        Primitive("convolution 32x768x8192", "causal_convolution:32x8192", "fft_convolution:32x8192", fft, 32 * 8192 * 768, (Goal("ms", 0.7, 0.5), None)),
        Primitive("convolution 8x768x32768", "causal_convolution:8x32768", "fft_convolution:8x32768", fft, 8 * 32768 * 768, (Goal("ms", 1.3, 0.9), None)),
        Primitive("convolution 2x768x262144", "causal_convolution:2x262144", "fft_convolution:2x262144", fft, 2 * 262144 * 768, (Goal("ms", 6, 4), None)),
    ]


@dataclasses.dataclass(frozen=True)
class Primitives(Job):
    """One process for ours and one for the peers', whatever rows are wanted."""

    wanted: tuple

    @property
    def rows(self):
        return [f"primitive: {p.title}, {what}" for p in self.wanted for what in ("forward", "forward and gradient")]

    def only(self, words):
        kept = tuple(p for p in self.wanted if not words or any(word in f"primitive: {p.title}" for word in words))
        return dataclasses.replace(self, wanted=kept, seconds=15 + 8 * len(kept)) if kept else None

    @property
    def warm(self):
        copies = {"retention": 5, "ssd": 2, "ssd80": 2}
        works = [(f"{name}:2x{length}", copies[name]) for name, _, length in (re.split("[:x]", p.peer) for p in self.wanted) if name in copies]
        return [([work], {}, count) for work, count in works]

    def run(self, session):
        path, reason, ours = session.work / "primitives.json", {}, []
        try:
            subprocess.run([session.program("cuda_primitives"), str(path), *(p.ours for p in self.wanted)], check=True, capture_output=True, text=True)
            ours = json.loads(path.read_text())["rows"]
        except (OSError, subprocess.CalledProcessError) as failure:
            reason["ours"] = str(failure)
        works = sorted(dict.fromkeys(p.peer for p in self.wanted), key=lambda work: work.startswith(("retention", "ssd")))  # these tune long
        found = session.peer(works, {}, limit=60 + 20 * len(works))
        for p in self.wanted:
            mine = next((row for row in ours if f"{row['primitive']}:{row['shape']}".startswith(p.ours) and row["numbers"] == "bf16"), None)
            theirs = found[p.peer]
            skipped = reason | ({name: theirs["skipped"] for name in p.peer_names.values()} if "skipped" in theirs else {})
            for what, key, goal in zip(("forward", "forward and gradient"), ("forward", "forward_backward"), p.goals):
                is_forward = key == "forward"
                peers = {name: (theirs.get(part, {}) if part else theirs).get(key, {}).get("median_ms") for part, name in p.peer_names.items()}
                milliseconds = mine and mine["forward_ms" if is_forward else "both_ms"]
                yield row_of(f"primitive: {p.title}, {what}", "ms", milliseconds, mine and self.floor(session, p, mine, is_forward), peers, skipped, goal)

    @staticmethod
    def floor(session, p, mine, is_forward):
        """The gradient reads the operands again, but not the output."""
        copying = mine["forward_copy_ms"]
        if session.copy is None:
            return copying if is_forward else copying + mine["backward_copy_ms"]
        if not is_forward:
            copying += mine["backward_copy_ms"] - 1e3 * 2 * p.output / session.copy
        operations = 1e3 * p.operations * (1 if is_forward else 3.5) / session.product
        exponentials = 1e3 * p.exponentials * (1 if is_forward else 2) / (16 * session.multiprocessors * session.clock)
        return max(copying, operations, exponentials)


def hybrid(session):
    """The sizes of h3-1.3b with attention in the second block and in the one half the depth further, as in the paper; published weights have it in
    blocks 8 and 16."""
    report = inspected(session, "--preset", "h3-1.3b")
    other = {8: 1, 1: 8, 16: 13, 13: 16}
    tensors = []
    for tensor in report["tensors"]:
        parts = tensor["name"].split(".")
        parts = [str(other.get(int(part), int(part))) if before == "layers" else part for before, part in zip(["", *parts], parts)]
        tensors.append(tensor | {"name": ".".join(parts)})
    return report["config"] | {"attn_layer_idx": [1, 13]}, tensors


def transformer(session):
    """GPT-2's layout with 24 blocks of 2048 and 2048 positions: gpt2-medium with all sizes doubled but the vocabulary. Its files have the matrices of
    layers the other way round."""
    report = inspected(session, "--preset", "gpt2-medium")
    config = {name: 2 * value if name in ("n_embd", "n_inner", "n_positions", "n_ctx") else value for name, value in report["config"].items()}
    tensors = []
    for tensor in report["tensors"]:
        shape = [n if n == config["vocab_size"] else 2 * n for n in tensor["shape"]]
        tensors.append(tensor | {"shape": shape[::-1] if ".c_" in tensor["name"] else shape})
    return config, tensors


def published(preset):
    def sizes(session):
        report = inspected(session, "--preset", preset)
        return report["config"], report["tensors"]

    return sizes


class Generated:
    """Our generation with a model of random weights, and what its bytes and products take."""

    def __init__(self, session, name, sizes, weights, sequences, prompt, tokens):
        sys.path.append(str(ROOT / "tools"))
        from random_model import write_model

        folder = session.work / f"{name}-{weights}"
        config, tensors = sizes(session)
        if not folder.exists():
            write_model(folder, config, tensors, "fp32" if weights == "fp32" else "bf16")
        self.said, self.reason = {}, None
        with session.memory() as memory:
            command = [session.program("cuda_generation"), str(folder), weights, str(sequences), str(prompt), str(tokens)]
            try:
                result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
                self.said = json.loads(result.stdout) if result.returncode == 0 else {}
                self.reason = (result.stderr.strip().splitlines() or ["said nothing"])[-1] if result.returncode else None
            except (OSError, subprocess.TimeoutExpired) as failure:
                self.reason = str(failure)
        self.memory = memory.gib()
        parameters = sum(math.prod(tensor["shape"]) for tensor in tensors)
        self.step, self.read = (parameters * (4 if weights == "fp32" else 2) + sequences * self.state(config, prompt + tokens // 2)), 0
        if session.copy:
            self.step /= session.copy
            self.read = 2 * (parameters - config["vocab_size"] * self.width) * sequences * prompt / session.product
        self.sequences, self.tokens = sequences, tokens
        self.is_known = session.copy is not None

    def state(self, config, positions):
        """Bytes that a step moves for a sequence: keys and values of 16 bits, read; states of 32, the SSM's read and written, the shift's read."""
        self.width = config.get("d_model") or config["n_embd"]
        layers = config["n_layer"]
        attention = len(config["attn_layer_idx"]) if "attn_layer_idx" in config else layers
        states = config.get("ssm_cfg", {}).get("d_state", 0)
        return 4 * attention * positions * self.width + 12 * (layers - attention) * self.width * states

    def floors(self):
        """Tokens a second of decoding, and with the prompt."""
        if not self.is_known:
            return None, None
        return self.sequences / self.step, self.sequences * self.tokens / (self.read + self.tokens * self.step)


@dataclasses.dataclass(frozen=True)
class DecodeOne(Job):
    weights: str
    goal: Goal

    def run(self, session):
        ours = Generated(session, "h3-125m", published("h3-125m"), self.weights, 1, 16, 512)
        yield row_of(self.name, "tokens/s", ours.said.get("decode_tokens_per_second"), ours.floors()[0], {}, {"ours": ours.reason} if ours.reason else {},
                     self.goal, memory_gib=ours.memory)


@dataclasses.dataclass(frozen=True)
class DecodeMany(Job):
    prompt: int
    goals: tuple  # decoding, with the prompt
    has_transformers: bool

    @property
    def rows(self):
        return [f"{self.name}, {what}" for what in ("decoding", "with the prompt")]

    def run(self, session):
        ours = Generated(session, "hybrid", hybrid, "bf16-sequences", 64, self.prompt, 128)
        own = Generated(session, "transformer", transformer, "bf16-sequences", 64, self.prompt, 128)
        theirs = {"PyTorch GPT": "gpt_generation", "transformers": "transformers_generation"}
        found, skipped = {}, {name: run.reason for name, run in (("ours", ours), ("our Transformer", own)) if run.reason}
        for name, work in theirs.items():
            if name == "transformers" and not self.has_transformers:
                continue
            work = f"{work}:64x{self.prompt}"
            found[name] = session.peer([work], {"tokens": 128})[work]
            if "skipped" in found[name]:
                skipped[name] = found[name]["skipped"]
        for row, key, floor, goal in zip(self.rows, ("decode_tokens_per_second", "tokens_per_second"), ours.floors(), self.goals):
            peers = {"our Transformer": own.said.get(key)} | {name: said.get(key) for name, said in found.items()}
            yield row_of(row, "tokens/s", ours.said.get(key), floor, peers, skipped, goal, first_token_ms=ours.said.get("first_token_ms"),
                         memory_gib=ours.memory, peer_memory_gib=found["PyTorch GPT"].get("memory_gib"))


def self_test():
    """What is wrong with rows of numbers that are known."""
    speed = row_of("a", "tokens/s", 300.0, 600.0, {"x": 100.0, "y": 200.0, "z": None}, {}, Goal("times", 1.4, 2))
    named = row_of("a", "tokens/s", 300.0, 600.0, {"x": 100.0, "y": 200.0}, {}, Goal("times", 1.4, 2, "x"))
    late = row_of("a", "ms", 2.0, 1.0, {"x": 3.0}, {}, Goal("ms", 2, 1))
    part = row_of("a", "ms", 2.0, 1.0, {}, {"x": "not here"}, Goal("floor", 0.55, 0.5))
    none = row_of("a", "ms", None, None, {"x": 3.0}, {"ours": "failed"}, Goal("ms", 2, 1))
    open_ = row_of("a", "ms", 2.0, 1.0, {"x": 1.0}, {}, None)
    seen = [(row["times_peer"], row["is_must"], row["is_aim"]) for row in (speed, named, late, part, none, open_)]
    wanted = [(1.5, True, False), (3.0, True, True), (1.5, True, False), (None, False, True), (None, None, None), (0.5, None, None)]
    tensors = [{"name": name, "shape": shape, "parameters": math.prod(shape)}
               for name, shape in (("embed", [256, 128]), ("a.weight", [128, 512]), ("a.bias", [512]), ("kernel.B", [128, 64]), ("wpe", [99, 128]))]
    problems = [f"a row says {row}, not {want}" for row, want in zip(seen, wanted) if row != want]
    if products_of(tensors) != 256 * 128 + 128 * 512 or products_of([*tensors, tensors[0] | {"name": "head"}]) != 256 * 128 + 128 * 512:
        problems.append("products of a tied and of another head")
    names = [name for job in JOBS for name in job.rows]
    if len(names) != len(set(names)) or sum(len(job.only(["primitive: attention"]).rows) for job in JOBS if job.only(["primitive: attention"])) != 2:
        problems.append("names of rows")
    return problems


H3 = ["--model", "h3", "--width", "768", "--layers", "12", "--state", "64"]
JOBS = [
    Training("training: H3 125M, bytes, 8x1024", 30, H3, 8, 1024, "gpt_training", "PyTorch GPT", BYTES, Goal("times", 1.4, 2)),
    Training("training: H3 125M, bytes, 2x8192", 30, H3, 2, 8192, "gpt_training", "PyTorch GPT", BYTES, Goal("times", 1.8, 2.5)),
    Training("training: hybrid H3 125M, GPT-2 vocabulary, 8x1024", 40, ["--preset", "h3-125m"], 8, 1024, "gpt_training", "PyTorch GPT", 50264,
             Goal("times", 1.2, 1.6)),
    Training("training: Mamba 130M, GPT-NeoX vocabulary, 8x2048", 40, ["--preset", "mamba-130m"], 8, 2048, "mamba_training", "mamba_ssm", 50280,
             Goal("times", 1.3, 2)),
    Training("training: RetNet 130M, 8x2048", 40, retnet, 8, 2048, "retnet_training", "flash-linear-attention", 50280, Goal("times", 1.1, 1.5)),
    Training("training: Mamba-2 130M, 8x2048", 40, ["--preset", "mamba2-130m"], 8, 2048, "mamba2_training", "mamba_ssm", 50280, Goal("times", 1.1, 1.5)),
    Primitives("primitive", 95, tuple(primitives())),
    DecodeOne("decode: H3 125M, one sequence, fp32 weights", 10, "fp32", Goal("tokens/s", 3000, 5000)),
    DecodeOne("decode: H3 125M, one sequence, bf16 weights", 10, "bf16", Goal("tokens/s", 5000, 9000)),
    DecodeMany("decode: hybrid H3 1.3B, 64 sequences, prompt 512", 50, 512, (Goal("tokens/s", 20000, 28000), Goal("tokens/s", 14000, 18000)), False),
    DecodeMany("decode: hybrid H3 1.3B, 64 sequences, prompt 1536", 90, 1536,
               (Goal("times", 2.4, 3, "our Transformer"), Goal("times", 2.4, 5, "transformers")), True),
]
