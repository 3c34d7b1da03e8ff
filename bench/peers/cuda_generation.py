# SPDX-License-Identifier: Apache-2.0
"""Generation by Transformers in PyTorch: a plain GPT with a static cache whose step is one CUDA graph, and transformers' generate. bf16
weights, the likeliest token."""
import statistics
import time

import torch
from torch.nn import functional

from cuda_models import Gpt

VOCABULARY, WIDTH, LAYERS, HEADS = 50257, 2048, 24, 16


class StaticGpt:
    def __init__(self, batch, prompt, tokens):
        with torch.device("cuda"):
            self.model = Gpt(VOCABULARY, prompt + tokens, WIDTH, HEADS, LAYERS).to(torch.bfloat16).eval()
            shape = (LAYERS, batch, HEADS, prompt + tokens, WIDTH // HEADS)
            self.keys, self.values = torch.zeros(shape, dtype=torch.bfloat16), torch.zeros(shape, dtype=torch.bfloat16)
            self.next, self.position = torch.zeros(batch, 1, dtype=torch.long), torch.zeros(1, dtype=torch.long)
            self.places = torch.arange(prompt + tokens)
        self.graph = None

    def run(self, tokens, attend):
        model = self.model
        begin = self.position if tokens.shape[1] == 1 else torch.arange(tokens.shape[1], device="cuda")
        x = model.tokens(tokens) + model.positions(begin)
        for block, keys, values in zip(model.blocks, self.keys, self.values):
            q, k, v = block.heads_of(x)
            keys.index_copy_(2, begin, k)
            values.index_copy_(2, begin, v)
            x = block.joined(x, attend(q, k, v, keys, values))
        self.next.copy_(model.head(model.norm(x[:, -1:])).argmax(-1))

    def read(self, prompt):
        self.run(prompt, lambda q, k, v, keys, values: functional.scaled_dot_product_attention(q, k, v, is_causal=True))
        self.position.fill_(prompt.shape[1])

    def step(self):
        mask = (self.places <= self.position).view(1, 1, 1, -1)
        self.run(self.next, lambda q, k, v, keys, values: functional.scaled_dot_product_attention(q, keys, values, attn_mask=mask))
        self.position.add_(1)

    def capture(self):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step()


def rates(batch, tokens, runs):
    """Of runs that say the seconds of the prompt and of all."""
    whole, decode = [], []
    for prompt_seconds, seconds in runs:
        whole.append(batch * tokens / seconds)
        decode.append(batch * (tokens - 1) / (seconds - prompt_seconds))
    return {"tokens_per_second": statistics.median(whole), "decode_tokens_per_second": statistics.median(decode), "rounds": len(whole)}


@torch.inference_mode()
def gpt_generation(batch, length, options):
    tokens = options.tokens
    gpt = StaticGpt(batch, length, tokens + 8)
    prompt = torch.randint(100, (batch, length), device="cuda")
    gpt.read(prompt)
    gpt.capture()

    def once():
        torch.cuda.synchronize()
        start = time.perf_counter()
        gpt.read(prompt)
        torch.cuda.synchronize()
        middle = time.perf_counter()
        for _ in range(tokens - 1):
            gpt.graph.replay()
        torch.cuda.synchronize()
        return middle - start, time.perf_counter() - start

    once()
    return rates(batch, tokens, [once() for _ in range(3)]) | {"reserved_gib": torch.cuda.max_memory_reserved() / 2**30}


@torch.inference_mode()
def transformers_generation(batch, length, options):
    import transformers

    tokens = options.tokens
    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_positions=2048, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS)
    with torch.device("cuda"):
        model = transformers.GPT2LMHeadModel(config).to(torch.bfloat16).eval()
    prompt = torch.randint(100, (batch, length), device="cuda")

    def seconds_of(count):
        torch.cuda.synchronize()
        start = time.perf_counter()
        model.generate(prompt, attention_mask=torch.ones_like(prompt), min_new_tokens=count, max_new_tokens=count, do_sample=False, pad_token_id=0)
        torch.cuda.synchronize()
        return time.perf_counter() - start

    seconds_of(4)
    first = seconds_of(1)
    return rates(batch, tokens, [(first, seconds_of(tokens))]) | {"transformers": transformers.__version__,
                                                                  "reserved_gib": torch.cuda.max_memory_reserved() / 2**30}
