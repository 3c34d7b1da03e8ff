# SPDX-License-Identifier: Apache-2.0
"""Training steps of language models in PyTorch: a plain GPT, mamba_ssm's Mamba and Mamba-2, flash-linear-attention's RetNet. bf16 autocast, fused
AdamW, clipping; the GPT by torch.compile."""
import torch
from torch import nn
from torch.nn import functional

from cuda_timing import milliseconds


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def heads_of(self, x):
        batch, length, width = x.shape
        return self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)

    def joined(self, x, y):
        x = x + self.out(y.transpose(1, 2).reshape(x.shape))
        return x + self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))

    def forward(self, x):
        q, k, v = self.heads_of(x)
        return self.joined(x, functional.scaled_dot_product_attention(q, k, v, is_causal=True))


class Gpt(nn.Module):
    def __init__(self, vocabulary, length, width=768, heads=12, blocks=12):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, tokens, targets):
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return cross_entropy(self.head(self.norm(x)), targets)


def cross_entropy(logits, targets):
    return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def step_of(model, loss_of, vocabulary, batch, length):
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    tokens = torch.randint(vocabulary, (batch, length + 1), device="cuda")

    def step():
        with torch.autocast("cuda", torch.bfloat16):
            loss = loss_of(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def training(model, loss_of, batch, length, options):
    step = step_of(model, loss_of, options.vocabulary, batch, length)
    row = milliseconds(step, options.rounds, least=0.1, waits=False)
    row["tokens_per_second"] = 1e3 * batch * length / row["median_ms"]
    row["parameters"] = sum(p.numel() for p in model.parameters())
    row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    row["reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
    return row


def gpt_training(batch, length, options):
    torch.set_float32_matmul_precision("high")
    with torch.device("cuda"):
        model = Gpt(options.vocabulary, length)
    return training(model, torch.compile(model) if options.compile else model, batch, length, options)


def mamba_model(layer, options):
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    config = MambaConfig(d_model=768, n_layer=24, vocab_size=options.vocabulary, ssm_cfg={"layer": layer})
    return MambaLMHeadModel(config, device="cuda")


def mamba_training(batch, length, options, layer="Mamba1"):
    model = mamba_model(layer, options)
    return training(model, lambda tokens, targets: cross_entropy(model(tokens).logits, targets), batch, length, options)


def mamba2_training(batch, length, options):
    return mamba_training(batch, length, options, "Mamba2")


def retnet_training(batch, length, options):
    from fla.models import RetNetConfig, RetNetForCausalLM

    config = RetNetConfig(hidden_size=768, num_hidden_layers=12, num_heads=3, intermediate_size=1024, vocab_size=options.vocabulary,
                          tie_word_embeddings=True, use_cache=False)
    with torch.device("cuda"):
        model = RetNetForCausalLM(config)
    # The model itself puts the labels against the token before.
    return training(model, lambda tokens, targets: model(tokens, labels=tokens).loss, batch, length, options)
