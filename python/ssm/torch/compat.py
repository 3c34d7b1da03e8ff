# SPDX-License-Identifier: Apache-2.0
"""Functions of other packages by their names and signatures, computed by this library on the CPU.

    mamba_ssm            selective_scan_fn, mamba_inner_fn, selective_state_update, mamba_chunk_scan_combined
    causal_conv1d        causal_conv1d_fn, causal_conv1d_update
    H3 (FlashConv)       fftconv_func
    flash-linear-attention    chunk_retention, fused_chunk_retention, fused_recurrent_retention, parallel_retention

`patch` puts them in the place of a module's functions of the same names, so that a model of transformers trains on them:

    ssm.torch.compat.patch(transformers.models.mamba.modeling_mamba)

Sequences keep their scalar; parameters and states are taken in float32, or in float64 beside float64. What a function does not
compute it refuses with a sentence. Gradients also go through the states that are given and returned.
"""
from __future__ import annotations

import types
import typing

import torch
import torch.nn.functional as F

from .functional import causal_convolution, decayed_attention, selective_scan, short_convolution, ssd_scan

Tensor = torch.Tensor


def _refuse(function, what):
    raise NotImplementedError(f"ssm.torch.compat.{function}: {what}")


def _wide(tensor, like):
    """In the scalar of parameters and states beside sequences like this one."""
    return None if tensor is None else tensor.to(torch.float64 if like.dtype is torch.float64 else torch.float32)


def _silu_of(function, activation):
    if activation not in (None, "silu", "swish"):
        _refuse(function, f"the activation {activation} is not there, silu and none are")
    return "silu" if activation else "none"


def _segments(function, seq_idx, cu_seqlens, batch, length):
    """(segments, whether the batch is to be laid end to end) of what says where packed sequences are."""
    if cu_seqlens is not None:
        if batch != 1:
            _refuse(function, f"cu_seqlens goes with a batch of 1, not of {batch}")
        return cu_seqlens.to(torch.int64).contiguous()
    if seq_idx is None:
        return None
    ids = seq_idx.expand(batch, length)
    if ids.numel() and int(ids.min()) < 0:
        _refuse(function, "seq_idx below 0, positions that belong to no sequence, is not there")
    begins = torch.ones(batch, length, dtype=torch.bool)
    begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
    ends = torch.tensor([batch * length])
    return torch.cat([begins.flatten().nonzero().flatten(), ends])


def _flat(tensor):
    """[B, L, …] as one sequence [1, B·L, …]."""
    return None if tensor is None else tensor.reshape(1, tensor.shape[0] * tensor.shape[1], *tensor.shape[2:])


def selective_scan_fn(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
                      z: Tensor | None = None, delta_bias: Tensor | None = None, delta_softplus: bool = False,
                      return_last_state: bool = False, cu_seqlens: Tensor | None = None) -> typing.Any:
    """mamba_ssm's.    u, delta, z [B, D, L]    A [D, N] real    B, C [B, N, L], [B, G, N, L] or [D, N]    result [B, D, L]
    Groups are one call each; B and C that do not vary are a group for each channel, which is slow."""
    if A.is_complex():
        _refuse("selective_scan_fn", "complex A is not there")
    batch, channels, length = u.shape
    segments = _segments("selective_scan_fn", None, cu_seqlens, batch, length)
    rows: list[typing.Any] = [None if t is None else t.to(u.dtype).transpose(1, 2) for t in (u, delta, z)]
    A, D, delta_bias = (_wide(t, u) for t in (A, D, delta_bias))

    def grouped(t):  # [B, G, L, N]
        if t.dim() == 2:
            return t[None, :, None, :].expand(batch, channels, length, t.shape[1])
        return (t if t.dim() == 4 else t.unsqueeze(1)).transpose(2, 3)

    B, C = grouped(B.to(u.dtype)), grouped(C.to(u.dtype))
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
        return (results[0] if groups == 1 else torch.cat(results, 2)).transpose(1, 2)
    y = torch.cat([y for y, _ in results], 2) if groups > 1 else results[0][0]
    state = torch.cat([state for _, state in results], 1) if groups > 1 else results[0][1]
    return y.transpose(1, 2), state if segments is None else state[-1:]


def _rms(x, weight, eps):
    return x if weight is None else F.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), eps)


def mamba_inner_fn(xz: Tensor, conv1d_weight: Tensor, conv1d_bias: Tensor | None, x_proj_weight: Tensor,
                   delta_proj_weight: Tensor, out_proj_weight: Tensor, out_proj_bias: Tensor | None, A: Tensor,
                   B: Tensor | None = None, C: Tensor | None = None, D: Tensor | None = None,
                   delta_bias: Tensor | None = None, B_proj_bias: Tensor | None = None, C_proj_bias: Tensor | None = None,
                   delta_softplus: bool = True, cu_seqlens: Tensor | None = None, seq_idx: Tensor | None = None,
                   checkpoint_lvl: int = 1, b_rms_weight: Tensor | None = None, c_rms_weight: Tensor | None = None,
                   dt_rms_weight: Tensor | None = None, b_c_dt_rms_eps: float = 1e-6) -> Tensor:
    """mamba_ssm's: a Mamba block behind its input projection.    xz [B, 2·D, L]    result [B, L, channels]"""
    if A.is_complex() or B is not None or C is not None:
        _refuse("mamba_inner_fn", "complex A, and B and C that do not vary, are not there")
    batch, _, length = xz.shape
    segments = _segments("mamba_inner_fn", seq_idx, cu_seqlens, batch, length)
    x, z = xz.transpose(1, 2).chunk(2, dim=-1)
    if segments is not None:
        x, z = _flat(x), _flat(z)
    rank, states = delta_proj_weight.shape[1], A.shape[1]
    x = short_convolution(x, _wide(conv1d_weight, xz).flatten(1), _wide(conv1d_bias, xz), segments=segments,
                          activation="silu")
    low, b, c = F.linear(x, x_proj_weight.to(x.dtype)).split([rank, states, states], dim=-1)
    if B_proj_bias is not None:
        b = b + B_proj_bias.to(b.dtype)
    if C_proj_bias is not None:
        c = c + C_proj_bias.to(c.dtype)
    b, c, low = _rms(b, b_rms_weight, b_c_dt_rms_eps), _rms(c, c_rms_weight, b_c_dt_rms_eps), \
        _rms(low, dt_rms_weight, b_c_dt_rms_eps)
    dt = F.linear(low, delta_proj_weight.to(low.dtype))
    y = selective_scan(x, dt, _wide(A, xz), b, c, _wide(D, xz), _wide(delta_bias, xz), z, segments=segments,
                       dt_softplus=delta_softplus)
    y = F.linear(y, out_proj_weight.to(y.dtype), None if out_proj_bias is None else out_proj_bias.to(y.dtype))
    return y.reshape(batch, length, y.shape[-1])


def selective_state_update(state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
                           z: Tensor | None = None, dt_bias: Tensor | None = None, dt_softplus: bool = False,
                           state_batch_indices: Tensor | None = None) -> Tensor:
    """mamba_ssm's: one position; the state is overwritten.    state [B, D, N] or [B, H, P, N]    x, dt, z [B, D] or [B, H, P]
    A [D, N] or [H, P, N]    B, C [B, N] or [B, G, N]    D, dt_bias [D] or [H, P]    result as x"""
    if state_batch_indices is not None:
        _refuse("selective_state_update", "state_batch_indices is not there")
    batch, states = state.shape[0], state.shape[-1]

    def channels(t, like):  # [B, channels, 1]
        return None if t is None else t.expand(like).reshape(batch, -1, 1)

    shape = state.shape[1:-1]
    rows: list[typing.Any] = [channels(t, x.shape) for t in (x, dt, z)]
    flat = [None if t is None else t.expand(shape).reshape(-1) for t in (D, dt_bias)]
    B, C = ((t if t.dim() == 3 else t.unsqueeze(1)).to(x.dtype) for t in (B, C))
    groups = B.shape[1]
    total = state.numel() // (batch * states) if batch else 0
    width = total // groups
    first = _wide(state, x).reshape(batch, total, states)
    A = _wide(A, x).expand(*shape, states).reshape(total, states)
    results, finals = [], []
    for group in range(groups):
        part = slice(group * width, (group + 1) * width)
        uu, dd, zz = typing.cast(typing.Any, [t if t is None else t[:, part].to(x.dtype).transpose(1, 2) for t in rows])
        dskip, bias = (None if t is None else _wide(t[part], x) for t in flat)
        y, final = selective_scan(uu, dd, A[part], B[:, group, None], C[:, group, None], dskip, bias, zz, first[:, part],
                                  dt_softplus=dt_softplus, final_state=True)
        results.append(y)
        finals.append(final)
    with torch.no_grad():
        state.copy_(torch.cat(finals, 1).reshape(state.shape))
    return torch.cat(results, 2).reshape(x.shape)


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
    dt, B, C = (t.to(x.dtype) for t in (dt, B, C))
    given = [x, dt, B, C]
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
        y = y + x * D.to(x.dtype)
    if z is not None:
        y = y * F.silu(z)
    results = [y]
    if return_final_states:
        results.append(state[-1:] if segments is not None else state)
    if return_varlen_states:
        results.append(state)
    return results[0] if len(results) == 1 else tuple(results)


def causal_conv1d_fn(x: Tensor, weight: Tensor, bias: Tensor | None = None, seq_idx: Tensor | None = None,
                     initial_states: Tensor | None = None, return_final_states: bool = False,
                     final_states_out: Tensor | None = None, activation: str | None = None) -> typing.Any:
    """causal_conv1d's.    x [B, D, L]    weight [D, W]    initial and final states [B, D, W−1]    result [B, D, L]"""
    batch, _, length = x.shape
    activation = _silu_of("causal_conv1d_fn", activation)
    segments = _segments("causal_conv1d_fn", seq_idx, None, batch, length)
    if segments is not None and (initial_states is not None or return_final_states):
        _refuse("causal_conv1d_fn", "states beside seq_idx are not there")
    first = None if initial_states is None else F.pad(_wide(initial_states, x), (1, 0))
    rows = x.transpose(1, 2)
    found = short_convolution(rows if segments is None else _flat(rows), _wide(weight, x), _wide(bias, x), first, segments,
                              activation=activation, final_state=return_final_states)
    if not return_final_states:
        return found.reshape(rows.shape).transpose(1, 2) if segments is not None else found.transpose(1, 2)
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
    """causal_conv1d's: some positions; the state is overwritten.    x [B, D] or [B, D, L]    conv_state [B, D, ≥ W−1]"""
    if cache_seqlens is not None or conv_state_indices is not None:
        _refuse("causal_conv1d_update", "cache_seqlens and conv_state_indices are not there")
    activation = _silu_of("causal_conv1d_update", activation)
    width, kept = weight.shape[1], conv_state.shape[2]
    if kept < width - 1:
        _refuse("causal_conv1d_update", f"the state has {kept} positions, the filter needs {width - 1}")
    rows = x.unsqueeze(-1) if x.dim() == 2 else x
    first = F.pad(_wide(conv_state, x), (max(width - kept, 0), 0))[..., -width:]
    y = short_convolution(rows.transpose(1, 2), _wide(weight, x), _wide(bias, x), first, activation=activation)
    with torch.no_grad():
        conv_state.copy_(torch.cat([conv_state, rows.to(conv_state.dtype)], -1)[..., -kept:])
    return y.transpose(1, 2).reshape(x.shape)


def fftconv_func(u: Tensor, k: Tensor, D: Tensor, dropout_mask: Tensor | None = None, gelu: bool = True,
                 force_fp16_output: bool = False, output_hbl_layout: bool = False, v: Tensor | None = None,
                 head_dim: int = 1, q: Tensor | None = None, fftfp16: bool = False, k_rev: Tensor | None = None) -> Tensor:
    """H3's: gelu(k ∗ u + D·u)·dropout_mask; with q and v, H3's q·(k ∗ (u⊗v) + D·(u⊗v)).    u, q, v [B, H, L]    k [H, K]
    D [H]    dropout_mask [B, H]. Half precision of the FFT and the order of the result in memory are not asked for."""
    if (q is None) != (v is None):
        _refuse("fftconv_func", "q and v go together")
    if q is not None and (gelu or dropout_mask is not None or k_rev is not None):
        _refuse("fftconv_func", "gelu, dropout_mask and k_rev beside q and v are not there")
    k, D = _wide(k, u), _wide(D, u)
    if q is not None and v is not None:
        batch, channels, length = u.shape
        heads = channels // head_dim
        if k.shape[0] != heads:
            _refuse("fftconv_func", f"the kernel has {k.shape[0]} rows for {heads} heads")
        left, right = (t.reshape(batch, heads, head_dim, length) for t in (u, v))
        products = (left.unsqueeze(3) * right.unsqueeze(2)).reshape(batch, heads, head_dim * head_dim, length)
        rows = products.permute(0, 2, 3, 1).reshape(batch * head_dim * head_dim, length, heads)
        y = causal_convolution(rows, k, D).reshape(batch, head_dim, head_dim, length, heads)
        by = q.reshape(batch, heads, head_dim, length).permute(0, 2, 3, 1).unsqueeze(2)
        y = (y * by).sum(1).permute(0, 3, 1, 2).reshape(u.shape)
    else:
        rows = u.transpose(1, 2)
        y = causal_convolution(rows, k, D)
        if k_rev is not None:
            y = y + causal_convolution(rows.flip(1), _wide(k_rev, u)).flip(1)
        y = y.transpose(1, 2)
        if gelu:
            y = F.gelu(y)
        if dropout_mask is not None:
            y = y * dropout_mask.unsqueeze(-1).to(y.dtype)
    return y.to(torch.float16) if force_fp16_output else y


def _retention(function, q, k, v, scale, initial_state, output_final_state, cu_seqlens, head_first):
    if head_first:
        _refuse(function, "head_first is not there: tensors are [B, L, H, K]")
    segments = _segments(function, None, cu_seqlens, *q.shape[:2])
    heads = torch.arange(q.shape[2], dtype=torch.float64 if q.dtype is torch.float64 else torch.float32)
    decay = torch.log1p(-torch.exp2(-5 - heads))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    y, state = decayed_attention(q * scale, k, v, decay, _wide(initial_state, q), segments, final_state=True)
    return y, state if output_final_state else None


def chunk_retention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, initial_state: Tensor | None = None,
                    output_final_state: bool = False, cu_seqlens: Tensor | None = None,
                    head_first: bool = False) -> typing.Tuple[Tensor, Tensor | None]:
    """fla's: (scale·retention, final state or None), head h decaying by 1 − 2^(−5−h) a position.
    q, k [B, L, H, K]    v [B, L, H, V]    states [B, H, K, V]    scale 1/√K where left out"""
    return _retention("chunk_retention", q, k, v, scale, initial_state, output_final_state, cu_seqlens, head_first)


def fused_chunk_retention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, initial_state: Tensor | None = None,
                          output_final_state: bool = False, cu_seqlens: Tensor | None = None,
                          head_first: bool = False) -> typing.Tuple[Tensor, Tensor | None]:
    """The same as chunk_retention."""
    return _retention("fused_chunk_retention", q, k, v, scale, initial_state, output_final_state, cu_seqlens, head_first)


def fused_recurrent_retention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None,
                              initial_state: Tensor | None = None, output_final_state: bool = False, reverse: bool = False,
                              cu_seqlens: Tensor | None = None,
                              head_first: bool = False) -> typing.Tuple[Tensor, Tensor | None]:
    """The same as chunk_retention."""
    if reverse:
        _refuse("fused_recurrent_retention", "reverse is not there")
    return _retention("fused_recurrent_retention", q, k, v, scale, initial_state, output_final_state, cu_seqlens, head_first)


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
    "causal_conv1d_update": causal_conv1d_update, "fftconv_func": fftconv_func, "chunk_retention": chunk_retention,
    "fused_chunk_retention": fused_chunk_retention, "fused_recurrent_retention": fused_recurrent_retention,
    "parallel_retention": parallel_retention,
}


def _taking(function):
    """The function, which leaves out what callers hand on for others."""
    import functools
    import inspect
    known = frozenset(inspect.signature(function).parameters)

    @functools.wraps(function)
    def called(*given, **named):
        return function(*given, **{name: value for name, value in named.items() if name in known})

    return called


def patch(module: types.ModuleType) -> list[str]:
    """Replaces a module's functions that have the names above, transformers' names for them included; returns which.
    Tensors must be on the CPU from then on."""
    replaced = [name for name in _NAMES if callable(getattr(module, name, None))]
    if not replaced:
        raise ValueError(f"{module.__name__} has none of the functions that this replaces: {', '.join(_NAMES)}")
    for name in replaced:
        setattr(module, name, _taking(_NAMES[name]))
    return replaced
