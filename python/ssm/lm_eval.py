# SPDX-License-Identifier: Apache-2.0
"""Language models for lm-evaluation-harness.

    import lm_eval, ssm.lm_eval
    model = ssm.lm_eval.HarnessModel("mamba-130m-hf", threads=4)
    lm_eval.simple_evaluate(model=model, tasks=["lambada_openai"])

Importing the module registers the model class "ssm" for the command line. A context that several requests share is read
once.
"""
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
import numpy
from tqdm import tqdm

from .language_model import LanguageModel


def _log_probabilities(logits, tokens):
    """(ln p of tokens[i] by logits[i], whether it is the likeliest)."""
    rows = logits.astype(numpy.float64)
    largest = rows.max(axis=-1)
    own = rows[numpy.arange(len(tokens)), tokens]
    return own - largest - numpy.log(numpy.exp(rows - largest[:, None]).sum(axis=-1)), rows.argmax(axis=-1) == tokens


@register_model("ssm")
class HarnessModel(TemplateLM):
    """The model of a folder, or a LanguageModel.

    max_length      tokens of a request at most; longer ones lose their beginning. None: what the model has positions for,
                    or 2048
    end_of_text     the token that stands for an empty context and ends texts; None: the model's own
    options         of LanguageModel, for a folder: backend, threads, weights, tokenizer
    batch_size, device    what the harness gives every model, and nothing here depends on: sequences are read one by one, and
                          `backend` says where the model runs
    """

    def __init__(self, path, *, max_length=None, end_of_text=None, batch_size=1, device=None, **options):
        super().__init__()
        self.model = path if isinstance(path, LanguageModel) else LanguageModel(path, **options)
        ends = self.model.facts["end_tokens"]
        if end_of_text is None and not ends:
            raise ValueError("the model's folder names no end-of-text token: give end_of_text")
        self._end_of_text = ends[0] if end_of_text is None else int(end_of_text)
        self.max_length = int(max_length or self.model.facts["positions"] or 2048)

    max_gen_toks = 256

    @property
    def eot_token_id(self):
        return self._end_of_text

    @property
    def tokenizer_name(self):
        return self.model.fingerprint

    def tok_encode(self, string, add_special_tokens=None, **_):
        return self.model.encode(string)

    def _scores(self, state, logits, continuation):
        """Sum of ln p of the continuation, whether each token is the likeliest; logits: of the position before it."""
        rows = [logits.reshape(1, -1)]
        if len(continuation) > 1:
            rows.append(self.model.prefill(numpy.array([continuation[:-1]]), state, last=False)[0])
        rows = numpy.concatenate(rows)[:, :self.model.vocabulary]
        values, greedy = _log_probabilities(rows, numpy.array(continuation))
        return float(values.sum()), bool(greedy.all())

    def _loglikelihood_tokens(self, requests, disable_tqdm=False, **_):
        results, before = [], None  # the context that was read last, its state and logits
        for _, context, continuation in tqdm(requests, desc="loglikelihood", disable=disable_tqdm):
            if not context or not continuation or len(continuation) > self.max_length:
                raise ValueError(f"a continuation of {len(continuation)} tokens after {len(context)} cannot be scored in "
                                 f"{self.max_length} positions")
            # The last token is predicted and not read.
            context = context[max(0, len(context) + len(continuation) - 1 - self.max_length):]
            if before is None or before[0] != context:
                state = self.model.initial_state()
                before = context, state, self.model.prefill(numpy.array([context]), state)
            results.append(self._scores(before[1].copy(), before[2], continuation))
        return results

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        results = []
        for request in tqdm(requests, desc="loglikelihood_rolling", disable=disable_tqdm):
            windows = map(make_disjoint_window, get_rolling_token_windows(
                token_list=self.model.encode(request.args[0]), prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length, context_len=1))
            results.append(sum(value for value, _ in self._loglikelihood_tokens(
                [(None, context, continuation) for context, continuation in windows], disable_tqdm=True)))
        return results

    def generate_until(self, requests, disable_tqdm=False):
        results = []
        for request in tqdm(requests, desc="generate_until", disable=disable_tqdm):
            prompt, given = request.args
            options = normalize_gen_kwargs(given, self.max_gen_toks)
            stops = handle_stop_sequences(options.pop("until", None), eos=None)
            count = options["max_gen_toks"]
            if count >= self.max_length:
                raise ValueError(f"{count} new tokens leave no place for a prompt in {self.max_length} positions")
            tokens = self.model.encode(prompt)[-(self.max_length - count):] or [self.eot_token_id]
            drawn = []

            def has_ended(token):
                drawn.append(token)
                text = self.model.decode(drawn)
                return any(stop and stop in text for stop in stops)

            self.model.generate(tokens, tokens=count, temperature=options.get("temperature", 0.0), stop=[self.eot_token_id],
                                top_p=options.get("top_p", 1.0), top_k=options.get("top_k", 0), callback=has_ended)
            if drawn and drawn[-1] == self.eot_token_id:
                drawn.pop()
            results.append(postprocess_generated_text(self.model.decode(drawn), stops, None))
        return results
