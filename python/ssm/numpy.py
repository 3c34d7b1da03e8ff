# SPDX-License-Identifier: Apache-2.0
"""The primitives of the library as functions of numpy arrays.

    y = ssm.numpy.selective_scan(u, dt, A, B, C, skip=D, dt_softplus=True)
    y, state = ssm.numpy.selective_scan(u, dt, A, B, C, results=("y", "final_state"))
    gradients = ssm.numpy.selective_scan.gradients({"y": dy}, u, dt, A, B, C, skip=D, dt_softplus=True)
    gradients["u"], gradients["A"]

Operands are given in the order of ssm.primitive_kinds() or by name, options by name; what is left out of optional ones is not
there. Sequences are of float32 or float64, or of bfloat16 (of ml_dtypes) and float16 beside parameters and states in float32.
"""
from __future__ import annotations

import typing

import numpy

from . import _kinds, _tensor
from ._library import ArgumentError, call

_SCALARS = ("float32", "float64", "bfloat16", "float16")


class Function:
    """A primitive of arrays.
    results     names of what is returned; y, or kernel, where it is left out
    segments    int64 [S+1]: where packed sequences begin and end
    threads     that work on the call
    extents     by letter, where a result's follow from no operand: extents={"L": 100} of diagonal_kernel"""

    def __init__(self, kind: _kinds.Kind) -> None:
        self._kind = kind
        self.__name__ = kind.name
        operands = ", ".join(f"{kind.operands[i].name} [{', '.join(kind.operands[i].axes)}]" for i in kind.read)
        made = ", ".join(f"{kind.operands[i].name} [{', '.join(kind.operands[i].axes)}]" for i in kind.written)
        self.__doc__ = f"{operands}; options {', '.join(kind.options) or 'none'}; results {made}"

    def __call__(self, *operands: typing.Any, results: tuple[str, ...] | None = None, segments: typing.Any = None,
                 threads: int = 1, extents: dict[str, int] | None = None, **named: typing.Any) -> typing.Any:
        listed, options = self._sorted(operands, named)
        if results is None:
            results = (next(operand.name for operand in self._kind.operands if operand.role == "output" and not operand.optional),)
        made = self._forward(listed, options, results, segments, threads, extents or {})
        return made[0] if len(results) == 1 else made

    def gradients(self, cotangents: dict[str, typing.Any], *operands: typing.Any, segments: typing.Any = None,
                  threads: int = 1, extents: dict[str, int] | None = None, **named: typing.Any) -> dict[str, typing.Any]:
        """Gradients by name of operand.    cotangents    by name of result, of y and, where wanted, final_state"""
        kind = self._kind
        listed, options = self._sorted(operands, named)
        kept = tuple([kind.operands[i].name for i in kind.kept])
        for name, array in zip(kept, self._forward(listed, options, kept, segments, threads, extents or {}) if kept else []):
            listed[kind.place[name]] = array
        sums: list[typing.Any] = [None] * len(listed)
        for name, array in cotangents.items():
            if name not in kind.place or not _kinds.is_written(kind.operands[kind.place[name]]):
                raise ArgumentError(f"{kind.name} has no result {name}")
            sums[kind.place[name]] = array
        found = {}
        for i in kind.read:
            if listed[i] is not None and kind.operands[i].gradient != "none":
                found[kind.operands[i].name] = sums[i] = numpy.zeros(listed[i].shape, listed[i].dtype)
        call("ssm_primitive_backward", self._handle(listed, options, threads), self._pointers(listed), self._pointers(sums),
             len(listed), None if segments is None else _tensor.of_numpy(segments), None)
        return found

    def _sorted(self, operands, named):
        kind = self._kind
        if len(operands) > len(kind.read):
            raise ArgumentError(f"{kind.name} has {len(kind.read)} operands, got {len(operands)}")
        listed: list[typing.Any] = [None] * len(kind.operands)
        for i, operand in zip(kind.read, operands):
            listed[i] = operand
        options = {}
        for name, value in named.items():
            if name in kind.options:
                options[name] = value
            elif name in kind.place and kind.place[name] in kind.read:
                listed[kind.place[name]] = value
            else:
                raise ArgumentError(f"{kind.name} has no operand and no option {name}")
        return [None if operand is None else numpy.asarray(operand) for operand in listed], tuple(sorted(options.items()))

    def _handle(self, listed, options, threads):
        first = listed[self._kind.sequence]
        name = self._kind.operands[self._kind.sequence].name
        if first is None:
            raise ArgumentError(f"{self._kind.name}: {name} is missing")
        if first.dtype.name not in _SCALARS:
            raise _tensor.TensorError(f"{self._kind.name}: {name} is of {first.dtype}, must be of {', '.join(_SCALARS)}")
        return _kinds.handle(self._kind.name, first.dtype.name, "cpu", threads, options).pointer

    def _pointers(self, arrays):
        return _tensor.pointers([None if array is None else _tensor.of_numpy(array) for array in arrays])

    def _forward(self, listed, options, results, segments, threads, extents):
        kind = self._kind
        handle = self._handle(listed, options, threads)
        sequence = listed[kind.sequence].dtype
        wide = numpy.dtype("float64" if sequence == "float64" else "float32")
        known = kind.extents([None if array is None else array.shape for array in listed],
                             None if segments is None else len(segments), **extents)
        everything, made = list(listed), []
        needed = [operand.name for operand in kind.operands if operand.role == "output" and not operand.optional]
        for name in (*results, *[name for name in needed if name not in results]):
            place = kind.place.get(name)
            if place is None or place not in kind.written:
                raise ArgumentError(f"{kind.name} has no result {name}")
            operand = kind.operands[place]
            dtype = {"int64": numpy.dtype("int64"), "wide": wide}.get(operand.scalar, sequence)
            everything[place] = numpy.empty(kind.shape(place, known), dtype)
            made.append(everything[place])
        call("ssm_primitive_forward", handle, self._pointers(everything), len(everything),
             None if segments is None else _tensor.of_numpy(segments), None)
        return made[:len(results)]


_functions = {name: Function(kind) for name, kind in _kinds.kinds().items()}
globals().update(_functions)
__all__ = list(_functions)
