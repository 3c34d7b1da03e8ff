// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "ssm/core/token_view.hpp"
#include "ssm/layer/layer.hpp"
#include "ssm/op/cross_entropy.hpp"

namespace ssm {

/// The summed negative log-likelihood of a text's tokens, and how many there were.
struct TextLoss {
  double nats = 0;
  Index tokens = 0;

  double mean() const { return tokens == 0 ? 0 : nats / static_cast<double>(tokens); }
};

/// How a text is read for its loss.
struct TextLossOptions {
  Index context = 0;   // tokens after which the state starts afresh; 0: never
  Index chunk = 1024;  // tokens at once: memory, not the result, depends on it
  Index streams = 1;   // the text in as many equal parts side by side, each with a state of its own
};

/// How well a language model predicts a text it reads from beginning to end, carrying its state
/// from chunk to chunk: every token but the first of each stream is predicted from all that came
/// before. The text may be in memory or in a file: it is read chunk by chunk.
/// Cost    one forward pass; memory for streams × chunk positions
/// Throws  ArgumentError  for tokens outside the vocabulary or options outside their range; and
///                        what reading the text throws
template <class B, class P>
class TextLossMeter {
  using T = typename P::Scalar;
  using Space = typename P::Space;
  static constexpr Token ignored = -100;

 public:
  TextLossMeter(Context<B>& ctx, const typename P::Layer& layer, const P& parameters,
                TextLossOptions options)
      : ctx_(ctx), layer_(layer), parameters_(parameters), options_(options) {
    if (options.chunk < 1 || options.streams < 1 || options.context < 0)
      throw ArgumentError("text loss: chunk and streams must be at least 1, context at least 0");
  }

  TextLoss operator()(TokenView text) {
    TextLoss result;
    const Index predictions = text.size() - 1;
    if (predictions < 1) return result;
    const Index streams = std::min(options_.streams, predictions);
    const Index length = (predictions + streams - 1) / streams;
    auto state = layer_.template initial_state<T>(ctx_, streams);
    Index until_fresh = options_.context;
    for (Index begin = 0; begin < length;) {
      if (options_.context > 0 && until_fresh == 0) {
        state = layer_.template initial_state<T>(ctx_, streams);
        until_fresh = options_.context;
      }
      Index count = std::min(options_.chunk, length - begin);
      if (options_.context > 0) count = std::min(count, until_fresh);
      result.nats += chunk_loss(text, streams, length, begin, count, state);
      until_fresh -= count;
      begin += count;
    }
    result.tokens = predictions;
    return result;
  }

 private:
  /// Positions begin … begin+count−1 of each stream; positions behind the end of the text do not
  /// count.
  double chunk_loss(TokenView text, Index streams, Index length, Index begin, Index count,
                    StateOf<P>& state) {
    DynamicTensor<Token, 2> tokens({streams, count});
    DynamicTensor<Token, 2> targets({streams, count});
    row_.resize(static_cast<std::size_t>(count) + 1);
    for (Index s = 0; s < streams; ++s) {
      const Index first = s * length + begin;
      const Index present = std::clamp<Index>(text.size() - 1 - first, 0, count);
      const auto row = std::span(row_).first(static_cast<std::size_t>(present) + 1);
      if (present > 0) text.read(first, row);
      for (Index t = 0; t < count; ++t) {
        const bool exists = t < present;
        tokens(s, t) = exists ? row_[static_cast<std::size_t>(t)] : 0;
        targets(s, t) = exists ? row_[static_cast<std::size_t>(t) + 1] : ignored;
      }
    }
    const auto bytes = static_cast<std::size_t>(tokens.size()) * sizeof(Token);
    tokens_.resize(tokens.extents());
    targets_.resize(targets.extents());
    Space::copy(tokens_.data(), tokens.data(), bytes);
    Space::copy(targets_.data(), targets.data(), bytes);
    logits_.resize({streams, count, layer_.padded_vocabulary()});
    loss_.resize({1});
    layer_.prefill(ctx_, parameters_, tokens_, logits_, state);
    cross_entropy(ctx_, CrossEntropy<T, Space>{.logits = as_rows(logits_.view()),
                                               .targets = targets_.flatten(),
                                               .ignore_index = ignored,
                                               .reduction = Reduction::sum,
                                               .loss = loss_});
    Wide<T> loss{};
    Space::copy(&loss, loss_.data(), sizeof(loss));
    return static_cast<double>(loss);
  }

  Context<B>& ctx_;
  const typename P::Layer& layer_;
  const P& parameters_;
  TextLossOptions options_;
  std::vector<Token> row_;
  DynamicTensor<Token, 2, Space> tokens_, targets_;
  DynamicTensor<T, 3, Space> logits_;
  DynamicTensor<Wide<T>, 1, Space> loss_;
};

/// The loss of a whole text.
///   // tokens: a vector, a span, a TokenSource
///   const TextLoss loss = text_loss(ctx, model.layer, model.parameters, tokens);
///   const double bits_per_byte = loss.nats / std::numbers::ln2 / bytes;
template <class B, class P>
TextLoss text_loss(Context<B>& ctx, const typename P::Layer& layer, const P& parameters,
                   TokenView text, const TextLossOptions& options = {}) {
  return TextLossMeter<B, P>(ctx, layer, parameters, options)(text);
}

}  // namespace ssm
