#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The Python package over numpy, torch and JAX: layers against the conformance cases and numerical gradients, language models
against the command-line program.

    python_test.py PART SSM CASES TEXT_MODEL     SSM_LIBRARY names the library, PYTHONPATH the package
    PART    layers, torch, jax or models; exits with 77 and the reason where numpy, torch or JAX is not installed
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

try:
    import numpy
    if sys.argv[1] == "torch":
        import torch
    if sys.argv[1] == "jax":
        import jax
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

import ssm

problems = []


def check(holds, what):
    if not holds:
        problems.append(what)
        print("FAILED:", what, file=sys.stderr)


def check_near(found, expected, tolerance, what):
    found, expected = numpy.asarray(found), numpy.asarray(expected)
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
            memory[...] = tensors[prefix + name]
    return state


def check_case(path):
    meta, tensors = read_safetensors(path)
    config = json.loads(meta["config"])
    made = sizes_of(config)
    if made is None:
        return None
    kind, sizes = made
    for backend in ("cpu", "reference"):
        what = f"{path.stem} on {backend}"
        layer = ssm.Layer(kind, scalar="float64", backend=backend, threads=2, **sizes)
        parameters = {name: tensors["param/" + name] for name in layer.names}
        x = tensors["input/x"]
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
                    check_near(memory, tensors["state/final/" + name], 1e-9, f"{what}: final {name}")
        if "grad/input/x" not in tensors:
            continue
        dfinal = (state_from(layer, tensors, "cotangent/state/", sequences) if has("cotangent/state/") else None)
        dinitial = layer.initial_state(sequences) if initial is not None else None
        dx, gradients = numpy.full_like(x, numpy.nan), {n: numpy.zeros_like(p) for n, p in parameters.items()}
        layer.backward(parameters, tape, tensors["cotangent/y"], dx, gradients, dfinal_state=dfinal,
                       dinitial_state=dinitial)
        check_near(dx, tensors["grad/input/x"], 1e-8, what + ": dx")
        for name, gradient in gradients.items():
            check_near(gradient, tensors["grad/param/" + name], 1e-8, f"{what}: d{name}")
        if dinitial is not None:
            for name, memory in dinitial.tensors().items():
                if "grad/state/" + name in tensors:
                    check_near(memory, tensors["grad/state/" + name], 1e-8, f"{what}: d initial {name}")
    return kind


class Exported:
    """A tensor of a framework that is not known, by DLPack alone."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **_):
        return self._array.__dlpack__()


def layers(cases):
    kinds = [check_case(path) for path in sorted(cases.glob("*.safetensors"))]
    for kind in ("h3", "mamba", "mamba2", "retention", "attention"):
        check(kinds.count(kind) >= 3, f"three cases of {kind}, found {kinds.count(kind)}")

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
        check(sorted(module.state_dict()) == sorted(module._layer(torch.float32).names), f"{name}: published names")
        check(torch.equal(pickle.loads(pickle.dumps(module))(x), module(x)), f"{name}: pickled")

    module = ssm.torch.Mamba(16, state=4)
    x = torch.randn(4, 20, 16)
    torch.library.opcheck(torch.ops.ssm.layer.default, (x.requires_grad_(), module._tensors(), module._config))
    x = x.detach()
    check_raises(ssm.TensorError, "x is of bfloat16", module, x.bfloat16())
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
        check_raises(ValueError, "Pure callbacks do not support",
                     lambda: jax.grad(lambda x: jax.grad(weighted, argnums=1)(parameters, x).sum())(x))
        state = layer.initial_state(2)
        if any(0 in value.shape for value in state.values()):
            continue  # it grows
        step, steps = jax.jit(layer.step), []
        for t in range(3):
            y_t, state = step(parameters, x[:, t], state)
            steps.append(y_t)
        check_near(jax.numpy.stack(steps, 1), y, 1e-9, f"{name}: steps")
        chunk, _ = layer.prefill(parameters, x, layer.initial_state(2))
        check_near(chunk, y, 1e-9, f"{name}: prefill")
    check_raises(KeyError, "needs the parameter", layer, {}, x)


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
    part, program, cases, text_model = sys.argv[1:]
    if part == "layers":
        layers(pathlib.Path(cases))
    elif part == "torch":
        torch_modules()
        as_transformers_does()
    elif part == "jax":
        jax_layers()
    else:
        models(program, pathlib.Path(cases), text_model)
    print(f"{part}: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
