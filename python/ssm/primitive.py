# SPDX-License-Identifier: Apache-2.0
"""Primitives as functions of tensors that others own: numpy arrays, torch tensors, whatever has __dlpack__."""
from __future__ import annotations

import json
import typing

from . import _kinds, _tensor
from ._library import ArgumentError, ask, call

Tensors = dict[str, typing.Any]


def primitive_kinds() -> dict[str, typing.Any]:
    """What primitives there are: the options of each, and its operands with name, axes, role and scalar."""
    return json.loads(ask("ssm_primitive_kinds"))


class Primitive:
    """One of the functions that layers are made of; tensors are the caller's, and nothing is copied.

        scan = ssm.Primitive("selective_scan", dt_softplus=True, threads=2)
        scan.forward(u=u, dt=dt, A=A, B=B, C=C, y=y)                     # y is written
        scan.backward(u=u, dt=dt, A=A, B=B, C=C, dy=dy, du=du, dA=dA)    # du is written, dA is added to

    scalar     of sequences: "float32", "float64", "bfloat16" or "float16"; parameters and states are of float32 beside
               half types
    backend    "cpu" or "reference"; "cuda" for tensors on one CUDA device, whose current stream in torch or cupy calls go to
    threads    that work on one call
    options    as primitive_kinds() lists

    Operands have the names of primitive_kinds(), their gradients the same behind a d. The formulas are in the headers
    ssm/op/NAME.hpp. Several threads may call one object at the same time.
    """

    def __init__(self, name: str, *, scalar: str = "float32", backend: str = "cpu", threads: int = 1,
                 **chosen: typing.Any) -> None:
        self._owned = _kinds.handle(name, scalar, backend, threads, tuple(sorted(chosen.items())))
        self.name = name
        self._is_on_host = backend != "cuda"
        self.kind = _kinds.kinds()[name]
        self._gradients = {"d" + operand.name: i for i, operand in enumerate(self.kind.operands)}

    def _placed(self, tensors, places, is_written):
        listed = [None] * len(self.kind.operands)
        for name, tensor in tensors.items():
            if tensor is None:
                continue
            place = places.get(name)
            if place is None:
                raise ArgumentError(f"{self.name} has no operand {name}")
            listed[place] = _tensor.of(tensor, is_written(self.kind.operands[place]))
        return _tensor.pointers(listed)

    def _stream(self, operands):
        return None if self._is_on_host else _tensor.stream_of(next(iter(operands.values()), None))

    def forward(self, segments: typing.Any = None, **operands: typing.Any) -> None:
        """Overwrites y, final_state and whatever else is an output.
        segments    int64 [S+1]: where packed sequences begin and end"""
        listed = self._placed(operands, self.kind.place, _kinds.is_written)
        ends = None if segments is None else _tensor.of(segments)
        call("ssm_primitive_forward", self._owned.pointer, listed, len(listed), ends, self._stream(operands))

    def backward(self, segments: typing.Any = None, **operands: typing.Any) -> None:
        """Reads dy and, where it is given, dfinal_state; overwrites gradients of inputs, adds to those of parameters."""
        own = {name: tensor for name, tensor in operands.items() if name in self.kind.place}
        others = {name: tensor for name, tensor in operands.items() if name not in self.kind.place}
        listed = self._placed(own, self.kind.place, lambda _: False)
        gradients = self._placed(others, self._gradients, lambda operand: not _kinds.is_written(operand))
        ends = None if segments is None else _tensor.of(segments)
        call("ssm_primitive_backward", self._owned.pointer, listed, gradients, len(listed), ends, self._stream(operands))
