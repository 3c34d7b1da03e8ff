# SPDX-License-Identifier: Apache-2.0
"""Step graphs of H3 and of its hybrids with attention."""
import numpy


def describes(config):
    if "model_type" in config or "d_model" not in config or "n_layer" not in config:
        return False
    return "d_inner" in config or bool(set(config.get("ssm_cfg", {})) & {"mode", "measure", "head_dim"})


def build(step):
    config = step.config
    if not step.has("backbone.ln_f.weight"):
        step.refuse("tensors have names of an older kind; open and write the model once with `ssm`")
    eps = config.get("layer_norm_epsilon", 1e-5)
    x = step.embedding("backbone.embeddings.word_embeddings.weight")
    if config.get("max_position_embeddings", 0) > 0:
        step.position()
        places = step.constant(step.weight("backbone.embeddings.position_embeddings.weight"))
        x = step("Add", x, step("Gather", places, "position", axis=0))
    for layer in range(config["n_layer"]):
        name = f"backbone.layers.{layer}"
        mixer = _attention if layer in config.get("attn_layer_idx", ()) else _h3
        x = step("Add", x, mixer(step, f"{name}.mixer", layer, step.layer_norm(x, f"{name}.norm1", eps)))
        hidden = step.gelu_tanh(step.linear(step.layer_norm(x, f"{name}.norm2", eps), f"{name}.mlp.fc1"))
        x = step("Add", x, step.linear(hidden, f"{name}.mlp.fc2"))
    return step.finish(step.layer_norm(x, "backbone.ln_f", eps), "lm_head.weight")


def _discretized(step, kernel):
    """Ā and B̄ of the diagonal SSM, complex [H, P]."""
    of = lambda name: step.weight(f"{kernel}.{name}").astype("f8")
    dt = numpy.exp(of("log_dt"))[:, None]
    A = -numpy.exp(of("inv_A_real")) + 1j * of("A_imag")
    B = of("B")[..., 0] + 1j * of("B")[..., 1]
    z = dt * A
    if step.config.get("ssm_cfg", {}).get("disc", "bilinear") == "bilinear":
        return (1 + z / 2) / (1 - z / 2), dt * B / (1 - z / 2)
    return numpy.exp(z), dt * B * numpy.expm1(z) / z


def _h3(step, name, layer, x):
    q, k, v = (step.linear(x, f"{name}.{which}_proj") for which in "qkv")
    shift, kernel = f"{name}.ssm_k_kernel.kernel", f"{name}.kernel.kernel"
    shift_B, shift_C = step.weight(f"{shift}.B"), step.weight(f"{shift}.C")[0]
    channels, taps = shift_B.shape
    # the shift SSM: every tap moves on, and takes its part of what comes
    moved = step("Pad", step.part(step.state(f"shift.{layer}", channels, taps), 2, 0, taps - 1), step.axes(0, 0, 1, 0, 0, 0))
    state = step("Add", moved, step.scaled(step.unsqueeze(k, 2), shift_B))
    step.becomes(f"shift.{layer}", state, channels, taps)
    k = step("Add", step.sum(step.scaled(state, shift_C), 2), step.scaled(k, step.weight(f"{name}.ssm_k_D")))
    # the diagonal SSM of each product of a key and a value of a head, [B, H, i, j, P, 2]
    A, B = _discretized(step, kernel)
    C = step.weight(f"{kernel}.C")[0].astype("f8")
    heads, modes = A.shape
    width = channels // heads
    u = step("Mul", step.shaped(k, 0, heads, width, 1), step.shaped(v, 0, heads, 1, width))
    inputs = step.scaled(step.unsqueeze(u, 4, 5), numpy.stack([B.real, B.imag], -1)[:, None, None])
    extents = (heads, width, width, modes, 2)
    before = step.state(f"diagonal.{layer}", *extents)
    crossed = step("Concat", step.part(before, 5, 1, 2), step.part(before, 5, 0, 1), axis=5)
    state = step.added(step.scaled(before, A.real[:, None, None, :, None]),
                       step.scaled(crossed, numpy.stack([-A.imag, A.imag], -1)[:, None, None]), inputs)
    step.becomes(f"diagonal.{layer}", state, *extents)
    read = step.sum(step.scaled(state, (2 * C * numpy.array([1, -1]))[:, None, None]), 4, 5)
    read = step("Add", read, step.scaled(u, step.weight(f"{name}.D").reshape(heads, 1, 1)))
    y = step.sum(step("Mul", read, step.shaped(q, 0, heads, width, 1)), 2)
    return step.linear(step.shaped(y, 0, channels), f"{name}.output_linear")


def _attention(step, name, layer, x):
    options = step.config["attn_cfg"]
    heads, turned = options["num_heads"], options.get("rotary_emb_dim", 0)
    qkv = step.linear(x, f"{name}.Wqkv")
    width = step.weight(f"{name}.Wqkv.weight").shape[0] // 3 // heads
    q, k, v = (step.shaped(part, 0, 1, heads, width) for part in step.split(qkv, *[heads * width] * 3))
    if turned:
        rates = 10000.0 ** (-2 * numpy.arange(turned // 2) / turned)
        angle = step.shaped(step.scaled(step.unsqueeze(step.position(), 1), rates), 0, 1, 1, -1)
        cosine, sine = step("Cos", angle), step("Sin", angle)

        def rotated(t):
            a, b, rest = (step.part(t, 3, *ends) for ends in ((0, turned // 2), (turned // 2, turned), (turned, width)))
            return step("Concat", step("Sub", step("Mul", a, cosine), step("Mul", b, sine)),
                        step("Add", step("Mul", b, cosine), step("Mul", a, sine)), rest, axis=3)

        q, k = rotated(q), rotated(k)
    caches = []
    for which, now in (("k", k), ("v", v)):
        cache = step("Concat", step.state(f"{which}.{layer}", "T", heads, width), now, axis=1)
        step.becomes(f"{which}.{layer}", cache, "T + 1", heads, width)
        caches.append(cache)
    keys, values = (step("Transpose", cache, perm=[0, 2, 1, 3]) for cache in caches)  # [B, H, T, W]
    q = step.scaled(step("Transpose", q, perm=[0, 2, 1, 3]), width ** -0.5)
    scores = step("MatMul", q, step("Transpose", keys, perm=[0, 1, 3, 2]))
    y = step("MatMul", step("Softmax", scores, axis=3), values)
    return step.linear(step.shaped(y, 0, heads * width), f"{name}.out_proj")
