# SPDX-License-Identifier: Apache-2.0
"""What the functions of ssm.torch.compat do with what they are given: scalars, packed sequences, rows of a batch."""
import functools

import torch


def refuse(function, what):
    raise NotImplementedError(f"ssm.torch.compat.{function}: {what}")


def cast(tensor, scalar):
    """In this scalar; asking torch to leave a tensor as it is costs more than looking."""
    return tensor if tensor is None or tensor.dtype is scalar else tensor.to(scalar)


def wide(tensor, like):
    """In the scalar of parameters and states beside sequences like this one."""
    return cast(tensor, torch.float64 if like.dtype is torch.float64 else torch.float32)


def scalar_of(*sequences, steps=False):
    """The scalar that holds those of all sequences; with steps, which round once at their end, at least float32."""
    scalars = {t.dtype for t in sequences if t is not None} | ({torch.float32} if steps else set())
    return functools.reduce(torch.promote_types, scalars)


def silu_of(function, activation):
    if activation not in (None, "silu", "swish"):
        refuse(function, f"the activation {activation} is not there, silu and none are")
    return "silu" if activation else "none"


def segments_of(function, seq_idx, cu_seqlens, batch, length, nowhere=False):
    """The segments of what says where packed sequences are, the batch laid end to end; None where nothing does.
    nowhere    positions of no sequence, which seq_idx below 0 marks, may be there"""
    if cu_seqlens is not None:
        if batch != 1:
            refuse(function, f"cu_seqlens goes with a batch of 1, not of {batch}")
        return cu_seqlens.to(torch.int64).contiguous()
    if seq_idx is None:
        return None
    ids = seq_idx.expand(batch, length)
    if not nowhere and ids.numel() and int(ids.min()) < 0:
        refuse(function, "seq_idx below 0, positions that belong to no sequence, is not there")
    begins = torch.ones(batch, length, dtype=torch.bool, device=ids.device)
    begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
    ends = torch.tensor([batch * length], device=ids.device)
    return torch.cat([begins.flatten().nonzero().flatten(), ends])


def end_to_end(tensor):
    """[B, L, …] as one sequence [1, B·L, …]."""
    return None if tensor is None else tensor.reshape(1, tensor.shape[0] * tensor.shape[1], *tensor.shape[2:])


def by_places(update, x, state, places, *rows):
    """update(x, state, *rows) of the rows x whose state is at places[row]; where that is below 0 a row is padding and gives 0."""
    present = (places >= 0).nonzero().flatten()
    places = places[present].to(torch.int64)
    kept = state[places]
    y = update(x[present], kept, *(None if t is None else t[present] for t in rows))
    with torch.no_grad():
        state[places] = kept
    return torch.zeros_like(x, memory_format=torch.contiguous_format).index_copy(0, present, y)
