# SPDX-License-Identifier: Apache-2.0
"""Step graphs of RetNet and DenseRetNet."""
import numpy


def describes(config):
    return _is_dense(config) or "model_type" not in config and "decoder_retention_heads" in config


def _is_dense(config):
    return "query_key_dim" in config and "dense_block_layers" in config


def build(step):
    return _dense(step) if _is_dense(step.config) else _plain(step)


def _plain(step):
    config = step.config
    heads, eps = config["decoder_retention_heads"], config.get("layernorm_eps", 1e-6)
    act = {"swish": step.silu, "gelu": step.gelu_erf, "relu": lambda x: step("Relu", x)}[config.get("activation_fn", "gelu")]
    scale = 1 if config.get("no_scale_embedding", True) else config["decoder_embed_dim"] ** 0.5
    x = step.embedding("embed_tokens.weight", scale)
    for layer in range(config["decoder_layers"]):
        name = f"layers.{layer}"
        normed = step.rms_norm(x, f"{name}.retention_layer_norm.weight", eps)
        q, k, v, g = (step.linear(normed, f"{name}.retention.{which}_proj") for which in "qkvg")
        k = step.scaled(k, (config["decoder_embed_dim"] // heads) ** -0.5)
        o, _ = _retention(step, layer, heads, step.weight(f"{name}.retention.q_proj.weight").shape[0],
                          step.weight(f"{name}.retention.v_proj.weight").shape[0], q, k, v)
        weight = f"{name}.retention.group_norm.weight"
        mixed = step("Mul", step.silu(g), _head_norm(step, o, heads, eps, weight if step.has(weight) else None))
        x = step("Add", x, step.linear(mixed, f"{name}.retention.out_proj"))
        normed = step.rms_norm(x, f"{name}.final_layer_norm.weight", eps)
        hidden = step("Mul", act(step.linear(normed, f"{name}.ffn.fc1")), step.linear(normed, f"{name}.ffn.gate"))
        x = step("Add", x, step.linear(hidden, f"{name}.ffn.fc2"))
    x = step.rms_norm(x, "layer_norm.weight", eps)
    tied = config.get("share_decoder_input_output_embed", False)
    return step.finish(x, "embed_tokens.weight" if tied else "output_projection.weight")


def _dense(step):
    config = step.config
    heads, eps = config["num_attention_heads"], config.get("rms_norm_eps", 1e-6)
    keys, values = config["query_key_dim"], int(config.get("v_factor", 2) * config["hidden_size"])
    is_carried = config.get("dense_fusion", "carried") == "carried"
    x = step.embedding("model.embed_tokens.weight")
    earlier = []  # of each layer: its own keys and values, and its state behind the token
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}.self_attn"
        normed = step.rms_norm(x, f"model.layers.{layer}.input_layernorm.weight", eps)
        q = step.silu(step.linear(normed, f"{name}.q_proj"))
        k = own_k = step.scaled(step.silu(step.linear(normed, f"{name}.k_proj")), (keys // heads) ** -0.5)
        v, g = step.split(step.linear(normed, f"{name}.to_hidden.0"), values, values)
        v = own_v = step.silu(v)
        sources = earlier[max(0, layer - config["dense_block_layers"]):]
        if sources:
            gates = [step.silu(step.linear(step.silu(step.linear(normed, f"{name}.{which}_select.fc1")),
                                           f"{name}.{which}_select.fc2")) for which in "kv"]
        if sources and is_carried:
            k, v = (step.rms_norm(step("Add", own, step("Mul", gate, step.added(*(source[at] for source in sources)))),
                                  f"{name}.{which}_norm.weight", eps)
                    for at, (which, own, gate) in enumerate(zip("kv", (k, v), gates)))
        o, state = _retention(step, layer, heads, keys, values, q, k, v)
        if sources and not is_carried:
            queries = step.shaped(_rotated(step, step("Mul", gates[0], q), heads, keys), 0, heads, 1, keys // heads)
            reads = step("MatMul", queries, step.added(*(source[2] for source in sources)))
            o = step("Add", o, step("Mul", gates[1], step.shaped(reads, 0, values)))
        earlier.append((own_k, own_v, state))
        mixed = step("Mul", step.silu(g), _head_norm(step, o, heads, eps, f"{name}.group_norm.weight"))
        x = step("Add", x, step.linear(mixed, f"{name}.to_out.0"))
    x = step.rms_norm(x, "model.norm.weight", eps)
    return step.finish(x, "model.embed_tokens.weight" if config.get("tie_word_embeddings", False) else "lm_head.weight")


def _decays(heads):
    return 1 - 2.0 ** (-5 - numpy.arange(heads))


def _rotated(step, x, heads, width):
    """Neighboring channels of each head turned by the position."""
    pairs = width // heads // 2
    rates = 10000.0 ** -(numpy.arange(pairs) / max(pairs - 1, 1))
    angle = step.shaped(step.scaled(step.unsqueeze(step.position(), 1), rates), 0, 1, pairs, 1)
    x = step.shaped(x, 0, heads, pairs, 2)
    a, b = step.part(x, 3, 0, 1), step.part(x, 3, 1, 2)
    cosine, sine = step("Cos", angle), step("Sin", angle)
    turned = step("Concat", step("Sub", step("Mul", a, cosine), step("Mul", b, sine)),
                  step("Add", step("Mul", b, cosine), step("Mul", a, sine)), axis=3)
    return step.shaped(turned, 0, width)


def _retention(step, layer, heads, keys, values, q, k, v):
    """(q·S [B, values], S [B, H, K, V]) with S = γ·S + k ⊗ v."""
    extents = (heads, keys // heads, values // heads)
    q, k = (_rotated(step, t, heads, keys) for t in (q, k))
    taken = step("Mul", step.shaped(k, 0, heads, keys // heads, 1), step.shaped(v, 0, heads, 1, values // heads))
    before = step.scaled(step.state(f"retention.{layer}", *extents), _decays(heads)[:, None, None])
    state = step.becomes(f"retention.{layer}", step("Add", before, taken), *extents)
    o = step("MatMul", step.shaped(q, 0, heads, 1, keys // heads), state)
    return step.shaped(o, 0, values), state


def _head_norm(step, o, heads, eps, weight):
    """RMS of each head, whose eps grows with Σ_{j≤n} γ^j = (1 − γ^(n+1)) / (1 − γ)."""
    decays = _decays(heads)
    counted = step("Add", step.unsqueeze(step.position(), 1), step.constant(1))
    faded = step("Exp", step.scaled(counted, numpy.log(decays)))
    grown = step.scaled(step("Sub", step.constant(1), faded), eps / (1 - decays))
    o = step.rms(step.shaped(o, 0, heads, -1), step.unsqueeze(grown, 2))
    o = o if weight is None else step.scaled(o, step.weight(weight))
    return step.shaped(o, 0, -1)
