// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "../check_layer.hpp"  // not_a_number
#include "ssm/layer/hidden_fusion.hpp"

namespace ssm::conformance {

template <class B, class T, bool normalize>
void check_hidden_fusion_with(Trial& trial) {
  using Layer = HiddenFusion<HiddenFusionConfig{.normalize = normalize}>;
  HiddenFusionOptions options{.channels = trial.size("width")};
  if (normalize) options.eps = trial.number("eps");
  const Layer layer(options);
  Context<B> ctx;
  ctx.workspace().fill_with_nan(true);
  auto parameters = layer.template zero_parameters<T>(ctx);
  read_parameters<Layer>(trial, parameters, "k_norm.");
  const auto h = trial.read<T, 3>("input/h");
  const auto shape = h.extents().to_array();
  std::vector<DynamicTensor<T, 3>> dense;
  std::vector<View<const T, 3>> views;
  for (Index i = 0; i < trial.size("sources"); ++i)
    dense.push_back(trial.read<T, 3>("input/dense/" + std::to_string(i), shape));
  for (const auto& tensor : dense) views.push_back(tensor);
  auto y = filled_like(h, not_a_number);
  typename Layer::template Tape<T, HostSpace> tape;
  layer.evaluate(ctx, parameters, h, views, y, &tape);
  trial.compare("output/y", y, tolerance<T>.value);

  const auto dy = trial.read<T, 3>("cotangent/y", shape);
  auto dsum = filled_like(h, not_a_number);
  auto gradients = layer.template zero_parameters<T>(ctx);
  layer.differentiate(ctx, parameters, tape, dy, dsum, gradients);
  trial.compare("grad/input/h", dsum, tolerance<T>.gradient);
  for (std::size_t i = 0; i < dense.size(); ++i)
    trial.compare("grad/input/dense/" + std::to_string(i), dsum, tolerance<T>.gradient);
  compare_gradients<Layer>(trial, gradients, tolerance<T>.gradient, "k_norm.");
}

template <class B, class T>
void check_hidden_fusion(Trial& trial) {
  if (trial.text("norm") == "rms")
    check_hidden_fusion_with<B, T, true>(trial);
  else
    check_hidden_fusion_with<B, T, false>(trial);
}

}  // namespace ssm::conformance
