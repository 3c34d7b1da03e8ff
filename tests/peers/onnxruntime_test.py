#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Layers and language models of the library in ONNX Runtime, against the library on the CPU.

    onnxruntime_test.py CASES [cuda]     SSM_LIBRARY names the library, beside which libssm_onnxruntime.so lies; exits with 77
                                         and the reason where onnx or onnxruntime is not installed, or has no provider for CUDA
"""
import collections
import concurrent.futures
import contextlib
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
is_on_device = sys.argv[2:] == ["cuda"]
PROVIDER = "CUDAExecutionProvider" if is_on_device else "CPUExecutionProvider"
# What float32 sums differ by in another order. On the CPU a layer is the library's, to the last bit.
NEAR = {"float32": 1e-4, "float64": 1e-10, "float16": 4e-3, "bfloat16": 3e-2} if is_on_device else collections.defaultdict(int)


def check_near(found, expected, tolerance, what):
    found, expected = (numpy.asarray(values, "f8") for values in (found, expected))
    worst = float(numpy.abs(found - expected).max(initial=0)) if found.shape == expected.shape else float("inf")
    if not worst <= tolerance * max(1.0, float(numpy.abs(expected).max(initial=0))):
        problems.append(what)
        print(f"FAILED: {what}: differs by {worst:g}", file=sys.stderr)


def session_of(model, **entries):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(ssm.onnx.operators())
    for name, value in entries.items():
        setattr(options, name, value)
    providers = [(PROVIDER, {"use_tf32": "0"})] if is_on_device else [PROVIDER]
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
    if session.get_providers()[0] != PROVIDER:
        raise RuntimeError(f"{PROVIDER} could not be loaded")
    return session


@contextlib.contextmanager
def profiled(model, kind, what):
    """A session, whose nodes of a kind must have run on the provider."""
    with tempfile.TemporaryDirectory() as folder:
        session = session_of(model, enable_profiling=True, profile_file_prefix=f"{folder}/profile")
        yield session
        events = json.loads(pathlib.Path(session.end_profiling()).read_text())
    found = {event["args"].get("provider") for event in events if event.get("args", {}).get("op_name") == kind}
    if found != {PROVIDER}:
        problems.append(f"{what}: {kind} ran on {found}")


def require_cuda():
    """Exits where there is no CUDA to test."""
    if PROVIDER not in onnxruntime.get_available_providers():
        print(f"skipped: onnxruntime {onnxruntime.__version__} has no {PROVIDER}")
        sys.exit(77)
    try:
        ssm.Layer("s4d", channels=1, state=2, backend="cuda")
    except ssm.Error as error:
        print(f"skipped: {error}")
        sys.exit(77)
    onnxruntime.preload_dlls()


LAYERS = {
    "s4d": {"state": 4}, "h3": {"state": 4, "head_dim": 2}, "mamba": {"state": 3}, "mamba2": {"state": 3, "head_dim": 2},
    "retention": {"value_dim": 8, "heads": 2}, "dense_mamba": {"blocks": 2, "sources": 1, "state": 3},
    "dense_retnet": {"query_key_dim": 4, "value_dim": 8, "heads": 2, "k_hidden": 2, "v_hidden": 2, "blocks": 2, "sources": 1},
    "attention": {"heads": 2},
}


class Case:
    """A layer, its parameters, x, and y as the library computes it."""

    def __init__(self, kind, scalar="float32"):
        self.what = f"{kind} in {scalar}"
        self.layer = ssm.Layer(kind, channels=4, scalar=scalar, **LAYERS[kind])
        self.parameters = self.layer.initialize(5)
        self.x = numpy.random.default_rng(1).standard_normal((2, 7, 4)).astype(scalar)
        self.y = self.layer.forward(self.parameters, self.x)
        self.near = NEAR[scalar]

    def model(self, states=False):
        return ssm.onnx.layer_model(self.layer, self.parameters, states=states)

    def empty_state(self, sequences=2):
        """By names of inputs."""
        return {f"state.{name}": numpy.array(value) for name, value in self.layer.initial_state(sequences).tensors().items()}


def by_name(session, results):
    return dict(zip([out.name for out in session.get_outputs()], results))


def advanced(results):
    """The state behind a call as that before the next."""
    return {name.replace("next.", "state.", 1): value for name, value in results.items()}


def check_pieces(case):
    """A sequence in two pieces, with the state between them on the host."""
    session = session_of(case.model(states=True))
    state, pieces = case.empty_state(), []
    for piece in (case.x[:, :3], case.x[:, 3:]):
        results = by_name(session, session.run(None, {"x": piece, **state}))
        pieces.append(results.pop("y"))
        state = advanced(results)
    check_near(numpy.concatenate(pieces, 1), case.y, case.near or 1e-5, f"{case.what}: two pieces")


def check_kept(case):
    """Position by position, with states that stay where the provider has them."""
    place = "cuda" if is_on_device else "cpu"
    session = session_of(case.model(states=True))
    kept = lambda values: onnxruntime.OrtValue.ortvalue_from_numpy(values, place, 0)
    state, pieces = {name: kept(values) for name, values in case.empty_state().items()}, []
    for t in range(case.x.shape[1]):
        call = session.io_binding()
        for name, value in {"x": kept(numpy.ascontiguousarray(case.x[:, t:t + 1])), **state}.items():
            call.bind_ortvalue_input(name, value)
        for out in session.get_outputs():
            call.bind_output(out.name, place)
        session.run_with_iobinding(call)
        results = by_name(session, call.get_outputs())
        pieces.append(results.pop("y").numpy())
        state = advanced(results)
    if any(value.device_name() != place for value in state.values()):
        problems.append(f"{case.what}: a state has left {place}")
    check_near(numpy.concatenate(pieces, 1), case.y, case.near or 1e-5, f"{case.what}: position by position")


def check_half(kind, scalar):
    """Sequences of a half type beside parameters in float32."""
    case = Case(kind)
    element = onnx.TensorProto.FLOAT16 if scalar == "float16" else onnx.TensorProto.BFLOAT16
    half = onnx.helper.tensor_dtype_to_np_dtype(element)
    expected = case.layer.forward(case.parameters, case.x.astype(half))
    model = ssm.onnx.layer_model(case.layer, case.parameters, sequences=scalar)
    layer = model.graph.node.pop()
    for tensor in (model.graph.input[0], model.graph.output[0]):
        assert tensor.type.tensor_type.elem_type == element
        tensor.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    layer.input[0], layer.output[0] = "narrow_x", "narrow_y"
    model.graph.node.extend([onnx.helper.make_node("Cast", ["x"], ["narrow_x"], to=element), layer,
                             onnx.helper.make_node("Cast", ["narrow_y"], ["y"], to=onnx.TensorProto.FLOAT)])
    check_near(session_of(model).run(["y"], {"x": case.x})[0], expected, NEAR[scalar], f"{kind} in {scalar}")


def check_threads():
    """Calls of several sessions, and of one, at the same time: the bits of calls one by one."""
    cases = [Case(kind) for kind in ("mamba", "attention", "h3")]
    sessions = [(case, session_of(case.model(states=True))) for case in cases for _ in range(2)]

    def call(number):
        case, session = sessions[number % len(sessions)]
        x = numpy.roll(case.x, number, axis=1)
        return session.run(None, {"x": x, **case.empty_state()})

    alone = [call(number) for number in range(4 * len(sessions))]
    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        beside = list(threads.map(call, list(range(len(alone))) * 4))
    for number, results in enumerate(beside):
        expected = alone[number % len(alone)]
        if any(a.tobytes() != b.tobytes() for a, b in zip(results, expected)):
            problems.append(f"call {number} beside others differs")


def check_refusals(case):
    session = session_of(case.model(states=True))
    states = case.empty_state()
    for name in states:
        try:
            session.run(None, {"x": case.x, **states, name: numpy.repeat(states[name], 2, axis=1 if states[name].ndim == 4 else 0)})
            problems.append(f"a wrong {name} is taken")
        except Exception as error:
            if "state" not in str(error):
                problems.append(f"a wrong {name}: {error}")


def layers():
    assert sorted(LAYERS) == sorted(ssm.layer_kinds())
    for kind in LAYERS:
        for scalar in ("float32", "float64"):
            case = Case(kind, scalar)
            with profiled(case.model(), "Layer", case.what) as session:
                check_near(session.run(["y"], {"x": case.x})[0], case.y, case.near, case.what)
            check_pieces(case)
            check_kept(case)
        for scalar in ("float16", "bfloat16"):
            check_half(kind, scalar)
    check_threads()
    check_refusals(Case("attention"))
    check_refusals(Case("mamba2"))


FAMILIES = ("dense_mamba", "dense_retnet", "h3", "attention", "mamba", "retnet")  # of the cases model_FAMILY…


def check_steps(folder):
    """Token by token, the logits of the library."""
    model = ssm.LanguageModel(folder, threads=1)
    step = ssm.onnx.step_model(folder)
    onnx.checker.check_model(step, full_check=True)
    tokens = numpy.random.default_rng(3).integers(0, model.vocabulary, (3, 20))
    expected = model.logits(tokens.astype("i4"))
    with profiled(step, "MatMul", folder.name) as session:
        state = {value.name: numpy.zeros([3, *(0 if isinstance(n, str) else n for n in value.shape[1:])],
                                         "i8" if "int64" in value.type else "f4") for value in session.get_inputs()[1:]}
        for t in range(20):
            logits, *after = session.run(None, {"tokens": tokens[:, t], **state})
            state = dict(zip([value.name.removeprefix("next.") for value in session.get_outputs()[1:]], after))
            check_near(logits, expected[:, t], NEAR["float32"] or 2e-5, f"{folder.name}: logits at {t}")


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


if is_on_device:
    require_cuda()
layers()
models(pathlib.Path(sys.argv[1]))
print("\n".join(problems) or f"ONNX Runtime {onnxruntime.__version__}, {PROVIDER}: 0 problems")
sys.exit(1 if problems else 0)
