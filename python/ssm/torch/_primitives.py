# SPDX-License-Identifier: Apache-2.0
"""Calls of primitives on torch tensors: headers that are filled again for every call, autograd, and operators for torch.compile.

A call writes addresses into headers that a call of the same shapes has left behind, so that it costs some microseconds.
"""
import ctypes
import json
import math
import threading

import torch

from .. import _kinds, _library, _tensor
from . import _device

_SECOND = ("ssm: a primitive has no second derivative: its gradient is computed by a backward pass that torch cannot "
           "differentiate; call backward without create_graph")
SCALARS = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_WORDS = ctypes.sizeof(_library.Tensor) // 8
# Addresses as numbers: ctypes looks at them less closely than at its own pointers.
_lib_forward = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p,
                                ctypes.c_void_p)(_library.address("ssm_primitive_forward"))
_lib_backward = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int,
                                 ctypes.c_void_p, ctypes.c_void_p)(_library.address("ssm_primitive_backward"))


class _Headers:
    """Headers of the tensors of one call, without addresses."""
    __slots__ = ("words", "listed", "second", "count", "results", "made", "places", "handle", "threads", "backend", "device",
                 "is_in_use", "_kept")

    def __init__(self, described, device, split=None):
        self.device, self.backend = device, _device.backend_of(device)
        count = len(described)
        memory = bytearray(_WORDS * 8 * count)
        self.words = memoryview(memory).cast("Q")
        headers = (_library.Tensor * count).from_buffer(memory)
        pointer = ctypes.POINTER(_library.Tensor)
        listed = [None] * count
        kept = [memory, headers]
        for i, facts in enumerate(described):
            if facts is None:
                continue
            dtype, shape, strides, device = facts
            header = headers[i]
            header.device.type, header.device.id = _tensor._torch_device(device)
            header.ndim = len(shape)
            header.type.code, header.type.bits = _tensor._torch_scalar(dtype)
            header.type.lanes = 1
            header.shape = (ctypes.c_int64 * len(shape))(*shape)
            header.strides = (ctypes.c_int64 * len(shape))(*strides)
            kept += [header.shape, header.strides]
            listed[i] = ctypes.pointer(header)
        split = count if split is None else split
        first, second = (pointer * split)(*listed[:split]), (pointer * (count - split))(*listed[split:])
        self.listed, self.second = ctypes.addressof(first), ctypes.addressof(second)
        self.count = split
        self.threads = 0
        self.is_in_use = False
        self._kept = [*kept, first, second]

    def choose(self, kind, dtype, chosen, threads):
        """The library's object, kept until another number of threads is asked for."""
        self.handle = _kinds.handle(kind.name, SCALARS[dtype], self.backend, threads, chosen)
        self.threads = threads


_of_thread = threading.local()


def _plans():
    try:
        return _of_thread.plans
    except AttributeError:
        _of_thread.plans = {}
        return _of_thread.plans


def _facts(tensors):
    return tuple([None if t is None else (t.dtype, t.shape, t.stride(), t.device) for t in tensors])


def _wide(dtype):
    return torch.float64 if dtype is torch.float64 else torch.float32


def _dtype(operand, sequence):
    return torch.int64 if operand.scalar == "int64" else sequence if operand.scalar == "sequence" else _wide(sequence)


def _scalar_of(kind, operands):
    first = operands[kind.sequence]
    if first is None:
        raise _library.ArgumentError(f"{kind.name}: {kind.operands[kind.sequence].name} is missing")
    dtype = first.dtype
    if dtype not in SCALARS:
        raise _library.TensorError(f"{kind.name}: {kind.operands[kind.sequence].name} is of "
                                   f"{str(dtype).removeprefix('torch.')}, must be of float32, float64, bfloat16 or float16")
    return dtype


def _on_host(segments):
    return None if segments is None else segments.cpu()


def _segments_of(segments):
    return None if segments is None else ctypes.addressof(_tensor.of_torch(segments))


def _lies_as(tensor, shape, strides, dtype):
    """Whether empty_like, which takes half the time, makes a tensor of this shape and order in memory from this one."""
    return tensor is not None and tensor.shape == shape and tensor.dtype is dtype and tensor.stride() == strides


def _planned(plans, key):
    """The headers that a call of this key has left behind; None where they are in use, by a call that waits for this one."""
    plan = plans.get(key)
    return None if plan is None or plan.is_in_use else plan


def _keep(plans, key, plan):
    if len(plans) > 4096:
        plans.clear()
    plans[key] = plan


def _result_shapes(kind, operands, wanted, segments, known):
    """(index, shape) of what is wanted."""
    extents = kind.extents([None if t is None else t.shape for t in operands],
                           None if segments is None else segments.shape[0], **known)
    return [(i, kind.shape(i, extents)) for i in wanted]


def run(kind, chosen, wanted, segments, known, operands):
    """The wanted results of a forward call, and what is known of them.
    operands    in their order, None for what is left out or written"""
    facts = _facts(operands)
    key = (kind.name, facts, wanted, None if segments is None else segments.shape, known, chosen)
    plans = _plans()
    plan = _planned(plans, key)
    if plan is None:
        dtype = _scalar_of(kind, operands)
        given = [t is not None for t in operands]
        results, described = [], list(facts)
        for i, shape in _result_shapes(kind, operands, wanted, segments, dict(known)):
            like = kind.like(i, given)
            strides = _kinds.dense_strides(shape, None if like is None else operands[like].stride())
            dtype_i = _dtype(kind.operands[i], dtype)
            is_like = like is not None and _lies_as(operands[like], shape, strides, dtype_i)
            results.append((_WORDS * i, like if is_like else None, shape, strides, dtype_i))
            described[i] = (dtype_i, shape, strides, operands[kind.sequence].device)
        plan = _Headers(described, operands[kind.sequence].device)
        plan.results = results
        plan.made = [(shape, dtype, plan.device) for _, _, shape, _, dtype in results]
        plan.places = tuple([i for i in kind.read if given[i]])
        _keep(plans, key, plan)
    plan.is_in_use = True
    words, at = plan.words, 0
    for tensor in operands:
        if tensor is not None:
            words[at] = tensor.data_ptr()
        at += _WORDS
    made = []
    for at, like, shape, strides, dtype in plan.results:
        result = torch.empty_strided(shape, strides, dtype=dtype, device=plan.device) if like is None else \
            torch.empty_like(operands[like])
        words[at] = result.data_ptr()
        made.append(result)
    threads = torch.get_num_threads()
    if threads != plan.threads:
        plan.choose(kind, operands[kind.sequence].dtype, chosen, threads)
    stream = None
    if plan.backend == "cuda":
        segments, stream = _on_host(segments), _device.stream_of(plan.device)
    code = _lib_forward(plan.handle.pointer, plan.listed, plan.count, _segments_of(segments), stream)
    plan.is_in_use = False
    if code:
        _library.refuse(code)
    return made, plan


def _sums_of(results, are_apart):
    """Gradients that are added to, which begin with zeros: pieces of memory (elements, scalar, what lies there)."""
    pieces = []
    for i, at, _, shape, _, dtype, is_added in results:
        if not is_added:
            continue
        count, _, lies = pieces.pop() if pieces and not are_apart else (0, dtype, [])
        lies.append((i, at, shape, _kinds.dense_strides(shape), count))
        pieces.append((count + -(-math.prod(shape) // 64) * 64, dtype, lies))  # each begins at a whole number of 64 elements
    return pieces


def run_back(kind, chosen, segments, operands, cotangents, needs, places=None, are_apart=False):
    """Gradients by index of operand.
    operands      in their order; of what is written, what the gradient reads once more
    cotangents    by index of output and final state, None for zeros
    needs         for each operand whether its gradient is wanted
    places        by index of operand: memory that the gradient of an input is written to; else it is made
    are_apart     no two gradients lie in one piece of memory"""
    facts, given = _facts(operands), _facts(cotangents)
    at_places = None if places is None else _facts(places)
    key = (kind.name, facts, given, needs, None if segments is None else segments.shape, chosen, at_places, are_apart)
    plans = _plans()
    plan = _planned(plans, key)
    if plan is None:
        described, results = [*facts, *given], []
        for i in kind.read:
            operand = kind.operands[i]
            if operands[i] is None or operand.gradient == "none" or not (needs[i] or operand.gradient == "required"):
                continue
            if at_places is not None and at_places[i] is not None:
                results.append((i, _WORDS * (len(facts) + i), None, None, None, None, False))
                described[len(facts) + i] = at_places[i]
                continue
            strides = _kinds.dense_strides(operands[i].shape, operands[i].stride() if operand.role == "input" else None)
            shape, dtype = operands[i].shape, operands[i].dtype
            results.append((i, _WORDS * (len(facts) + i), _lies_as(operands[i], shape, strides, dtype), shape, strides, dtype,
                            operand.role == "parameter"))
            described[len(facts) + i] = (operands[i].dtype, operands[i].shape, strides, operands[i].device)
        plan = _Headers(described, operands[kind.sequence].device, len(facts))
        plan.made = _sums_of(results, are_apart)
        plan.results = [result[:6] for result in results if not result[6]]
        _keep(plans, key, plan)
    plan.is_in_use = True
    words, at = plan.words, 0
    for tensors in (operands, cotangents):
        for tensor in tensors:
            if tensor is not None:
                words[at] = tensor.data_ptr()
            at += _WORDS
    gradients = [None] * len(operands)
    for i, at, is_like, shape, strides, dtype in plan.results:
        if is_like:
            gradient = torch.empty_like(operands[i])
        elif shape is None:
            gradient = places[i]
        else:
            gradient = torch.empty_strided(shape, strides, dtype=dtype, device=plan.device)
        words[at] = gradient.data_ptr()
        gradients[i] = gradient
    for count, dtype, lies in plan.made:
        memory = torch.zeros(count, dtype=dtype, device=plan.device)
        for i, at, shape, strides, begin in lies:
            gradients[i] = gradient = memory.as_strided(shape, strides, begin)
            words[at] = gradient.data_ptr()
    threads = torch.get_num_threads()
    if threads != plan.threads:
        plan.choose(kind, operands[kind.sequence].dtype, chosen, threads)
    stream = None
    if plan.backend == "cuda":
        segments, stream = _on_host(segments), _device.stream_of(plan.device)
    code = _lib_backward(plan.handle.pointer, plan.listed, plan.second, plan.count, _segments_of(segments), stream)
    plan.is_in_use = False
    if code:
        _library.refuse(code)
    return [gradient if need else None for gradient, need in zip(gradients, needs)]


def _at_places(kind, places, values, otherwise=None):
    """Values of operands at these places, in a list of all."""
    listed = [otherwise] * len(kind.operands)
    for i, value in zip(places, values):
        listed[i] = value
    return listed


class _Call(torch.autograd.Function):
    """call    what is no tensor    listed    all operands    given    those that are there, for torch, which each costs time"""

    @staticmethod
    def forward(ctx, call, listed, *given):
        kind, chosen, wanted, segments, known = call
        results, plan = run(kind, chosen, wanted, segments, known, listed)
        ctx.set_materialize_grads(False)
        ctx.call = call, plan
        if kind.kept:
            ctx.save_for_backward(*given, *[results[wanted.index(i)] for i in kind.kept])
            ctx.mark_non_differentiable(*[result for i, result in zip(wanted, results)
                                          if kind.operands[i].gradient == "none"])
        else:
            ctx.save_for_backward(*given)
        return tuple(results)

    @staticmethod
    def backward(ctx, *given):
        (kind, chosen, wanted, segments, _), plan = ctx.call
        count, places = len(kind.operands), plan.places
        operands = _at_places(kind, (*places, *kind.kept), ctx.saved_tensors)
        needs = tuple(_at_places(kind, places, ctx.needs_input_grad[2:], False))
        back = lambda *tensors: run_back(kind, chosen, segments, tensors[:count], tensors[count:], needs)
        gradients = once(back, *operands, *_cotangents(kind, wanted, given, plan.made))
        return None, None, *[gradients[i] for i in places]


def plain_apply(function):
    """apply of a function of autograd, without the microseconds that torch spends on transforms of functorch."""
    return super(torch.autograd.Function, function).apply


def apply(function, plain, *operands):
    """function.apply(*operands)    plain    plain_apply(function)"""
    return function.apply(*operands) if torch._C._are_functorch_transforms_active() else plain(*operands)


_plain_apply = plain_apply(_Call)


class _Once(torch.autograd.Function):
    """A backward pass where it is itself recorded."""

    @staticmethod
    def forward(ctx, back, *tensors):
        return tuple(back(*tensors))

    @staticmethod
    def backward(ctx, *_):
        raise NotImplementedError(_SECOND)


def once(back, *tensors):
    """back(*tensors), whose own gradient is refused."""
    return _Once.apply(back, *tensors) if torch.is_grad_enabled() else back(*tensors)


def _cotangents(kind, wanted, given, made):
    """What the backward call reads, by index of operand; that of y is always there."""
    listed = [None] * len(kind.operands)
    for i, d, (shape, dtype, device) in zip(wanted, given, made):
        operand = kind.operands[i]
        if operand.gradient == "none":
            continue
        if d is None and operand.role == "output" and not operand.optional:
            d = torch.zeros(shape, dtype=dtype, device=device)
        listed[i] = d
    return listed


# The same as operators whose operands are tensors and texts, for torch.compile and torch.export.

_library_of_operators = torch.library.Library("ssm", "FRAGMENT")


@torch.compiler.assume_constant_result
def _text(chosen, wanted, known):
    return json.dumps({"options": dict(chosen), "results": wanted, "extents": dict(known)})


def _read(text):
    call = json.loads(text)
    return tuple(call["options"].items()), tuple(call["results"]), tuple(call["extents"].items())


def _define(kind):
    """The operators ssm::NAME and ssm::NAME_backward."""
    takes = ", ".join(("Tensor? " if kind.operands[i].optional else "Tensor ") + kind.operands[i].name for i in kind.read)
    name, count = f"ssm::{kind.name}", len(kind.operands)
    torch.library.define(name, f"({takes}, Tensor? segments, str call) -> Tensor[]", lib=_library_of_operators)
    torch.library.define(f"{name}_backward", "(Tensor[] tensors, str call) -> Tensor[]", lib=_library_of_operators)
    # call of the backward operator: the places of its tensors in operands and, behind those, in their cotangents; -1: segments

    def placed(inputs):
        return _at_places(kind, kind.read, inputs)

    def forward(*inputs):
        *inputs, segments, text = inputs
        chosen, wanted, known = _read(text)
        return run(kind, chosen, wanted, segments, known, placed(inputs))[0]

    def fake(*inputs):
        *inputs, segments, text = inputs
        _, wanted, known = _read(text)
        operands = placed(inputs)
        given = [t is not None for t in operands]
        first = operands[kind.sequence]
        made = []
        for i, shape in _result_shapes(kind, operands, wanted, segments, dict(known)):
            like = kind.like(i, given)
            strides = _kinds.dense_strides(shape, None if like is None else operands[like].stride())
            made.append(first.new_empty_strided(shape, strides, dtype=_dtype(kind.operands[i], first.dtype)))
        return made

    def keep(ctx, inputs, output):
        *inputs, ctx.segments, text = inputs
        ctx.set_materialize_grads(False)
        ctx.chosen, ctx.wanted, _ = _read(text)
        ctx.save_for_backward(*inputs, *[output[ctx.wanted.index(i)] for i in kind.kept])
        ctx.made = [(result.shape, result.dtype, result.device) for result in output]

    def back(ctx, given):
        operands = placed(ctx.saved_tensors[:len(kind.read)])
        for i, result in zip(kind.kept, ctx.saved_tensors[len(kind.read):]):
            operands[i] = result
        needs = [False] * count
        for i, need in zip(kind.read, ctx.needs_input_grad):
            needs[i] = bool(need) and kind.operands[i].gradient != "none"
        cotangents = _cotangents(kind, ctx.wanted, given, ctx.made)
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
        raise NotImplementedError(_SECOND)

    for device in ("CPU", "CUDA"):
        torch.library.impl(name, device, forward, lib=_library_of_operators)
        torch.library.impl(f"{name}_backward", device, backward, lib=_library_of_operators)
    torch.library.register_fake(name, fake, lib=_library_of_operators)
    torch.library.register_autograd(name, back, setup_context=keep, lib=_library_of_operators)
    torch.library.register_fake(f"{name}_backward", fake_backward, lib=_library_of_operators)
    torch.library.register_autograd(f"{name}_backward", refuse, lib=_library_of_operators)


KINDS = dict(_kinds.kinds())
for _kind in KINDS.values():
    _define(_kind)


def call(name, operands, results, *, segments=None, options=(), extents=()):
    """What a primitive computes, a list that begins with what is wanted.
    operands    by name; None is left out
    results     names of what is wanted
    options     pairs; extents    pairs of letters and extents that follow from no operand"""
    kind = KINDS[name]
    listed = list(map(operands.get, kind.names))
    is_recorded = False
    if torch.is_grad_enabled():
        for tensor in listed:
            if tensor is not None and tensor.requires_grad:
                is_recorded = True
                break
    if torch.compiler.is_compiling():
        operator = getattr(torch.ops.ssm, name)
        return operator(*[listed[i] for i in kind.read], segments,
                        _text(options, kind.places_of(results, is_recorded), extents))
    wanted = kind.wanted(results, is_recorded)
    if is_recorded:
        return apply(_Call, _plain_apply, (kind, options, wanted, segments, extents), listed,
                     *[listed[i] for i in kind.read if listed[i] is not None])
    return run(kind, options, wanted, segments, extents, listed)[0]
