# SPDX-License-Identifier: Apache-2.0
"""Functions of other packages by their names and signatures, computed by this library on the CPU or a CUDA device.

    mamba_ssm            selective_scan_fn, mamba_inner_fn, selective_state_update, mamba_chunk_scan_combined
    causal_conv1d        causal_conv1d_fn, causal_conv1d_update, causal_conv1d_varlen_states
    H3 (FlashConv)       fftconv_func
    FlashFFTConv         FlashFFTConv, FlashDepthWiseConv1d
    flash-linear-attention    chunk_retention, fused_chunk_retention, fused_recurrent_retention, parallel_retention

`patch` puts them in the place of a module's functions of the same names, so that a model of transformers trains on them:

    ssm.torch.compat.patch(transformers.models.mamba.modeling_mamba)

Results have the scalar of the first sequence; sequences of several scalars are computed in one that holds them all, and a result
of several steps is rounded once. Parameters and states are taken in float32, or in float64 beside float64. What a function does
not compute it refuses with a sentence. Gradients also go through the states that are given and returned.
"""
from __future__ import annotations

import functools
import math
import types
import typing
import warnings

import torch
import torch.nn.functional as F

from ._compat_mamba import mamba_chunk_scan_combined, mamba_inner_fn, selective_scan_fn, selective_state_update
from ._compat_operands import by_places, cast, end_to_end, refuse, scalar_of, segments_of, silu_of, wide
from ._primitives import call, places
from .functional import causal_convolution, decayed_attention, short_convolution

Tensor = torch.Tensor
_FILTERED = places("short_convolution", "x", "y")
_CONVOLVED = places("causal_convolution", "x", "gate_in", "gate_out", "y")


def causal_conv1d_fn(x: Tensor, weight: Tensor, bias: Tensor | None = None, seq_idx: Tensor | None = None,
                     initial_states: Tensor | None = None, return_final_states: bool = False,
                     final_states_out: Tensor | None = None, activation: str | None = None) -> typing.Any:
    """causal_conv1d's.    x [B, D, L]    weight [D, W]    initial and final states [B, D, W−1]    result [B, D, L]
    seq_idx [B, L]; below 0: a position of no sequence, its result 0"""
    batch, _, length = x.shape
    activation = silu_of("causal_conv1d_fn", activation)
    segments = segments_of("causal_conv1d_fn", seq_idx, None, batch, length, nowhere=True)
    if segments is not None and (initial_states is not None or return_final_states):
        refuse("causal_conv1d_fn", "states beside seq_idx are not there")
    first = None if initial_states is None else F.pad(wide(initial_states, x), (1, 0))
    if segments is not None:
        rows = x.transpose(1, 2)
        y = short_convolution(end_to_end(rows), wide(weight, x), wide(bias, x), segments=segments, activation=activation)
        y = y.reshape(rows.shape).transpose(1, 2)
        return y if seq_idx is None or int(seq_idx.min()) >= 0 else y.masked_fill((seq_idx < 0).unsqueeze(1), 0)
    y, *last = call("short_convolution", {"x": x, "weight": wide(weight, x), "bias": wide(bias, x), "initial_state": first},
                    ("y", "final_state") if return_final_states else ("y",), options=(("activation", activation),),
                    turned=_FILTERED)
    if not return_final_states:
        return y
    last = last[0][..., 1:].to(x.dtype)
    if final_states_out is not None:
        with torch.no_grad():
            final_states_out.copy_(last)
        last = final_states_out
    return y, last


def causal_conv1d_update(x: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor | None = None,
                         activation: str | None = None, cache_seqlens: Tensor | None = None,
                         conv_state_indices: Tensor | None = None) -> Tensor:
    """causal_conv1d's: some positions; the state is overwritten.    x [B, D] or [B, D, L]    conv_state [B, D, S], S ≥ W−1
    cache_seqlens [B]    positions read before: position t is at t mod S of the state
    conv_state_indices [B]    where in the state a row's is; below 0: the row is padding, its result 0"""
    if conv_state_indices is not None:
        return typing.cast(Tensor, by_places(
            lambda x, state, seen: causal_conv1d_update(x, state, weight, bias, activation, seen),
            x, conv_state, conv_state_indices, cache_seqlens))
    activation = silu_of("causal_conv1d_update", activation)
    width, kept = weight.shape[1], conv_state.shape[2]
    if kept < width - 1:
        refuse("causal_conv1d_update", f"the state has {kept} positions, the filter needs {width - 1}")
    if kept == width and cache_seqlens is None:  # what the library takes and gives
        rows = x.unsqueeze(1) if x.dim() == 2 else x.transpose(1, 2)
        before = conv_state.clone() if torch.is_grad_enabled() else conv_state
        y, last = short_convolution(rows, wide(weight, x), wide(bias, x), wide(before, x), activation=activation,
                                    final_state=True)
        with torch.no_grad():
            conv_state.copy_(last)
        return y.squeeze(1) if x.dim() == 2 else y.transpose(1, 2)
    rows = x.unsqueeze(-1) if x.dim() == 2 else x

    def places(seen, begin, end):  # [B, D, end − begin], positions counted from the first of x
        at = (seen.to(torch.int64)[:, None] + torch.arange(begin, end, device=seen.device)) % kept
        return at[:, None].expand(-1, conv_state.shape[1], -1)

    before = conv_state[..., kept - width + 1:] if cache_seqlens is None else \
        conv_state.gather(2, places(cache_seqlens, 1 - width, 0))
    y = short_convolution(rows.transpose(1, 2), wide(weight, x), wide(bias, x), F.pad(wide(before, x), (1, 0)),
                          activation=activation)
    with torch.no_grad():
        new = rows.to(conv_state.dtype)
        if cache_seqlens is None:
            conv_state.copy_(torch.cat([conv_state, new], -1)[..., new.shape[-1]:])
        else:
            conv_state.scatter_(2, places(cache_seqlens, max(new.shape[-1] - kept, 0), new.shape[-1]), new[..., -kept:])
    return y.transpose(1, 2).reshape(x.shape)


def causal_conv1d_varlen_states(x: Tensor, cu_seqlens: Tensor, state_len: int) -> Tensor:
    """causal_conv1d's: the last positions of packed sequences, behind zeros where one is shorter.
    x [L, D]    cu_seqlens [S+1]    result [S, D, state_len]"""
    begins, ends = cu_seqlens[:-1, None].to(torch.int64), cu_seqlens[1:, None].to(torch.int64)
    at = ends + torch.arange(1 - state_len, 1, device=ends.device)  # counted from 1: at 0 there is a row of zeros
    return F.pad(x, (0, 0, 1, 0))[torch.where(at > begins, at, 0)].transpose(1, 2)


def fftconv_func(u: Tensor, k: Tensor, D: Tensor, dropout_mask: Tensor | None = None, gelu: bool = True,
                 force_fp16_output: bool = False, output_hbl_layout: bool = False, v: Tensor | None = None,
                 head_dim: int = 1, q: Tensor | None = None, fftfp16: bool = False, k_rev: Tensor | None = None) -> Tensor:
    """H3's: gelu(k ∗ u + D·u)·dropout_mask; with q and v, H3's q·(k ∗ (u⊗v) + D·(u⊗v)).    u, q, v [B, H, L]    k [H, K]
    D [H]    dropout_mask [B, H]    k_rev [H, K], a kernel from the positions behind    output_hbl_layout: the result lies in
    memory as [H, B, L]. The FFT is never of half precision."""
    if (q is None) != (v is None):
        refuse("fftconv_func", "q and v go together")
    if q is not None and (gelu or dropout_mask is not None):
        refuse("fftconv_func", "gelu and dropout_mask beside q and v are not there")
    kind = torch.float16 if force_fp16_output else u.dtype
    if q is not None or gelu or dropout_mask is not None or k_rev is not None:
        u = u.to(scalar_of(u, q, v, steps=True))
    k, D = wide(k, u), wide(D, u)

    def convolution(rows):
        y = causal_convolution(rows, k, D)
        return y if k_rev is None else y + causal_convolution(rows.flip(1), wide(k_rev, u)).flip(1)

    if q is not None and v is not None:
        batch, channels, length = u.shape
        heads = channels // head_dim
        if k.shape[0] != heads:
            refuse("fftconv_func", f"the kernel has {k.shape[0]} rows for {heads} heads")
        left, right = (t.to(u.dtype).reshape(batch, heads, head_dim, length) for t in (u, v))
        products = (left.unsqueeze(3) * right.unsqueeze(2)).reshape(batch, heads, head_dim * head_dim, length)
        rows = products.permute(0, 2, 3, 1).reshape(batch * head_dim * head_dim, length, heads)
        y = convolution(rows).reshape(batch, head_dim, head_dim, length, heads)
        by = q.to(u.dtype).reshape(batch, heads, head_dim, length).permute(0, 2, 3, 1).unsqueeze(2)
        y = (y * by).sum(1).permute(0, 3, 1, 2).reshape(u.shape)
    else:
        if k_rev is None:
            y = call("causal_convolution", {"x": u, "kernel": k, "skip": D}, ("y",), turned=_CONVOLVED)[0]
        else:
            y = convolution(u.transpose(1, 2)).transpose(1, 2)
        if gelu:
            y = F.gelu(y)
        if dropout_mask is not None:
            y = y * dropout_mask.unsqueeze(-1).to(y.dtype)
    y = y.to(kind)
    return y.transpose(0, 1).contiguous().transpose(0, 1) if output_hbl_layout else y.contiguous()


class FlashFFTConv(torch.nn.Module):
    """FlashFFTConv's: y = postgate·(k ∗ (pregate·u)), the convolution circular with seqlen positions: causal where u and k have
    at most seqlen positions together.    u, gates, y [B, H, L]    k [H, K]    L, K ≤ seqlen. dtype is what u's is anyway."""

    def __init__(self, seqlen: int, dtype: torch.dtype = torch.float16, use_32_butterfly: bool = True) -> None:
        super().__init__()
        self.seqlen, self.dtype = seqlen, dtype

    def forward(self, u: Tensor, k: Tensor, pregate: Tensor | None = None, postgate: Tensor | None = None) -> Tensor:
        if (pregate is None) != (postgate is None):
            refuse("FlashFFTConv", "pregate and postgate go together")
        length = u.shape[-1]
        if max(length, k.shape[-1]) > self.seqlen:
            raise ValueError(f"ssm.torch.compat.FlashFFTConv: u has {length} and k {k.shape[-1]} positions, more than the "
                             f"{self.seqlen} of the convolution")
        around = length + k.shape[-1] - 1 - self.seqlen  # positions that come back to the first ones
        if around <= 0:
            return call("causal_convolution", {"x": u, "kernel": wide(k, u), "gate_in": cast(pregate, u.dtype),
                                               "gate_out": cast(postgate, u.dtype)}, ("y",), turned=_CONVOLVED)[0]
        rows = u.transpose(1, 2)
        left, right = (None if t is None else t.to(u.dtype).transpose(1, 2) for t in (pregate, postgate))
        scalar = scalar_of(u, steps=True)
        rows = rows.to(scalar) if left is None else rows.to(scalar) * left
        whole = causal_convolution(F.pad(rows, (0, 0, 0, k.shape[-1] - 1)), wide(k, u))
        wrapped = F.pad(whole[:, self.seqlen:], (0, 0, 0, max(length - around, 0)))
        y = whole[:, :length] + wrapped[:, :length]
        return (y if right is None else y * right).to(u.dtype).transpose(1, 2)


class FlashDepthWiseConv1d(torch.nn.Module):
    """FlashFFTConv's: torch.nn.Conv1d of one channel a group.    x [B, D, L], without is_bhl [B, L, D]    weights [D, 1, W]
    bias [D]    result as x, L + 2·padding − W + 1 positions. The parameters are copies; without is_bhl weights are [W, D]."""

    def __init__(self, channels: int, kernel_size: int, padding: int, weights: Tensor, bias: Tensor, is_bhl: bool = True,
                 device: typing.Any = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.padding, self.is_bhl = padding, is_bhl
        taps = weights.detach().reshape(channels, kernel_size)
        self.weights = torch.nn.Parameter((taps if is_bhl else taps.T).clone(memory_format=torch.contiguous_format))
        self.bias = torch.nn.Parameter(bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        taps, rows = (self.weights, x.transpose(1, 2)) if self.is_bhl else (self.weights.T, x)
        late = self.padding - taps.shape[1] + 1  # a causal filter's padding is in front
        y = short_convolution(F.pad(rows, (0, 0, max(late, 0), self.padding)), wide(taps, x), wide(self.bias, x))
        y = y[:, max(-late, 0):]
        return typing.cast(Tensor, y.transpose(1, 2) if self.is_bhl else y)


@functools.lru_cache(maxsize=64)
def _decays(heads):
    """log(1 − 2^(−5−h)) of the heads."""
    return [math.log1p(-2.0 ** (-5 - head)) for head in range(heads)]


def _retention(function, q, k, v, scale, initial_state, output_final_state, cu_seqlens, head_first, reverse=False,
               v_first=False):
    if head_first:
        refuse(function, "head_first is not there: tensors are [B, L, H, K]")
    segments = segments_of(function, None, cu_seqlens, *q.shape[:2])
    if v_first and initial_state is not None:
        initial_state = initial_state.transpose(-1, -2)
    if reverse:
        q, k, v = (t.flip(1) for t in (q, k, v))
        if segments is not None:
            segments = q.shape[1] - segments.flip(0)
            initial_state = None if initial_state is None else initial_state.flip(0)
    decay = torch.tensor(_decays(q.shape[2]), dtype=torch.float64 if q.dtype is torch.float64 else torch.float32,
                         device="cpu").to(q.device, non_blocking=True)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    found = decayed_attention(q * scale, k, v, decay, wide(initial_state, q), segments, final_state=output_final_state)
    y, state = found if output_final_state else (found, None)
    if reverse:
        y, state = y.flip(1), state if segments is None or state is None else state.flip(0)
    return y, state.transpose(-1, -2) if v_first and state is not None else state


def chunk_retention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, initial_state: Tensor | None = None,
                    output_final_state: bool = False, cu_seqlens: Tensor | None = None, head_first: bool = False,
                    chunk_size: int | None = None) -> typing.Tuple[Tensor, Tensor | None]:
    """fla's: (scale·retention, final state or None), head h decaying by 1 − 2^(−5−h) a position.
    q, k [B, L, H, K]    v [B, L, H, V]    states [B, H, K, V]    scale 1/√K where left out
    chunk_size, which changes no number, is not used"""
    return _retention("chunk_retention", q, k, v, scale, initial_state, output_final_state, cu_seqlens, head_first)


def fused_chunk_retention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, initial_state: Tensor | None = None,
                          output_final_state: bool = False, cu_seqlens: Tensor | None = None,
                          head_first: bool = False) -> typing.Tuple[Tensor, Tensor | None]:
    """The same as chunk_retention."""
    return _retention("fused_chunk_retention", q, k, v, scale, initial_state, output_final_state, cu_seqlens, head_first)


def fused_recurrent_retention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None,
                              initial_state: Tensor | None = None, output_final_state: bool = False, reverse: bool = False,
                              state_v_first: bool = False, cu_seqlens: Tensor | None = None, head_first: bool = False,
                              transpose_state_layout: bool | None = None) -> typing.Tuple[Tensor, Tensor | None]:
    """The same as chunk_retention; with reverse from the last position to the first, with state_v_first, which
    transpose_state_layout is an old name of, the states are [B, H, V, K]."""
    if transpose_state_layout is not None:
        if state_v_first:
            raise ValueError("ssm.torch.compat.fused_recurrent_retention: transpose_state_layout is the old name of "
                             "state_v_first; give one of them")
        warnings.warn("transpose_state_layout is the old name of state_v_first", DeprecationWarning, stacklevel=2)
        state_v_first = transpose_state_layout
    return _retention("fused_recurrent_retention", q, k, v, scale, initial_state, output_final_state, cu_seqlens, head_first,
                      reverse, state_v_first)


def parallel_retention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, output_attentions: bool = False,
                       cu_seqlens: Tensor | None = None, head_first: bool = False) -> typing.Tuple[Tensor, None]:
    """fla's: (scale·retention, None); the attention matrix is never formed."""
    if output_attentions:
        refuse("parallel_retention", "output_attentions is not there: the matrix is never formed")
    return _retention("parallel_retention", q, k, v, scale, None, False, cu_seqlens, head_first)


_NAMES = {
    "selective_scan_fn": selective_scan_fn, "mamba_selective_scan": selective_scan_fn, "mamba_inner_fn": mamba_inner_fn,
    "selective_state_update": selective_state_update, "mamba_selective_state_update": selective_state_update,
    "mamba2_selective_state_update": selective_state_update, "mamba_chunk_scan_combined": mamba_chunk_scan_combined,
    "mamba2_chunk_scan": mamba_chunk_scan_combined, "causal_conv1d_fn": causal_conv1d_fn,
    "causal_conv1d_update": causal_conv1d_update, "causal_conv1d_varlen_states": causal_conv1d_varlen_states,
    "fftconv_func": fftconv_func, "chunk_retention": chunk_retention, "fused_chunk_retention": fused_chunk_retention,
    "fused_recurrent_retention": fused_recurrent_retention, "parallel_retention": parallel_retention,
}


def _taking(function):
    """The function, which leaves out what callers hand on for others."""
    import inspect
    known = frozenset(inspect.signature(function).parameters)

    @functools.wraps(function)
    def called(*given, **named):
        return function(*given, **{name: value for name, value in named.items() if name in known})

    return called


def patch(module: types.ModuleType) -> list[str]:
    """Replaces a module's functions that have the names above, transformers' names for them included; returns which.
    Tensors must be on the CPU from then on, or on a CUDA device where the library was built for it."""
    replaced = [name for name in _NAMES if callable(getattr(module, name, None))]
    if not replaced:
        raise ValueError(f"{module.__name__} has none of the functions that this replaces: {', '.join(_NAMES)}")
    for name in replaced:
        setattr(module, name, _taking(_NAMES[name]))
    return replaced
