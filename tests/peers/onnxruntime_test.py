#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Layers and language models of the library in ONNX Runtime, against the library.

    onnxruntime_test.py CASES    SSM_LIBRARY names the library, beside which libssm_onnxruntime.so lies; exits with 77 and the
                                 reason where onnx or onnxruntime is not installed
"""
import collections
import json
import pathlib
import struct
import sys
import tempfile

try:
    import numpy
    import onnx
    import onnxruntime
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

import ssm
import ssm.onnx

problems = []


def check_near(found, expected, tolerance, what):
    found, expected = numpy.asarray(found), numpy.asarray(expected)
    worst = float(numpy.abs(found - expected).max(initial=0)) if found.shape == expected.shape else float("inf")
    if not worst <= tolerance * max(1.0, float(numpy.abs(expected).max(initial=0))):
        problems.append(what)
        print(f"FAILED: {what}: differs by {worst:g}", file=sys.stderr)


def session_of(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(ssm.onnx.operators())
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


LAYERS = {
    "s4d": {"state": 4}, "h3": {"state": 4, "head_dim": 2}, "mamba": {"state": 3}, "mamba2": {"state": 3, "head_dim": 2},
    "retention": {"value_dim": 8, "heads": 2}, "dense_mamba": {"blocks": 2, "sources": 1, "state": 3},
    "dense_retnet": {"query_key_dim": 4, "value_dim": 8, "heads": 2, "k_hidden": 2, "v_hidden": 2, "blocks": 2, "sources": 1},
    "attention": {"heads": 2},
}


def layers():
    assert sorted(LAYERS) == sorted(ssm.layer_kinds())
    for kind, sizes in LAYERS.items():
        for scalar in ("float32", "float64"):
            layer = ssm.Layer(kind, channels=4, scalar=scalar, **sizes)
            parameters = layer.initialize(5)
            x = numpy.random.default_rng(1).standard_normal((2, 7, 4)).astype(scalar)
            y = layer.forward(parameters, x)
            session = session_of(ssm.onnx.layer_model(layer, parameters))
            check_near(session.run(["y"], {"x": x})[0], y, 0, f"{kind} in {scalar}")
            session = session_of(ssm.onnx.layer_model(layer, parameters, states=True))
            state = {f"state.{name}": numpy.array(value) for name, value in layer.initial_state(2).tensors().items()}
            pieces = []
            for piece in (x[:, :3], x[:, 3:]):
                results = dict(zip([out.name for out in session.get_outputs()], session.run(None, {"x": piece, **state})))
                pieces.append(results.pop("y"))
                state = {name.replace("next.", "state.", 1): value for name, value in results.items()}
            check_near(numpy.concatenate(pieces, 1), y, 1e-5, f"{kind} in {scalar}: two pieces")
    try:
        session.run(None, {"x": x, **{name: value[:1] for name, value in state.items()}})
        problems.append("a wrong state is taken")
    except Exception as error:
        if "state" not in str(error):
            problems.append(f"a wrong state: {error}")


FAMILIES = ("dense_mamba", "dense_retnet", "h3", "attention", "mamba", "retnet")  # of the cases model_FAMILY…


def check_steps(folder):
    """Token by token, the logits of the library."""
    model = ssm.LanguageModel(folder, threads=1)
    step = ssm.onnx.step_model(folder)
    onnx.checker.check_model(step, full_check=True)
    session = onnxruntime.InferenceSession(step.SerializeToString(), providers=["CPUExecutionProvider"])
    tokens = numpy.random.default_rng(3).integers(0, model.vocabulary, (3, 20))
    expected = model.logits(tokens.astype("i4"))
    state = {value.name: numpy.zeros([3, *(0 if isinstance(n, str) else n for n in value.shape[1:])],
                                     "i8" if "int64" in value.type else "f4") for value in session.get_inputs()[1:]}
    for t in range(20):
        logits, *after = session.run(None, {"tokens": tokens[:, t], **state})
        state = dict(zip([value.name.removeprefix("next.") for value in session.get_outputs()[1:]], after))
        check_near(logits, expected[:, t], 2e-5, f"{folder.name}: logits at {t}")


def read_tensors(path):
    data = path.read_bytes()
    size, = struct.unpack("<Q", data[:8])
    return {name: numpy.frombuffer(data[8 + size:][slice(*facts["data_offsets"])], "<f4").reshape(facts["shape"])
            for name, facts in json.loads(data[8:8 + size]).items() if name != "__metadata__"}


def write_model(folder, config, tensors):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    header, blocks, end = {}, [], 0
    for name, values in tensors.items():
        blocks.append(numpy.ascontiguousarray(values, "<f4").tobytes())
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [end, end + len(blocks[-1])]}
        end += len(blocks[-1])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blocks))
    return folder


def more_models(cases, folder):
    """What the cases lack: the other fusion of dense models, heads of H3, another discretization, Mamba-2."""
    for case, changes in (("model_dense_mamba_m2", {"dense_fusion": "carried"}),
                          ("model_dense_retnet_m2", {"dense_fusion": "readout"})):
        config = json.loads((cases / case / "config.json").read_text())
        tensors = read_tensors(cases / case / "model.safetensors")
        yield write_model(folder / case, {**config, **changes}, tensors)
    case = cases / "model_h3_hybrid"
    config = json.loads((case / "config.json").read_text())
    config["ssm_cfg"] = {**config["ssm_cfg"], "head_dim": 2, "disc": "zoh"}
    heads = lambda name, values: values[:6] if name.endswith((".D", "A_imag", "inv_A_real", "log_dt", "kernel.kernel.B")) \
        and "ssm_k" not in name else values[:, :6] if name.endswith(".mixer.kernel.kernel.C") else values
    yield write_model(folder / "h3_heads", config, {name: heads(name, values) for name, values in
                                                    read_tensors(case / "model.safetensors").items()})
    random = numpy.random.default_rng(5)
    normal = lambda *shape: random.standard_normal(shape).astype("f4") * 0.3
    for groups, limit in ((1, [0.0, {"__float__": "Infinity"}]), (2, [0.05, 0.9])):
        heads, width, modes = 4, 6, 5
        inner = heads * width
        filtered = inner + 2 * groups * modes
        tensors = {"backbone.embeddings.weight": normal(23, 8), "backbone.norm_f.weight": 1 + normal(8),
                   "lm_head.weight": normal(23, 8)}
        for layer in range(2):
            of = f"backbone.layers.{layer}"
            tensors |= {f"{of}.norm.weight": 1 + normal(8), f"{of}.mixer.in_proj.weight": normal(inner + filtered + heads, 8),
                        f"{of}.mixer.conv1d.weight": normal(filtered, 1, 4), f"{of}.mixer.conv1d.bias": normal(filtered),
                        f"{of}.mixer.dt_bias": normal(heads), f"{of}.mixer.A_log": normal(heads), f"{of}.mixer.D": normal(heads),
                        f"{of}.mixer.norm.weight": 1 + normal(inner), f"{of}.mixer.out_proj.weight": normal(8, inner)}
        yield write_model(folder / f"mamba2_{groups}", {
            "model_type": "mamba2", "hidden_size": 8, "num_hidden_layers": 2, "num_heads": heads, "head_dim": width,
            "n_groups": groups, "state_size": modes, "conv_kernel": 4, "expand": 3, "vocab_size": 23, "use_conv_bias": True,
            "use_bias": False, "tie_word_embeddings": False, "time_step_limit": limit}, tensors)


def models(cases):
    found = collections.Counter()
    for folder in sorted(cases.glob("model_*")):
        family = next((name for name in FAMILIES if folder.name.startswith("model_" + name)), None)
        if family is not None:
            found[family] += 1
            check_steps(folder)
    if min(found[family] for family in FAMILIES) < 1:
        problems.append(f"models among the cases: {dict(found)}")
    with tempfile.TemporaryDirectory() as folder:
        for model in more_models(cases, pathlib.Path(folder)):
            check_steps(model)
    for name, words in (("model_gpt2", "another kind"), ("no_such_model", "config.json")):
        try:
            ssm.onnx.step_model(cases / name)
            problems.append(f"{name} was taken")
        except ssm.Error as error:
            if words not in str(error):
                problems.append(f"{name}: {error}")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "config.json").write_text('{"model_type": "mamba", "num_hidden_layers": 1}')
        (folder / "model.safetensors").write_bytes(b"\x05\0\0\0\0\0\0\0{}")
        try:
            ssm.onnx.step_model(folder)
            problems.append("a damaged file was taken")
        except ssm.FileError:
            pass


layers()
models(pathlib.Path(sys.argv[1]))
print("\n".join(problems) or "ONNX Runtime: 0 problems")
sys.exit(1 if problems else 0)
