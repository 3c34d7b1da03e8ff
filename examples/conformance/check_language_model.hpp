// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "check_layer.hpp"  // not_a_number
#include "ssm/op/cross_entropy.hpp"
#include "ssm/op/sample.hpp"
#include "ssm/train/gradients.hpp"

namespace ssm::conformance {

/// The folder of a case that is a model.
/// Throws  CaseError  if the case is a file
inline const std::filesystem::path& model_folder_of(const Trial& trial) {
  if (trial.folder().empty()) throw CaseError("a model is a folder, not a file");
  return trial.folder();
}

/// Mean of −ln p(next token) over every position but the last, and its gradients.
/// tokens      [B, L]
/// logits      [B, L, padded]   overwritten
/// gradients   zero before
template <class T, class B, class M, class P>
double loss_and_gradients(Context<B>& ctx, const M& model, const P& parameters,
                          const DynamicTensor<Token, 2>& tokens, DynamicTensor<T, 3>& logits,
                          P& gradients) {
  constexpr Token ignored = -100;
  const Index length = tokens.extent(1);
  const Index rows = tokens.size();
  auto tape = model.template make_tape<T>();
  model.forward(ctx, parameters, tokens, logits, tape);
  DynamicTensor<Token, 2> targets(tokens.extents());
  fill(targets, ignored);
  if (length > 1) copy(tokens.slice(1, 1, length), targets.slice(1, 0, length - 1));
  auto dlogits = filled_like(logits, not_a_number);
  DynamicTensor<T, 1> loss({Index{1}});
  cross_entropy(ctx,
                CrossEntropy<T, HostSpace>{.logits = logits.reshape(rows, logits.extent(2)),
                                           .targets = targets.flatten(),
                                           .ignore_index = ignored,
                                           .loss = loss,
                                           .dlogits = dlogits.reshape(rows, logits.extent(2))});
  model.backward(ctx, parameters, tape, dlogits, gradients);
  return static_cast<double>(loss(0));
}

/// Runs a language model over one case: logits at once and by steps, loss and gradients, greedy
/// continuation.
template <class B, class T, class M>
class LanguageModelCheck {
  using Parameters = typename M::template Parameters<T, typename B::Space>;

 public:
  /// `stored_name` says what the case calls a tensor of the model.
  LanguageModelCheck(Trial& trial, const M& model, const Parameters& parameters,
                     std::string (*stored_name)(const Trial&, const std::string&) = &same_name)
      : trial_(trial), model_(model), parameters_(parameters), stored_name_(stored_name) {
    ctx_.workspace().fill_with_nan(true);
  }

  void run() {
    check_gradients();
    check_steps();
    if (trial_.has("output/greedy")) check_greedy();
  }

 private:
  static std::string same_name(const Trial&, const std::string& name) { return name; }

  void check_gradients() {
    const auto tokens = trial_.template tokens<2>("input/tokens", {dyn, dyn});
    auto logits = logits_for(tokens);
    auto gradients = model_.template zero_parameters<T>(ctx_);
    DynamicTensor<double, 1> loss({Index{1}});
    loss(0) = loss_and_gradients(ctx_, model_, parameters_, tokens, logits, gradients);
    DynamicTensor<double, 1> norm({Index{1}});
    norm(0) = global_norm(ctx_, gradients);
    trial_.compare("output/logits", logits, tolerance<T>.value);
    trial_.compare_if_given("output/loss", loss, tolerance<T>.value);
    trial_.compare_if_given("output/grad_norm", norm, tolerance<T>.gradient);
    for_each_parameter(
        [&](const ParameterSpec& spec, const auto& gradient) {
          trial_.compare_if_given("grad/param/" + stored_name_(trial_, spec.name),
                                  as_in_files(spec, gradient), tolerance<T>.gradient);
        },
        gradients);
  }

  void check_steps() {
    trial_.enter(" by steps");
    const auto tokens = trial_.template tokens<2>("input/tokens", {dyn, dyn});
    auto logits = logits_for(tokens);
    auto state = model_.template initial_state<T>(ctx_, tokens.extent(0));
    for (Index t = 0; t < tokens.extent(1); ++t) {
      const DynamicTensor<Token, 1> x_t = ssm::clone(tokens.select(1, t));
      model_.step(ctx_, parameters_, x_t, logits.select(1, t), state);
    }
    trial_.compare("output/logits", logits, tolerance<T>.value);
    trial_.enter("");
  }

  void check_greedy() {
    const auto prompt = trial_.template tokens<2>("input/prompt", {dyn, dyn});
    const Index batch = prompt.extent(0);
    const auto shape = trial_.shape("output/greedy");
    if (shape.size() != 2 || shape[0] != batch)
      throw CaseError("tensor 'output/greedy' does not fit the prompt");
    DynamicTensor<Token, 2> continuation({batch, shape[1]});
    DynamicTensor<T, 3> logits({batch, Index{1}, model_.padded_vocabulary()});
    DynamicTensor<Token, 1> next({batch});
    auto state = model_.template initial_state<T>(ctx_, batch);
    model_.prefill(ctx_, parameters_, prompt, logits, state);
    for (Index t = 0; t < shape[1]; ++t) {
      if (t > 0) model_.step(ctx_, parameters_, next, logits.select(1, 0), state);
      sample(ctx_,
             Sample<T, HostSpace>{
                 .logits = logits.select(1, 0), .sampling = {.temperature = 0}, .tokens = next});
      copy(next, continuation.select(1, t));
    }
    trial_.compare_tokens("output/greedy", continuation);
  }

  DynamicTensor<T, 3> logits_for(const DynamicTensor<Token, 2>& tokens) const {
    DynamicTensor<T, 3> logits({tokens.extent(0), tokens.extent(1), model_.padded_vocabulary()});
    fill(logits, not_a_number);
    return logits;
  }

  Trial& trial_;
  const M& model_;
  const Parameters& parameters_;
  std::string (*stored_name_)(const Trial&, const std::string&);
  Context<B> ctx_;
};

}  // namespace ssm::conformance
