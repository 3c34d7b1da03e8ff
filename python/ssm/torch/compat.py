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
import types
import typing
import warnings

import torch
import torch.nn.functional as F

from . import _mamba_inner
from .functional import causal_convolution, decayed_attention, selective_scan, short_convolution, ssd_scan

Tensor = torch.Tensor


def _refuse(function, what):
    raise NotImplementedError(f"ssm.torch.compat.{function}: {what}")


def _wide(tensor, like):
    """In the scalar of parameters and states beside sequences like this one."""
    return None if tensor is None else tensor.to(torch.float64 if like.dtype is torch.float64 else torch.float32)


def _scalar_of(*sequences, steps=False):
    """The scalar that holds those of all sequences; with steps, which round once at their end, at least float32."""
    scalars = [t.dtype for t in sequences if t is not None]
    return functools.reduce(torch.promote_types, scalars + ([torch.float32] if steps else []))


def _silu_of(function, activation):
    if activation not in (None, "silu", "swish"):
        _refuse(function, f"the activation {activation} is not there, silu and none are")
    return "silu" if activation else "none"


def _segments(function, seq_idx, cu_seqlens, batch, length, nowhere=False):
    """The segments of what says where packed sequences are, the batch laid end to end; None where nothing does.
    nowhere    positions of no sequence, which seq_idx below 0 marks, may be there"""
    if cu_seqlens is not None:
        if batch != 1:
            _refuse(function, f"cu_seqlens goes with a batch of 1, not of {batch}")
        return cu_seqlens.to(torch.int64).contiguous()
    if seq_idx is None:
        return None
    ids = seq_idx.expand(batch, length)
    if not nowhere and ids.numel() and int(ids.min()) < 0:
        _refuse(function, "seq_idx below 0, positions that belong to no sequence, is not there")
    begins = torch.ones(batch, length, dtype=torch.bool, device=ids.device)
    begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
    ends = torch.tensor([batch * length], device=ids.device)
    return torch.cat([begins.flatten().nonzero().flatten(), ends])


def _flat(tensor):
    """[B, L, …] as one sequence [1, B·L, …]."""
    return None if tensor is None else tensor.reshape(1, tensor.shape[0] * tensor.shape[1], *tensor.shape[2:])


def _by_places(update, x, state, places, *rows):
    """update(x, state, *rows) of the rows x whose state is at places[row]; where that is below 0 a row is padding and gives 0."""
    present = (places >= 0).nonzero().flatten()
    places = places[present].to(torch.int64)
    kept = state[places]
    y = update(x[present], kept, *(None if t is None else t[present] for t in rows))
    with torch.no_grad():
        state[places] = kept
    return torch.zeros_like(x, memory_format=torch.contiguous_format).index_copy(0, present, y)


def selective_scan_fn(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
                      z: Tensor | None = None, delta_bias: Tensor | None = None, delta_softplus: bool = False,
                      return_last_state: bool = False, cu_seqlens: Tensor | None = None) -> typing.Any:
    """mamba_ssm's.    u, delta, z [B, D, L]    A [D, N] real    B, C [B, N, L], [B, G, N, L] or [D, N]    result [B, D, L]
    Groups are one call each; B and C that do not vary are a group for each channel, which is slow."""
    if A.is_complex():
        _refuse("selective_scan_fn", "complex A is not there")
    batch, channels, length = u.shape
    segments = _segments("selective_scan_fn", None, cu_seqlens, batch, length)
    scalar = _scalar_of(u, delta, B, C, z)
    rows: list[typing.Any] = [None if t is None else t.to(scalar).transpose(1, 2) for t in (u, delta, z)]
    A, D, delta_bias = (_wide(t, rows[0]) for t in (A, D, delta_bias))

    def grouped(t):  # [B, G, L, N]
        if t.dim() == 2:
            return t[None, :, None, :].expand(batch, channels, length, t.shape[1])
        return (t if t.dim() == 4 else t.unsqueeze(1)).transpose(2, 3)

    B, C = grouped(B.to(scalar)), grouped(C.to(scalar))
    groups = max(B.shape[1], C.shape[1])
    width = channels // groups
    if groups * width != channels or any(groups % t.shape[1] for t in (B, C)):
        _refuse("selective_scan_fn", f"{B.shape[1]} and {C.shape[1]} groups do not divide {channels} channels")
    results = []
    for group in range(groups):
        part = slice(group * width, (group + 1) * width)
        uu, dd, zz = typing.cast(typing.Any, [t if t is None else t[..., part] for t in rows])
        results.append(selective_scan(
            uu, dd, A[part], B[:, group * B.shape[1] // groups], C[:, group * C.shape[1] // groups],
            None if D is None else D[part], None if delta_bias is None else delta_bias[part], zz, segments=segments,
            dt_softplus=delta_softplus, final_state=return_last_state))
    if not return_last_state:
        return (results[0] if groups == 1 else torch.cat(results, 2)).transpose(1, 2).to(u.dtype)
    y = torch.cat([y for y, _ in results], 2) if groups > 1 else results[0][0]
    state = torch.cat([state for _, state in results], 1) if groups > 1 else results[0][1]
    return y.transpose(1, 2).to(u.dtype), state if segments is None else state[-1:]


def _rms(x, weight, eps):
    return x if weight is None else F.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), eps)


def _is_plain(xz):
    """Whether a function of autograd that is Python may be called, and products are in the scalar of xz."""
    kind = xz.device.type
    return not torch.compiler.is_compiling() and (not torch.is_autocast_enabled(kind) or torch.get_autocast_dtype(kind) is xz.dtype)


def mamba_inner_fn(xz: Tensor, conv1d_weight: Tensor, conv1d_bias: Tensor | None, x_proj_weight: Tensor,
                   delta_proj_weight: Tensor, out_proj_weight: Tensor, out_proj_bias: Tensor | None, A: Tensor,
                   B: Tensor | None = None, C: Tensor | None = None, D: Tensor | None = None,
                   delta_bias: Tensor | None = None, B_proj_bias: Tensor | None = None, C_proj_bias: Tensor | None = None,
                   delta_softplus: bool = True, cu_seqlens: Tensor | None = None, seq_idx: Tensor | None = None,
                   checkpoint_lvl: int = 1, b_rms_weight: Tensor | None = None, c_rms_weight: Tensor | None = None,
                   dt_rms_weight: Tensor | None = None, b_c_dt_rms_eps: float = 1e-6) -> Tensor:
    """mamba_ssm's: a Mamba block behind its input projection.    xz [B, 2·D, L]    result [B, L, channels]
    B, C [D, N]: they do not vary, which is slow; where left out they are projected"""
    if A.is_complex():
        _refuse("mamba_inner_fn", "complex A is not there")
    batch, _, length = xz.shape
    segments = _segments("mamba_inner_fn", seq_idx, cu_seqlens, batch, length)
    others = (B, C, B_proj_bias, C_proj_bias, b_rms_weight, c_rms_weight, dt_rms_weight)
    if all(t is None for t in others) and _is_plain(xz):
        y = _mamba_inner.Inner.apply(segments, delta_softplus, xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight,
                                     out_proj_weight, out_proj_bias, A, D, delta_bias)
        return typing.cast(Tensor, y if segments is None else y.reshape(batch, length, y.shape[-1]))
    x, z = xz.transpose(1, 2).chunk(2, dim=-1)
    if segments is not None:
        x, z = _flat(x), _flat(z)
    rank, states = delta_proj_weight.shape[1], A.shape[1]
    x = short_convolution(x, _wide(conv1d_weight, xz).flatten(1), _wide(conv1d_bias, xz), segments=segments,
                          activation="silu")
    varying = [states for t in (B, C) if t is None]
    low, *projected = F.linear(x, x_proj_weight.to(x.dtype)).split([rank, *varying], dim=-1)

    def read(t, bias, weight):  # [B, N, L]
        return (_rms(t if bias is None else t + bias.to(t.dtype), weight, b_c_dt_rms_eps)).transpose(1, 2)

    B = read(projected[0], B_proj_bias, b_rms_weight) if B is None else B
    C = read(projected[-1], C_proj_bias, c_rms_weight) if C is None else C
    dt = F.linear(_rms(low, dt_rms_weight, b_c_dt_rms_eps), delta_proj_weight.to(low.dtype))
    y = selective_scan_fn(x.transpose(1, 2), dt.transpose(1, 2), A, B, C, D, z.transpose(1, 2), delta_bias, delta_softplus,
                          cu_seqlens=segments).transpose(1, 2)
    y = F.linear(y, out_proj_weight.to(y.dtype), None if out_proj_bias is None else out_proj_bias.to(y.dtype))
    return y.reshape(batch, length, y.shape[-1])


def selective_state_update(state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
                           z: Tensor | None = None, dt_bias: Tensor | None = None, dt_softplus: bool = False,
                           state_batch_indices: Tensor | None = None) -> Tensor:
    """mamba_ssm's: one position; the state is overwritten.    state [B, D, N] or [B, H, P, N]    x, dt, z [B, D] or [B, H, P]
    A [D, N] or [H, P, N]    B, C [B, N] or [B, G, N]    D, dt_bias [D] or [H, P]    result as x
    state_batch_indices [B]    where in the state a row's is; below 0: the row is padding, its result 0"""
    if state_batch_indices is not None:
        return typing.cast(Tensor, _by_places(
            lambda x, state, dt, B, C, z: selective_state_update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus),
            x, state, state_batch_indices, dt, B, C, z))
    batch, states = state.shape[0], state.shape[-1]

    def channels(t, like):  # [B, channels, 1]
        return None if t is None else t.expand(like).reshape(batch, -1, 1)

    shape = state.shape[1:-1]
    rows: list[typing.Any] = [channels(t, x.shape) for t in (x, dt, z)]
    flat = [None if t is None else t.expand(shape).reshape(-1) for t in (D, dt_bias)]
    scalar = _scalar_of(x, dt, B, C, z, steps=True)
    B, C = ((t if t.dim() == 3 else t.unsqueeze(1)).to(scalar) for t in (B, C))
    groups = B.shape[1]
    total = state.numel() // (batch * states) if batch else 0
    width = total // groups
    first = _wide(state, B).reshape(batch, total, states)
    A = _wide(A, B).expand(*shape, states).reshape(total, states)
    results, finals = [], []
    for group in range(groups):
        part = slice(group * width, (group + 1) * width)
        uu, dd, zz = typing.cast(typing.Any, [t if t is None else t[:, part].to(scalar).transpose(1, 2) for t in rows])
        dskip, bias = (None if t is None else _wide(t[part], B) for t in flat)
        y, final = selective_scan(uu, dd, A[part], B[:, group, None], C[:, group, None], dskip, bias, zz, first[:, part],
                                  dt_softplus=dt_softplus, final_state=True)
        results.append(y)
        finals.append(final)
    with torch.no_grad():
        state.copy_(torch.cat(finals, 1).reshape(state.shape))
    return torch.cat(results, 2).reshape(x.shape).to(x.dtype)


def mamba_chunk_scan_combined(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int,
                              D: Tensor | None = None, z: Tensor | None = None, dt_bias: Tensor | None = None,
                              initial_states: Tensor | None = None, seq_idx: Tensor | None = None,
                              cu_seqlens: Tensor | None = None, dt_softplus: bool = False,
                              dt_limit: typing.Tuple[float, float] = (0.0, float("inf")),
                              return_final_states: bool = False, return_varlen_states: bool = False) -> typing.Any:
    """mamba_ssm's.    x, z [B, L, H, P]    dt [B, L, H]    A, dt_bias [H]    B, C [B, L, G, N]    D [H] or [H, P]
    result [B, L, H, P], final states [B, H, P, N]; chunk_size, which changes no number, is not used"""
    batch, length = x.shape[:2]
    if return_varlen_states and (cu_seqlens is None or batch != 1):
        _refuse("mamba_chunk_scan_combined", "states of packed sequences need cu_seqlens and a batch of 1")
    if return_varlen_states and initial_states is not None:
        _refuse("mamba_chunk_scan_combined", "initial_states beside states of packed sequences are not there")
    segments = _segments("mamba_chunk_scan_combined", seq_idx, cu_seqlens if return_varlen_states else None, batch, length)
    if segments is not None and not return_varlen_states and (initial_states is not None or return_final_states):
        if batch != 1:
            _refuse("mamba_chunk_scan_combined", "states beside seq_idx need a batch of 1")
    scalar = _scalar_of(x, dt, B, C, z, steps=z is not None or D is not None and D.dim() == 2)
    kind, x = x.dtype, x.to(scalar)
    given: list[typing.Any] = [x, *(t.to(scalar) for t in (dt, B, C))]
    if segments is not None:
        given = [_flat(t) for t in given]
        if initial_states is not None:  # goes into the first sequence
            initial_states = torch.cat([initial_states, initial_states.new_zeros(segments.shape[0] - 2,
                                                                                 *initial_states.shape[1:])])
    low, high = dt_limit
    y, state = ssd_scan(given[0], given[1], _wide(A, x), given[2], given[3],
                        _wide(D, x) if D is not None and D.dim() == 1 else None, _wide(dt_bias, x),
                        _wide(initial_states, x), segments, dt_softplus=dt_softplus,
                        dt_min=low if dt_softplus is False or low > 0 else None,
                        dt_max=None if high == float("inf") else high, final_state=True)
    y = y.reshape(x.shape)
    if D is not None and D.dim() == 2:
        y = y + x * D.to(scalar)
    if z is not None:
        y = y * F.silu(z.to(scalar))
    results = [y.to(kind)]
    if return_final_states:
        results.append(state[-1:] if segments is not None else state)
    if return_varlen_states:
        results.append(state)
    return results[0] if len(results) == 1 else tuple(results)


def causal_conv1d_fn(x: Tensor, weight: Tensor, bias: Tensor | None = None, seq_idx: Tensor | None = None,
                     initial_states: Tensor | None = None, return_final_states: bool = False,
                     final_states_out: Tensor | None = None, activation: str | None = None) -> typing.Any:
    """causal_conv1d's.    x [B, D, L]    weight [D, W]    initial and final states [B, D, W−1]    result [B, D, L]
    seq_idx [B, L]; below 0: a position of no sequence, its result 0"""
    batch, _, length = x.shape
    activation = _silu_of("causal_conv1d_fn", activation)
    segments = _segments("causal_conv1d_fn", seq_idx, None, batch, length, nowhere=True)
    if segments is not None and (initial_states is not None or return_final_states):
        _refuse("causal_conv1d_fn", "states beside seq_idx are not there")
    first = None if initial_states is None else F.pad(_wide(initial_states, x), (1, 0))
    rows = x.transpose(1, 2)
    found = short_convolution(rows if segments is None else _flat(rows), _wide(weight, x), _wide(bias, x), first, segments,
                              activation=activation, final_state=return_final_states)
    if not return_final_states:
        y = found.reshape(rows.shape).transpose(1, 2)
        return y if seq_idx is None or int(seq_idx.min()) >= 0 else y.masked_fill((seq_idx < 0).unsqueeze(1), 0)
    y, last = found
    last = last[..., 1:].to(x.dtype)
    if final_states_out is not None:
        with torch.no_grad():
            final_states_out.copy_(last)
        last = final_states_out
    return y.transpose(1, 2), last


def causal_conv1d_update(x: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor | None = None,
                         activation: str | None = None, cache_seqlens: Tensor | None = None,
                         conv_state_indices: Tensor | None = None) -> Tensor:
    """causal_conv1d's: some positions; the state is overwritten.    x [B, D] or [B, D, L]    conv_state [B, D, S], S ≥ W−1
    cache_seqlens [B]    positions read before: position t is at t mod S of the state
    conv_state_indices [B]    where in the state a row's is; below 0: the row is padding, its result 0"""
    if conv_state_indices is not None:
        return typing.cast(Tensor, _by_places(
            lambda x, state, seen: causal_conv1d_update(x, state, weight, bias, activation, seen),
            x, conv_state, conv_state_indices, cache_seqlens))
    activation = _silu_of("causal_conv1d_update", activation)
    width, kept = weight.shape[1], conv_state.shape[2]
    if kept < width - 1:
        _refuse("causal_conv1d_update", f"the state has {kept} positions, the filter needs {width - 1}")
    rows = x.unsqueeze(-1) if x.dim() == 2 else x

    def places(seen, begin, end):  # [B, D, end − begin], positions counted from the first of x
        at = (seen.to(torch.int64)[:, None] + torch.arange(begin, end, device=seen.device)) % kept
        return at[:, None].expand(-1, conv_state.shape[1], -1)

    before = conv_state[..., kept - width + 1:] if cache_seqlens is None else \
        conv_state.gather(2, places(cache_seqlens, 1 - width, 0))
    y = short_convolution(rows.transpose(1, 2), _wide(weight, x), _wide(bias, x), F.pad(_wide(before, x), (1, 0)),
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
        _refuse("fftconv_func", "q and v go together")
    if q is not None and (gelu or dropout_mask is not None):
        _refuse("fftconv_func", "gelu and dropout_mask beside q and v are not there")
    kind = torch.float16 if force_fp16_output else u.dtype
    if q is not None or gelu or dropout_mask is not None or k_rev is not None:
        u = u.to(_scalar_of(u, q, v, steps=True))
    k, D = _wide(k, u), _wide(D, u)

    def convolution(rows):
        y = causal_convolution(rows, k, D)
        return y if k_rev is None else y + causal_convolution(rows.flip(1), _wide(k_rev, u)).flip(1)

    if q is not None and v is not None:
        batch, channels, length = u.shape
        heads = channels // head_dim
        if k.shape[0] != heads:
            _refuse("fftconv_func", f"the kernel has {k.shape[0]} rows for {heads} heads")
        left, right = (t.to(u.dtype).reshape(batch, heads, head_dim, length) for t in (u, v))
        products = (left.unsqueeze(3) * right.unsqueeze(2)).reshape(batch, heads, head_dim * head_dim, length)
        rows = products.permute(0, 2, 3, 1).reshape(batch * head_dim * head_dim, length, heads)
        y = convolution(rows).reshape(batch, head_dim, head_dim, length, heads)
        by = q.to(u.dtype).reshape(batch, heads, head_dim, length).permute(0, 2, 3, 1).unsqueeze(2)
        y = (y * by).sum(1).permute(0, 3, 1, 2).reshape(u.shape)
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
            _refuse("FlashFFTConv", "pregate and postgate go together")
        length = u.shape[-1]
        if max(length, k.shape[-1]) > self.seqlen:
            raise ValueError(f"ssm.torch.compat.FlashFFTConv: u has {length} and k {k.shape[-1]} positions, more than the "
                             f"{self.seqlen} of the convolution")
        rows = u.transpose(1, 2)
        left, right = (None if t is None else t.to(u.dtype).transpose(1, 2) for t in (pregate, postgate))
        around = length + k.shape[-1] - 1 - self.seqlen  # positions that come back to the first ones
        if around <= 0:
            return causal_convolution(rows, _wide(k, u), gate_in=left, gate_out=right).transpose(1, 2)
        scalar = _scalar_of(u, steps=True)
        rows = rows.to(scalar) if left is None else rows.to(scalar) * left
        whole = causal_convolution(F.pad(rows, (0, 0, 0, k.shape[-1] - 1)), _wide(k, u))
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
        y = short_convolution(F.pad(rows, (0, 0, max(late, 0), self.padding)), _wide(taps, x), _wide(self.bias, x))
        y = y[:, max(-late, 0):]
        return typing.cast(Tensor, y.transpose(1, 2) if self.is_bhl else y)


def _retention(function, q, k, v, scale, initial_state, output_final_state, cu_seqlens, head_first, reverse=False,
               v_first=False):
    if head_first:
        _refuse(function, "head_first is not there: tensors are [B, L, H, K]")
    segments = _segments(function, None, cu_seqlens, *q.shape[:2])
    if v_first and initial_state is not None:
        initial_state = initial_state.transpose(-1, -2)
    if reverse:
        q, k, v = (t.flip(1) for t in (q, k, v))
        if segments is not None:
            segments = q.shape[1] - segments.flip(0)
            initial_state = None if initial_state is None else initial_state.flip(0)
    heads = torch.arange(q.shape[2], dtype=torch.float64 if q.dtype is torch.float64 else torch.float32, device=q.device)
    decay = torch.log1p(-torch.exp2(-5 - heads))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    y, state = decayed_attention(q * scale, k, v, decay, _wide(initial_state, q), segments, final_state=True)
    if reverse:
        y, state = y.flip(1), state if segments is None else state.flip(0)
    if not output_final_state:
        return y, None
    return y, state.transpose(-1, -2) if v_first else state


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
        _refuse("parallel_retention", "output_attentions is not there: the matrix is never formed")
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
