// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/model/chain.hpp"
#include "ssm/model/residual.hpp"

namespace ssm {

/// The block of a pre-norm language model.
///   x ← x + mixer(norm1(x))      x ← x + mlp(norm2(x))
/// Source  HazyResearch/H3, SSMModel; named as there
template <class NormLayer, class Mixer, class Mlp>
using PreNormBlock =
    Chain<Residual<NormLayer, Mixer, "norm1", "mixer">, Residual<NormLayer, Mlp, "norm2", "mlp">>;

}  // namespace ssm
