# SPDX-License-Identifier: Apache-2.0
"""The primitives as operators ssm::NAME whose operands are tensors and texts, for torch.compile and torch.export."""
import json

import torch

from .. import _kinds
from ._primitives import KINDS, SECOND, cotangents_of, dtype_of, in_places, read_text, result_shapes, run, run_back

_library_of_operators = torch.library.Library("ssm", "FRAGMENT")


def _define(kind):
    """The operators ssm::NAME and ssm::NAME_backward."""
    takes = ", ".join(("Tensor? " if kind.operands[i].optional else "Tensor ") + kind.operands[i].name for i in kind.read)
    name, count = f"ssm::{kind.name}", len(kind.operands)
    torch.library.define(name, f"({takes}, Tensor? segments, str call) -> Tensor[]", lib=_library_of_operators)
    torch.library.define(f"{name}_backward", "(Tensor[] tensors, str call) -> Tensor[]", lib=_library_of_operators)
    # call of the backward operator: the places of its tensors in operands and, behind those, in their cotangents; -1: segments

    def placed(inputs):
        return in_places(kind, kind.read, inputs)

    def forward(*inputs):
        *inputs, segments, text = inputs
        chosen, wanted, known = read_text(text)
        return run(kind, chosen, wanted, segments, known, placed(inputs))[0]

    def fake(*inputs):
        *inputs, segments, text = inputs
        _, wanted, known = read_text(text)
        operands = placed(inputs)
        given = [t is not None for t in operands]
        first = operands[kind.sequence]
        made = []
        shapes = [None if t is None else t.shape for t in operands]
        for i, shape in result_shapes(kind, shapes, wanted, segments, dict(known)):
            like = kind.like(i, given)
            strides = _kinds.dense_strides(shape, None if like is None else operands[like].stride())
            made.append(first.new_empty_strided(shape, strides, dtype=dtype_of(kind.operands[i], first.dtype)))
        return made

    def keep(ctx, inputs, output):
        *inputs, ctx.segments, text = inputs
        ctx.set_materialize_grads(False)
        ctx.chosen, ctx.wanted, _ = read_text(text)
        ctx.save_for_backward(*inputs, *[output[ctx.wanted.index(i)] for i in kind.kept])
        ctx.made = [(result.shape, result.dtype, result.device) for result in output]

    def back(ctx, given):
        operands = placed(ctx.saved_tensors[:len(kind.read)])
        for i, result in zip(kind.kept, ctx.saved_tensors[len(kind.read):]):
            operands[i] = result
        needs = [False] * count
        for i, need in zip(kind.read, ctx.needs_input_grad):
            needs[i] = bool(need) and kind.operands[i].gradient != "none"
        cotangents = cotangents_of(kind, ctx.wanted, given, ctx.made)
        tensors, places = [], []
        for place, tensor in [*enumerate([*operands, *cotangents]), (-1, ctx.segments)]:
            if tensor is not None:
                tensors.append(tensor)
                places.append(place)
        wanted = [i for i in kind.read if needs[i]]
        text = json.dumps({"options": dict(ctx.chosen), "places": places, "results": wanted})
        found = dict(zip(wanted, getattr(torch.ops.ssm, f"{kind.name}_backward")(tensors, text)))
        return *[found.get(i) for i in kind.read], None, None

    def unpacked(tensors, text):
        call = json.loads(text)
        everything = dict(zip(call["places"], tensors))
        needs = tuple(i in call["results"] for i in range(count))
        return (tuple(call["options"].items()), everything.get(-1), [everything.get(i) for i in range(count)],
                [everything.get(count + i) for i in range(count)], needs, call["results"])

    def backward(tensors, text):
        chosen, segments, operands, cotangents, needs, wanted = unpacked(tensors, text)
        gradients = run_back(kind, chosen, segments, operands, cotangents, needs, are_apart=True)
        return [gradients[i] for i in wanted]

    def fake_backward(tensors, text):
        _, _, operands, _, _, wanted = unpacked(tensors, text)
        made = []
        for i in wanted:
            is_input = kind.operands[i].role == "input"
            strides = _kinds.dense_strides(operands[i].shape, operands[i].stride() if is_input else None)
            made.append(operands[i].new_empty_strided(operands[i].shape, strides))
        return made

    def refuse(ctx, *_):
        raise NotImplementedError(SECOND)

    for device in ("CPU", "CUDA"):
        torch.library.impl(name, device, forward, lib=_library_of_operators)
        torch.library.impl(f"{name}_backward", device, backward, lib=_library_of_operators)
    torch.library.register_fake(name, fake, lib=_library_of_operators)
    torch.library.register_autograd(name, back, setup_context=keep, lib=_library_of_operators)
    torch.library.register_fake(f"{name}_backward", fake_backward, lib=_library_of_operators)
    torch.library.register_autograd(f"{name}_backward", refuse, lib=_library_of_operators)


for _kind in KINDS.values():
    _define(_kind)
