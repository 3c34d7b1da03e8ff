// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "../check_language_model.hpp"
#include "schedule.hpp"
#include "ssm/family/h3.hpp"
#include "ssm/train/adamw.hpp"

namespace ssm::conformance {

/// Throws  Unsupported  for parameter groups other than the library's own
inline void require_own_groups(const JsonObject& options, const ParameterSpec& spec) {
  const auto suffixes = texts_in(options, "no_weight_decay_suffixes");
  const bool decays =
      std::none_of(suffixes.begin(), suffixes.end(),
                   [&](const std::string& suffix) { return spec.name.ends_with(suffix); });
  if (decays != spec.weight_decay)
    throw Unsupported(spec.name + (decays ? " with" : " without") + " weight decay");
}

/// Trains an H3 model for the steps of the case and compares it on the way.
///
/// In single precision, Adam's division by the size of the gradient turns what rounding left of a
/// zero gradient into steps of any size up to the learning rate. Such elements, smaller than single
/// precision resolves, are held to that bound instead of the tolerance. In double precision there
/// is no such allowance.
template <class B, class T>
class TrainingCheck {
  // Several updates pile up: in double precision as far as gradients may be off.
  static constexpr double allowed = std::max(tolerance<T>.value, tolerance<double>.gradient);
  using Parameters = typename H3LanguageModel::template Parameters<T, typename B::Space>;

 public:
  explicit TrainingCheck(Trial& trial)
      : trial_(trial),
        options_(trial.config().object("optimizer")),
        schedule_(schedule_of(trial.config().object("schedule"))),
        model_(H3Family::make(H3Family::read(trial.config().object("model")))),
        parameters_(model_.template zero_parameters<T>(ctx_)) {
    ctx_.workspace().fill_with_nan(true);
    for_each_parameter(
        [&](const ParameterSpec& spec, auto& tensor) {
          require_own_groups(options_, spec);
          constexpr int rank = std::remove_reference_t<decltype(tensor)>::rank();
          const View<T, rank> view = tensor;
          copy(trial_.template view<rank>("param/" + spec.name, view.extents().to_array()), view);
          slack_.emplace_back(static_cast<std::size_t>(tensor.size()), 0.0);
        },
        parameters_);
  }

  void run() {
    const auto tokens = trial_.template tokens<3>("input/tokens", {dyn, dyn, dyn});
    const Index steps = tokens.extent(0);
    AdamW optimizer(ctx_, model_, parameters_, adamw_config());
    DynamicTensor<double, 1> loss({steps});
    DynamicTensor<double, 1> norm({steps});
    DynamicTensor<double, 1> rate({steps});
    for (Index step = 0; step < steps; ++step) {
      const DynamicTensor<Token, 2> batch = ssm::clone(tokens.select(0, step));
      DynamicTensor<T, 3> logits({batch.extent(0), batch.extent(1), model_.padded_vocabulary()});
      auto gradients = model_.template zero_parameters<T>(ctx_);
      loss(step) = loss_and_gradients(ctx_, model_, parameters_, batch, logits, gradients);
      rate(step) = schedule_.rate(step);
      norm(step) = optimizer.update(ctx_, parameters_, gradients, rate(step));
      allow_for_rounding(gradients, rate(step));
      compare_parameters("output/after_" + std::to_string(step + 1) + "/");
    }
    trial_.compare("output/loss", loss, allowed);
    trial_.compare("output/grad_norm", norm, tolerance<T>.gradient);
    trial_.compare("output/learning_rate", rate, tolerance<double>.value);
  }

 private:
  AdamWConfig adamw_config() const {
    return {.rate = schedule_.base,
            .ssm_rate = schedule_.base,
            .beta1 = number_in(options_, "beta1"),
            .beta2 = number_in(options_, "beta2"),
            .eps = number_in(options_, "eps"),
            .weight_decay = number_in(options_, "weight_decay"),
            .decay_norms_and_biases = true,
            .clip_norm = number_in(options_, "clip_norm", 0)};
  }

  void allow_for_rounding(const Parameters& gradients, double rate) {
    if constexpr (std::is_same_v<T, float>) {
      constexpr double roundings = 1024;  // how many may pile up in one element
      double largest = 0;
      for_each_parameter(
          [&](const ParameterSpec&, const auto& gradient) {
            for_each_element([&](T g) { largest = std::max(largest, std::abs(double{g})); },
                             gradient);
          },
          gradients);
      const double resolved = roundings * std::numeric_limits<T>::epsilon() * largest;
      auto slack = slack_.begin();
      for_each_parameter(
          [&](const ParameterSpec&, const auto& gradient) {
            std::size_t i = 0;
            for_each_element(
                [&](T g) { (*slack)[i++] += std::abs(double{g}) < resolved ? 2 * rate : 0; },
                gradient);
            ++slack;
          },
          gradients);
    }
  }

  void compare_parameters(const std::string& prefix) {
    auto slack = slack_.begin();
    for_each_parameter(
        [&](const ParameterSpec& spec, const auto& tensor) {
          trial_.compare_if_given(prefix + spec.name, tensor, allowed, *slack++);
        },
        parameters_);
  }

  Trial& trial_;
  JsonObject options_;
  Schedule schedule_;
  H3LanguageModel model_;
  Context<B> ctx_;
  Parameters parameters_;
  std::vector<std::vector<double>> slack_;  // of each parameter, in their order
};

template <class B, class T>
void check_training(Trial& trial) {
  TrainingCheck<B, T>(trial).run();
}

}  // namespace ssm::conformance
