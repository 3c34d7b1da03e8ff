// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../check_layer.hpp"  // not_a_number
#include "ssm/train/adamw.hpp"

namespace ssm::conformance {

/// A layer that is one vector: the least that an optimizer needs.
class OneVector {
 public:
  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<OneVector, T, Space> {
    DynamicTensor<T, 1, Space> value;
  };
  explicit OneVector(Index size) : size_(size) {}
  template <class T, class B>
  Parameters<T, typename B::Space> zero_parameters(const Context<B>&) const {
    Parameters<T, typename B::Space> p;
    p.value.reset({size_});
    return p;
  }
  static void for_each_parameter(auto&& visit, auto&... p) {
    visit(ParameterSpec{.name = "value"}, p.value...);
  }

 private:
  Index size_;
};

template <class B, class T>
void check_adamw(Trial& trial) {
  Context<B> ctx;
  const std::vector<double> rates = numbers_in(trial.config(), "learning_rates");
  const auto steps = static_cast<Index>(rates.size());
  const auto start = trial.view<1>("input/parameter", {dyn});
  const Index size = start.extent(0);
  const auto all_gradients = trial.view<2>("input/gradient", {steps, size});

  const OneVector layer(size);
  auto parameters = layer.zero_parameters<T>(ctx);
  auto gradients = layer.zero_parameters<T>(ctx);
  copy(start, parameters.value);
  AdamW optimizer(ctx, layer, parameters,
                  {.beta1 = trial.number("beta1"),
                   .beta2 = trial.number("beta2"),
                   .eps = trial.number("eps"),
                   .weight_decay = trial.number("weight_decay"),
                   .clip_norm = trial.number("clip_norm", 0)});
  DynamicTensor<T, 2> after({steps, size});
  DynamicTensor<double, 1> norms({steps});
  for (Index step = 0; step < steps; ++step) {
    copy(all_gradients.select(0, step), gradients.value);
    norms(step) =
        optimizer.update(ctx, parameters, gradients, rates[static_cast<std::size_t>(step)]);
    copy(parameters.value, after.select(0, step));
  }
  trial.compare("output/parameter", after, tolerance<T>.value);
  trial.compare("output/grad_norm", norms, tolerance<T>.value);
  trial.compare("state/final/first_moment", optimizer.first_moment().value, tolerance<T>.value);
  trial.compare("state/final/second_moment", optimizer.second_moment().value, tolerance<T>.value);
}

}  // namespace ssm::conformance
