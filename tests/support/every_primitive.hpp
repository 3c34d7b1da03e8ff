// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>
#include <tuple>

#include "ssm/backend/reference.hpp"

namespace ssm::laws {

/// One primitive, or several that a backend has together.
///   primitive.exists<B, T>()   whether backend B has it in scalar T
///   Part                       the base of Reference that has it
template <class PartType, class Exists>
struct PrimitiveCase {
  using Part = PartType;
  std::string_view name;
  Exists has{};

  template <class B, class T>
  static constexpr bool exists() {
    return Exists{}.template operator()<B, T>();
  }
};

template <class Part, class Exists>
constexpr PrimitiveCase<Part, Exists> primitive_case(std::string_view name, Exists exists) {
  return {name, exists};
}

/// Every primitive; the support matrix and the test of RunsOn are made from this list.
inline constexpr auto every_primitive = std::tuple(
    primitive_case<reference::CausalConvolution>(
        "causal_convolution", []<class B, class T> { return HasCausalConvolution<B, T>; }),
    primitive_case<reference::DiagonalKernel>(
        "diagonal_kernel", []<class B, class T> { return HasDiagonalKernel<B, T>; }),
    primitive_case<reference::DiagonalParameters>(
        "diagonal_parameters", []<class B, class T> { return HasDiagonalParameters<B, T>; }),
    primitive_case<reference::DiagonalScan>("diagonal_scan",
                                            []<class B, class T> { return HasDiagonalScan<B, T>; }),
    primitive_case<reference::ShiftConvolution>(
        "shift_convolution", []<class B, class T> { return HasShiftConvolution<B, T>; }),
    primitive_case<reference::ShortConvolution>(
        "short_convolution", []<class B, class T> { return HasShortConvolution<B, T>; }),
    primitive_case<reference::SelectiveScan>(
        "selective_scan", []<class B, class T> { return HasSelectiveScan<B, T>; }),
    primitive_case<reference::SsdScan>("ssd_scan",
                                       []<class B, class T> { return HasSsdScan<B, T>; }),
    primitive_case<reference::CascadedScan>("cascaded_scan",
                                            []<class B, class T> { return HasCascadedScan<B, T>; }),
    primitive_case<composed::H3Mixer>("h3_mixer",
                                      []<class B, class T> { return HasH3Mixer<B, T>; }),
    primitive_case<reference::Attention>("attention, rotary",
                                         []<class B, class T> { return HasAttention<B, T>; }),
    primitive_case<reference::DecayedAttention>(
        "decayed_attention, decayed_score_norm, retention_scale",
        []<class B, class T> { return HasDecayedAttention<B, T>; }),
    primitive_case<reference::PairRotation>("pair_rotation, advance_position",
                                            []<class B, class T> { return HasPairRotation<B, T>; }),
    primitive_case<reference::Matmul>("matmul", []<class B, class T> { return HasMatmul<B, T>; }),
    primitive_case<reference::Normalization>(
        "normalization", []<class B, class T> { return HasNormalization<B, T>; }),
    primitive_case<reference::Activation>("activation",
                                          []<class B, class T> { return HasActivation<B, T>; }),
    primitive_case<reference::RunningMean>("running_mean",
                                           []<class B, class T> { return HasRunningMean<B, T>; }),
    primitive_case<reference::Embedding>("embedding",
                                         []<class B, class T> { return HasEmbedding<B, T>; }),
    primitive_case<reference::CrossEntropy>("cross_entropy",
                                            []<class B, class T> { return HasCrossEntropy<B, T>; }),
    primitive_case<reference::Dropout>("dropout",
                                       []<class B, class T> { return HasDropout<B, T>; }),
    primitive_case<reference::Rearrange>("rearrange, add, fill",
                                         []<class B, class T> { return HasRearrange<B, T>; }),
    primitive_case<reference::OptimizerUpdate>(
        "adamw_update, sum_of_squares", []<class B, class T> { return HasOptimizerUpdate<B, T>; }),
    primitive_case<reference::Sample>("sample", []<class B, class T> { return HasSample<B, T>; }));

}  // namespace ssm::laws
