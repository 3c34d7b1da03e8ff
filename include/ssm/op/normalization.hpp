// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/op/widened.hpp"

namespace ssm {

template <class T, class Space>
struct NormalizationBackward;

/// LayerNorm or RMSNorm; the formulas are at Normalization.
enum class NormalizationKind { layer, rms };

/// Normalizes every row.
///   layer   y = (x − mean(x)) / √(mean((x − mean(x))²) + eps) · weight + bias
///   rms     y = x / √(mean(x²) + eps) · weight
/// with eps·eps_scale[m] in place of eps where eps_scale is given: a row that was c times smaller
/// wants eps_scale = c².
/// x, y           [M, D]   y overwritten; may be the same memory as x when no gradient is wanted
/// weight, bias   [D]      optional
/// eps_scale      [M]      optional
/// mean, scale    [M]      optional, overwritten: the mean (layer only) and the reciprocal root,
///                         for the gradient
/// Cost    O(M·D)
/// Throws  ShapeError
template <class T, class Space>
struct Normalization {
  NormalizationKind kind = NormalizationKind::layer;
  double eps = 1e-5;
  View<const T, 2, Space> x{};
  View<const Wide<T>, 1, Space> weight{};
  View<const Wide<T>, 1, Space> bias{};
  View<const Wide<T>, 1, Space> eps_scale{};
  View<T, 2, Space> y{};
  View<Wide<T>, 1, Space> mean{};
  View<Wide<T>, 1, Space> scale{};

  static constexpr const char* name = "normalization";
  static constexpr void for_each_operand(auto&& visit) {
    using Gradient = NormalizationBackward<T, Space>;
    visit(input("x", "MD").with_gradient(), &Normalization::x, &Gradient::dx);
    visit(parameter("weight", "D").optional(), &Normalization::weight, &Gradient::dweight);
    visit(parameter("bias", "D").optional(), &Normalization::bias, &Gradient::dbias);
    visit(input("eps_scale", "M").optional(), &Normalization::eps_scale, nullptr);
    visit(output("y", "MD"), &Normalization::y, &Gradient::dy);
    visit(output("mean", "M").optional(), &Normalization::mean, nullptr);
    visit(output("scale", "M").optional(), &Normalization::scale, nullptr);
    visit(again("mean", "M").optional(), &Normalization::mean, &Gradient::mean);
    visit(again("scale", "M"), &Normalization::scale, &Gradient::scale);
  }
};

/// The vector–Jacobian product of Normalization. dx overwritten, or added to where `accumulate` is
/// set; `residual` is added to it, the gradient of a residual stream. dweight and dbias are added
/// to and optional; so is residual_sum:
///   residual_sum[d] += Σ_m residual[m,d]
template <class T, class Space>
struct NormalizationBackward {
  Normalization<T, Space> forward{};      // reads kind, x, weight
  View<const Wide<T>, 1, Space> mean{};   // as the forward call wrote it; layer only
  View<const Wide<T>, 1, Space> scale{};  // likewise
  View<const T, 2, Space> dy{};
  bool accumulate = false;
  View<const T, 2, Space> residual{};      // [M, D], optional
  View<Wide<T>, 1, Space> residual_sum{};  // [D], optional, with a residual that is not dx
  View<T, 2, Space> dx{};
  View<Wide<T>, 1, Space> dweight{};
  View<Wide<T>, 1, Space> dbias{};

  void require_rest(ExtentsByLetter& n) const {
    if (forward.kind == NormalizationKind::layer && !mean) n.refuse("mean", "is missing");
    n.require(input("residual", "MD").optional(), residual);
    n.require(updated("residual_sum", "D").optional(), residual_sum);
    if (residual_sum && !residual) n.refuse("residual", "is missing");
  }
};

/// Backends that have the primitive Normalization.
template <class B, class T = float>
concept HasNormalization = requires(Context<B>& ctx,
                                    const Normalization<Wide<T>, typename B::Space>& a,
                                    const NormalizationBackward<Wide<T>, typename B::Space>& g) {
  B::normalization(ctx, a);
  B::normalization_backward(ctx, g);
};

/// Computes Normalization, whose docstring says the rest.
template <class B, class T>
  requires HasNormalization<B, T>
void normalization(Context<B>& ctx, const Normalization<T, typename B::Space>& a) {
  require_operands(a);
  if constexpr (requires { B::normalization(ctx, a); })
    B::normalization(ctx, a);
  else
    detail::run_wide(ctx, a, [&](const auto& wide) { normalization(ctx, wide); });
}

/// Computes NormalizationBackward, whose docstring says the rest.
template <class B, class T>
  requires HasNormalization<B, T>
void normalization_backward(Context<B>& ctx, const NormalizationBackward<T, typename B::Space>& g) {
  require_gradients<Normalization<T, typename B::Space>>(g);
  if constexpr (requires { B::normalization_backward(ctx, g); })
    B::normalization_backward(ctx, g);
  else
    detail::run_wide_gradient<Normalization>(ctx, g, [&](auto& wide, auto& copies) {
      copies.widen(wide.residual, true, false);
      normalization_backward(ctx, std::as_const(wide));
    });
}

}  // namespace ssm
