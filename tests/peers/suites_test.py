#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The test suites of mamba_ssm, causal-conv1d, FlashFFTConv, H3 and flash-linear-attention, with the functions of
ssm.torch.compat in the place of theirs.

    suites_test.py PEERS_FOLDER [OPTIONS] [NAME…]    SSM_LIBRARY names the library, PYTHONPATH the package; exits with 77 and the
                                                     reason where torch, pytest, einops or the suites are missing
    PEERS_FOLDER    has the repositories: mamba, causal-conv1d, flash-fft-conv, H3, flash-linear-attention
    NAME            of a suite, as SUITES below has it; all of them where left out
    --device cuda   on a GPU; on the CPU where left out
    --results FILE  the numbers, as JSON
    --all           every case, which takes hours and tens of GB of memory. Without it every k-th case of a test, k from SUITES,
                    and the first with each value of a parameter that these do not have; FlashFFTConv's with at most 2^25
                    elements in a batch, hence with at most 2^18 positions

A suite's file is copied to a temporary folder, on the CPU 'cuda' in it becomes 'cpu', and behind its imports one line imports our functions
over theirs. What else it imports of its package comes from stand-ins: functions in plain PyTorch are taken out of the package's
sources, everything compiled raises an error when it is called. A test passes, fails, or is in the table with the reason why it
does not apply; one that skips itself and is not in the table has failed.
"""
import argparse
import ast
import collections
import json
import math
import os
import pathlib
import re
import sys
import tempfile
import types
import typing

try:
    import einops
    import pytest
    import torch
    import torch.nn.functional
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

import ssm.torch.compat


DEVICE = "cpu"  # or cuda


class Reason(typing.NamedTuple):
    """Why some tests do not apply."""
    test: str  # regular expression of the function's whole name
    applies_not: typing.Callable[[dict], bool]  # of the parameters
    why: str
    device: str = ""  # where alone that is so


class Suite(typing.NamedTuple):
    name: str
    file: str  # below PEERS_FOLDER; empty: CASES has the text
    ours: tuple  # names in ssm.torch.compat
    modules: typing.Callable[[pathlib.Path], dict]  # the stand-ins, {module: its members}
    every: int = 1  # the part of the cases that runs without --all
    reasons: tuple = ()
    changes: tuple = ()  # further (text, text in its place)


def every_case(parameters):
    return True


# What is taken from the peers

def plain_functions(path, names, **known):
    """Functions of a source file, by names or their regular expressions, without what else the file imports or compiles."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body
                 if isinstance(node, ast.FunctionDef) and any(re.fullmatch(name, node.name) for name in names)]
    assert tree.body, f"{path} has no function {' or '.join(names)}"
    space = {"__name__": path.stem, "torch": torch, "F": torch.nn.functional, "math": math, "Tensor": torch.Tensor,
             "rearrange": einops.rearrange, "repeat": einops.repeat, **known}
    # lines and file stay those of the source, which torch.jit.script reads
    exec(compile(tree, str(path), "exec"), space)
    return {node.name: space[node.name] for node in tree.body}


def mamba_scan(peers):
    conv = plain_functions(peers / "causal-conv1d/causal_conv1d/causal_conv1d_interface.py", ["causal_conv1d_ref"])
    source = peers / "mamba/mamba_ssm/ops/selective_scan_interface.py"
    scan = plain_functions(source, ["selective_scan_ref"])
    inner = plain_functions(source, ["mamba_inner_ref"], causal_conv1d_fn=conv["causal_conv1d_ref"],
                            selective_scan_fn=scan["selective_scan_ref"])
    return {"mamba_ssm.ops.selective_scan_interface": {**scan, **inner}}


def mamba_ssd(peers):
    folder = peers / "mamba/mamba_ssm/ops/triton"
    found = {}
    for file in ("ssd_chunk_state", "ssd_state_passing", "ssd_chunk_scan", "ssd_combined"):
        known = {name: function for module in found.values() for name, function in module.items()}
        names = ["ssd_chunk_scan_combined_ref"] if file == "ssd_combined" else [f"{file.removeprefix('ssd_')}_ref"]
        found[f"mamba_ssm.ops.triton.{file}"] = plain_functions(folder / f"{file}.py", names, **known)
    return found


def mamba_update(peers):
    name = "mamba_ssm.ops.triton.selective_state_update"
    return {name: plain_functions(peers / "mamba" / (name.replace(".", "/") + ".py"), ["selective_state_update_ref"])}


def short_convolutions(peers):
    names = ("causal_conv1d.causal_conv1d_interface", "causal_conv1d.causal_conv1d_varlen")
    return {name: plain_functions(peers / "causal-conv1d" / (name.replace(".", "/") + ".py"), [".*_ref"]) for name in names}


def long_convolutions(peers):
    return {"src.ops.fftconv": plain_functions(peers / "H3/src/ops/fftconv.py", [".*_ref", "_mul_sum"])}


def flash_fft(peers):
    return {"flashfftconv": {}}


def retention(peers):
    import logging
    import warnings
    tools = plain_functions(peers / "flash-linear-attention/fla/utils/_testing.py", ["get_.*", "assert_close"],
                            logger=logging.getLogger("fla"), warnings=warnings, FLA_CI_ENV=False)
    return {"fla.utils": {**tools, "device": DEVICE}, "fla.ops.retention": {}}


def retention_beside_theirs(peers):
    """With their loop over chunks in plain PyTorch as the function that the others are compared with."""
    plain = plain_functions(peers / "flash-linear-attention/fla/ops/simple_gla/naive.py",
                            ["naive_chunk_simple_gla"])["naive_chunk_simple_gla"]

    def fused_recurrent_retention(q, k, v, initial_state=None, output_final_state=False, cu_seqlens=None):
        g = torch.log1p(-torch.exp2(-5 - torch.arange(q.shape[2], device=q.device).float())).expand(q.shape[:3])
        ends = [0, q.shape[1]] if cu_seqlens is None else cu_seqlens.tolist()
        ys, states = [], []
        for at, (begin, end) in enumerate(zip(ends, ends[1:])):
            first = None if initial_state is None else initial_state.float()
            y, state = plain(*(t[:, begin:end] for t in (q, k, v, g)), output_final_state=True,
                             initial_state=first if first is None or cu_seqlens is None else first[at:at + 1])
            ys.append(y.to(q.dtype))
            states.append(state)
        return torch.cat(ys, 1), torch.cat(states) if output_final_state else None

    found = retention(peers)
    found["fla.ops.retention"] = {"fused_recurrent_retention": fused_recurrent_retention}
    return found


# What is run

CASES = {"mamba-inner-reference": '''
import pytest
import torch

from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn, mamba_inner_ref


@pytest.mark.parametrize("varying_C", [False, True])
@pytest.mark.parametrize("varying_B", [False, True])
def test_as_the_reference(varying_B, varying_C):
    torch.manual_seed(0)
    channels, states, rank, length = 96, 8, 6, 128
    near = lambda *shape: torch.randn(*shape) / shape[-1] ** 0.5
    constant = lambda varying: None if varying else torch.randn(channels, states)
    given = [torch.randn(2, 2 * channels, length), near(channels, 1, 3), torch.randn(channels),
             near(rank + (varying_B + varying_C) * states, channels), near(channels, rank), near(channels // 2, channels), None,
             -torch.rand(channels, states) / 2, constant(varying_B), constant(varying_C), torch.randn(channels),
             torch.rand(channels) / 2]
    ours, theirs = ([None if t is None else t.clone().requires_grad_() for t in given] for _ in range(2))
    y, expected = mamba_inner_fn(*ours), mamba_inner_ref(*theirs)
    torch.testing.assert_close(y, expected, rtol=6e-4, atol=1e-4)
    dy = torch.randn_like(y)
    y.backward(dy)
    expected.backward(dy)
    for a, b in zip(ours, theirs):
        if a is not None:
            scale = max(1, b.grad.abs().max().item())
            torch.testing.assert_close(a.grad / scale, b.grad / scale, rtol=1e-3, atol=1e-4)
''', "mamba-ssd-reference": '''
import pytest
import torch

from mamba_ssm.ops.triton.ssd_chunk_state import chunk_state_ref
from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined, ssd_chunk_scan_combined_ref


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("skip", [None, "heads", "channels"])
@pytest.mark.parametrize("has_z", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("chunk_size, length", [(64, 64), (64, 256), (128, 512)])
def test_as_the_reference(chunk_size, length, groups, has_z, skip, dtype):
    torch.manual_seed(length + groups)
    heads, width, states = 8, 16, 32
    x = torch.randn(2, length, heads, width, dtype=dtype)
    z = torch.randn_like(x) if has_z else None
    B, C = (torch.randn(2, length, groups, states, dtype=dtype) / 5 for _ in range(2))
    dt, bias, A = torch.randn(2, length, heads), torch.rand(heads) - 4, -torch.rand(heads)
    D = {None: None, "heads": torch.randn(heads), "channels": torch.randn(heads, width)}[skip]
    ours = [None if t is None else t.clone().requires_grad_() for t in (x, dt, A, B, C, D, z, bias)]
    theirs = [None if t is None else t.float().requires_grad_() for t in (x, dt, A, B, C, D, z, bias)]
    y = mamba_chunk_scan_combined(*ours[:5], chunk_size, *ours[5:], dt_softplus=True)
    expected = ssd_chunk_scan_combined_ref(*theirs[:5], chunk_size, *theirs[5:], dt_softplus=True)
    assert y.dtype == dtype
    tolerance = dict(rtol=1e-3, atol=1e-4) if dtype == torch.float32 else dict(rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(y.float(), expected, **tolerance)
    dy = torch.randn_like(expected)
    y.backward(dy.to(dtype))
    expected.backward(dy.to(dtype).float())
    for a, b in zip(ours, theirs):
        if a is not None:
            scale = max(1, b.grad.abs().max().item())
            torch.testing.assert_close(a.grad.float() / scale, b.grad / scale, **tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("chunk_size", [64, 128])
def test_states_of_packed_sequences(chunk_size, groups, dtype):
    torch.manual_seed(groups)
    lengths, heads, width, states = torch.randint(1, 200, (60,)), 8, 16, 32
    ends = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    total = int(ends[-1])
    x = torch.randn(1, total, heads, width, dtype=dtype)
    B, C = (torch.randn(1, total, groups, states, dtype=dtype) / 5 for _ in range(2))
    dt, A = torch.nn.functional.softplus(torch.randn(1, total, heads) - 4), -0.1 * torch.rand(heads)
    ids = torch.arange(60, dtype=torch.int32).repeat_interleave(lengths)[None]
    _, found = mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size, seq_idx=ids, cu_seqlens=ends, return_varlen_states=True)
    for at, (begin, end) in enumerate(zip(ends, ends[1:])):
        steps = dt[:, begin:end].transpose(1, 2).unsqueeze(2)
        alone = chunk_state_ref(B[:, begin:end].float(), x[:, begin:end].float(), steps, (steps * A[:, None, None]).cumsum(-1))
        torch.testing.assert_close(found[at], alone[0, 0], rtol=1e-3, atol=1e-4)
'''}

HALVES = (torch.float16, torch.bfloat16)
LARGE = 2 ** 25
SUITES = (
    Suite("mamba-selective-scan", "mamba/tests/ops/test_selective_scan.py", ("selective_scan_fn", "mamba_inner_fn"), mamba_scan,
          reasons=(Reason("test_mamba_inner_fn", lambda p: p["wtype"].is_complex, "complex A is refused"),
                   Reason("test_mamba_inner_fn", every_case,
                          "wants sums of 10^5 to 10^8 within 2e-3, from which in float32 their reference is as far as ours; "
                          "mamba-inner-reference compares the two, and gradients, on smaller numbers"))),
    Suite("mamba-inner-reference", "", ("mamba_inner_fn",), mamba_scan),
    Suite("mamba-ssd", "mamba/tests/ops/triton/test_ssd.py", ("mamba_chunk_scan_combined",), mamba_ssd,
          reasons=(Reason("test_chunk_state_varlen", every_case,
                          "tests kernels inside mamba_chunk_scan_combined, which are no functions here; "
                          "mamba-ssd-reference compares the states of packed sequences that they find"),)),
    Suite("mamba-ssd-reference", "", ("mamba_chunk_scan_combined",), mamba_ssd),
    Suite("mamba-state-update", "mamba/tests/ops/triton/test_selective_state_update.py", ("selective_state_update",), mamba_update,
          every=5),
    Suite("causal-conv1d", "causal-conv1d/tests/test_causal_conv1d.py",
          ("causal_conv1d_fn", "causal_conv1d_update", "causal_conv1d_varlen_states"), short_convolutions, every=37,
          changes=(("range(10000)", "range(3)"), ("torch.cuda.is_available()", "True"), ("torch.cuda.synchronize()", "None")),
          reasons=(Reason("test_causal_conv1d", lambda p: not p["channel_last"] and (p["has_initial_states"]
                                                                                  or p["return_final_states"]),
                          "the suite skips them itself: states only beside x whose channels are neighbours in memory"),
                   Reason("test_causal_conv1d_bwd_default_mode_is_not_reproducible", every_case,
                          "expects gradients that differ from run to run; ours never do"))),
    Suite("flash-fft-conv", "flash-fft-conv/tests/test_flashfftconv.py", ("FlashFFTConv",), flash_fft, every=17),
    Suite("flash-fft-conv1d", "flash-fft-conv/tests/test_conv1d.py", ("FlashDepthWiseConv1d",), flash_fft, every=41,
          reasons=(Reason("test_conv1d_b.*_fwd", lambda p: p["dtype"][0] == torch.float32 and p["dtype"][1] in HALVES,
                          "torch.nn.Conv1d, the reference, does not take it: torch.autocast on the CPU has no float32", "cpu"),
                   Reason("test_conv1d_blh_bwd", every_case,
                          "reads the gradient of weights [W, D] as if it lay in memory as [D, W]; ours lies as its parameter"))),
    Suite("h3-fftconv", "H3/tests/ops/test_fftconv.py", ("fftconv_func",), long_convolutions, every=23,
          reasons=(Reason("test_fftconv", lambda p: p["dtype"] == torch.bfloat16 and p["force_fp16_output"],
                          "the suite skips them itself: float16 results of bfloat16 sequences"),)),
    Suite("fla-retention", "flash-linear-attention/tests/ops/test_retention.py",
          ("chunk_retention", "fused_chunk_retention", "fused_recurrent_retention", "parallel_retention"), retention),
    Suite("fla-retention-reference", "flash-linear-attention/tests/ops/test_retention.py",
          ("chunk_retention", "fused_chunk_retention", "parallel_retention"), retention_beside_theirs,
          reasons=(Reason("test_fused_recurrent_state_v_first", every_case,
                          "tests the function that is the reference here; fla-retention runs it"),)),
)


def spread(cases, every):
    """Every k-th of (item, parameters), and the first with each value of each parameter that none of these has."""
    chosen = cases[::every]
    seen = {(name, str(value)) for _, parameters in chosen for name, value in parameters.items()}
    for case in cases:
        values = {(name, str(value)) for name, value in case[1].items()}
        if not values <= seen:
            chosen.append(case)
            seen |= values
    return [item for item, _ in chosen]


def large(parameters):
    """Whether sequences have more elements than are run without --all."""
    sizes = {"B": 1, "H": 1, "seqlen": 1, "b": 1, "h": 1, "d": 1, "l": 1}
    return math.prod(parameters.get(name, other) for name, other in sizes.items()) > LARGE


class Part:
    """A plugin of pytest that chooses the cases and keeps what came of them."""

    def __init__(self, suite, everything):
        self.suite, self.everything = suite, everything
        self.passed, self.left, self.failures = 0, 0, []
        self.inapplicable = collections.Counter()

    def pytest_collection_modifyitems(self, items):
        applying = collections.defaultdict(list)
        for item in items:
            parameters = getattr(item, "callspec", types.SimpleNamespace(params={})).params
            for reason in self.suite.reasons:
                if reason.device in ("", DEVICE) and re.fullmatch(reason.test, item.originalname) and reason.applies_not(parameters):
                    self.inapplicable[f"{item.originalname}: {reason.why}"] += 1
                    break
            else:
                applying[item.originalname].append((item, parameters))
        groups = list(applying.values())
        if self.everything:
            items[:] = [item for cases in groups for item, _ in cases]
        else:
            small = [[case for case in cases if not large(case[1])] for cases in groups]
            items[:] = [item for cases in small for item in spread(cases, self.suite.every)]
        self.left = sum(map(len, groups)) - len(items)

    @pytest.fixture(autouse=True)
    def defaults(self):
        if not self.suite.file:
            torch.set_default_device(DEVICE)
        yield
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)

    def pytest_runtest_logreport(self, report):
        if report.skipped:
            self.failures.append((report.nodeid, f"skips itself and is not in the table: {report.longrepr}"))
        elif report.failed:
            self.failures.append((report.nodeid, str(report.longrepr)))
        elif report.when == "call":
            self.passed += 1

    def pytest_collectreport(self, report):
        if report.failed:
            self.failures.append((report.nodeid, str(report.longrepr)))


def stand_in(name, members):
    """A module whose other names are functions that say that they are not there."""
    module = types.ModuleType(name)
    vars(module).update(members)

    def missing(attribute):
        if attribute.startswith("__"):
            raise AttributeError(attribute)

        def called(*operands, **named):
            raise NotImplementedError(f"{name}.{attribute} is compiled for another device")
        return called

    module.__getattr__ = missing
    return module


def with_ours(text, suite):
    """The text of a test file for the device and our functions."""
    text = text.replace("breakpoint()", "pass")
    if DEVICE == "cpu":
        text = re.sub(r"(['\"])cuda(:0)?\1", r"\1cpu\1", text)
    for old, new in suite.changes:
        assert old in text, f"{suite.file} has no {old}"
        text = text.replace(old, new)
    lines = text.splitlines()
    behind = max(node.end_lineno for node in ast.parse(text).body if isinstance(node, (ast.Import, ast.ImportFrom)))
    lines.insert(behind, f"from ssm.torch.compat import {', '.join(suite.ours)}")
    return "\n".join(lines) + "\n"


def run(suite, peers, folder, everything):
    part = Part(suite, everything)
    text = (peers / suite.file).read_text() if suite.file else CASES[suite.name]
    copy = folder / f"test_{suite.name.replace('-', '_')}.py"
    copy.write_text(with_ours(text, suite))
    modules = {name: stand_in(name, members) for name, members in suite.modules(peers).items()}
    for name in list(modules):
        for end in range(1, name.count(".") + 1):
            parent = ".".join(name.split(".")[:end])
            modules.setdefault(parent, stand_in(parent, {}))
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        status = pytest.main(["-p", "no:terminal", "-p", "no:cacheprovider", "--import-mode=importlib", "-c", os.devnull,
                              "--rootdir", str(folder), str(copy)], plugins=[part])
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED) and not part.failures:
        part.failures.append((suite.file, f"pytest ended with {status}"))
    if not part.passed and not part.failures and not part.inapplicable:
        part.failures.append((suite.file, "no test was found"))
    return part


def main():
    parser = argparse.ArgumentParser(usage="suites_test.py PEERS_FOLDER [--all] [--device cuda] [--results FILE] [NAME…]")
    parser.add_argument("peers", type=pathlib.Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--results", type=pathlib.Path, metavar="FILE")
    given = parser.parse_intermixed_args()
    global DEVICE
    DEVICE = given.device
    if DEVICE == "cuda" and not torch.cuda.is_available():
        print("skipped: torch finds no CUDA device")
        return 77
    if not given.peers.is_dir():
        print(f"skipped: there is no folder {given.peers}")
        return 77
    unknown = set(given.names) - {suite.name for suite in SUITES}
    if unknown:
        parser.error(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(suite.name for suite in SUITES)}")
    passed = failed = inapplicable = left = 0
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for suite in SUITES:
            if given.names and suite.name not in given.names:
                continue
            if suite.file and not (given.peers / suite.file).is_file():
                print(f"{suite.name}: skipped: there is no {given.peers / suite.file}")
                continue
            part = run(suite, given.peers, pathlib.Path(folder), given.all)
            apply_not = sum(part.inapplicable.values())
            print(f"{suite.name}: {part.passed} passed, {len(part.failures)} failed, {apply_not} do not apply, {part.left} left out",
                  flush=True)
            for reason, count in part.inapplicable.items():
                print(f"    {count} do not apply, {reason}")
            for name, why in part.failures:
                print(f"    FAILED {name}\n{why}")
            passed, failed = passed + part.passed, failed + len(part.failures)
            inapplicable, left = inapplicable + apply_not, left + part.left
            results.append({"suite": suite.name, "passed": part.passed, "failed": len(part.failures), "do_not_apply": part.inapplicable,
                            "left_out": part.left})
    if given.results:
        given.results.write_text(json.dumps({"torch": torch.__version__, "device": DEVICE, "suites": results}, indent=1) + "\n")
    if left:
        print(f"{left} cases are left out; --all runs them")
    print(f"{passed} passed, {failed} failed, {inapplicable} do not apply")
    return 1 if failed else 0 if passed else 77


if __name__ == "__main__":
    sys.exit(main())
