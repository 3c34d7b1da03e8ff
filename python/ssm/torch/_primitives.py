# SPDX-License-Identifier: Apache-2.0
"""Calls of primitives on torch tensors: headers that are filled again for every call, and autograd.

A call writes addresses into headers that a call of the same shapes has left behind, so that it costs some microseconds.
"""
import ctypes
import json
import math
import threading

import torch

from .. import _kinds, _library, _tensor
from . import _device

SECOND = ("ssm: a primitive has no second derivative: its gradient is computed by a backward pass that torch cannot "
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


def dtype_of(operand, sequence):
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


def _exchanged(values):
    """Extents or strides with those of axes 1 and 2 exchanged."""
    return (values[0], values[2], values[1], *values[3:])


def _as_kinds_have_them(facts, turned):
    """Facts of operands in the order of axes that the primitive has."""
    return [(f[0], _exchanged(f[1]), _exchanged(f[2]), f[3]) if f is not None and i in turned else f for i, f in enumerate(facts)]


def result_shapes(kind, shapes, wanted, segments, known):
    """(index, shape) of what is wanted, of operands with these shapes."""
    extents = kind.extents(shapes, None if segments is None else segments.shape[0], **known)
    return [(i, kind.shape(i, extents)) for i in wanted]


def run(kind, chosen, wanted, segments, known, operands, turned=()):
    """The wanted results of a forward call, and what is known of them.
    operands    in their order, None for what is left out or written
    turned      indices of operands and results whose axes 1 and 2 are exchanged: [B, D, L] for [B, L, D]"""
    facts = _facts(operands)
    key = (kind.name, facts, wanted, None if segments is None else segments.shape, known, chosen, turned)
    plans = _plans()
    plan = _planned(plans, key)
    if plan is None:
        dtype = _scalar_of(kind, operands)
        given = [t is not None for t in operands]
        results, described = [], _as_kinds_have_them(facts, turned)
        for i, shape in result_shapes(kind, [f and f[1] for f in described], wanted, segments, dict(known)):
            like = kind.like(i, given)
            strides = _kinds.dense_strides(shape, None if like is None else described[like][2])
            dtype_i = dtype_of(kind.operands[i], dtype)
            described[i] = (dtype_i, shape, strides, operands[kind.sequence].device)
            if i in turned:
                shape, strides = _exchanged(shape), _exchanged(strides)
            is_like = like is not None and _lies_as(operands[like], shape, strides, dtype_i)
            results.append((_WORDS * i, like if is_like else None, shape, strides, dtype_i))
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


def run_back(kind, chosen, segments, operands, cotangents, needs, places=None, are_apart=False, turned=()):
    """Gradients by index of operand.
    operands      in their order; of what is written, what the gradient reads once more
    cotangents    by index of output and final state, None for zeros
    needs         for each operand whether its gradient is wanted
    places        by index of operand: memory that the gradient of an input is written to; else it is made
    are_apart     no two gradients lie in one piece of memory
    turned        as in run, of cotangents and gradients, too"""
    facts, given = _facts(operands), _facts(cotangents)
    at_places = None if places is None else _facts(places)
    key = (kind.name, facts, given, needs, None if segments is None else segments.shape, chosen, at_places, are_apart, turned)
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
        described = [*_as_kinds_have_them(described[:len(facts)], turned), *_as_kinds_have_them(described[len(facts):], turned)]
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


def in_places(kind, places, values, otherwise=None):
    """Values of operands at these places, in a list of all."""
    listed = [otherwise] * len(kind.operands)
    for i, value in zip(places, values):
        listed[i] = value
    return listed


class _Call(torch.autograd.Function):
    """call    what is no tensor    listed    all operands    given    those that are there, for torch, which each costs time"""

    @staticmethod
    def forward(ctx, call, listed, *given):
        kind, chosen, wanted, segments, known, turned = call
        results, plan = run(kind, chosen, wanted, segments, known, listed, turned)
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
        (kind, chosen, wanted, segments, _, turned), plan = ctx.call
        count, places = len(kind.operands), plan.places
        operands = in_places(kind, (*places, *kind.kept), ctx.saved_tensors)
        needs = tuple(in_places(kind, places, ctx.needs_input_grad[2:], False))
        back = lambda *tensors: run_back(kind, chosen, segments, tensors[:count], tensors[count:], needs,
                                         turned=turned)
        gradients = once(back, *operands, *cotangents_of(kind, wanted, given, plan.made))
        return None, None, *[gradients[i] for i in places]


# Not part of what torch promises: without it functions are applied as torch does.
_are_transformed = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def plain_apply(function):
    """apply of a function of autograd, without the microseconds that torch spends on transforms of functorch."""
    return super(torch.autograd.Function, function).apply


def apply(function, plain, *operands):
    """function.apply(*operands)    plain    plain_apply(function)"""
    return function.apply(*operands) if _are_transformed() else plain(*operands)


_plain_apply = plain_apply(_Call)


class _Once(torch.autograd.Function):
    """A backward pass where it is itself recorded."""

    @staticmethod
    def forward(ctx, back, *tensors):
        return tuple(back(*tensors))

    @staticmethod
    def backward(ctx, *_):
        raise NotImplementedError(SECOND)


def once(back, *tensors):
    """back(*tensors), whose own gradient is refused."""
    return _Once.apply(back, *tensors) if torch.is_grad_enabled() else back(*tensors)


def cotangents_of(kind, wanted, given, made):
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


KINDS = dict(_kinds.kinds())


@torch.compiler.assume_constant_result
def text_of(chosen, wanted, known):
    return json.dumps({"options": dict(chosen), "results": wanted, "extents": dict(known)})


def read_text(text):
    call = json.loads(text)
    return tuple(call["options"].items()), tuple(call["results"]), tuple(call["extents"].items())


def places(name, *operands):
    """Indices of operands and results by name."""
    return tuple([KINDS[name].place[operand] for operand in operands])


def _exchange(tensors, turned):
    return [t.transpose(1, 2) if i in turned and t is not None else t for i, t in enumerate(tensors)]


def call(name, operands, results, *, segments=None, options=(), extents=(), turned=()):
    """What a primitive computes, a list that begins with what is wanted.
    operands    by name; None is left out
    results     names of what is wanted
    options     pairs; extents    pairs of letters and extents that follow from no operand
    turned      `places` of operands and results whose axes 1 and 2 are exchanged: [B, D, L] for [B, L, D]"""
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
        listed, wanted = _exchange(listed, turned), kind.places_of(results, is_recorded)
        found = operator(*[listed[i] for i in kind.read], segments, text_of(options, wanted, extents))
        return [result.transpose(1, 2) if i in turned else result for i, result in zip(wanted, found)]
    wanted = kind.wanted(results, is_recorded)
    if is_recorded:
        return apply(_Call, _plain_apply, (kind, options, wanted, segments, extents, turned), listed,
                     *[listed[i] for i in kind.read if listed[i] is not None])
    return run(kind, options, wanted, segments, extents, listed, turned)[0]
