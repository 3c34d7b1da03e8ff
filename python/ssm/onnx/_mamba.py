# SPDX-License-Identifier: Apache-2.0
"""Step graphs of Mamba, Mamba-2 and DenseMamba."""
import numpy


def _kind_of(config):
    original = config.get("ssm_cfg")  # of mamba_ssm's files, which have no model_type
    if "model_type" in config:
        return {"mamba": "Mamba1", "mamba2": "Mamba2", "dense_mamba": "dense"}.get(config["model_type"])
    if not isinstance(original, dict) or original.get("mode") or "d_inner" in config or "n_layer" not in config:
        return None
    return original.get("layer", "Mamba1")


def describes(config):
    return _kind_of(config) in ("Mamba1", "Mamba2", "dense")


def build(step):
    config, kind = step.config, _kind_of(step.config)
    if config.get("attn_layer_idx") or config.get("rms_norm") is False or config.get("hidden_act", "silu") != "silu":
        step.refuse("a graph is made of Mamba models with RMSNorm, SiLU and no attention")
    eps = config.get("layer_norm_epsilon", 1e-5)
    embedding = "backbone.embedding.weight" if step.has("backbone.embedding.weight") else "backbone.embeddings.weight"
    x = step.embedding(embedding)
    states = []  # of each layer behind the token, of its own scan
    for layer in range(config.get("num_hidden_layers", config.get("n_layer"))):
        name = f"backbone.layers.{layer}"
        normed = step.rms_norm(x, f"{name}.norm.weight", eps)
        mixer = _mamba2 if kind == "Mamba2" else _mamba
        x = step("Add", x, mixer(step, f"{name}.mixer", layer, normed, states))
    x = step.rms_norm(x, "backbone.norm_f.weight", eps)
    return step.finish(x, "lm_head.weight" if step.has("lm_head.weight") else embedding)


def _convolution(step, name, layer, u):
    """The short filter over a state of the last inputs, with SiLU."""
    filters = step.weight(f"{name}.conv1d.weight")[:, 0]
    channels, width = filters.shape
    window = step("Concat", step.part(step.state(f"conv.{layer}", channels, width), 2, 1, width), step.unsqueeze(u, 2), axis=2)
    step.becomes(f"conv.{layer}", window, channels, width)
    u = step.sum(step.scaled(window, filters), 2)
    if step.has(f"{name}.conv1d.bias"):
        u = step("Add", u, step.constant(step.weight(f"{name}.conv1d.bias")))
    return step.silu(u)


def _mamba(step, name, layer, x, states):
    A = -numpy.exp(step.weight(f"{name}.A_log"))
    (channels, modes), rank = A.shape, step.weight(f"{name}.dt_proj.weight").shape[1]
    u, gate = step.split(step.linear(x, f"{name}.in_proj"), channels, channels)
    u = _convolution(step, name, layer, u)
    dt, B, C = step.split(step.linear(u, f"{name}.x_proj"), rank, modes, modes)
    dt = step("Softplus", step.linear(dt, f"{name}.dt_proj"))
    decay = step("Exp", step.scaled(step.unsqueeze(dt, 2), A))
    taken = step("Mul", step.unsqueeze(step("Mul", dt, u), 2), step.unsqueeze(B, 1))
    state = step("Add", step("Mul", decay, step.state(f"ssm.{layer}", channels, modes)), taken)
    step.becomes(f"ssm.{layer}", state, channels, modes)
    read = lambda state: step.sum(step("Mul", state, step.unsqueeze(C, 1)), 2)
    sources = states[max(0, layer - step.config.get("dense_block_layers", 0)):]
    states.append(state)
    if not sources:
        y = read(state)
    else:
        a = step.silu(step.linear(step.silu(step.linear(x, f"{name}.h_select.fc1")), f"{name}.h_select.fc2"))
        selected = step.added(*sources)
        if step.config.get("dense_fusion", "readout") == "readout":
            y = step("Add", read(state), step("Mul", a, read(selected)))
        else:
            fused = step("Add", step("Mul", decay, step.state(f"fused.{layer}", channels, modes)),
                         step("Mul", step.unsqueeze(a, 2), selected))
            step.becomes(f"fused.{layer}", fused, channels, modes)
            y = read(step("Add", state, fused))
    y = step("Add", y, step.scaled(u, step.weight(f"{name}.D")))
    return step.linear(step("Mul", y, step.silu(gate)), f"{name}.out_proj")


def _mamba2(step, name, layer, x, _):
    config, of = step.config, step.config.get("ssm_cfg") or {}
    A, inner = -numpy.exp(step.weight(f"{name}.A_log")), step.weight(f"{name}.norm.weight").shape[0]
    heads = A.shape[0]
    width = inner // heads
    groups = config.get("n_groups", 8) if "model_type" in config else of.get("ngroups", 1)
    modes = (step.weight(f"{name}.conv1d.weight").shape[0] - inner) // (2 * groups)
    low, high = [float(t["__float__"]) if isinstance(t, dict) else float(t)
                 for t in config.get("time_step_limit", of.get("dt_limit", (0, "inf")))]
    z, filtered, dt = step.split(step.linear(x, f"{name}.in_proj"), inner, inner + 2 * groups * modes, heads)
    u, B, C = step.split(_convolution(step, name, layer, filtered), inner, groups * modes, groups * modes)
    dt = step("Softplus", step("Add", dt, step.constant(step.weight(f"{name}.dt_bias"))))
    if low > 0 or high < float("inf"):
        dt = step("Clip", dt, step.constant(low), step.constant(min(high, 3e38)))
    # by groups: [B, G, H/G, …]
    by_group = lambda t, *more: step.shaped(t, 0, groups, heads // groups, *more)
    u, B, C = by_group(u, width, 1), *(step.shaped(t, 0, groups, 1, 1, modes) for t in (B, C))
    decay = by_group(step("Exp", step.scaled(dt, A)), 1, 1)
    taken = step("Mul", step("Mul", by_group(dt, 1, 1), u), B)
    before = by_group(step.state(f"ssm.{layer}", heads, width, modes), width, modes)
    state = step("Add", step("Mul", decay, before), taken)
    step.becomes(f"ssm.{layer}", step.shaped(state, 0, heads, width, modes), heads, width, modes)
    skip = step("Mul", u, step.constant(step.weight(f"{name}.D").reshape(groups, heads // groups, 1, 1)))
    y = step("Add", step.sum(step("Mul", state, C), 4), step.shaped(skip, 0, groups, heads // groups, width))
    y = step("Mul", step.shaped(y, 0, inner), step.silu(z))
    eps = config.get("layer_norm_epsilon", 1e-5)
    y = step.shaped(step.rms(step.shaped(y, 0, groups, -1), eps), 0, inner)
    return step.linear(step.scaled(y, step.weight(f"{name}.norm.weight")), f"{name}.out_proj")
