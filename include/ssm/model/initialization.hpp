// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "ssm/core/initializer.hpp"
#include "ssm/core/parameter.hpp"
#include "ssm/core/scalar.hpp"

namespace ssm {

/// What an initialization may depend on beside the tensor.
struct ModelSize {
  Index channels = 1;
  Index blocks = 1;
  double deviation = 0.02;  // of weights, where the initialization draws them all alike
};

namespace detail {
template <class T>
void fill_value(const View<T, 1>& tensor, T value) {
  for (Index i = 0; i < tensor.size(); ++i) tensor(i) = value;
}
}  // namespace detail

// An initialization replaces what the layers began with, tensor by tensor:
//   fill(spec, tensor, values, size)
//   replaces_weights, true where every linear weight is among them

/// GPT-2's: linear weights and embeddings N(0, deviation²), linear biases 0, and the weights that
/// write to the residual stream (out_proj, fc2, c_proj) scaled by 1/√(2·blocks).
/// Source  HazyResearch/H3, _init_weights
struct Gpt2Initialization {
  static constexpr bool replaces_weights = true;
  template <class T>
  static void fill(const ParameterSpec& spec, const View<T, 1>& tensor, const Initializer& values,
                   const ModelSize& size) {
    if (spec.role == ParameterRole::bias) detail::fill_value(tensor, T{0});
    if (spec.role != ParameterRole::weight && spec.role != ParameterRole::embedding) return;
    const bool writes_residual = spec.name.ends_with("out_proj.weight") ||
                                 spec.name.ends_with("fc2.weight") ||
                                 spec.name.ends_with("c_proj.weight");
    const double writers = 2.0 * static_cast<double>(size.blocks);
    values.fill_normal(tensor.data(), tensor.size(),
                       writes_residual ? size.deviation / std::sqrt(writers) : size.deviation);
  }
};

/// Every linear weight and embedding N(0, deviation²).
/// Source  WailordHe/DenseSSM, whose layers' own initialization is overwritten by this one
struct NormalInitialization {
  static constexpr bool replaces_weights = true;
  template <class T>
  static void fill(const ParameterSpec& spec, const View<T, 1>& tensor, const Initializer& values,
                   const ModelSize& size) {
    if (spec.role == ParameterRole::weight || spec.role == ParameterRole::embedding)
      values.fill_normal(tensor.data(), tensor.size(), size.deviation);
  }
};

/// Mamba's: embeddings N(0, deviation²), linear biases 0 but for the step size's, out_proj scaled
/// by 1/√blocks; everything else as the layer begins.
/// Source  state-spaces/mamba, mixer_seq_simple
struct MambaInitialization {
  template <class T>
  static void fill(const ParameterSpec& spec, const View<T, 1>& tensor, const Initializer& values,
                   const ModelSize& size) {
    if (spec.role == ParameterRole::embedding)
      values.fill_normal(tensor.data(), tensor.size(), size.deviation);
    if (spec.name.ends_with("in_proj.bias") || spec.name.ends_with("out_proj.bias"))
      detail::fill_value(tensor, T{0});
    if (spec.name.ends_with("out_proj.weight"))
      for (Index i = 0; i < tensor.size(); ++i)
        tensor(i) =
            scalar_cast<T>(scalar_cast<Wide<T>>(tensor(i)) *
                           static_cast<Wide<T>>(1 / std::sqrt(static_cast<double>(size.blocks))));
  }
};

/// RetNet's: the embedding and the head N(0, 1/channels); everything else as the layer begins.
/// Source  microsoft/torchscale, RetNetDecoder
struct RetNetInitialization {
  static constexpr bool reads_deviation = false;  // an initializer_range is refused
  template <class T>
  static void fill(const ParameterSpec& spec, const View<T, 1>& tensor, const Initializer& values,
                   const ModelSize& size) {
    if (spec.role == ParameterRole::embedding)
      values.fill_normal(tensor.data(), tensor.size(),
                         1 / std::sqrt(static_cast<double>(size.channels)));
  }
};

}  // namespace ssm
