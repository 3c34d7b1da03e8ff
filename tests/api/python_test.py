#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The Python package over numpy, torch and JAX: layers against the conformance cases and numerical gradients, language models
against the command-line program.

    python_test.py PART SSM CASES TEXT_MODEL     SSM_LIBRARY names the library, PYTHONPATH the package
    PART    layers, torch, jax or models; layers-cuda (arrays of cupy or torch), torch-cuda and jax-cuda are the same on a GPU
            exits with 77 and the reason where numpy, torch, JAX, a GPU, or the library's CUDA half is not there
"""
import copy
import json
import multiprocessing
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import tempfile
import threading
import warnings

PART, _, DEVICE = sys.argv[1].partition("-")
ON_GPU = DEVICE == "cuda"


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(77)


try:
    import numpy
    if PART == "torch":
        import torch
    if PART == "jax":
        import jax
    arrays = numpy
    if PART == "layers" and ON_GPU:
        try:
            import cupy as arrays
        except ImportError:
            import torch as arrays
            arrays.asarray = arrays.as_tensor
except ImportError as error:
    skip(error)

import ssm

if ON_GPU:
    try:
        ssm.Primitive("selective_scan", backend="cuda")
    except ssm.ArgumentError as error:
        skip(error)
    if PART == "torch" or arrays.__name__ == "torch":
        import torch
        if not torch.cuda.is_available():
            skip("torch finds no CUDA device")
        torch.set_default_device("cuda")
    elif arrays.__name__ == "cupy":
        try:
            arrays.cuda.runtime.getDeviceCount()
        except arrays.cuda.runtime.CUDARuntimeError as error:
            skip(error)
    elif PART == "jax":
        try:
            jax.config.update("jax_default_device", jax.devices("cuda")[0])
        except RuntimeError as error:
            skip(error)

problems = []


def on_host(array):
    """A numpy array of any."""
    if hasattr(array, "detach"):
        return array.detach().cpu().numpy()
    return array.get() if hasattr(array, "get") else numpy.asarray(array)


def check(holds, what):
    if not holds:
        problems.append(what)
        print("FAILED:", what, file=sys.stderr)


def check_near(found, expected, tolerance, what):
    found, expected = on_host(found), on_host(expected)
    scale = max(1.0, float(numpy.abs(expected).max(initial=0)))
    worst = float(numpy.abs(found - expected).max(initial=0)) if found.shape == expected.shape else float("inf")
    check(worst <= tolerance * scale, f"{what}: differs by {worst:g} of {scale:g}")


def check_raises(kind, words, function, *operands, **named):
    try:
        function(*operands, **named)
    except kind as error:
        check(words in str(error), f"'{error}' lacks '{words}'")
    except Exception as error:
        check(False, f"{type(error).__name__} in place of {kind.__name__}: {error}")
    else:
        check(False, f"no {kind.__name__} with '{words}'")


def read_safetensors(path):
    data = pathlib.Path(path).read_bytes()
    size, = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    meta = header.pop("__metadata__", {})
    types = {"F64": "f8", "F32": "f4", "I64": "i8", "I32": "i4"}
    return meta, {name: numpy.frombuffer(data[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]],
                                         dtype=types[t["dtype"]]).reshape(t["shape"]).copy()
                  for name, t in header.items()}


def sizes_of(config):
    """The fields of a layer for the options of a conformance case."""
    op = config["op"]
    if op == "h3":
        return "h3", {"channels": config["D"], "state": config["N"], "head_dim": config["head_dim"],
                      "discretization": config["discretization"]}
    if op == "mamba_block":
        return "mamba", {"channels": config["d"], "inner": config["d_inner"], "state": config["d_state"],
                         "dt_rank": config["dt_rank"], "conv_width": config["d_conv"]}
    if op == "mamba2_block":
        low, high = config.get("dt_limit", (None, None))
        return "mamba2", {"channels": config["d"], "inner": config["heads"] * config["head_dim"],
                          "head_dim": config["head_dim"], "groups": config["groups"], "state": config["d_state"],
                          "conv_width": config["d_conv"], "eps": config["eps"], "conv_bias": config.get("conv_bias"),
                          "bias": config.get("bias"), "dt_limit_min": low, "dt_limit_max": high}
    if op == "retention":
        return "retention", {"channels": config["d"], "value_dim": config["value_dim"], "heads": config["heads"],
                             "form": config["form"], "eps": config["eps"]}
    if op == "attention" and "cached" not in config:
        return "attention", {"channels": config["d"], "heads": config["heads"],
                             "rotary_dim": config.get("rotary_dim"), "rotary_base": config.get("rotary_base")}
    return None


def state_from(layer, tensors, prefix, sequences):
    state = layer.initial_state(sequences)
    for name, memory in state.tensors().items():
        if prefix + name in tensors:
            is_on_host = isinstance(memory, numpy.ndarray)
            to, package = (memory, numpy) if is_on_host else (arrays.asarray(memory), arrays)
            to[...] = package.asarray(tensors[prefix + name])
    return state


def check_case(path):
    meta, tensors = read_safetensors(path)
    config = json.loads(meta["config"])
    made = sizes_of(config)
    if made is None:
        return None
    kind, sizes = made
    for backend in ("cuda",) if ON_GPU else ("cpu", "reference"):
        what = f"{path.stem} on {backend}"
        layer = ssm.Layer(kind, scalar="float64", backend=backend, threads=2, **sizes)
        given = {name: arrays.asarray(tensor) for name, tensor in tensors.items()}
        parameters = {name: given["param/" + name] for name in layer.names}
        x = given["input/x"]
        segments = tensors.get("input/cu_seqlens")
        sequences = x.shape[0] if segments is None else len(segments) - 1
        has = lambda prefix: any(name.startswith(prefix) for name in tensors)
        initial = state_from(layer, tensors, "state/initial/", sequences) if has("state/initial/") else None
        final = layer.initial_state(sequences) if has("state/final/") and kind != "attention" else None
        tape = layer.tape()
        y = layer.forward(parameters, x, segments=segments, initial_state=initial, final_state=final, tape=tape)
        check_near(y, tensors["output/y"], 1e-9, what + ": y")
        if final is not None:
            for name, memory in final.tensors().items():
                if "state/final/" + name in tensors:
                    check_near(arrays.asarray(memory), tensors["state/final/" + name], 1e-9, f"{what}: final {name}")
        if "grad/input/x" not in tensors:
            continue
        dfinal = (state_from(layer, tensors, "cotangent/state/", sequences) if has("cotangent/state/") else None)
        dinitial = layer.initial_state(sequences) if initial is not None else None
        dx, gradients = arrays.full_like(x, numpy.nan), {n: arrays.zeros_like(p) for n, p in parameters.items()}
        layer.backward(parameters, tape, given["cotangent/y"], dx, gradients, dfinal_state=dfinal,
                       dinitial_state=dinitial)
        check_near(dx, tensors["grad/input/x"], 1e-8, what + ": dx")
        for name, gradient in gradients.items():
            check_near(gradient, tensors["grad/param/" + name], 1e-8, f"{what}: d{name}")
        if dinitial is not None:
            for name, memory in dinitial.tensors().items():
                if "grad/state/" + name in tensors:
                    check_near(arrays.asarray(memory), tensors["grad/state/" + name], 1e-8, f"{what}: d initial {name}")
    return kind


# Of a conformance case's op: the primitive, its options, and how its operands are called in the case.
PRIMITIVE_CASES = {
    "selective_scan": ("selective_scan", {"delta_softplus": "dt_softplus"},
                       {"u": "input/u", "dt": "input/delta", "A": "param/A", "B": "input/B", "C": "input/C", "skip": "param/D",
                        "dt_bias": "param/delta_bias", "gate": "input/z"}, "ssm"),
    "ssd_scan": ("ssd_scan", {"dt_softplus": "dt_softplus"},
                 {"x": "input/x", "dt": "input/dt", "A": "param/A", "B": "input/B", "C": "input/C", "skip": "param/D",
                  "dt_bias": "param/dt_bias"}, "ssm"),
    "short_convolution": ("short_convolution", {"activation": "activation"},
                          {"x": "input/x", "weight": "param/conv1d.weight", "bias": "param/conv1d.bias"}, "conv"),
    "shift_ssm": ("shift_convolution", {},
                  {"x": "input/x", "B": "param/ssm_k_kernel.kernel.B", "C": "param/ssm_k_kernel.kernel.C",
                   "skip": "param/ssm_k_D"}, "shift"),
    "causal_convolution": ("causal_convolution", {},
                           {"x": "input/x", "kernel": "param/kernel", "skip": "param/skip", "gate_in": "input/gate_in",
                            "gate_out": "input/gate_out"}, None),
}


def check_primitive_case(path):
    meta, tensors = read_safetensors(path)
    config = json.loads(meta["config"])
    if config["op"] not in PRIMITIVE_CASES or "dt_limit" in config:
        return None
    name, options, operands, state = PRIMITIVE_CASES[config["op"]]
    function = getattr(ssm.numpy, name)
    options = {ours: config[theirs] for theirs, ours in options.items() if theirs in config}
    axes = {operand["name"]: len(operand["axes"]) for operand in ssm.primitive_kinds()[name]["operands"]}
    given = {ours: tensors[theirs] for ours, theirs in operands.items() if theirs in tensors}
    if f"state/initial/{state}" in tensors:
        given["initial_state"] = tensors[f"state/initial/{state}"]
        operands = {**operands, "initial_state": f"input/../state/{state}"}
    if name == "ssd_scan":  # heads and groups are joined with what follows them
        parts = {"x": (config["heads"], config["head_dim"]), "B": (config["groups"], config["N"])}
        parts["C"] = parts["B"]
        given = {ours: array.reshape(*array.shape[:2], *parts[ours]) if ours in parts else array
                 for ours, array in given.items()}
    # published filters are [D, 1, W] and [1, D, N]
    shaped = {ours: array.squeeze(1 if ours == "weight" else 0) if array.ndim > axes[ours] else array
              for ours, array in given.items()}
    segments = tensors.get("input/cu_seqlens")
    results = ("y", "final_state") if f"state/final/{state}" in tensors else ("y",)
    made = function(segments=segments, threads=2, results=results, **shaped, **options)
    found = dict(zip(results, made if len(results) > 1 else [made]))
    check_near(found["y"].reshape(tensors["output/y"].shape), tensors["output/y"], 1e-9, f"{path.stem}: y")
    cotangents = {"y": tensors["cotangent/y"].reshape(found["y"].shape)}
    if "final_state" in found:
        check_near(found["final_state"], tensors[f"state/final/{state}"], 1e-9, f"{path.stem}: final state")
        cotangents["final_state"] = tensors[f"cotangent/state/{state}"]
    gradients = function.gradients(cotangents, segments=segments, threads=2, **shaped, **options)
    for ours, theirs in operands.items():
        expected = tensors.get(f"grad/state/{state}" if ours == "initial_state" else "grad/" + theirs)
        if ours in gradients and expected is not None:
            check_near(gradients[ours], expected.reshape(gradients[ours].shape), 1e-8, f"{path.stem}: d{ours}")
    return name


def primitives(cases):
    import ssm.numpy
    names = [check_primitive_case(path) for path in sorted(cases.glob("*.safetensors"))]
    for name in ("selective_scan", "ssd_scan", "short_convolution", "shift_convolution", "causal_convolution"):
        check(names.count(name) >= 3, f"three cases of {name}, found {names.count(name)}")
    random = numpy.random.default_rng(2)
    dt, A, B, C = (random.standard_normal(shape) * 0.5 for shape in ((3,), (3, 2, 2), (3, 2, 2), (3, 2, 2)))
    dt, A[..., 0] = numpy.exp(dt), -numpy.exp(A[..., 0])
    x = random.standard_normal((2, 40, 3))
    kernel = ssm.numpy.diagonal_kernel(dt, A, B, C, extents={"L": 40})
    y, state = ssm.numpy.diagonal_scan(x=x, dt=dt, A=A, B=B, C=C, results=("y", "final_state"))
    check_near(ssm.numpy.causal_convolution(x, kernel), y, 1e-10, "a diagonal scan is a convolution with its kernel")
    halves = [ssm.numpy.diagonal_scan(x=x[:, :20], dt=dt, A=A, B=B, C=C, results=("y", "final_state"))]
    halves.append(ssm.numpy.diagonal_scan(x=x[:, 20:], dt=dt, A=A, B=B, C=C, initial_state=halves[0][1],
                                          results=("y", "final_state")))
    check_near(numpy.concatenate([half[0] for half in halves], 1), y, 1e-10, "two halves")
    check_near(halves[1][1], state, 1e-10, "the state behind two halves")

    scan = ssm.Primitive("selective_scan", dt_softplus=True)
    u, dt, gate, y = (random.standard_normal((2, 9, 4)).astype("f4") for _ in range(4))
    A, B, C = -numpy.ones((4, 3), "f4"), *(random.standard_normal((2, 9, 3)).astype("f4") for _ in range(2))
    given = dict(u=u, dt=dt, A=A, B=B, C=C)
    scan.forward(**given, y=y)
    strided = numpy.zeros((9, 2, 4), "f4")
    scan.forward(**given, y=Exported(strided.transpose(1, 0, 2)))
    check((strided.transpose(1, 0, 2) == y).all(), "strides, by DLPack alone")
    results = [numpy.empty_like(y) for _ in range(4)]
    workers = [threading.Thread(target=lambda at=at: [scan.forward(**given, y=at) for _ in range(50)]) for at in results]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    check(all((result == y).all() for result in results), "several threads call one primitive")
    check_near(ssm.numpy.selective_scan(u.astype("f2"), dt.astype("f2"), A, B.astype("f2"), C.astype("f2"),
                                        dt_softplus=True), y, 2e-2, "float16")
    check_raises(ssm.TensorError, "A is of float16, must be of float32", ssm.numpy.selective_scan, u.astype("f2"),
                 dt.astype("f2"), A.astype("f2"), B.astype("f2"), C.astype("f2"))
    check_raises(ssm.ShapeError, "selective_scan: C must be", scan.forward, **{**given, "C": C[:, 1:]}, y=y)
    check_raises(ssm.ShapeError, "selective_scan: A is missing", scan.forward, **{**given, "A": None}, y=y)
    check_raises(ssm.ArgumentError, "begins at the same element as u", scan.forward, **given, y=u)
    check_raises(ssm.ArgumentError, "dt_softplu", ssm.Primitive, "selective_scan", dt_softplu=True)
    check_raises(ssm.ArgumentError, "short_convolution", ssm.Primitive, "unknown")
    try:
        ssm.Primitive("selective_scan", backend="cuda")
    except ssm.ArgumentError as error:
        check("without SSM_BUILD_CUDA" in str(error), "why there is no backend cuda")
    check_raises(ssm.ArgumentError, "scalar", ssm.Primitive, "diagonal_kernel", scalar="float16")
    check_raises(ssm.ArgumentError, "no operand and no option", ssm.numpy.selective_scan, u, dt, A, B, C, gates=gate)


class Exported:
    """A tensor of a framework that is not known, by DLPack alone."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **_):
        return self._array.__dlpack__()


def layers_of_device_arrays():
    """What is the packages' own: their streams, arrays that are made, states; what is elsewhere is refused."""
    import ssm.numpy
    layer, plain = (ssm.Layer("h3", channels=6, state=4, head_dim=2, backend=backend) for backend in ("cuda", "cpu"))
    own = plain.initialize(seed=3)
    parameters = {name: arrays.asarray(value) for name, value in layer.initialize(seed=3).items()}
    written = {name: arrays.zeros_like(value) for name, value in parameters.items()}
    layer.initialize(seed=3, parameters=written)
    for name, value in own.items():
        check_near(written[name], value, 0, f"{name} initialized on the device")
    x = numpy.random.default_rng(1).standard_normal((2, 7, 6), dtype=numpy.float32)
    expected = plain.forward(own, x)
    y = layer.forward(parameters, arrays.asarray(x))
    check_near(y, expected, 1e-5, "y that the package made")
    stream = arrays.cuda.Stream(non_blocking=True) if arrays.__name__ == "cupy" else arrays.cuda.Stream()
    with stream if arrays.__name__ == "cupy" else arrays.cuda.stream(stream):
        state = layer.initial_state(2)
        given = arrays.asarray(x)
        steps = [layer.step(parameters, arrays.asarray(x[:, t]), state) for t in range(5)]
        kept = state.copy()
        rest = [layer.prefill(parameters, given[:, 5:], s, arrays.zeros_like(given[:, 5:])) for s in (state, kept)]
        found = [on_host(y) for y in (*steps, *rest)]
    check_near(numpy.stack(found[:5], 1), expected[:, :5], 1e-5, "steps on a stream of its own")
    check_near(found[5], expected[:, 5:], 1e-5, "a chunk behind them")
    check_near(found[6], found[5], 0, "a copied state")
    check_raises(ssm.TensorError, "x lies in host memory", layer.forward, parameters, x, x.copy())
    check_raises(ssm.TensorError, "lies on a CUDA device", plain.forward, parameters, x)
    scan = ssm.Primitive("short_convolution", scalar="float32", backend="cuda")
    weight = arrays.asarray(numpy.ones((6, 3), "f4"))
    y = arrays.zeros_like(given)
    scan.forward(x=given, weight=weight, y=y)
    check_near(y, ssm.numpy.short_convolution(x, numpy.ones((6, 3), "f4")), 1e-5, "a primitive")


def layers(cases):
    kinds = [check_case(path) for path in sorted(cases.glob("*.safetensors"))]
    for kind in ("h3", "mamba", "mamba2", "retention", "attention"):
        check(kinds.count(kind) >= 3, f"three cases of {kind}, found {kinds.count(kind)}")
    if ON_GPU:
        layers_of_device_arrays()
        return

    layer = ssm.Layer("mamba", channels=6, state=4)
    check(ssm.layer_kinds()["mamba"]["required"] == ["channels"], "the fields of a Mamba")
    parameters = layer.initialize(seed=3)
    again = layer.initialize(seed=3, parameters={n: numpy.full_like(p, 7) for n, p in parameters.items()})
    check(all((parameters[n] == again[n]).all() for n in parameters), "the same seed is the same numbers")
    x = numpy.random.default_rng(1).standard_normal((2, 5, 6), dtype=numpy.float32)
    y = layer.forward(parameters, x)
    check(numpy.abs(y).max() > 0, "y is something")
    # Memory of others, without copies: strides of x and y, DLPack alone.
    wide = numpy.zeros((2, 10, 12), dtype=numpy.float32)
    wide[:, ::2, 3:9] = x
    out = numpy.full((5, 2, 6), numpy.nan, dtype=numpy.float32)
    layer.forward(parameters, wide[:, ::2, 3:9], out.transpose(1, 0, 2))
    check_near(out.transpose(1, 0, 2), y, 1e-6, "strided operands")
    exported = numpy.full_like(x, numpy.nan)
    layer.forward({n: Exported(p) for n, p in parameters.items()}, Exported(x), Exported(exported))
    check((exported == y).all(), "operands by DLPack alone")
    state = layer.initial_state(2)
    steps = numpy.stack([layer.step(parameters, x[:, t], state) for t in range(5)], 1)
    check_near(steps, y, 1e-5, "steps")
    kept = state.copy()
    first = layer.step(parameters, x[:, 0], state)
    check((layer.step(parameters, x[:, 0], kept) == first).all(), "a copied state goes on alike")

    check_raises(ssm.TensorError, "x is of float64, must be of float32", layer.forward, parameters, x.astype("f8"))
    check_raises(ssm.ShapeError, "x must be", layer.forward, parameters, x[..., :5])
    check_raises(ssm.TensorError, "in_proj.weight is strided", layer.forward,
                 {**parameters, "in_proj.weight": numpy.asfortranarray(parameters["in_proj.weight"])}, x)
    check_raises(KeyError, "D", layer.forward, {n: p for n, p in parameters.items() if n != "D"}, x)
    check_raises(ssm.ArgumentError, "chanels", ssm.Layer, "mamba", chanels=6)
    check_raises(ssm.ArgumentError, "h3", ssm.Layer, "unknown")
    half = x.astype("f2")
    check_near(layer.forward(parameters, half), y, 5e-3, "float16 sequences")
    check(layer.forward(parameters, half).dtype == half.dtype, "float16 in, float16 out")
    check_raises(ssm.TensorError, "y is of float32, must be of float16 as x", layer.forward, parameters, half, x.copy())
    check_raises(ssm.TensorError, "half types go with float32", ssm.Layer("mamba", channels=6, scalar="float64").forward,
                 ssm.Layer("mamba", channels=6, scalar="float64").initialize(), half)
    frozen = numpy.empty_like(x)
    frozen.flags.writeable = False
    check_raises(ssm.TensorError, "read-only", layer.forward, parameters, x, frozen)
    check_raises(ssm.TensorError, "no tensor", layer.forward, parameters, [1.0])
    check((pickle.loads(pickle.dumps(layer)).forward(parameters, x) == y).all(), "a pickled layer")

    # Many calls leave memory as it is; threads share a layer.
    def resident():
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096

    def calls(count):
        for _ in range(count):
            layer.forward(parameters, x, tape=layer.tape())
            layer.initial_state(2).tensors()

    calls(500)
    before = resident()
    calls(10000)
    check(resident() - before < 4 << 20, f"10000 calls took {resident() - before} bytes")
    results = [None] * 4
    workers = [threading.Thread(target=lambda i=i: results.__setitem__(i, layer.forward(parameters, x)))
               for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    check(all((result == y).all() for result in results), "several threads call one layer")


def modules():
    return {
        "s4d": ssm.torch.S4D(4, state=4),
        "h3": ssm.torch.H3(4, state=4, head_dim=2),
        "mamba": ssm.torch.Mamba(4, state=3),
        "mamba2": ssm.torch.Mamba2(4, state=3, head_dim=2),
        "retention": ssm.torch.Retention(4, value_dim=8, heads=2),
        "dense_mamba": ssm.torch.DenseMamba(4, blocks=2, sources=1, state=3),
        "dense_retnet": ssm.torch.DenseRetNet(4, query_key_dim=4, value_dim=8, heads=2, k_hidden=2, v_hidden=2, blocks=2,
                                              sources=1),
        "attention": ssm.torch.Attention(4, heads=2),
    }


def in_child(module, x, queue):
    torch.set_num_threads(1)
    queue.put(module(x).detach().numpy())


def on_a_stream(module, x):
    """A stream that does not wait for others, and memory of torch's allocator; parameters that moved."""
    module.zero_grad()
    y = module(x)
    y.sum().backward()
    expected = module.D.grad.clone()
    module.zero_grad()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found, state = module(x, return_state=True)
        found.sum().backward()
        after, _ = module(x, state, return_state=True)
    stream.synchronize()
    check_near(found, y, 0, "on a stream of its own")
    check_near(module.D.grad, expected, 0, "a gradient on a stream of its own")
    check_near(after, module(x, {key: value.clone() for key, value in state.items()}), 0, "a state on a stream of its own")
    allocated = torch.cuda.memory_allocated()
    kept = module(x * 1)
    check(torch.cuda.memory_allocated() - allocated > 2 * kept.numel() * 4, "the tape is torch's memory")
    del kept
    check(torch.cuda.memory_allocated() - allocated < 1 << 16, "the tape's memory is given back")
    for _ in range(200):
        module(x).sum().backward()
    check(torch.cuda.memory_allocated() - allocated < 1 << 16, "200 calls leave torch's memory as it was")
    check_near(copy.deepcopy(module).cpu()(x.cpu()), y, 1e-5, "parameters moved to the CPU")
    if torch.cuda.device_count() > 1:
        module.zero_grad()
        other = copy.deepcopy(module).to("cuda:1")
        found = other(x.to("cuda:1"))
        found.sum().backward()
        check_near(found, y, 0, "on another device")
        check_near(other.D.grad, expected, 1e-5, "a gradient on another device")
        check_raises(ssm.TensorError, "must be on one", other, x)


def in_a_compiled_network(module, x):
    """By torch's own compiler, between operators that it makes kernels of."""
    network = torch.nn.Sequential(torch.nn.Linear(16, 16), module, torch.nn.GELU())
    x = x.clone().requires_grad_()
    y, z = network(x), torch.compile(network, fullgraph=True)(x)
    check_near(z.detach(), y.detach(), 1e-5, "in a compiled network")
    tensors = (x, *network.parameters())
    for found, expected in zip(torch.autograd.grad(z.square().sum(), tensors), torch.autograd.grad(y.square().sum(), tensors)):
        check_near(found, expected, 1e-4, "a gradient in a compiled network")


def torch_modules():
    import ssm.torch
    torch.manual_seed(1)
    torch.set_num_threads(2)
    check(sorted(modules()) == sorted(ssm.layer_kinds()), "a module for every kind of layer")
    for name, module in modules().items():
        module = module.double()
        x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
        names, tensors = zip(*module.named_parameters())
        function = lambda x, *p: torch.func.functional_call(module, dict(zip(names, p)), (x,))
        check(torch.autograd.gradcheck(function, (x, *tensors), fast_mode=True), f"{name}: gradcheck")
        # by the operator that torch.compile sees
        compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
        y, z = module(x), compiled(x)
        check_near(z.detach(), y.detach(), 1e-12, f"{name}: compiled")
        dy = torch.randn_like(y)
        expected = torch.autograd.grad(y, (x, *tensors), dy, retain_graph=True)
        found = torch.autograd.grad(z, (x, *tensors), dy)
        for part, a, b in zip(("x", *names), found, expected):
            check_near(a, b, 1e-11, f"{name}: d{part} compiled")
        check_raises(NotImplementedError, "second derivative",
                     lambda: torch.autograd.grad(torch.autograd.grad(y, x, dy, create_graph=True)[0].sum(), x))
        # streaming
        state = module.initial_state(2)
        steps = [module.prefill(x.detach()[:, :1], state)[:, 0]] + [module.step(x.detach()[:, t], state) for t in (1, 2)]
        check_near(torch.stack(steps, 1), y.detach(), 1e-9, f"{name}: steps")
        # names and copies
        module = module.float()
        other = copy.deepcopy(module)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        saved = pathlib.Path(tempfile.mkdtemp()) / "state.pt"
        torch.save(module.state_dict(), saved)
        other.load_state_dict(torch.load(saved, weights_only=True))
        x = torch.randn(2, 3, 4)
        check(torch.equal(module(x), other(x)), f"{name}: state_dict round trip")
        check(sorted(module.state_dict()) == sorted(module._layer(module._tensors()[0]).names), f"{name}: published names")
        check(torch.equal(pickle.loads(pickle.dumps(module))(x), module(x)), f"{name}: pickled")

    module = ssm.torch.Mamba(16, state=4)
    x = torch.randn(4, 20, 16)
    torch.library.opcheck(torch.ops.ssm.layer.default,
                          (x.requires_grad_(), module._tensors(), [], None, False, module._config))
    x = x.detach()
    for dtype, tolerance in ((torch.bfloat16, 2e-2), (torch.float16, 3e-3)):
        half = x.to(dtype).requires_grad_()
        y = module(half)
        check(y.dtype is dtype, f"{dtype} in, {dtype} out")
        check_near(y.detach().float(), module(x).detach(), tolerance, f"{dtype}: y")
        y.sum().backward()
        wide = x.clone().requires_grad_()
        module(wide).sum().backward()
        check(half.grad.dtype is dtype and module.D.grad.dtype is torch.float32, f"{dtype}: scalars of gradients")
        check_near(half.grad.float(), wide.grad, 2 * tolerance, f"{dtype}: dx")
        module.zero_grad()
    with torch.autocast(DEVICE or "cpu", torch.bfloat16):
        check(torch.nn.Sequential(torch.nn.Linear(16, 16), module)(x).dtype is torch.bfloat16, "autocast")
    check_raises(ssm.TensorError, "x is of float64, and parameters are of float32", module, x.double())
    check_raises(ssm.TensorError, "not torch.bfloat16", copy.deepcopy(module).bfloat16(), x.bfloat16())
    # strides of torch, gradients that are expanded
    y = module(x)
    check_near(module(x.transpose(0, 1).contiguous().transpose(0, 1)).detach(), y.detach(), 1e-6, "a strided x")
    x.requires_grad_()
    module(x).sum().backward()
    by_ones = x.grad.clone()
    x.grad = None
    module(x).backward(torch.ones_like(x))
    check_near(by_ones, x.grad, 1e-6, "an expanded gradient")
    # in place behind the tape's back
    y = module(x * 1)
    with torch.no_grad():
        module.D.add_(1)
    check_raises(RuntimeError, "modified by an inplace operation", lambda: y.sum().backward())
    # an update learns, beside torch's own threads
    target = torch.randn(4, 20, 16)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(module(x.detach()) @ torch.eye(16), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    check(losses[-1] < losses[0], f"training: {losses[0]} to {losses[-1]}")
    if ON_GPU:
        on_a_stream(module, x.detach())
        in_a_compiled_network(module, x.detach())
        return
    # after fork, as data loaders do
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    x = x.detach()
    with torch.no_grad():
        child = context.Process(target=in_child, args=(module, x, queue))
        child.start()
        try:
            check_near(queue.get(timeout=60), module(x), 1e-5, "in a forked child")
        except Exception as error:
            check(False, f"a forked child: {error!r}")
        child.join(10)
        child.kill()


def torch_states():
    """Gradients through the states at both ends."""
    for name, module in modules().items():
        module = module.double()
        x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
        names, parameters = zip(*module.named_parameters())
        state = module.state_tensors(2)
        for key, value in state.items():
            if value.is_floating_point():
                shape = (2, *value.shape[1:]) if value.shape[0] == 0 else value.shape  # a cache of two positions
                state[key] = torch.randn(shape, dtype=torch.float64, requires_grad=True)
            elif name == "attention":
                state[key] = torch.full_like(value, 2)
        keys = [key for key, value in state.items() if value.is_floating_point()]
        count = len(keys)

        def function(x, *tensors):
            given = {**state, **dict(zip(keys, tensors))}
            named = dict(zip(names, tensors[count:]))
            y, after = torch.func.functional_call(module, named, (x, given), {"return_state": True})
            return (y, *[after[key] for key in keys])

        operands = (x, *[state[key] for key in keys], *parameters)
        check(torch.autograd.gradcheck(function, operands, fast_mode=True), f"{name}: gradcheck with states")
        # a sequence in two pieces is the sequence, and its gradient crosses the cut
        first, between = module(x[:, :2], state, return_state=True)
        second, last = module(x[:, 2:], between, return_state=True)
        whole, end = module(x, state, return_state=True)
        check_near(torch.cat([first, second], 1).detach(), whole.detach(), 1e-9, f"{name}: two pieces")
        for key in end:
            check_near(last[key].detach(), end[key].detach(), 1e-9, f"{name}: {key} behind two pieces")
        pieces = torch.autograd.grad(second.sum(), operands, allow_unused=True)
        expected = torch.autograd.grad(whole[:, 2:].sum(), operands, allow_unused=True, retain_graph=True)
        for a, b in zip(pieces, expected):
            check_near(a, b, 1e-9, f"{name}: a gradient across the cut")
        # only the state's gradient
        direct = torch.autograd.grad(sum(end[key].sum() for key in keys), operands, allow_unused=True)
        check(all(torch.isfinite(d).all() for d in direct if d is not None), f"{name}: gradients of the state alone")
        config = module._config
        initial = [state[key] for key in module._states]
        if name in ("mamba", "attention"):
            torch.library.opcheck(torch.ops.ssm.layer.default, (x, module._tensors(), initial, None, True, config))
    packed = ssm.torch.Mamba(4, state=3)
    x, ends = torch.randn(1, 9, 4), torch.tensor([0, 4, 9])
    y, state = packed(x, segments=ends, return_state=True)
    check_near(y[:, 4:].detach(), packed(x[:, 4:]).detach(), 1e-6, "packed sequences")
    check(all(value.shape[0] == 2 for value in state.values()), "a state for each packed sequence")
    check_raises(KeyError, "needs the tensor conv", packed, x, {"ssm": state["ssm"]})


def function_operands():
    """Of each function: (function, operands by name, options), everything that is optional given."""
    dtype = torch.float64
    F = ssm.torch.functional
    draw = lambda *shape: torch.randn(shape, dtype=dtype).requires_grad_()
    fixed = draw
    rate = lambda *shape: (-torch.rand(shape, dtype=dtype) - 0.5).requires_grad_()
    step = lambda *shape: (torch.rand(shape, dtype=dtype) + 0.1).requires_grad_()
    modes = lambda: torch.stack([-torch.rand(2, 3, dtype=dtype), torch.randn(2, 3, dtype=dtype)], -1).requires_grad_()
    return {
        "selective_scan": (F.selective_scan, dict(
            u=draw(2, 5, 4), dt=draw(2, 5, 4), A=rate(4, 3), B=draw(2, 5, 3), C=draw(2, 5, 3), skip=fixed(4),
            dt_bias=fixed(4), gate=draw(2, 5, 4), initial_state=fixed(2, 4, 3)), dict(dt_softplus=True, final_state=True)),
        "ssd_scan": (F.ssd_scan, dict(
            x=draw(2, 5, 4, 2), dt=draw(2, 5, 4), A=rate(4), B=draw(2, 5, 2, 3), C=draw(2, 5, 2, 3), skip=fixed(4),
            dt_bias=fixed(4), initial_state=fixed(2, 4, 2, 3)), dict(dt_softplus=True, final_state=True)),
        "diagonal_scan": (F.diagonal_scan, dict(
            x=draw(2, 5, 4), dt=step(2), A=modes(), B=modes(), C=modes(), skip=fixed(2), gate_in=draw(2, 5, 4),
            gate_out=draw(2, 5, 4), initial_state=fixed(2, 4, 3, 2)), dict(discretization="zoh", final_state=True)),
        "diagonal_kernel": (F.diagonal_kernel, dict(dt=step(2), A=modes(), B=modes(), C=modes()), dict(length=6)),
        "causal_convolution": (F.causal_convolution, dict(
            x=draw(2, 5, 4), kernel=fixed(4, 5), skip=fixed(4), gate_in=draw(2, 5, 4), gate_out=draw(2, 5, 4)), {}),
        "short_convolution": (F.short_convolution, dict(
            x=draw(2, 5, 4), weight=fixed(4, 3), bias=fixed(4), initial_state=fixed(2, 4, 3)),
            dict(activation="silu", final_state=True)),
        "shift_convolution": (F.shift_convolution, dict(
            x=draw(2, 5, 4), B=fixed(4, 3), C=fixed(4, 3), skip=fixed(4), initial_state=fixed(2, 4, 3)),
            dict(final_state=True)),
        "h3_mixer": (F.h3_mixer, dict(
            q=draw(2, 5, 4), k=draw(2, 5, 4), v=draw(2, 5, 4), shift_B=fixed(4, 3), shift_C=fixed(4, 3), shift_skip=fixed(4),
            dt=step(2), A=modes(), B=modes(), C=modes(), skip=fixed(2), initial_shift=fixed(2, 4, 3),
            initial_diagonal=fixed(2, 2, 2, 2, 3, 2)), {}),
        "decayed_attention": (F.decayed_attention, dict(
            q=draw(2, 5, 2, 3), k=draw(2, 5, 2, 3), v=draw(2, 5, 2, 4), log_decay=rate(2).detach(),
            initial_state=fixed(2, 2, 3, 4)), dict(final_state=True)),
        "attention": (F.attention, dict(q=draw(2, 5, 2, 3), k=draw(2, 7, 2, 3), v=draw(2, 7, 2, 3)), {}),
    }


def torch_functions():
    check(sorted(function_operands()) == sorted(ssm.primitive_kinds()), "a function for every primitive")
    for name, (function, operands, options) in function_operands().items():
        names, tensors = zip(*operands.items())
        called = lambda *tensors: function(**dict(zip(names, tensors)), **options)
        check(torch.autograd.gradcheck(called, tensors, fast_mode=True), f"{name}: gradcheck")
        transposed = lambda *tensors: called(*[t.transpose(1, 2).contiguous().transpose(1, 2) if t.dim() in (3, 4) else t
                                               for t in tensors])
        first = lambda result: result[0] if isinstance(result, tuple) else result
        y = first(called(*tensors))
        check_near(first(transposed(*tensors)).detach(), y.detach(), 1e-11, f"{name}: strided operands")
        torch._dynamo.reset()  # each is a function of its own
        compiled = torch.compile(called, backend="aot_eager", fullgraph=True)
        wanted = [t for t in tensors if t.requires_grad]
        dy = torch.randn_like(y)
        z = first(compiled(*tensors))
        check_near(z.detach(), y.detach(), 1e-12, f"{name}: compiled")
        found, expected = (torch.autograd.grad(r, wanted, dy, allow_unused=True) for r in (z, y))
        for a, b in zip(found, expected):
            check_near(a, b, 1e-12, f"{name}: a gradient compiled")
        check_raises(NotImplementedError, "second derivative",
                     lambda: torch.autograd.grad(torch.autograd.grad(first(called(*tensors)), wanted[0], dy,
                                                                     create_graph=True)[0].sum(), wanted[0]))
        kind = ssm._kinds.kinds()[name]
        given = [operands.get(kind.operands[i].name) for i in kind.read]
        results = [i for i in kind.written if kind.operands[i].name in ("y", "final_state", "kernel", "log_sum")]
        text = ssm.torch._primitives.text_of((), tuple(results), (("L", 6),) if name == "diagonal_kernel" else ())
        torch.library.opcheck(getattr(torch.ops.ssm, name).default, (*given, None, text),
                              test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))
        if name == "diagonal_kernel":
            continue
        half = {key: value.detach().to(torch.bfloat16 if value.dim() > 2 and "initial" not in key
                                       and key not in ("A", "B", "C") or name in ("selective_scan", "ssd_scan")
                                       and key in ("dt", "B", "C") else torch.float32)
                for key, value in operands.items()}
        y = first(function(**half, **options))
        check(y.dtype is torch.bfloat16, f"{name}: bfloat16 in, bfloat16 out")
        check_near(y.float(), first(function(**{k: v.float() for k, v in half.items()}, **options)), 5e-2, f"{name}: bfloat16")
    u = torch.randn(2, 5, 4)
    F = ssm.torch.functional
    check_raises(ssm.ShapeError, "short_convolution: weight must be", F.short_convolution, u, torch.randn(3, 2))
    check_raises(ssm.TensorError, "x is of int64", F.short_convolution, u.long(), torch.randn(4, 2))
    check_raises(ssm.TensorError, "weight is of float64, must be of float32", F.short_convolution, u, torch.randn(4, 2).double())
    empty = F.short_convolution(u[:, :0], torch.randn(4, 2))
    check(empty.shape == (2, 0, 4), "an empty sequence")


def torch_compat():
    C = ssm.torch.compat
    F = torch.nn.functional
    double = dict(dtype=torch.float64)
    # mamba_ssm's scan, position by position
    u, delta, z = (torch.randn(2, 6, 7, **double, requires_grad=True) for _ in range(3))
    A, D, bias = -torch.rand(6, 3, **double), torch.randn(6, **double), torch.randn(6, **double)
    for shape in ((2, 3, 7), (2, 2, 3, 7), (6, 3)):
        B, c = (torch.randn(shape, **double, requires_grad=True) for _ in range(2))
        spread = lambda t: (t[None, :, :, None].expand(2, 6, 3, 7) if t.dim() == 2 else t[:, None].expand(2, 6, 3, 7)
                            if t.dim() == 3 else t.repeat_interleave(3, 1))
        steps = F.softplus(delta + bias[:, None])
        state, ys = torch.zeros(2, 6, 3, **double), []
        for t in range(7):
            state = torch.exp(steps[:, :, t, None] * A) * state + (steps * u)[:, :, t, None] * spread(B)[..., t]
            ys.append((state * spread(c)[..., t]).sum(-1))
        expected = (torch.stack(ys, -1) + u * D[:, None]) * F.silu(z)
        y, last = C.selective_scan_fn(u, delta, A, B, c, D, z, bias, True, return_last_state=True)
        check_near(y.detach(), expected.detach(), 1e-10, f"selective_scan_fn with B of {shape}")
        check_near(last.detach(), state.detach(), 1e-10, f"selective_scan_fn with B of {shape}: the state")
        given = (u, delta, z, B, c)
        for a, b in zip(torch.autograd.grad(y.sum(), given), torch.autograd.grad(expected.sum(), given)):
            check_near(a, b, 1e-9, f"selective_scan_fn with B of {shape}: a gradient")
    ends = torch.tensor([0, 3, 7], dtype=torch.int32)
    B, c = torch.randn(1, 3, 7, **double), torch.randn(1, 3, 7, **double)
    packed = C.selective_scan_fn(u[:1], delta[:1], A, B, c, cu_seqlens=ends)
    check_near(packed[..., 3:].detach(), C.selective_scan_fn(u[:1, :, 3:], delta[:1, :, 3:], A, B[..., 3:],
                                                             c[..., 3:]).detach(), 1e-10, "cu_seqlens")
    state, one = torch.randn(2, 6, 3, **double), torch.randn(2, 6, **double)
    expected, dt = state.clone(), F.softplus(one + bias)
    B, c = torch.randn(2, 3, **double), torch.randn(2, 3, **double)
    expected = torch.exp(dt[..., None] * A) * expected + (dt * one)[..., None] * B[:, None]
    y = C.selective_state_update(state, one, one, A, B, c, D, one, bias, True)
    check_near(state, expected, 1e-10, "selective_state_update: the state")
    check_near(y, ((expected * c[:, None]).sum(-1) + D * one) * F.silu(one), 1e-10, "selective_state_update")
    # mamba_ssm's scan by heads
    x, zz = (torch.randn(2, 7, 4, 3, **double, requires_grad=True) for _ in range(2))
    dt = torch.randn(2, 7, 4, **double)
    A, D, bias = -torch.rand(4, **double), torch.randn(4, 3, **double), torch.randn(4, **double)
    B, c = (torch.randn(2, 7, 2, 5, **double) for _ in range(2))
    first = torch.randn(2, 4, 3, 5, **double, requires_grad=True)
    steps, state, ys = F.softplus(dt + bias).clamp(0.1, 0.9), first, []
    for t in range(7):
        b_t, c_t = (v[:, t].repeat_interleave(2, 1) for v in (B, c))
        state = torch.exp(steps[:, t] * A)[..., None, None] * state + (steps[:, t, :, None] * x[:, t])[..., None] \
            * b_t[:, :, None]
        ys.append((state * c_t[:, :, None]).sum(-1))
    expected = (torch.stack(ys, 1) + D * x) * F.silu(zz)
    y, last = C.mamba_chunk_scan_combined(x, dt, A, B, c, 4, D, zz, bias, first, dt_softplus=True, dt_limit=(0.1, 0.9),
                                          return_final_states=True)
    check_near(y.detach(), expected.detach(), 1e-10, "mamba_chunk_scan_combined")
    check_near(last.detach(), state.detach(), 1e-10, "mamba_chunk_scan_combined: states")
    for a, b in zip(*(torch.autograd.grad(r[0].sum() + r[1].sum(), (x, zz, first)) for r in ((y, last), (expected, state)))):
        check_near(a, b, 1e-9, "mamba_chunk_scan_combined: a gradient")
    ids = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0]])
    packed = C.mamba_chunk_scan_combined(x, dt, A, B, c, 4, seq_idx=ids)
    alone = C.mamba_chunk_scan_combined(x[:1, 3:], dt[:1, 3:], A, B[:1, 3:], c[:1, 3:], 4)
    check_near(packed[:1, 3:].detach(), alone.detach(), 1e-10, "mamba_chunk_scan_combined: seq_idx")
    # causal_conv1d
    x = torch.randn(2, 6, 7, **double, requires_grad=True)
    weight, bias, first = (torch.randn(shape, **double, requires_grad=True) for shape in ((6, 4), (6,), (2, 6, 3)))
    expected = F.silu(F.conv1d(torch.cat([first, x], -1), weight[:, None], bias, groups=6))
    y, last = C.causal_conv1d_fn(x, weight, bias, initial_states=first, return_final_states=True, activation="silu")
    check_near(y.detach(), expected.detach(), 1e-10, "causal_conv1d_fn")
    check_near(last.detach(), x[..., 4:].detach(), 0, "causal_conv1d_fn: states")
    for a, b in zip(*(torch.autograd.grad(r.sum(), (x, weight, bias, first)) for r in (y, expected))):
        check_near(a, b, 1e-9, "causal_conv1d_fn: a gradient")
    packed = C.causal_conv1d_fn(x, weight, seq_idx=ids)
    check_near(packed[:1, :, 3:].detach(), C.causal_conv1d_fn(x[:1, :, 3:], weight).detach(), 1e-10, "causal_conv1d_fn: seq_idx")
    state = torch.cat([torch.zeros(2, 6, 1, **double), first.detach()], -1)
    steps = [C.causal_conv1d_update(x[..., t].detach(), state, weight.detach(), bias.detach(), "silu") for t in range(7)]
    check_near(torch.stack(steps, -1), expected.detach(), 1e-10, "causal_conv1d_update")
    # H3's convolution
    k, D = torch.randn(6, 7, **double), torch.randn(6, **double)
    spectrum = torch.fft.rfft(k, n=14)
    long = lambda u, f, d: torch.fft.irfft(torch.fft.rfft(u, n=14) * f, n=14)[..., :7] + u * d
    mask, reverse = (torch.rand(2, 6) > 0.5).double(), torch.randn(6, 7, **double)
    expected = F.gelu(long(x, spectrum + torch.fft.rfft(reverse, n=14).conj(), D[:, None])) * mask[..., None]
    check_near(C.fftconv_func(x, k, D, mask, k_rev=reverse).detach(), expected.detach(), 1e-9, "fftconv_func")
    q, v = (torch.randn(2, 6, 7, **double) for _ in range(2))
    by_heads = lambda t, at: t.reshape(2, 3, 2, 7).permute(0, 2, 1, 3).unsqueeze(at)
    products = by_heads(x, 2) * by_heads(v, 1)
    mixed = long(products, torch.fft.rfft(k[:3], n=14), D[:3, None])
    expected = (mixed * by_heads(q, 2)).sum(1).permute(0, 2, 1, 3).reshape(2, 6, 7)
    found = C.fftconv_func(x, k[:3], D[:3], gelu=False, v=v, head_dim=2, q=q)
    check_near(found.detach(), expected.detach(), 1e-9, "fftconv_func with q and v")
    # fla's retention
    q, k = (torch.randn(2, 7, 3, 4, **double, requires_grad=True) for _ in range(2))
    v, first = torch.randn(2, 7, 3, 5, **double, requires_grad=True), torch.randn(2, 3, 4, 5, **double, requires_grad=True)
    decay, state, ys = 1 - 2.0 ** (-5 - torch.arange(3, **double)), first, []
    for t in range(7):
        state = decay[:, None, None] * state + k[:, t, :, :, None] * v[:, t, :, None]
        ys.append((q[:, t, :, :, None] * 0.5 * state).sum(2))
    expected = torch.stack(ys, 1)
    for function in (C.chunk_retention, C.fused_chunk_retention, C.fused_recurrent_retention):
        y, last = function(q, k, v, initial_state=first, output_final_state=True)
        check_near(y.detach(), expected.detach(), 1e-10, function.__name__)
        check_near(last.detach(), state.detach(), 1e-10, f"{function.__name__}: states")
        for a, b in zip(*(torch.autograd.grad(r[0].sum() + r[1].sum(), (q, k, v, first), retain_graph=True)
                          for r in ((y, last), (expected, state)))):
            check_near(a, b, 1e-9, f"{function.__name__}: a gradient")
    check_near(C.parallel_retention(q, k, v)[0].detach(), C.chunk_retention(q, k, v)[0].detach(), 0, "parallel_retention")
    backward = lambda *tensors: tuple(t.flip(1) for t in tensors)
    y, last = C.fused_recurrent_retention(q, k, v, initial_state=first.mT, output_final_state=True, reverse=True,
                                          state_v_first=True)
    other, other_last = C.chunk_retention(*backward(q, k, v), initial_state=first, output_final_state=True, chunk_size=16)
    check_near(y.detach(), other.flip(1).detach(), 1e-10, "fused_recurrent_retention: reverse")
    check_near(last.detach(), other_last.mT.detach(), 1e-10, "fused_recurrent_retention: state_v_first")
    one, ends = [t[:1].detach() for t in (q, k, v)], torch.tensor([0, 3, 7])
    y, last = C.fused_recurrent_retention(*one, initial_state=first, output_final_state=True, reverse=True, cu_seqlens=ends)
    for at, part in enumerate((slice(0, 3), slice(3, 7))):
        alone = C.fused_recurrent_retention(*(t[:, part] for t in one), initial_state=first[at:at + 1], output_final_state=True,
                                            reverse=True)
        check_near(y[:, part].detach(), alone[0].detach(), 1e-10, "fused_recurrent_retention: reverse, packed")
        check_near(last[at:at + 1].detach(), alone[1].detach(), 1e-10, "fused_recurrent_retention: reverse, packed: states")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        C.fused_recurrent_retention(q, k, v, transpose_state_layout=True)
    check([w.category for w in heard] == [DeprecationWarning], "transpose_state_layout warns")
    check_raises(ValueError, "old name", C.fused_recurrent_retention, q, k, v, state_v_first=True, transpose_state_layout=True)
    check_raises(NotImplementedError, "output_attentions", C.parallel_retention, q, k, v, output_attentions=True)
    check_raises(NotImplementedError, "complex A", C.selective_scan_fn, u, delta, A + 1j, B, c)


def torch_compat_states():
    """States in the rows of a larger tensor, in a ring, and of packed sequences; positions of no sequence."""
    C = ssm.torch.compat
    double = dict(dtype=torch.float64)
    places = torch.tensor([4, -1, 0], dtype=torch.int32)
    x, z, dt = (torch.randn(3, 6, **double) for _ in range(3))
    A, D = -torch.rand(6, 4, **double), torch.randn(6, **double)
    B, c = torch.randn(3, 4, **double), torch.randn(3, 4, **double)
    state = torch.randn(5, 6, 4, **double)
    before, alone = state.clone(), state[[4, 0]]
    y = C.selective_state_update(state, x, dt, A, B, c, D, z, None, True, state_batch_indices=places)
    some = [t[[0, 2]] for t in (x, dt, B, c, z)]
    expected = C.selective_state_update(alone, *some[:2], A, *some[2:4], D, some[4], None, True)
    check_near(y[[0, 2]], expected, 0, "selective_state_update: state_batch_indices")
    check_near(y[1], 0 * y[1], 0, "selective_state_update: a row that is padding gives 0")
    check_near(state[[4, 0]], alone, 0, "selective_state_update: states in their places")
    check_near(state[1:4], before[1:4], 0, "selective_state_update: the other states")
    # a filter of 4 over a ring of 5, fed with 1, 3 and 7 positions at a time
    weight, bias, whole = torch.randn(6, 4, **double), torch.randn(6, **double), torch.randn(2, 6, 21, **double)
    expected = C.causal_conv1d_fn(whole, weight, bias, activation="silu")
    for step in (1, 3, 7):
        ring = torch.zeros(2, 6, 5, **double)
        ys = [C.causal_conv1d_update(whole[..., t:t + step], ring, weight, bias, "silu", torch.tensor([t, t], dtype=torch.int32))
              for t in range(0, 21, step)]
        check_near(torch.cat(ys, -1), expected, 1e-12, f"causal_conv1d_update: cache_seqlens, {step} at a time")
        for t in range(16, 21):
            check_near(ring[..., t % 5], whole[..., t], 0, f"causal_conv1d_update: the ring, {step} at a time")
    states = torch.randn(5, 6, 4, **double)
    before, alone, x = states.clone(), states[[4, 0]], torch.randn(3, 6, 2, **double)
    y = C.causal_conv1d_update(x, states, weight, bias, conv_state_indices=places)
    check_near(y[[0, 2]], C.causal_conv1d_update(x[[0, 2]], alone, weight, bias), 0, "causal_conv1d_update: conv_state_indices")
    check_near(y[1], 0 * y[1], 0, "causal_conv1d_update: a row that is padding gives 0")
    check_near(states[[4, 0]], alone, 0, "causal_conv1d_update: states in their places")
    check_near(states[1:4], before[1:4], 0, "causal_conv1d_update: the other states")
    rows = torch.randn(7, 6, **double)
    last = C.causal_conv1d_varlen_states(rows, torch.tensor([0, 2, 2, 7], dtype=torch.int32), 3)
    check_near(last[0], torch.cat([torch.zeros(1, 6, **double), rows[:2]]).T, 0, "causal_conv1d_varlen_states: a short sequence")
    check_near(last[1], torch.zeros(6, 3, **double), 0, "causal_conv1d_varlen_states: an empty sequence")
    check_near(last[2], rows[4:].T, 0, "causal_conv1d_varlen_states")
    ids = torch.tensor([[0, 0, 1, 1, 1, -1, -1], [-1, 2, 2, 2, 2, 2, 2]])
    x = torch.randn(2, 6, 7, **double, requires_grad=True)
    y = C.causal_conv1d_fn(x, weight, bias, seq_idx=ids)
    check_near(y[0, :, 2:5].detach(), C.causal_conv1d_fn(x[:1, :, 2:5], weight, bias)[0].detach(), 1e-12, "seq_idx beside padding")
    check_near(y[1, :, 1:].detach(), C.causal_conv1d_fn(x[1:, :, 1:], weight, bias)[0].detach(), 1e-12, "seq_idx behind padding")
    nowhere = (ids < 0)[:, None].expand(2, 6, 7)
    for what, t in (("result", y), ("gradient", torch.autograd.grad(y.sum(), x)[0])):
        check(bool((t[nowhere] == 0).all()), f"causal_conv1d_fn: the {what} where there is no sequence")


def torch_compat_rounds_once():
    """Results in half types are those in float32, rounded; sequences of several scalars are not narrowed."""
    C = ssm.torch.compat
    wide, half = (lambda *t: [v.float() for v in t]), torch.bfloat16
    u, z = (torch.randn(2, 6, 7).to(half) for _ in range(2))
    delta, B, c, A = torch.rand(2, 6, 7), torch.randn(2, 3, 7), torch.randn(2, 3, 7), -torch.rand(6, 3)
    y = C.selective_scan_fn(u, delta, A, B, c, None, z)
    check(torch.equal(y, C.selective_scan_fn(u.float(), delta, A, B, c, None, z.float()).to(half)), "selective_scan_fn rounds once")
    x, z = (torch.randn(2, 7, 4, 3).to(half) for _ in range(2))
    dt, A, D, (B, c) = torch.rand(2, 7, 4), -torch.rand(4), torch.randn(4, 3), torch.randn(2, 2, 7, 2, 5)
    y = C.mamba_chunk_scan_combined(x, dt, A, B, c, 4, D, z)
    expected = C.mamba_chunk_scan_combined(x.float(), dt, A, B, c, 4, D, z.float())
    check(torch.equal(y, expected.to(half)), "mamba_chunk_scan_combined rounds once")
    state = torch.randn(2, 4, 3, 5)
    other, A = state.clone(), A[:, None, None].expand(4, 3, 5)
    now = (x[:, 0], dt[:, 0, :, None].expand(2, 4, 3))
    y = C.selective_state_update(state, *now, A, B[:, 0], c[:, 0], D, z[:, 0])
    expected = C.selective_state_update(other, *wide(*now), A, B[:, 0], c[:, 0], D, z[:, 0].float())
    check(torch.equal(y, expected.to(half)) and torch.equal(state, other), "selective_state_update rounds once")
    y = C.selective_scan_fn(u, delta.double(), -torch.rand(6, 3), *torch.randn(2, 2, 3, 7), torch.rand(6))
    check(y.dtype == half, "float64 beside bfloat16 is computed in float64")
    y = C.selective_state_update(state, *now, A, B[:, 0].double(), c[:, 0], D, z[:, 0])
    check(y.dtype == half, "float64 beside bfloat16 is computed in float64")
    u, q, v = (torch.randn(2, 6, 9).to(half) for _ in range(3))
    k, reverse, D = torch.randn(6, 9), torch.randn(6, 9), torch.randn(6)
    for named in ({"gelu": True}, {"gelu": False, "k_rev": reverse}, {"gelu": False, "q": q, "v": v, "k_rev": reverse}):
        y = C.fftconv_func(u, k, D, **named)
        more = {name: t.float() if name in "qv" else t for name, t in named.items()}
        check(torch.equal(y, C.fftconv_func(u.float(), k, D, **more).to(half)), f"fftconv_func with {', '.join(named)} rounds once")
        check(y.is_contiguous(), "the result of fftconv_func lies as [B, H, L]")
        y = C.fftconv_func(u, k, D, output_hbl_layout=True, **named)
        check(y.transpose(0, 1).is_contiguous(), "the result of fftconv_func lies as [H, B, L] where asked for")


def torch_compat_convolutions():
    """mamba_inner_fn with B and C that do not vary, H3's convolution with a kernel from behind, FlashFFTConv's modules."""
    C = ssm.torch.compat
    F = torch.nn.functional
    double = dict(dtype=torch.float64)
    xz, filter, rank = torch.randn(2, 12, 7, **double), torch.randn(6, 1, 3, **double), torch.randn(6, 2, **double)
    read, out = torch.randn(2, 6, **double), torch.randn(5, 6, **double)
    A, B, c = -torch.rand(6, 3, **double), torch.randn(6, 3, **double), torch.randn(6, 3, **double)
    x = C.causal_conv1d_fn(xz[:, :6], filter[:, 0], None, activation="silu")
    expected = C.selective_scan_fn(x, rank @ (read @ x), A, B, c, None, xz[:, 6:], None, True).transpose(1, 2) @ out.T
    check_near(C.mamba_inner_fn(xz, filter, None, read, rank, out, None, A, B, c), expected, 1e-10, "mamba_inner_fn with B and C")
    u, q, v = (torch.randn(2, 6, 7, **double) for _ in range(3))
    k, reverse, D = torch.randn(3, 7, **double), torch.randn(3, 7, **double), torch.randn(3, **double)
    ahead = C.fftconv_func(u, k, D, gelu=False, q=q, v=v, head_dim=2)
    zero = torch.zeros(3, **double)
    behind = C.fftconv_func(*(t.flip(2) if t is u else t for t in (u, reverse, zero)), gelu=False, q=q.flip(2), v=v.flip(2),
                            head_dim=2).flip(2)
    check_near(C.fftconv_func(u, k, D, gelu=False, q=q, v=v, head_dim=2, k_rev=reverse), ahead + behind, 1e-10,
               "fftconv_func with q, v and k_rev")
    given = [torch.randn(shape, **double, requires_grad=True) for shape in ((2, 6, 7), (6, 5), (2, 6, 7), (2, 6, 7))]
    for positions in (12, 11, 9, 7):  # from causal to all around
        u, k, left, right = given
        circle = lambda u: torch.fft.irfft(torch.fft.rfft(u, n=positions) * torch.fft.rfft(k, n=positions), n=positions)[..., :7]
        layer = C.FlashFFTConv(positions)
        for found, expected in ((layer(u, k), circle(u)), (layer(u, k, left, right), right * circle(left * u))):
            check_near(found.detach(), expected.detach(), 1e-10, f"FlashFFTConv of {positions} positions")
            for a, b in zip(*(torch.autograd.grad(y.square().sum(), given, allow_unused=True) for y in (found, expected))):
                check(a is None if b is None else bool(torch.allclose(a, b, atol=1e-9)), f"FlashFFTConv of {positions}: a gradient")
    check_raises(ValueError, "more than the 6", C.FlashFFTConv(6), u, k)
    check_raises(NotImplementedError, "go together", C.FlashFFTConv(14), u, k, left)
    for padding in (0, 1, 2, 5):
        theirs = torch.nn.Conv1d(6, 6, 3, groups=6, padding=padding, **double)
        expected = theirs(u)
        wanted = torch.autograd.grad(expected.square().sum(), (u, theirs.weight, theirs.bias))
        for bhl in (True, False):
            ours = C.FlashDepthWiseConv1d(6, 3, padding, theirs.weight, theirs.bias, is_bhl=bhl)
            y = ours(u) if bhl else ours(u.transpose(1, 2)).transpose(1, 2)
            check_near(y.detach(), expected.detach(), 1e-10, f"FlashDepthWiseConv1d with padding {padding}")
            found = torch.autograd.grad(y.square().sum(), (u, ours.weights, ours.bias))
            taps = found[1] if bhl else found[1].T
            for a, b in zip((found[0], taps, found[2]), (wanted[0], wanted[1][:, 0], wanted[2])):
                check_near(a, b, 1e-9, f"FlashDepthWiseConv1d with padding {padding}: a gradient")


def torch_compat_compiled():
    """Functions of [B, D, L] tensors: in torch.compile as outside, in either order in memory, results that may be written to."""
    C = ssm.torch.compat
    given = lambda *shape: torch.randn(*shape, dtype=torch.float64).requires_grad_()
    u, z, dt, A = given(2, 6, 9), given(2, 6, 9), given(2, 6, 9), given(6, 3)
    B, c, D, filter, k = given(2, 3, 9), given(2, 3, 9), given(6), given(6, 4), given(6, 9)
    functions = {
        "causal_conv1d_fn": (lambda *t: C.causal_conv1d_fn(*t, activation="silu", return_final_states=True), (u, filter, D)),
        "selective_scan_fn": (lambda *t: C.selective_scan_fn(*t, None, True, True), (u, dt, A, B, c, D, z)),
        "selective_scan_fn of groups": (lambda u, dt, A, B, c: (C.selective_scan_fn(
            u, dt, -A.abs(), torch.stack([B, c], 1), torch.stack([c, B], 1)),), (u, dt, A, B, c)),
        "fftconv_func": (lambda *t: (C.fftconv_func(*t, gelu=False),), (u, k, D)),
        "FlashFFTConv": (lambda u, k, z: (C.FlashFFTConv(32)(u, k, z, z),), (u, k, z))}
    for name, (function, tensors) in functions.items():
        torch._dynamo.reset()
        results = function(*tensors)
        expected = torch.autograd.grad(sum(y.square().sum() for y in results), tensors)
        turned = [t.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() if t.dim() == 3 else t for t in tensors]
        for how, called, read in (("turned", function, turned),
                                  ("compiled", torch.compile(function, backend="aot_eager", fullgraph=True), tensors)):
            found = called(*read)
            for y, same in zip(found, results):
                check_near(y.detach(), same.detach(), 1e-12, f"{name}, {how}")
            for a, b in zip(torch.autograd.grad(sum(y.square().sum() for y in found), read), expected):
                check_near(a, b, 1e-12, f"{name}, {how}: a gradient")
        twice = results[0].mul_(2)
        check(twice is results[0], f"{name}: its result is no view")


def torch_compat_block():
    """mamba_inner_fn as one function of autograd, beside the same in steps, which a bias of zeros asks for."""
    C = ssm.torch.compat
    given = [torch.randn(shape, dtype=torch.float64) for shape in ((2, 12, 7), (6, 1, 3), (6,), (8, 6), (6, 2), (5, 6), (5,), (6, 3),
                                                                  (6,), (6,))]
    given[7] = -given[7].abs()
    given = [t.requires_grad_() for t in given]
    ends = torch.tensor([0, 3, 3, 11, 14])

    def block(xz, taps, taps_bias, read, rank, out, out_bias, A, D, dt_bias, **more):
        return C.mamba_inner_fn(xz, taps, taps_bias, read, rank, out, out_bias, A, None, None, D, dt_bias, **more)

    def packed(xz, *others, **more):
        return block(xz.transpose(0, 1).reshape(1, 12, 14), *others, cu_seqlens=ends, **more)

    def without(*given, **more):
        xz, taps, _, read, rank, out, _, A, _, _ = given
        return block(xz, taps, None, read, rank, out, None, A, None, None, **more)

    in_steps = {"B_proj_bias": torch.zeros(3, dtype=torch.float64)}
    for name, function in (("whole", block), ("packed", packed), ("without biases", without)):
        found, expected = function(*given), function(*given, **in_steps)
        check_near(found.detach(), expected.detach(), 1e-12, f"a block, {name}")
        dy = torch.randn_like(found)
        for i, (a, b) in enumerate(zip(*(torch.autograd.grad(y, given, dy, allow_unused=True) for y in (found, expected)))):
            check(a is None if b is None else bool(torch.allclose(a, b, rtol=1e-11, atol=1e-11)), f"a block, {name}: gradient {i}")
        frozen = [t.detach() if 1 <= i < 9 else t for i, t in enumerate(given)]
        a, b = (torch.autograd.grad(function(*frozen, **more), given[0], dy)[0] for more in ({}, in_steps))
        check_near(a, b, 1e-11, f"a block, {name}: frozen parameters")
    check(torch.autograd.gradcheck(block, given, fast_mode=True), "a block: gradcheck")
    dxz, = torch.autograd.grad(block(*given).sum(), given[0], create_graph=True)
    check_raises(NotImplementedError, "second derivative", dxz.sum().backward)
    for half, tolerance in ((torch.bfloat16, 5e-2), (torch.float16, 1e-2)):
        narrow = [t.detach().to(half if i == 0 else torch.float32).requires_grad_() for i, t in enumerate(given)]
        y = block(*narrow)
        y.float().sum().backward()
        wide = torch.autograd.grad(block(*given).sum(), given)
        check(y.dtype is half, f"a block in {half}")
        for i, (t, d) in enumerate(zip(narrow, wide)):
            check(t.grad.dtype is t.dtype, f"a block in {half}: the scalar of gradient {i}")
            check_near(t.grad.double(), d, tolerance, f"a block in {half}: gradient {i}")


JAX_LAYERS = {
    "s4d": {"state": 4},
    "h3": {"state": 4, "head_dim": 2},
    "mamba": {"state": 3},
    "mamba2": {"state": 3, "head_dim": 2},
    "retention": {"value_dim": 8, "heads": 2},
    "dense_mamba": {"blocks": 2, "sources": 1, "state": 3},
    "dense_retnet": {"query_key_dim": 4, "value_dim": 8, "heads": 2, "k_hidden": 2, "v_hidden": 2, "blocks": 2, "sources": 1},
    "attention": {"heads": 2},
}


def jax_layers():
    import ssm.jax
    jax.config.update("jax_enable_x64", True)
    check(sorted(JAX_LAYERS) == sorted(ssm.layer_kinds()), "every kind of layer in JAX")
    keys = jax.random.split(jax.random.PRNGKey(1), 2)
    x, dy = (jax.random.normal(key, (2, 3, 4), dtype="float64") for key in keys)
    for name, sizes in JAX_LAYERS.items():
        sizes = {"channels": 4, "scalar": "float64", **sizes}
        layer, plain = ssm.jax.Layer(name, **sizes), ssm.Layer(name, **sizes)
        parameters = layer.initialize(3)
        same = {key: numpy.array(value) for key, value in parameters.items()}
        tape = plain.tape()
        y = plain.forward(same, numpy.array(x), tape=tape)
        check_near(jax.jit(layer)(parameters, x), y, 1e-12, f"{name}: y")
        gradients = {key: numpy.zeros_like(value) for key, value in same.items()}
        dx = plain.backward(same, tape, numpy.array(dy), numpy.empty(x.shape), gradients)
        weighted = lambda parameters, x: (layer(parameters, x) * dy).sum()
        found, found_x = jax.jit(jax.grad(weighted, argnums=(0, 1)))(parameters, x)
        check_near(found_x, dx, 1e-12, f"{name}: dx")
        for key, value in gradients.items():
            check_near(found[key], value, 1e-12, f"{name}: d{key}")
        check_near(jax.vmap(layer, in_axes=(None, 0))(parameters, x[:, None])[:, 0], y, 1e-12, f"{name}: vmap")
        check_raises(ValueError, "cannot be differentiated",
                     lambda: jax.grad(lambda x: jax.grad(weighted, argnums=1)(parameters, x).sum())(x))
        # gradients through the states at both ends, as the library's
        state = layer.initial_state(2)
        if name != "attention":
            state = {key: value + 0.1 if value.dtype == "float64" else value for key, value in state.items()}
        floats = lambda state: [value for value in state.values() if value.dtype == "float64"]

        def ends(parameters, x, state):
            y, after = layer.prefill(parameters, x, state)
            return (y * dy).sum() + sum(value.sum() for value in floats(after))

        found, found_x, found_state = jax.jit(jax.grad(ends, argnums=(0, 1, 2), allow_int=True))(parameters, x, state)
        first, last, tape = plain.initial_state(2), plain.initial_state(2), plain.tape()
        if name != "attention":
            for key, value in first.tensors().items():
                value[...] = state[key]
        plain.forward(same, numpy.array(x), initial_state=first, final_state=last, tape=tape)
        for value in last.tensors().values():
            value[...] = 1
        dfirst = plain.initial_state(2)
        gradients = {key: numpy.zeros_like(value) for key, value in same.items()}
        dx = plain.backward(same, tape, numpy.array(dy), numpy.empty(x.shape), gradients, dfinal_state=last,
                            dinitial_state=dfirst)
        check_near(found_x, dx, 1e-12, f"{name}: dx with states")
        for key, value in gradients.items():
            check_near(found[key], value, 1e-12, f"{name}: d{key} with states")
        for key, value in dfirst.tensors().items():
            if value.dtype == "float64":
                check_near(found_state[key], value, 1e-12, f"{name}: d initial {key}")
        state = layer.initial_state(2)
        step, steps = jax.jit(layer.step), []
        for t in range(3):
            y_t, state = step(parameters, x[:, t], state)
            steps.append(y_t)
        check_near(jax.numpy.stack(steps, 1), y, 1e-9, f"{name}: steps")
        chunk, _ = layer.prefill(parameters, x, layer.initial_state(2))
        check_near(chunk, y, 1e-9, f"{name}: prefill")
    check_raises(KeyError, "needs the parameter", layer, {}, x)
    narrow = ssm.jax.Layer("mamba", channels=4, state=3)
    parameters = narrow.initialize(3)
    x = x.astype("float32")
    y = narrow(parameters, x)
    half = jax.jit(narrow)(parameters, x.astype("bfloat16"))
    check(half.dtype == "bfloat16", "bfloat16 in, bfloat16 out")
    check_near(half.astype("float32"), y, 2e-2, "bfloat16")
    check_raises(ssm.TensorError, "in_proj.weight is of float64, must be of float32", narrow,
                 {**parameters, "in_proj.weight": parameters["in_proj.weight"].astype("float64")}, x)
    check_raises(ssm.ShapeError, "in_proj.weight must be [16, 4]", jax.jit(narrow),
                 {**parameters, "in_proj.weight": parameters["in_proj.weight"][:3]}, x)
    check_raises(ssm.ShapeError, "x must be [2, 3, 4]", narrow, parameters, x[..., :3])
    check_raises(ssm.ShapeError, "x must be", narrow, parameters, x[None])
    check_raises(ssm.TensorError, "x is of float64, must be of float32 or bfloat16 or float16", narrow, parameters,
                 x.astype("float64"))
    state = narrow.initial_state(2)
    check_raises(ssm.ShapeError, "ssm must be [2, 8, 3]", narrow.prefill, parameters, x, {**state, "ssm": state["ssm"][:1]})
    check_raises(ssm.TensorError, "conv is of float64", narrow.step, parameters, x[:, 0],
                 {**state, "conv": state["conv"].astype("float64")})
    # what the library itself refuses, which JAX raises where the result is read
    check_raises(Exception, "verb is sideways", lambda: jax.block_until_ready(
        narrow._call("sideways", [(x.shape, x.dtype)], *narrow._listed(parameters), x)))


def h3_by_its_formulas(p, x, heads):
    """The H3 layer in torch, position by position."""
    batch, length, channels = x.shape
    width = channels // heads
    linear = lambda name, x: x @ p[f"{name}.weight"].T + p[f"{name}.bias"]
    q, k, v = (linear(f"{which}_proj", x) for which in "qkv")
    shift_B, shift_C = p["ssm_k_kernel.kernel.B"], p["ssm_k_kernel.kernel.C"][0]
    dt, A = torch.exp(p["kernel.kernel.log_dt"])[:, None], torch.complex(-torch.exp(p["kernel.kernel.inv_A_real"]),
                                                                         p["kernel.kernel.A_imag"])
    B, C = (torch.view_as_complex(t) for t in (p["kernel.kernel.B"], p["kernel.kernel.C"][0]))
    decay, gain = (1 + dt * A / 2) / (1 - dt * A / 2), dt * B / (1 - dt * A / 2)
    keys, state, ys = x.new_zeros(batch, *shift_B.shape), 0, []
    for t in range(length):
        keys = torch.nn.functional.pad(keys[..., :-1], (1, 0)) + shift_B * k[:, t, :, None]
        key = ((keys * shift_C).sum(-1) + p["ssm_k_D"] * k[:, t]).reshape(batch, heads, width, 1)
        product = key * v[:, t].reshape(batch, heads, 1, width)
        state = decay[:, None, None] * state + gain[:, None, None] * product[..., None]
        read = 2 * (C[:, None, None] * state).sum(-1).real + p["D"][:, None, None] * product
        ys.append((q[:, t].reshape(batch, heads, width, 1) * read).sum(2).reshape(batch, channels))
    return linear("output_linear", torch.stack(ys, 1))


def mamba_by_its_formulas(p, x, rank):
    """The Mamba block in torch, position by position."""
    F = torch.nn.functional
    A = -torch.exp(p["A_log"])
    u, z = (x @ p["in_proj.weight"].T).chunk(2, -1)
    taps = p["conv1d.weight"]
    u = F.silu(F.conv1d(F.pad(u.transpose(1, 2), (taps.shape[2] - 1, 0)), taps, p["conv1d.bias"], groups=len(taps))).transpose(1, 2)
    dt, B, C = (u @ p["x_proj.weight"].T).split([rank, A.shape[1], A.shape[1]], -1)
    dt = F.softplus(dt @ p["dt_proj.weight"].T + p["dt_proj.bias"])
    state, ys = 0, []
    for t in range(x.shape[1]):
        state = torch.exp(dt[:, t, :, None] * A) * state + (dt * u)[:, t, :, None] * B[:, t, None]
        ys.append((state * C[:, t, None]).sum(-1) + p["D"] * u[:, t])
    return (torch.stack(ys, 1) * F.silu(z)) @ p["out_proj.weight"].T


def as_the_formulas():
    """Layers and their gradients beside the formulas in torch, in double and in float."""
    layers = (("h3", ssm.torch.H3(6, state=4, head_dim=2), lambda p, x: h3_by_its_formulas(p, x, 3)),
              ("mamba", ssm.torch.Mamba(6, state=5, dt_rank=2), lambda p, x: mamba_by_its_formulas(p, x, 2)))
    for name, module, formula in layers:
        for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
            module = module.to(dtype)
            x = torch.randn(2, 11, 6, dtype=dtype, requires_grad=True)
            parameters = dict(module.named_parameters())
            y, expected = module(x), formula(parameters, x)
            check_near(y, expected, tolerance, f"{name} by its formulas in {dtype}")
            dy = torch.randn_like(y)
            tensors = [x, *parameters.values()]
            for part, a, b in zip(["x", *parameters], *(torch.autograd.grad(r, tensors, dy) for r in (y, expected))):
                check_near(a, b, 10 * tolerance, f"{name} by its formulas in {dtype}: d{part}")


def as_transformers_does():
    """The weights of a layer that another library made: the same output and gradients."""
    try:
        import transformers
        from transformers.models.mamba.modeling_mamba import MambaMixer
    except ImportError as error:
        print(f"not compared with transformers: {error}")
        return
    config = transformers.MambaConfig(hidden_size=12, state_size=5, expand=2, time_step_rank=3, num_hidden_layers=1)
    theirs, ours = MambaMixer(config, layer_idx=0), ssm.torch.Mamba(12, state=5, dt_rank=3)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 9, 12, requires_grad=True)
    expected = theirs(x)
    expected = expected[0] if isinstance(expected, tuple) else expected
    found = ours(x)
    check_near(found.detach(), expected.detach(), 1e-6, "transformers' MambaMixer: y")
    dy = torch.randn_like(found)
    names = [name for name, _ in theirs.named_parameters()]
    tensors = dict(ours.named_parameters())
    for name, a, b in zip(["x", *names], torch.autograd.grad(found, [x, *(tensors[name] for name in names)], dy),
                          torch.autograd.grad(expected, [x, *theirs.parameters()], dy)):
        check_near(a, b, 1e-5, f"transformers' MambaMixer: d{name}")


def in_place_of_transformers():
    """transformers' models with its functions replaced: the same loss, gradients and generated tokens."""
    try:
        import transformers
        from transformers.models.mamba import modeling_mamba
        from transformers.models.mamba2 import modeling_mamba2
    except ImportError as error:
        print(f"not compared with transformers: {error}")
        return
    transformers.logging.set_verbosity_error()
    sizes = dict(vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4, bos_token_id=1, eos_token_id=2,
                 pad_token_id=0)
    for module, model in (
            (modeling_mamba, transformers.MambaForCausalLM(transformers.MambaConfig(**sizes))),
            (modeling_mamba2, transformers.Mamba2ForCausalLM(transformers.Mamba2Config(**sizes, head_dim=8, num_heads=4,
                                                                                       n_groups=2, chunk_size=8)))):
        tokens = torch.randint(3, 50, (2, 21))
        what = type(model).__name__

        def run():
            model.zero_grad()
            result = model.train()(tokens, labels=tokens)
            result.loss.backward()
            return result.loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}

        def text():
            return model.eval().generate(tokens[:1, :5], max_new_tokens=12, do_sample=False, pad_token_id=0)

        loss, gradients = run()
        written = text()
        kept = dict(vars(module))
        replaced = ssm.torch.compat.patch(module)
        check("causal_conv1d_fn" in replaced and len(replaced) >= 4, f"{what}: {replaced}")
        found, found_gradients = run()
        check_near(found, loss, 1e-5, f"{what}: loss")
        for name, gradient in gradients.items():
            check_near(found_gradients[name] / gradient.abs().max(), gradient / gradient.abs().max(), 1e-3, f"{what}: d{name}")
        check(torch.equal(text(), written), f"{what}: generated tokens")
        vars(module).update(kept)
    check_raises(ValueError, "has none of the functions", ssm.torch.compat.patch, json)


def models(program, cases, text_model):
    for folder in sorted(cases.glob("model_*")):
        meta, tensors = read_safetensors(folder / "expect.safetensors")
        model = ssm.LanguageModel(folder, threads=2)
        tokens = tensors["input/tokens"]
        logits = model.logits(tokens)
        expected = tensors["output/logits"]
        check_near(logits[..., :expected.shape[-1]], expected, 2e-5, f"{folder.name}: logits")
        state = model.initial_state(tokens.shape[0])
        half = tokens.shape[1] // 2
        model.prefill(tokens[:, :half], state)
        step = model.step(tokens[:, half], state)
        check_near(step, logits[:, half], 1e-5, f"{folder.name}: a step")
        greedy = tensors["output/greedy"][0].tolist()
        check(model.generate(tensors["input/prompt"][0], tokens=len(greedy), temperature=0, stop=[]) == greedy,
              f"{folder.name}: greedy tokens")

    model = ssm.LanguageModel(text_model, threads=1)
    check(model.vocabulary == 256 and model.facts["family"] == "mamba", "facts")
    text = "Grüße, the license"
    check(model.decode(model.encode(text)) == text, "encode and decode")
    for flags, options in (
        (["--temperature", "0"], {"temperature": 0}),
        (["--temperature", "0.8", "--top-k", "20", "--seed", "7"], {"temperature": 0.8, "top_k": 20, "seed": 7}),
    ):
        command = [program, "generate", text_model, "--prompt", "the license", "--tokens", "60", "--threads", "1", *flags]
        printed = subprocess.run(command, capture_output=True, check=True).stdout.decode()
        pieces = []
        generated = model.generate("the license", tokens=60, callback=pieces.append, **options)
        check(generated == "".join(pieces), "pieces are the text")
        check(generated in printed and len(generated) > 20, f"ssm generate {flags}: {printed!r}, not {generated!r}")
    prompt = model.encode("the license")
    whole = model.generate(prompt, tokens=8, temperature=0)
    seen = []
    part = model.generate(prompt, tokens=8, temperature=0, callback=lambda token: seen.append(token) or len(seen) == 3)
    check(part == whole[:3] == seen, "a callback ends the text")

    def fails(_):
        raise KeyError("mine")

    check_raises(KeyError, "mine", model.generate, prompt, tokens=8, callback=fails)
    state = model.initial_state()
    with tempfile.TemporaryDirectory() as folder:
        model.generate(prompt, tokens=3, temperature=0, state=state)
        check(state.position() == len(prompt) + 3, "the state has read what was generated")
        state.save(pathlib.Path(folder) / "state.safetensors")
        other = model.initial_state()
        other.load(pathlib.Path(folder) / "state.safetensors")
        check(model.generate([65], tokens=4, temperature=0, state=other)
              == model.generate([65], tokens=4, temperature=0, state=state), "a state from a file goes on alike")
    logits = model.logits(prompt).astype("f8")
    scores = logits - numpy.log(numpy.exp(logits).sum(-1, keepdims=True))
    expected = -sum(scores[t, token] for t, token in enumerate(prompt[1:]))
    nats, predicted = model.loss(prompt)
    check(predicted == len(prompt) - 1 and abs(nats - expected) < 1e-4 * expected, "loss")
    check(abs(model.perplexity(prompt) - numpy.exp(nats / predicted)) < 1e-9, "perplexity")
    session = model.session()
    check(session.fingerprint == model.fingerprint, "a session has the same weights")
    del model
    check(session.generate(prompt, tokens=8, temperature=0) == whole, "a session outlives its model")
    check_raises(ssm.FileError, "/no/such", ssm.LanguageModel, "/no/such")
    check_raises(ssm.ArgumentError, "token", session.generate, [-1])


def main():
    program, cases, text_model = sys.argv[2:]
    part = PART
    if part == "layers":
        layers(pathlib.Path(cases))
        if not ON_GPU:
            primitives(pathlib.Path(cases))
    elif part == "torch":
        torch_modules()
        torch_states()
        torch_functions()
        torch_compat()
        torch_compat_states()
        torch_compat_rounds_once()
        torch_compat_convolutions()
        torch_compat_compiled()
        torch_compat_block()
        as_the_formulas()
        as_transformers_does()
        in_place_of_transformers()
    elif part == "jax":
        jax_layers()
    else:
        models(program, pathlib.Path(cases), text_model)
    print(f"{sys.argv[1]}: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
