// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"

namespace ssm {

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
  View<const T, 1, Space> weight{};
  View<const T, 1, Space> bias{};
  View<const T, 1, Space> eps_scale{};
  View<T, 2, Space> y{};
  View<T, 1, Space> mean{};
  View<T, 1, Space> scale{};
};

/// The vector–Jacobian product of Normalization. dx overwritten, or added to where `accumulate` is
/// set (a residual stream); dweight and dbias are added to and optional.
template <class T, class Space>
struct NormalizationBackward {
  Normalization<T, Space> forward{};  // reads kind, x, weight
  View<const T, 1, Space> mean{};     // as the forward call wrote it; layer only
  View<const T, 1, Space> scale{};    // likewise
  View<const T, 2, Space> dy{};
  bool accumulate = false;
  View<T, 2, Space> dx{};
  View<T, 1, Space> dweight{};
  View<T, 1, Space> dbias{};
};

/// Backends that have the primitive Normalization.
template <class B, class T = float>
concept HasNormalization = requires(Context<B>& ctx, const Normalization<T, typename B::Space>& a,
                                    const NormalizationBackward<T, typename B::Space>& g) {
  B::normalization(ctx, a);
  B::normalization_backward(ctx, g);
};

/// Computes Normalization, whose docstring says the rest.
template <class B, class T>
  requires HasNormalization<B, T>
void normalization(Context<B>& ctx, const Normalization<T, typename B::Space>& a) {
  const char* op = "normalization";
  require_extents(op, "x", a.x, {dyn, dyn});
  const Index rows = a.x.extent(0);
  const Index width = a.x.extent(1);
  require_extents_if_given(op, "weight", a.weight, {width});
  require_extents_if_given(op, "bias", a.bias, {width});
  require_extents_if_given(op, "eps_scale", a.eps_scale, {rows});
  require_extents(op, "y", a.y, {rows, width});
  require_extents_if_given(op, "mean", a.mean, {rows});
  require_extents_if_given(op, "scale", a.scale, {rows});
  B::normalization(ctx, a);
}

/// Computes NormalizationBackward, whose docstring says the rest.
template <class B, class T>
  requires HasNormalization<B, T>
void normalization_backward(Context<B>& ctx, const NormalizationBackward<T, typename B::Space>& g) {
  const char* op = "normalization_backward";
  require_extents(op, "x", g.forward.x, {dyn, dyn});
  const auto shape = g.forward.x.extents().to_array();
  require_extents_if_given(op, "weight", g.forward.weight, {shape[1]});
  if (g.forward.kind == NormalizationKind::layer) require_extents(op, "mean", g.mean, {shape[0]});
  require_extents(op, "scale", g.scale, {shape[0]});
  require_extents(op, "dy", g.dy, shape);
  require_extents(op, "dx", g.dx, shape);
  require_extents_if_given(op, "dweight", g.dweight, {shape[1]});
  require_extents_if_given(op, "dbias", g.dbias, {shape[1]});
  B::normalization_backward(ctx, g);
}

}  // namespace ssm
