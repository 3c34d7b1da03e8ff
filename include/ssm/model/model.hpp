// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/parameter.hpp"

namespace ssm {

/// A model and its weights together: what a checkpoint gives and generation takes.
///   Model model{layer, layer.initialize(ctx, Seed{1})};
template <class P>
struct Model {
  using Scalar = typename P::Scalar;
  using Space = typename P::Space;

  typename P::Layer layer;
  P parameters;
};

template <class L, class P>
Model(L, P) -> Model<P>;

}  // namespace ssm
