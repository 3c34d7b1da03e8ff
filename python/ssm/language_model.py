# SPDX-License-Identifier: Apache-2.0
"""Language models: open, generate, logits, states, scores."""
from __future__ import annotations

import collections.abc
import ctypes
import json
import math
import os
import threading
import typing

from . import _tensor
from ._library import ArgumentError, Owned, TextCallback, TokenCallback, ask, call, find_cublas, made, options


Path = typing.Union[str, "os.PathLike[str]"]
Tokens = collections.abc.Iterable[int]


def _path(path):
    return os.fsencode(os.fspath(path))


def _ids(tokens):
    """Token numbers as C has them."""
    numbers = [int(token) for token in tokens]
    if any(not 0 <= number < 2**31 for number in numbers):
        raise ArgumentError("a token is a number from 0 to 2147483647")
    return (ctypes.c_int32 * len(numbers))(*numbers), len(numbers)


class State:
    """What sequences of tokens have left behind in a model. Made by LanguageModel.initial_state."""

    def __init__(self, owned, model):
        self._owned = owned
        self._model = model

    @property
    def _pointer(self):
        return self._owned.pointer

    @property
    def sequences(self) -> int:
        return ask("ssm_state_sequences", self._pointer)

    @property
    def bytes(self) -> int:
        return ask("ssm_state_bytes", self._pointer)

    def position(self, sequence: int = 0) -> int:
        """How many tokens a sequence has read."""
        position = ask("ssm_state_position", self._pointer, sequence)
        if position < 0:
            raise ArgumentError(f"the state has no sequence {sequence}")
        return position

    def copy(self) -> State:
        with self._model._lock:
            return self._model._state(made("ssm_state_copy", self._pointer))

    def row(self, sequence: int) -> State:
        """One sequence as a state of its own."""
        with self._model._lock:
            return self._model._state(made("ssm_state_row", self._pointer, sequence))

    def copy_row(self, sequence: int, to: State, to_sequence: int) -> None:
        """Replaces one sequence of another state by one of this."""
        with self._model._lock:
            call("ssm_state_copy_row", self._pointer, sequence, to._pointer, to_sequence)

    def save(self, path: Path) -> None:
        """Writes a safetensors file, which names the model's weights."""
        with self._model._lock:
            call("ssm_state_save", self._pointer, _path(path))

    def load(self, path: Path) -> None:
        with self._model._lock:
            call("ssm_state_load", self._pointer, _path(path))


class LanguageModel:
    """A language model from a folder with config.json and weights, of any family.

        model = ssm.LanguageModel("mamba-130m-hf", threads=4)
        print(model.generate("To be", temperature=0.8, tokens=100))

    backend     "cpu", "reference", or where it was built "cuda"
    threads     0: as many as the process may use
    numbers     of sequences: "float", on a GPU also "bf16", weights with them
    weights     "full", or rounded "bf16", "f16", "int8"
    tokenizer   a file or folder in place of what the model's folder has
    Calls from several threads wait for each other; `session` makes models that do not.
    """

    facts: dict[str, typing.Any]

    def __init__(self, path: Path, *, backend: str = "cpu", threads: int = 0, numbers: str = "float", weights: str = "full",
                 device: int | None = None, map_files: bool | None = None, tokenizer: Path | None = None) -> None:
        if backend.startswith("cuda"):
            find_cublas()
        self._take(made("ssm_model_open", _path(path), options(backend=backend, threads=threads, numbers=numbers, weights=weights,
                                                               device=device, map_files=map_files)))
        if tokenizer is not None:
            call("ssm_model_use_tokenizer", self._pointer, _path(tokenizer))

    def _take(self, pointer):
        self._owned = Owned(pointer, "ssm_model_free")
        self._lock = threading.RLock()
        self.facts = json.loads(ask("ssm_model_facts", pointer))

    @property
    def _pointer(self):
        return self._owned.pointer

    def _state(self, pointer):
        return State(Owned(pointer, "ssm_state_free"), self)

    def session(self, threads: int = 1) -> LanguageModel:
        """Another model over the same weights, for another thread."""
        other = object.__new__(LanguageModel)
        with self._lock:
            other._take(made("ssm_model_session", self._pointer, threads))
        return other

    @property
    def vocabulary(self) -> int:
        """Tokens that may occur."""
        return self.facts["vocabulary"]

    @property
    def padded_vocabulary(self) -> int:
        """Logits of a position."""
        return self.facts["padded_vocabulary"]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell these weights from others."""
        with self._lock:
            text = made("ssm_model_fingerprint", self._pointer)
        try:
            return ctypes.string_at(text).decode()
        finally:
            ask("ssm_free", text)

    # Text.

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, as a list of numbers."""
        data = text.encode()
        tokens, count = ctypes.POINTER(ctypes.c_int32)(), ctypes.c_size_t()
        with self._lock:
            call("ssm_model_encode", self._pointer, data, len(data), ctypes.byref(tokens), ctypes.byref(count))
        try:
            return tokens[:count.value]
        finally:
            ask("ssm_free", tokens)

    def decode(self, tokens: Tokens) -> str:
        """Their text."""
        ids, count = _ids(tokens)
        text, size = ctypes.c_void_p(), ctypes.c_size_t()
        with self._lock:
            call("ssm_model_decode", self._pointer, ids, count, ctypes.byref(text), ctypes.byref(size))
        try:
            return ctypes.string_at(text, size.value).decode()
        finally:
            ask("ssm_free", text)

    @typing.overload
    def generate(self, prompt: str, *, tokens: int | None = None, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
                 min_p: float = 0.0, seed: int = 0, stop: Tokens | None = None, state: State | None = None,
                 callback: collections.abc.Callable[[str], object] | None = None) -> str: ...
    @typing.overload
    def generate(self, prompt: Tokens, *, tokens: int | None = None, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
                 min_p: float = 0.0, seed: int = 0, stop: Tokens | None = None, state: State | None = None,
                 callback: collections.abc.Callable[[int], object] | None = None) -> list[int]: ...

    def generate(self, prompt, *, tokens=None, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=0, stop=None,
                 state=None, callback=None):
        """Continues a text, or a list of tokens by a list of tokens.

        tokens     how many; None: until a stop token comes
        stop       tokens that end the text; None: the model's own
        state      goes on from there, and has read what was generated
        callback   called with each piece of text, or each token, as it comes; what is not None or False ends the text
        """
        given = options(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, tokens=tokens, seed=seed,
                        stop=None if stop is None else list(stop))
        pieces, raised = [], []

        def receive(take):
            try:
                piece = take()
                pieces.append(piece)
                return int(bool(callback(piece))) if callback else 0
            except BaseException as error:  # goes on where generate was called
                raised.append(error)
                return 1

        at = state._pointer if state is not None else None
        with self._lock:
            if isinstance(prompt, str):
                data = prompt.encode()
                visit = TextCallback(lambda _, text, size: receive(lambda: ctypes.string_at(text, size).decode()))
                call("ssm_model_generate_text", self._pointer, data, len(data), given, at, visit, None)
            else:
                ids, count = _ids(prompt)
                visit = TokenCallback(lambda _, token: receive(lambda: token))
                call("ssm_model_generate", self._pointer, ids, count, given, at, visit, None)
        if raised:
            raise raised[0]
        return "".join(pieces) if isinstance(prompt, str) else pieces

    # Numbers. Tokens are lists or int32 tensors, results numpy arrays, or what `out` is.

    def initial_state(self, sequences: int = 1) -> State:
        """What has read nothing yet."""
        with self._lock:
            return self._state(made("ssm_state_create", self._pointer, sequences))

    def logits(self, tokens: typing.Any, *, last: bool = False, out: typing.Any = None) -> typing.Any:
        """At every position what is expected next, each sequence from an empty state.
        tokens [L] or [B, L]    result [L, padded vocabulary] or [B, L, padded vocabulary]
        last     of the last position alone: [1, …] or [B, 1, …]"""
        return self._run("ssm_model_logits", tokens, last, out)

    def prefill(self, tokens: typing.Any, state: State, *, last: bool = True, out: typing.Any = None) -> typing.Any:
        """The same from a state on, which is advanced; of the last position alone, if not told otherwise."""
        return self._run("ssm_model_prefill", tokens, last, out, state._pointer)

    def step(self, tokens: typing.Any, state: State, *, out: typing.Any = None) -> typing.Any:
        """One token of each sequence of the state.    tokens [B]    result [B, padded vocabulary]"""
        import numpy
        tokens = numpy.ascontiguousarray(tokens, dtype=numpy.int32)
        if out is None:
            out = numpy.empty((*tokens.shape, self.padded_vocabulary), dtype=numpy.float32)
        with self._lock:
            call("ssm_model_step", self._pointer, _tensor.of(tokens), _tensor.of(out, True), state._pointer)
        return out

    def _run(self, name, tokens, last, out, *more):
        import numpy
        tokens = numpy.ascontiguousarray(tokens, dtype=numpy.int32)
        batch = tokens if tokens.ndim != 1 else tokens[None]
        result = out
        if out is None:
            positions = 1 if last else batch.shape[-1]
            out = numpy.empty((*batch.shape[:-1], positions, self.padded_vocabulary), dtype=numpy.float32)
            result = out if tokens.ndim != 1 else out[0]
        with self._lock:
            call(name, self._pointer, _tensor.of(batch), _tensor.of(out, True), *more)
        return result

    def loss(self, tokens: Tokens, *, context: int = 0, chunk: int = 1024, streams: int = 1) -> tuple[float, int]:
        """(sum of -ln p of all tokens but the first, how many), the text read from beginning to end.
        context   tokens after which the state starts afresh; 0: never"""
        ids, count = _ids(tokens)
        nats, predicted = ctypes.c_double(), ctypes.c_int64()
        with self._lock:
            call("ssm_model_loss", self._pointer, ids, count, options(context=context, chunk=chunk, streams=streams),
                 ctypes.byref(nats), ctypes.byref(predicted))
        return nats.value, predicted.value

    def perplexity(self, tokens: Tokens, **how: int) -> float:
        """exp of the mean loss per token."""
        nats, predicted = self.loss(tokens, **how)
        return math.exp(nats / predicted) if predicted else 1.0
