// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string>

#include "ssm/core/error.hpp"

namespace ssm {

/// A part of a text that a model reads from a fresh state. After token i of it, i ≥ skip, the next
/// token of the text is predicted and scored.
struct ScoringWindow {
  Index begin = 0;   // of its first token in the text
  Index length = 0;  // tokens that are read
  Index skip = 0;    // of these, the first that are context alone
};

/// How a text is cut to measure how well a model predicts it. Every token but the first is scored
/// once; the protocols differ in how much of what came before is read for it.
///   carried()          the whole text from one state: all that came before
///   windows(1024)      1 to 1024 tokens; a window reads 1024 tokens and scores the 1024 that are
///                      one further, and the next begins where it ended
///   strided(1024, 512) 512 to 1023 tokens: windows of 1024 tokens, their last one scored and not
///                      read, at every 512th; each scores the last 512, the first one all
///   rolling(1024)      windows(1024), where the last window begins as early as it can
/// Source  windows: Fu et al. 2023 (H3), data of its language models;
///         strided: Hugging Face, "Perplexity of fixed-length models";
///         rolling: lm-evaluation-harness, loglikelihood_rolling
struct ScoringProtocol {
  Index context = 0;  // tokens that are read from a fresh state at most; 0: the state is carried
  Index stride = 0;   // tokens that each window after the first scores; 0: context
  bool fills_last_window = false;  // the last window reads `context` tokens too, scored before
  Index streams = 1;  // where the state is carried: so many equal parts, each with its own state

  static constexpr ScoringProtocol carried(Index streams = 1) { return {.streams = streams}; }
  static constexpr ScoringProtocol windows(Index context) { return {.context = context}; }
  /// A stride of `window` leaves no overlap: windows(window).
  /// Throws  ArgumentError  for a stride outside 1 … window
  static ScoringProtocol strided(Index window, Index stride) {
    if (stride < 1 || stride > window)
      throw ArgumentError("scoring: a stride of " + std::to_string(stride) +
                          " does not fit windows of " + std::to_string(window) + " tokens");
    if (stride == window) return windows(window);
    return {.context = window - 1, .stride = stride};
  }
  static constexpr ScoringProtocol rolling(Index context) {
    return {.context = context, .fills_last_window = true};
  }

  friend bool operator==(const ScoringProtocol&, const ScoringProtocol&) = default;

  /// Throws  ArgumentError  for a negative size, a stride beyond the context, streams of windows
  void require_valid() const {
    if (context < 0 || stride < 0 || stride > context || streams < 1)
      throw ArgumentError("scoring: a context of " + std::to_string(context) +
                          " tokens, a stride of " + std::to_string(stride) + ", " +
                          std::to_string(streams) + " streams");
    if (context > 0 && streams > 1)
      throw ArgumentError("scoring: streams are of a state that is carried, without a context");
  }
  /// How many windows a text of so many tokens takes.
  Index window_count(Index tokens) const {
    const Index scored = tokens - 1;
    if (scored < 1) return 0;
    if (context == 0) return ceiling(scored, stream_length(scored));
    return scored <= context ? 1 : 1 + ceiling(scored - context, step());
  }
  /// Window k, 0 ≤ k < window_count(tokens).
  ScoringWindow window(Index tokens, Index k) const {
    const Index scored = tokens - 1;
    if (context == 0) {
      const Index length = stream_length(scored);
      return {.begin = k * length, .length = std::min(length, scored - k * length)};
    }
    if (k == 0) return {.length = std::min(context, scored)};
    const Index done = context + (k - 1) * step();  // tokens that were scored before
    const Index end = fills_last_window ? std::min(done + step(), scored) : done + step();
    const Index begin = end - context;
    return {.begin = begin, .length = std::min(end, scored) - begin, .skip = done - begin};
  }

 private:
  static constexpr Index ceiling(Index a, Index b) { return (a + b - 1) / b; }
  Index step() const { return stride == 0 ? context : stride; }
  Index stream_length(Index scored) const { return ceiling(scored, std::min(streams, scored)); }
};

}  // namespace ssm
