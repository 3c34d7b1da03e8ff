// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <optional>
#include <span>

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/core/scalar.hpp"

namespace ssm {

/// One AdamW update of one tensor.
///   g = gradient_scale · clip · gradient
///   clip = min(1, clip_norm / (‖g‖ + 1e-6)),  ‖g‖ = gradient_scale · √squares;  1 where clip_norm
///          is 0 or squares is not given
///   m ← β₁·m + (1−β₁)·g        v ← β₂·v + (1−β₂)·g²
///   p ← p − rate·decay·p − rate · (m / (1−β₁ᵗ)) / (√(v / (1−β₂ᵗ)) + eps)
/// parameter, first_moment, second_moment   [n]   updated in place
/// gradient                                 [n]
/// copied, rounded_bf16, rounded_f16        [n]   optional, overwritten: the new parameter as it
///                                          is, or in a half type, for a working copy of it
/// squares                                  [1]   optional: the sum of the squares of all gradients
///                                          that are clipped together
/// losses                                   [K]   optional
/// Where ‖g‖ or one of the losses is not finite, nothing is changed.
/// step                                     t, counted from 1
/// Cost    O(n), 7 scalars of traffic an element
/// Throws  ShapeError
/// Source  Loshchilov & Hutter 2019, Algorithm 2; PyTorch's order of operations
template <class T, class Space>
struct AdamWUpdate {
  double rate = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
  double gradient_scale = 1;
  double clip_norm = 0;
  Index step = 1;
  View<T, 1, Space> parameter{};
  View<const T, 1, Space> gradient{};
  View<T, 1, Space> first_moment{};
  View<T, 1, Space> second_moment{};
  View<T, 1, Space> copied{};
  View<BFloat16, 1, Space> rounded_bf16{};
  View<Float16, 1, Space> rounded_f16{};
  View<const double, 1, Space> squares{};
  View<const T, 1, Space> losses{};

  static constexpr const char* name = "adamw_update";
  static constexpr void for_each_operand(auto&& visit) {
    visit(updated("parameter", "N"), &AdamWUpdate::parameter, nullptr);
    visit(input("gradient", "N"), &AdamWUpdate::gradient, nullptr);
    visit(updated("first_moment", "N"), &AdamWUpdate::first_moment, nullptr);
    visit(updated("second_moment", "N"), &AdamWUpdate::second_moment, nullptr);
    visit(output("copied", "N").optional(), &AdamWUpdate::copied, nullptr);
    visit(output("rounded_bf16", "N").optional(), &AdamWUpdate::rounded_bf16, nullptr);
    visit(output("rounded_f16", "N").optional(), &AdamWUpdate::rounded_f16, nullptr);
    visit(input("squares", "1").optional(), &AdamWUpdate::squares, nullptr);
    visit(input("losses", "K").optional(), &AdamWUpdate::losses, nullptr);
  }
};

/// gradient_scale · clip, from the root of the squares.
constexpr double clipped_scale(double gradient_scale, double clip_norm, double root) {
  const double clip = clip_norm > 0 ? clip_norm / (gradient_scale * root + 1e-6) : 1.0;
  return gradient_scale * (clip < 1 ? clip : 1.0);
}
namespace detail {
/// What an update multiplies gradients by; none where nothing is to be changed. In memory of the
/// host.
template <class T, class Space>
std::optional<double> gradient_factor(const AdamWUpdate<T, Space>& a) {
  for (Index i = 0; a.losses && i < a.losses.extent(0); ++i)
    if (!std::isfinite(a.losses(i))) return std::nullopt;
  if (!a.squares) return a.gradient_scale;
  const double root = std::sqrt(a.squares(0));
  if (!std::isfinite(a.gradient_scale * root)) return std::nullopt;
  return clipped_scale(a.gradient_scale, a.clip_norm, root);
}
}  // namespace detail

/// sum[0] += Σ_i x[i]², added in an order that depends on n alone.
/// x     [n]
/// sum   [1]   kept in double
template <class T, class Space>
struct SumOfSquares {
  View<const T, 1, Space> x{};
  View<double, 1, Space> sum{};

  static constexpr const char* name = "sum_of_squares";
  static constexpr void for_each_operand(auto&& visit) {
    visit(input("x", "N"), &SumOfSquares::x, nullptr);
    visit(updated("sum", "1"), &SumOfSquares::sum, nullptr);
  }
};

/// Backends that have the primitive OptimizerUpdate.
template <class B, class T = float>
concept HasOptimizerUpdate = requires(Context<B>& ctx,
                                      const AdamWUpdate<Wide<T>, typename B::Space>& a,
                                      const SumOfSquares<Wide<T>, typename B::Space>& s) {
  B::adamw_update(ctx, a);
  B::sum_of_squares(ctx, s);
};

/// Computes AdamWUpdate, whose docstring says the rest.
template <class B, Real T>
  requires HasOptimizerUpdate<B, T>
void adamw_update(Context<B>& ctx, const AdamWUpdate<T, typename B::Space>& a) {
  require_operands(a);
  B::adamw_update(ctx, a);
}

/// Computes SumOfSquares, whose docstring says the rest.
template <class B, Real T>
  requires HasOptimizerUpdate<B, T>
void sum_of_squares(Context<B>& ctx, const SumOfSquares<T, typename B::Space>& a) {
  require_operands(a);
  B::sum_of_squares(ctx, a);
}

/// Computes AdamWUpdate of each tensor, in one pass over all of them where the backend has one,
/// whose operands require_operands has seen before.
template <class B, Real T>
  requires HasOptimizerUpdate<B, T>
void adamw_update_unchecked(Context<B>& ctx,
                            std::span<const AdamWUpdate<T, typename B::Space>> tensors) {
  if constexpr (requires { B::adamw_update_each(ctx, tensors); })
    B::adamw_update_each(ctx, tensors);
  else
    for (const auto& a : tensors) B::adamw_update(ctx, a);
}
/// The same, checked.
template <class B, Real T>
  requires HasOptimizerUpdate<B, T>
void adamw_update(Context<B>& ctx, std::span<const AdamWUpdate<T, typename B::Space>> tensors) {
  for (const auto& a : tensors) require_operands(a);
  adamw_update_unchecked<B, T>(ctx, tensors);
}

/// Computes SumOfSquares of each tensor, in one pass over all of them where the backend has one.
template <class B, Real T>
  requires HasOptimizerUpdate<B, T>
void sum_of_squares(Context<B>& ctx, std::span<const SumOfSquares<T, typename B::Space>> tensors) {
  for (const auto& a : tensors) require_operands(a);
  if constexpr (requires { B::sum_of_squares_each(ctx, tensors); })
    B::sum_of_squares_each(ctx, tensors);
  else
    for (const auto& a : tensors) B::sum_of_squares(ctx, a);
}

}  // namespace ssm
