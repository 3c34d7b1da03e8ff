# SPDX-License-Identifier: Apache-2.0
"""A Mamba block behind its input projection as one function of torch's autograd: two calls of the library and three products.

One node in place of some thirty, so that a GPU waits less for Python. Gradients of sequences that lie beside each other, x and z,
and dt, B and C, are written where they belong.
"""
import torch
import torch.nn.functional as F

from .. import _kinds
from ._compat_operands import cast
from ._primitives import KINDS, apply, once, plain_apply, run, run_back

_CONVOLUTION, _SCAN = KINDS["short_convolution"], KINDS["selective_scan"]
_SILU = (("activation", "silu"),)


def _listed(kind, **operands):
    listed = [None] * len(kind.operands)
    for name, tensor in operands.items():
        listed[kind.place[name]] = tensor
    return listed


def _wanted(kind, listed, needs):
    """Whether each operand's gradient is wanted: all inputs' and those parameters' that are named."""
    return tuple([t is not None and (operand.role == "input" or needs.get(operand.name, False))
                  for operand, t in zip(kind.operands, listed)])


def _matrix(rows):
    return rows.reshape(-1, rows.shape[-1])


class Inner(torch.autograd.Function):
    """(x, z) = xz, u = silu(conv(x)), (low, B, C) = u·low_weightᵀ, dt = low·dt_weightᵀ, y = scan(u, dt, A, B, C)·silu(z).
    xz [B, 2·D, L]    result = y·out_weightᵀ + out_bias, [B, L, channels], with segments [1, B·L, channels]"""

    @staticmethod
    def forward(ctx, segments, dt_softplus, xz, taps, taps_bias, low_weight, dt_weight, out_weight, out_bias, A, D, dt_bias):
        scalar = xz.dtype
        wide = torch.float64 if scalar is torch.float64 else torch.float32
        rows = xz.transpose(1, 2)
        if segments is not None:
            rows = rows.reshape(1, -1, rows.shape[2])
        channels, rank, states = xz.shape[1] // 2, dt_weight.shape[1], A.shape[1]
        x, z = rows[..., :channels], rows[..., channels:]
        low_by, dt_by, out_by = (cast(weight, scalar) for weight in (low_weight, dt_weight, out_weight))
        filtered = _listed(_CONVOLUTION, x=x, weight=cast(taps, wide).reshape(channels, -1), bias=cast(taps_bias, wide))
        (u,), _ = run(_CONVOLUTION, _SILU, (_CONVOLUTION.place["y"],), segments, (), filtered)
        low = F.linear(u, low_by)
        scanned = _listed(_SCAN, u=u, dt=F.linear(low[..., :rank], dt_by), A=cast(A, wide), B=low[..., rank:rank + states],
                          C=low[..., rank + states:], skip=cast(D, wide), dt_bias=cast(dt_bias, wide), gate=z)
        ctx.softplus = (("dt_softplus", True),) if dt_softplus else ()
        (y,), _ = run(_SCAN, ctx.softplus, (_SCAN.place["y"],), segments, (), scanned)
        ctx.segments, ctx.batch, ctx.count = segments, xz.shape[0], len(filtered)
        ctx.parameters = [None if t is None else (t.shape, t.dtype) for t in
                          (taps, taps_bias, low_weight, dt_weight, out_weight, out_bias, A, D, dt_bias)]
        ctx.save_for_backward(rows, low, y, low_by, dt_by, out_by, *filtered, *scanned)
        return F.linear(y, out_by, cast(out_bias, scalar))

    @staticmethod
    def backward(ctx, dresult):
        return None, None, *once(lambda *tensors: _back(ctx, *tensors), dresult, *ctx.saved_tensors)


_plain_apply = plain_apply(Inner)


def inner(*operands):
    """The function, of the operands of Inner.forward."""
    return apply(Inner, _plain_apply, *operands)


def _back(ctx, dresult, rows, low, y, low_by, dt_by, out_by, *operands):
    """Gradients in the order of the operands behind dt_softplus."""
    filtered, scanned = operands[:ctx.count], operands[ctx.count:]
    _, _, _, needs_taps, needs_taps_bias, needs_low, needs_dt, needs_out, needs_out_bias, needs_A, needs_D, needs_bias = \
        ctx.needs_input_grad
    channels, (rank, states) = rows.shape[2] // 2, (dt_by.shape[1], (low.shape[2] - dt_by.shape[1]) // 2)
    dresult = _matrix(dresult)
    dout = dresult.t() @ _matrix(y) if needs_out else None
    dout_bias = dresult.sum(0) if needs_out_bias else None
    drows = torch.empty_strided(rows.shape, _kinds.dense_strides(rows.shape, rows.stride()), dtype=rows.dtype,
                                device=rows.device)
    dlow = torch.empty_like(low, memory_format=torch.contiguous_format)
    place = _SCAN.place
    there = _listed(_SCAN, B=dlow[..., rank:rank + states], C=dlow[..., rank + states:], gate=drows[..., channels:])
    found = run_back(_SCAN, ctx.softplus, ctx.segments, scanned, _listed(_SCAN, y=(dresult @ out_by).view(y.shape)),
                     _wanted(_SCAN, scanned, {"A": needs_A, "skip": needs_D, "dt_bias": needs_bias}), there)
    du, ddt = _matrix(found[place["u"]]), _matrix(found[place["dt"]])
    flat = dlow.view(-1, dlow.shape[2])
    torch.mm(ddt, dt_by, out=flat[:, :rank])
    ddt_weight = ddt.t() @ _matrix(low[..., :rank]) if needs_dt else None
    dlow_weight = flat.t() @ _matrix(scanned[place["u"]]) if needs_low else None
    du.addmm_(flat, low_by)
    at = _CONVOLUTION.place
    first = run_back(_CONVOLUTION, _SILU, ctx.segments, filtered, _listed(_CONVOLUTION, y=du.view(y.shape)),
                     _wanted(_CONVOLUTION, filtered, {"weight": needs_taps, "bias": needs_taps_bias}),
                     _listed(_CONVOLUTION, x=drows[..., :channels]))
    found = (first[at["weight"]], first[at["bias"]], dlow_weight, ddt_weight, dout, dout_bias, found[place["A"]],
             found[place["skip"]], found[place["dt_bias"]])
    return [drows.reshape(ctx.batch, -1, drows.shape[2]).transpose(1, 2),
            *[None if d is None else _as(d, *parameter) for d, parameter in zip(found, ctx.parameters)]]


def _as(gradient, shape, dtype):
    gradient = cast(gradient, dtype)
    return gradient if gradient.shape == shape else gradient.reshape(shape)
