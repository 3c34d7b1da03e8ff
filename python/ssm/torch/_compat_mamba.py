# SPDX-License-Identifier: Apache-2.0
"""mamba_ssm's functions of ssm.torch.compat."""
from __future__ import annotations

import math
import typing

import torch
import torch.nn.functional as F

from ._compat_operands import by_places, cast, end_to_end, refuse, scalar_of, segments_of, wide
from ._mamba_inner import inner
from ._primitives import call, places
from .functional import selective_scan, short_convolution, ssd_scan

Tensor = torch.Tensor
_SCANNED = places("selective_scan", "u", "dt", "B", "C", "gate", "y")


def selective_scan_fn(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None,
                      z: Tensor | None = None, delta_bias: Tensor | None = None, delta_softplus: bool = False,
                      return_last_state: bool = False, cu_seqlens: Tensor | None = None) -> typing.Any:
    """mamba_ssm's.    u, delta, z [B, D, L]    A [D, N] real    B, C [B, N, L], [B, G, N, L] or [D, N]    result [B, D, L]
    Groups are one call each; B and C that do not vary are a group for each channel, which is slow."""
    if A.is_complex():
        refuse("selective_scan_fn", "complex A is not there")
    batch, channels, length = u.shape
    segments = segments_of("selective_scan_fn", None, cu_seqlens, batch, length)
    scalar = scalar_of(u, delta, B, C, z)
    given, steps, gates, B, C = (cast(t, scalar) for t in (u, delta, z, B, C))
    A, D, delta_bias = wide(A, given), wide(D, given), wide(delta_bias, given)

    def scan(u, dt, gate, A, B, C, skip, dt_bias):  # [y] or [y, state], sequences [B, D, L]
        return call("selective_scan", {"u": u, "dt": dt, "A": A, "B": B, "C": C, "skip": skip, "dt_bias": dt_bias, "gate": gate},
                    ("y", "final_state") if return_last_state else ("y",), segments=segments,
                    options=(("dt_softplus", True),) if delta_softplus else (), turned=_SCANNED)

    def result(y, state=None):
        y = cast(y, u.dtype)
        return (y, state if segments is None else state[-1:]) if return_last_state else y

    if B.dim() == 3 and C.dim() == 3:
        return result(*scan(given, steps, gates, A, B, C, D, delta_bias))

    def grouped(t):  # [B, G, N, L]
        if t.dim() == 2:
            return t[None, :, :, None].expand(batch, channels, t.shape[1], length)
        return t if t.dim() == 4 else t.unsqueeze(1)

    B, C = grouped(B), grouped(C)
    groups = max(B.shape[1], C.shape[1])
    width = channels // groups
    if groups * width != channels or any(groups % t.shape[1] for t in (B, C)):
        refuse("selective_scan_fn", f"{B.shape[1]} and {C.shape[1]} groups do not divide {channels} channels")
    results = []
    for group in range(groups):
        part = slice(group * width, (group + 1) * width)
        results.append(scan(given[:, part], steps[:, part], None if gates is None else gates[:, part], A[part],
                            B[:, group * B.shape[1] // groups], C[:, group * C.shape[1] // groups],
                            None if D is None else D[part], None if delta_bias is None else delta_bias[part]))
    return result(*(torch.cat(parts, 1) for parts in zip(*results)))


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
        refuse("mamba_inner_fn", "complex A is not there")
    batch, _, length = xz.shape
    segments = segments_of("mamba_inner_fn", seq_idx, cu_seqlens, batch, length)
    others = (B, C, B_proj_bias, C_proj_bias, b_rms_weight, c_rms_weight, dt_rms_weight)
    if all(t is None for t in others) and _is_plain(xz):
        y = inner(segments, delta_softplus, xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight,
                  out_proj_bias, A, D, delta_bias)
        return typing.cast(Tensor, y if segments is None else y.reshape(batch, length, y.shape[-1]))
    x, z = xz.transpose(1, 2).chunk(2, dim=-1)
    if segments is not None:
        x, z = end_to_end(x), end_to_end(z)
    rank, states = delta_proj_weight.shape[1], A.shape[1]
    x = short_convolution(x, wide(conv1d_weight, xz).flatten(1), wide(conv1d_bias, xz), segments=segments,
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
        return typing.cast(Tensor, by_places(
            lambda x, state, dt, B, C, z: selective_state_update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus),
            x, state, state_batch_indices, dt, B, C, z))
    batch, states = state.shape[0], state.shape[-1]

    shape = state.shape[1:-1]
    total = math.prod(shape)
    scalar = scalar_of(x, dt, B, C, z)

    def spread(t, like, flat):  # extents that were expanded, then these
        if t is None or t.shape == flat:
            return t
        return (t if t.shape == like else t.expand(like)).reshape(flat)

    rows: list[typing.Any] = [cast(spread(t, x.shape, (batch, 1, total)), scalar) for t in (x, dt, z)]
    B, C = (cast(t if t.dim() == 3 else t.unsqueeze(1), scalar) for t in (B, C))
    flat = [wide(spread(t, shape, (total,)), B) for t in (D, dt_bias)]
    groups = B.shape[1]
    width = total // groups
    first = spread(wide(state, B), state.shape, (batch, total, states))
    A = spread(wide(A, B), (*shape, states), (total, states))
    if groups == 1:
        y, final = selective_scan(rows[0], rows[1], A, B, C, flat[0], flat[1], rows[2], first,
                                  dt_softplus=dt_softplus, final_state=True)
        with torch.no_grad():
            state.copy_(spread(final, final.shape, state.shape))
        return cast(y.reshape(x.shape), x.dtype)
    results, finals = [], []
    for group in range(groups):
        part = slice(group * width, (group + 1) * width)
        uu, dd, zz = typing.cast(typing.Any, [t if t is None else t[..., part] for t in rows])
        dskip, bias = (None if t is None else t[part] for t in flat)
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
        refuse("mamba_chunk_scan_combined", "states of packed sequences need cu_seqlens and a batch of 1")
    if return_varlen_states and initial_states is not None:
        refuse("mamba_chunk_scan_combined", "initial_states beside states of packed sequences are not there")
    segments = segments_of("mamba_chunk_scan_combined", seq_idx, cu_seqlens if return_varlen_states else None, batch, length)
    if segments is not None and not return_varlen_states and (initial_states is not None or return_final_states):
        if batch != 1:
            refuse("mamba_chunk_scan_combined", "states beside seq_idx need a batch of 1")
    scalar = scalar_of(x, dt, B, C, z, steps=z is not None or D is not None and D.dim() == 2)
    kind, x = x.dtype, cast(x, scalar)
    given: list[typing.Any] = [x, *(cast(t, scalar) for t in (dt, B, C))]
    if segments is not None:
        given = [end_to_end(t) for t in given]
        if initial_states is not None:  # goes into the first sequence
            initial_states = torch.cat([initial_states, initial_states.new_zeros(segments.shape[0] - 2,
                                                                                 *initial_states.shape[1:])])
    low, high = dt_limit
    has_states = return_final_states or return_varlen_states
    found = ssd_scan(given[0], given[1], wide(A, x), given[2], given[3],
                     wide(D, x) if D is not None and D.dim() == 1 else None, wide(dt_bias, x),
                     wide(initial_states, x), segments, dt_softplus=dt_softplus,
                     dt_min=low if dt_softplus is False or low > 0 else None,
                     dt_max=None if high == float("inf") else high, final_state=has_states)
    y, state = typing.cast(typing.Any, found if has_states else (found, None))
    y = y if segments is None else y.reshape(x.shape)
    if D is not None and D.dim() == 2:
        y = y + x * D.to(scalar)
    if z is not None:
        y = y * F.silu(z.to(scalar))
    results = [cast(y, kind)]
    if return_final_states:
        results.append(state[-1:] if segments is not None else state)
    if return_varlen_states:
        results.append(state)
    return results[0] if len(results) == 1 else tuple(results)
