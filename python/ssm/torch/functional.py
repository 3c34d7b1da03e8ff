# SPDX-License-Identifier: Apache-2.0
"""The primitives of the library as functions of torch tensors, on the CPU or a CUDA device, with gradients.

    y = ssm.torch.functional.selective_scan(u, dt, A, B, C, skip=D, dt_softplus=True)
    y, state = ssm.torch.functional.selective_scan(u, dt, A, B, C, final_state=True)

Shapes are written [B, L, D]: batch, position, channel. Any strides are taken. Sequences are of float32, float64, bfloat16 or
float16; parameters and states are of float64 beside float64, else of float32. Calls have as many threads as
torch.get_num_threads(). `segments`, an int64 tensor [S+1], says where packed sequences begin and end; then B = 1 and states have a
row for each of the S. In torch.compile a call is the operator torch.ops.ssm.NAME. The formulas in full are in the headers
ssm/op/NAME.hpp. With `final_state=True` the result is the pair (y, state).
"""
from __future__ import annotations

import typing

import torch

from ._primitives import call as _call

Tensor = torch.Tensor


def _results(found, final_state):
    return (found[0], found[1]) if final_state else found[0]


def selective_scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor | None = None,
                   dt_bias: Tensor | None = None, gate: Tensor | None = None, initial_state: Tensor | None = None,
                   segments: Tensor | None = None, *, dt_softplus: bool = False,
                   final_state: bool = False) -> typing.Any:
    """Mamba's scan: state_t = exp(dt·A)·state + dt·B·u, y = (C·state + skip·u)·silu(gate).
    u, dt, gate, y    [B, L, D]       A    [D, N]       B, C    [B, L, N]       skip, dt_bias    [D]
    initial_state, final_state    [B, D, N]"""
    found = _call("selective_scan",
                  {"u": u, "dt": dt, "A": A, "B": B, "C": C, "skip": skip, "dt_bias": dt_bias, "gate": gate,
                   "initial_state": initial_state},
                  ("y", "final_state") if final_state else ("y",), segments=segments,
                  options=(("dt_softplus", True),) if dt_softplus else ())
    return _results(found, final_state)


def ssd_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor | None = None,
             dt_bias: Tensor | None = None, initial_state: Tensor | None = None, segments: Tensor | None = None, *,
             dt_softplus: bool = False, dt_min: float | None = None, dt_max: float | None = None,
             final_state: bool = False) -> typing.Any:
    """Mamba-2's scan, one decay rate a head: state_t = exp(dt·A)·state + dt·x⊗B, y = C·state + skip·x.
    x, y    [B, L, H, P]    dt    [B, L, H]    A, skip, dt_bias    [H]    B, C    [B, L, G, N], G divides H
    initial_state, final_state    [B, H, P, N]    dt_min, dt_max    what steps are clamped to"""
    chosen: list[tuple[str, typing.Any]] = [("dt_softplus", True)] if dt_softplus else []
    chosen += [(name, value) for name, value in (("dt_min", dt_min), ("dt_max", dt_max)) if value is not None]
    found = _call("ssd_scan",
                  {"x": x, "dt": dt, "A": A, "B": B, "C": C, "skip": skip, "dt_bias": dt_bias,
                   "initial_state": initial_state},
                  ("y", "final_state") if final_state else ("y",), segments=segments, options=tuple(chosen))
    return _results(found, final_state)


def diagonal_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor | None = None,
                  gate_in: Tensor | None = None, gate_out: Tensor | None = None, initial_state: Tensor | None = None,
                  segments: Tensor | None = None, *, discretization: str = "bilinear",
                  final_state: bool = False) -> typing.Any:
    """A diagonal SSM by its recurrence (S4D); y = gate_out·(SSM(gate_in·x) + skip·gate_in·x).
    x, gates, y    [B, L, D]    dt, skip    [R], R divides D    A, B, C    [R, P, 2] complex in pairs, or [R, P, 1] real
    initial_state, final_state    [B, D, P, 2 or 1]    discretization    bilinear or zoh"""
    found = _call("diagonal_scan",
                  {"x": x, "dt": dt, "A": A, "B": B, "C": C, "skip": skip, "gate_in": gate_in, "gate_out": gate_out,
                   "initial_state": initial_state},
                  ("y", "final_state") if final_state else ("y",), segments=segments,
                  options=(("discretization", discretization),))
    return _results(found, final_state)


def diagonal_kernel(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, length: int, *,
                    discretization: str = "bilinear") -> Tensor:
    """The kernel by which `causal_convolution` computes what `diagonal_scan` does.
    dt    [R]    A, B, C    [R, P, 2 or 1]    result    [R, length]"""
    return _call("diagonal_kernel", {"dt": dt, "A": A, "B": B, "C": C}, ("kernel",),
                 options=(("discretization", discretization),), extents=(("L", length),))[0]


def causal_convolution(x: Tensor, kernel: Tensor, skip: Tensor | None = None, gate_in: Tensor | None = None,
                       gate_out: Tensor | None = None, segments: Tensor | None = None) -> Tensor:
    """Each channel with its own causal kernel, by FFT: y = gate_out·(kernel ∗ (gate_in·x) + skip·gate_in·x).
    x, gates, y    [B, L, D]    kernel    [D, K]    skip    [D]"""
    return _call("causal_convolution", {"x": x, "kernel": kernel, "skip": skip, "gate_in": gate_in, "gate_out": gate_out},
                 ("y",), segments=segments)[0]


def short_convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None, initial_state: Tensor | None = None,
                      segments: Tensor | None = None, *, activation: str = "none",
                      final_state: bool = False) -> typing.Any:
    """A short causal filter per channel: y = act(Σ_w weight[w]·x[t−W+1+w] + bias).
    x, y    [B, L, D]    weight    [D, W]    bias    [D]    initial_state, final_state    [B, D, W], the last W inputs
    activation    none or silu"""
    found = _call("short_convolution", {"x": x, "weight": weight, "bias": bias, "initial_state": initial_state},
                  ("y", "final_state") if final_state else ("y",), segments=segments,
                  options=(("activation", activation),))
    return _results(found, final_state)


def shift_convolution(x: Tensor, B: Tensor, C: Tensor, skip: Tensor | None = None, initial_state: Tensor | None = None,
                      segments: Tensor | None = None, *, final_state: bool = False) -> typing.Any:
    """H3's shift SSM: a filter of N taps, the correlation of C with B.
    x, y    [B, L, D]    B, C    [D, N]    skip    [D]    initial_state, final_state    [B, D, N]"""
    found = _call("shift_convolution", {"x": x, "B": B, "C": C, "skip": skip, "initial_state": initial_state},
                  ("y", "final_state") if final_state else ("y",), segments=segments)
    return _results(found, final_state)


def h3_mixer(q: Tensor, k: Tensor, v: Tensor, shift_B: Tensor, shift_C: Tensor, shift_skip: Tensor, dt: Tensor, A: Tensor,
             B: Tensor, C: Tensor, skip: Tensor, initial_shift: Tensor | None = None,
             initial_diagonal: Tensor | None = None, segments: Tensor | None = None, *,
             discretization: str = "bilinear") -> Tensor:
    """H3's sequence mixing: a shift SSM of k, its products with v through a diagonal SSM per head, read by q.
    q, k, v, y    [B, L, D]    shift_B, shift_C    [D, N]    shift_skip    [D]    dt, skip    [H], W = D/H
    A, B, C    [H, P, 2 or 1]    initial_shift    [B, D, N]    initial_diagonal    [B, W, W, H, P, 2 or 1]"""
    return _call("h3_mixer",
                 {"q": q, "k": k, "v": v, "shift_B": shift_B, "shift_C": shift_C, "shift_skip": shift_skip, "dt": dt, "A": A,
                  "B": B, "C": C, "skip": skip, "initial_shift": initial_shift, "initial_diagonal": initial_diagonal},
                 ("y",), segments=segments, options=(("discretization", discretization),))[0]


def decayed_attention(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, initial_state: Tensor | None = None,
                      segments: Tensor | None = None, *, chunk: int = 0, final_state: bool = False) -> typing.Any:
    """Retention, and linear attention where log_decay is 0: state_t = exp(log_decay)·state + k⊗v, y = q·state.
    q, k    [B, L, H, K]    v, y    [B, L, H, V]    log_decay    [H], a constant    initial_state, final_state    [B, H, K, V]
    chunk    positions that are multiplied with each other directly; 0: chosen"""
    found = _call("decayed_attention", {"q": q, "k": k, "v": v, "log_decay": log_decay, "initial_state": initial_state},
                  ("y", "final_state") if final_state else ("y",), segments=segments,
                  options=(("chunk", chunk),) if chunk else ())
    return _results(found, final_state)


def attention(q: Tensor, k: Tensor, v: Tensor, segments: Tensor | None = None, *, scale: float | None = None) -> Tensor:
    """Causal softmax attention; keys and values may begin before the queries and end with them.
    q, y    [B, L, H, K]    k, v    [B, T, H, K], T ≥ L    scale    1/√K where left out"""
    return _call("attention", {"q": q, "k": k, "v": v}, ("y",), segments=segments,
                 options=(("scale", q.shape[-1] ** -0.5 if scale is None else float(scale)),))[0]
