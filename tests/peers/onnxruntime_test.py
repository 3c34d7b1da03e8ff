#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Layers and language models of the library in ONNX Runtime, against the library.

    onnxruntime_test.py CASES    SSM_LIBRARY names the library, beside which libssm_onnxruntime.so lies; exits with 77 and the
                                 reason where onnx or onnxruntime is not installed
"""
import pathlib
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


def models(cases):
    found = 0
    for folder in sorted(cases.glob("model_mamba*")):
        found += 1
        model = ssm.LanguageModel(folder, threads=1)
        step = ssm.onnx.step_model(folder)
        onnx.checker.check_model(step, full_check=True)
        session = onnxruntime.InferenceSession(step.SerializeToString(), providers=["CPUExecutionProvider"])
        tokens = numpy.random.default_rng(3).integers(0, model.vocabulary, (3, 20))
        expected = model.logits(tokens.astype("i4"))
        state = {value.name: numpy.zeros([3, *value.shape[1:]], "f4") for value in session.get_inputs()[1:]}
        for t in range(20):
            logits, *after = session.run(None, {"tokens": tokens[:, t], **state})
            state = dict(zip([value.name.removeprefix("next.") for value in session.get_outputs()[1:]], after))
            check_near(logits, expected[:, t], 2e-5, f"{folder.name}: logits at {t}")
    if found != 2:
        problems.append(f"{found} Mamba models among the cases, not 2")
    for name, words in (("model_retnet", "another kind"), ("no_such_model", "config.json")):
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
