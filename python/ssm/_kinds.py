# SPDX-License-Identifier: Apache-2.0
"""What the primitives are: operands, extents of results, and how they lie in memory."""
import functools
import json
import typing

from ._library import ArgumentError, Owned, ShapeError, ask, find_cublas, made, options


class Operand(typing.NamedTuple):
    name: str
    axes: str       # a letter for each
    role: str       # input, parameter, initial_state, output, final_state
    scalar: str     # sequence, wide or int64
    optional: bool
    gradient: str   # none, optional or required


class Kind:
    """A primitive's description, as ssm_primitive_kinds gives it."""

    def __init__(self, name, described):
        self.name = name
        self.options = described["options"]
        self.operands = [Operand(**operand) for operand in described["operands"]]
        self.names = tuple([operand.name for operand in self.operands])
        self.place = {operand.name: i for i, operand in enumerate(self.operands)}
        self.read = [i for i, operand in enumerate(self.operands) if not is_written(operand)]
        self.written = [i for i, operand in enumerate(self.operands) if is_written(operand)]
        self.sequence = next(i for i, operand in enumerate(self.operands) if operand.scalar != "int64")
        # In their gradient's call outputs without a gradient of their own are read again, and so are those they go with.
        kept = [operand.name for operand in self.operands if operand.role == "output" and operand.gradient == "none"]
        self.kept = [i for i in self.written if kept and self.operands[i].role == "output"]
        self.wanted = functools.lru_cache(maxsize=None)(self.places_of)

    def places_of(self, results, is_recorded):
        """Indices of what a call writes for results by name; one that is recorded also writes what its gradient reads."""
        wanted = tuple([self.place[result] for result in results])
        return wanted + tuple([i for i in self.kept if i not in wanted]) if is_recorded else wanted

    def extents(self, shapes, segments=None, **known):
        """Extents by letter of operands with these shapes; None is left out.    segments: how many entries"""
        result = dict(known)
        for operand, shape in zip(self.operands, shapes):
            if shape is None:
                continue
            if len(shape) != len(operand.axes):
                raise ShapeError(f"{self.name}: {operand.name} must have {len(operand.axes)} axes, its extents are "
                                 f"{list(shape)}")
            for letter, extent in zip(operand.axes, shape):
                result.setdefault(letter, extent)
        if "B" in result:
            result["S"] = result["B"] if segments is None else segments - 1
        if self.name == "h3_mixer" and result.get("H"):
            result["W"] = result["D"] // result["H"]
        return result

    def shape(self, index, extents):
        """The shape of an operand."""
        operand = self.operands[index]
        missing = [letter for letter in operand.axes if not letter.isdigit() and letter not in extents]
        if missing:
            raise ArgumentError(f"{self.name}: the extent {missing[0]} of {operand.name} follows from no operand")
        return tuple(int(letter) if letter.isdigit() else extents[letter] for letter in operand.axes)

    def like(self, index, given):
        """The index of an operand of the same extents that is given, whose order in memory a result takes; or None."""
        axes = self.operands[index].axes
        return next((i for i, operand in enumerate(self.operands) if given[i] and operand.axes == axes
                     and operand.role == "input"), None)


def is_written(operand):
    return operand.role in ("output", "final_state")


def dense_strides(shape, strides=None):
    """Strides without gaps, the axes in the order that `strides` has them; row-major where it is None."""
    order = range(len(shape))
    if strides is not None:
        order = sorted(order, key=lambda axis: -abs(strides[axis]))  # stable: row-major among equals
    result, step = [0] * len(shape), 1
    for axis in reversed(list(order)):
        result[axis] = step
        step *= max(shape[axis], 1)
    return tuple(result)


@functools.lru_cache(maxsize=None)
def kinds():
    """Descriptions by name."""
    return {name: Kind(name, described) for name, described in json.loads(ask("ssm_primitive_kinds")).items()}


@functools.lru_cache(maxsize=1024)
def handle(name, scalar, backend, threads, chosen):
    """The library's object of a primitive with options (pairs); any thread may use it at any time."""
    if backend == "cuda":
        find_cublas()
    return Owned(made("ssm_primitive_create", options(primitive=name, scalar=scalar, backend=backend, threads=threads,
                                                      **dict(chosen))), "ssm_primitive_free")
