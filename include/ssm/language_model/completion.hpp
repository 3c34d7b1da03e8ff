// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/language_model.hpp"
#include "ssm/language_model/completion_run.hpp"
#include "ssm/language_model/transcript.hpp"

namespace ssm {

/// Continues prompts of different lengths side by side, each by its own options until its own end,
/// and calls visit(piece) as pieces come.
///   const auto texts = ssm::complete(
///       model, {{.prompt = a}, {.prompt = b, .options = {.tokens = 50, .stop = {"\n\n"}}}},
///       [](const ssm::CompletionPiece& piece) { std::cout << piece.text; return true; });
/// Prompts are read together, none is padded, and a text that has ended takes no part in the steps
/// that follow; weights are read once a step for all of them. What a text becomes follows from its
/// prompt, options and seed alone, up to the rounding of logits, whatever stands beside it.
/// visit   false ends this text; it is called in the thread that called `complete`
/// text    how tokens become text; left out: the model's own tokenizer, if it has one
/// Returns one for each request and continuation, in their order
/// Cost    the prompts in parallel, each once however many continuations it has; then one step for
///         each token of the longest text; a copy of the state for each sequence
/// Throws  ArgumentError  for an empty prompt, tokens outside the vocabulary, options outside their
///                        range, a transcript of another model; transcripts stay as they were
inline std::vector<Completion> complete(
    const AnyLanguageModel& model, const std::vector<CompletionRequest>& requests,
    const std::function<bool(const CompletionPiece&)>& visit = {},
    const TokenTextMaker& text = {}) {
  return detail::CompletionRun(model, requests, visit, text).run();
}

}  // namespace ssm
