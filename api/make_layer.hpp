// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "backends.hpp"
#include "layer_kinds.hpp"
#include "layer_on.hpp"
#include "options.hpp"

namespace ssm::api {

/// A layer where its configuration says.
template <class L>
std::unique_ptr<ssm_layer> make_layer(const L& layer, const LayerPlace& place) {
  const auto on = [&]<class B>(std::type_identity<B>) -> std::unique_ptr<ssm_layer> {
    if (place.is_double) return std::make_unique<LayerOn<L, B, double>>(layer, place.threads);
    return std::make_unique<LayerOn<L, B, float>>(layer, place.threads);
  };
#if defined(SSM_API_WITH_CUDA)
  if (place.backend == "cuda") return on(std::type_identity<Cuda>());
#endif
  if (place.backend == "reference") return on(std::type_identity<Reference>());
  return on(std::type_identity<Cpu>());
}

}  // namespace ssm::api
