// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "ssm/core/context.hpp"
#include "ssm/core/random.hpp"  // Seed
#include "ssm/core/recording.hpp"
#include "ssm/core/tensor.hpp"
#include "ssm/layer/layer.hpp"  // StateOf
#include "ssm/model/model.hpp"
#include "ssm/op/convert.hpp"
#include "ssm/op/sample.hpp"

namespace ssm {

/// How a text is continued. Sampling stages apply in the order of `Sampling`; each is off at its
/// default.
struct GenerateOptions {
  double temperature = 1;  // ≤ 0: always the likeliest token
  Index top_k = 0;
  double top_p = 1;
  double min_p = 0;
  Index tokens = dyn;  // how many to generate; dyn: no end
  Seed seed{};
  std::vector<Token> stop = {};  // the text ends before any of these
  Index vocabulary = dyn;        // tokens from this on are never drawn; dyn: the model's vocabulary
};

/// The tokens that follow a prompt, one at a time: an input range that runs the model recurrently
/// as it is read. With a state of one's own the text goes on from there, and the state has always
/// read all that was handed out; so it can be saved, or continued with another prompt.
/// The context, the layer, the parameters and such a state must outlive it.
/// Cost    the prompt once in parallel, then one `step` for each token; allocates nothing per token
///         beyond the growth of attention caches
/// Throws  ArgumentError  for an empty prompt, tokens outside the vocabulary, or options outside
///                        their range
template <class B, class P>
class Generation {
  using L = typename P::Layer;
  using T = typename P::Scalar;
  using Space = typename P::Space;

 public:
  /// Reads the tokens once, in order; each step runs the model.
  class Iterator {
   public:
    using value_type = Token;
    using difference_type = std::ptrdiff_t;
    using iterator_concept = std::input_iterator_tag;

    explicit Iterator(Generation* owner) : owner_(owner) {}
    Token operator*() const { return owner_->token_; }
    Iterator& operator++() {
      owner_->advance();
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return owner_->is_finished(); }

   private:
    Generation* owner_;
  };

  /// state   of one sequence, continued; null: a fresh one
  Generation(Context<B>& ctx, const L& layer, const P& parameters, std::span<const Token> prompt,
             const GenerateOptions& options, StateOf<P>* state = nullptr)
      : ctx_(&ctx),
        layer_(&layer),
        parameters_(&parameters),
        options_(options),
        fresh_(state == nullptr ? layer.template initial_state<T>(ctx, 1) : StateOf<P>()),
        given_(state) {
    if (prompt.empty())
      throw ArgumentError("generate: the prompt is empty, a model begins with at least one token");
    for (const Token token : prompt)
      if (token < 0 || token >= layer.vocabulary())
        throw ArgumentError(
            message({"generate: token ", token, " of the prompt is outside the vocabulary of ",
                     layer.vocabulary()}));
    logits_.resize({1, layer.padded_vocabulary()});
    next_.resize({1});
    read(prompt);
    if (!is_finished()) draw();
  }

  /// What the model remembers.
  const StateOf<P>& state() const { return given_ != nullptr ? *given_ : fresh_; }
  /// [1, padded vocabulary]: what the next token is drawn from.
  const DynamicTensor<T, 2, Space>& logits() const { return logits_; }

  Iterator begin() { return Iterator(this); }
  std::default_sentinel_t end() const { return {}; }

 private:
  static constexpr std::size_t prompt_chunk = 1024;  // bounds the workspace a long prompt takes

  bool is_finished() const {
    return is_stopped_ || (options_.tokens != dyn && drawn_ >= options_.tokens);
  }
  StateOf<P>& state() { return given_ != nullptr ? *given_ : fresh_; }

  void read(std::span<const Token> prompt) {
    DynamicTensor<Token, 2, Space> tokens;
    const View<T, 3, Space> logits(logits_.data(), {1, 1, logits_.extent(1)});
    while (!prompt.empty()) {
      const auto chunk = prompt.first(std::min(prompt.size(), prompt_chunk));
      tokens.resize({1, static_cast<Index>(chunk.size())});
      Space::copy(tokens.data(), chunk.data(), chunk.size_bytes());
      layer_->prefill(*ctx_, *parameters_, tokens, logits, state());
      prompt = prompt.subspan(chunk.size());
    }
  }
  /// The next token, from the logits. Where work is queued the next step is, too, before the host
  /// has read the token, so that the device does not wait for it.
  void draw() {
    if (!is_sampled_) queue_sample();
    is_sampled_ = false;
    if constexpr (records<B>) {
      arrival_.start(*ctx_, next_.data(), sizeof(token_));
      if (goes_ahead()) step();
      arrival_.wait(&token_, sizeof(token_));
    } else {
      Space::copy(&token_, next_.data(), sizeof(token_));
    }
    is_stopped_ =
        std::find(options_.stop.begin(), options_.stop.end(), token_) != options_.stop.end();
    if (given_ != nullptr && !is_stopped_ && !has_read_) step();
  }
  void queue_sample() {
    auto frame = ctx_->workspace().frame();
    sample(*ctx_, Sample<Wide<T>, Space>{
                      .logits = converted_rows<Wide<T>>(*ctx_, frame, logits_),
                      .vocabulary = options_.vocabulary == dyn
                                        ? layer_->vocabulary()
                                        : std::min(options_.vocabulary, layer_->vocabulary()),
                      .sampling = {.temperature = options_.temperature,
                                   .top_k = options_.top_k,
                                   .top_p = options_.top_p,
                                   .min_p = options_.min_p},
                      .seed = options_.seed,
                      .counter = static_cast<std::uint64_t>(drawn_),
                      .tokens = next_});
  }
  /// A token that may end the text is not read before it is known, nor one beyond the last
  /// position.
  bool goes_ahead() const {
    const bool is_last = options_.tokens != dyn && drawn_ + 1 >= options_.tokens;
    return layer_->positions() == 0 && options_.stop.empty() && (given_ != nullptr || !is_last);
  }
  /// The last token wanted is not read back into a state that nobody sees.
  void advance() {
    ++drawn_;
    if (is_finished()) return;
    if (!has_read_) step();
    has_read_ = false;
    draw();
  }
  /// Where the backend records work, steps that are all alike become one launch after the first;
  /// with them the likeliest token is drawn, which needs no number of its own.
  void step() {
    has_read_ = true;
    const auto run = [&] { layer_->step(*ctx_, *parameters_, next_, logits_, state()); };
    if constexpr (records<B>) {
      if (steps_alike_) {
        is_sampled_ = !(options_.temperature > 0);
        return recording_(*ctx_, [&] {
          run();
          if (is_sampled_) queue_sample();
        });
      }
      const Index before = state_size();
      const auto apart = ctx_->resources().runs_apart();
      run();
      // A state that grows does so in what runs apart.
      const bool is_recorded = state_size() == before || ctx_->resources().runs_apart() > apart;
      steps_alike_ = layer_->positions() == 0 && is_recorded;
    } else {
      run();
    }
  }
  /// Grows with the position where a cache does.
  Index state_size() const {
    Index size = 0;
    L::for_each_state([&](const auto&, const auto& tensor) { size += tensor.size(); }, state());
    return size;
  }

  Context<B>* ctx_;
  const L* layer_;
  const P* parameters_;
  GenerateOptions options_;
  StateOf<P> fresh_;
  StateOf<P>* given_;
  DynamicTensor<T, 2, Space> logits_;
  DynamicTensor<Token, 1, Space> next_;
  Token token_ = 0;
  Index drawn_ = 0;  // tokens the reader has moved past
  bool is_stopped_ = false;
  bool has_read_ = false;    // the state has read the last token
  bool is_sampled_ = false;  // and the next one has been drawn
  bool steps_alike_ = false;
  [[no_unique_address]] RecordingOf<B> recording_ = recording_of_reader<B>();
  [[no_unique_address]] ArrivalOf<B> arrival_;
};

/// Continues a prompt.
///   for (Token token : generate(ctx, layer, parameters, prompt,
///                               {.temperature = 0.8, .tokens = 200})) …
template <class B, class P>
Generation<B, P> generate(Context<B>& ctx, const typename P::Layer& layer, const P& parameters,
                          std::span<const Token> prompt, const GenerateOptions& options = {}) {
  return {ctx, layer, parameters, prompt, options};
}

/// The same with a layer and its parameters together.
///   auto model = load_language_model<H3Family>(ctx, "h3-125m/");
///   for (Token token : generate(ctx, model, prompt)) std::cout << text.push(token) << std::flush;
template <class B, class P>
Generation<B, P> generate(Context<B>& ctx, const Model<P>& model,
                          std::type_identity_t<std::span<const Token>> prompt,
                          const GenerateOptions& options = {}) {
  return {ctx, model.layer, model.parameters, prompt, options};
}
template <class B, class P>
Generation<B, P> generate(Context<B>&, Model<P>&&, std::span<const Token>,
                          const GenerateOptions& = {}) =
    delete;  // the model must outlive the range

}  // namespace ssm
