// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/core/random.hpp"
#include "ssm/op/widened.hpp"

namespace ssm {

/// Sets elements to zero at random and scales the rest, so that the expectation stays.
///   y[i] = x[i] / (1 − probability)  where number i of the seed's stream is ≥ probability, else 0
/// The mask is a function of the seed, so the gradient is the same call on dy. Where sequences lie
/// across ranks each has a mask of its own.
/// x, y   [n]   y overwritten; may be the same memory as x
/// Throws  ShapeError; ArgumentError  unless 0 ≤ probability < 1
/// Source  Srivastava et al. 2014
template <class T, class Space>
struct Dropout {
  double probability = 0;
  Seed seed{};
  View<const T, 1, Space> x{};
  View<T, 1, Space> y{};

  static constexpr const char* name = "dropout";
  static constexpr void for_each_operand(auto&& visit) {
    visit(input("x", "N"), &Dropout::x, nullptr);
    visit(output("y", "N"), &Dropout::y, nullptr);
  }
  void require_rest(const ExtentsByLetter&) const {
    if (!(probability >= 0 && probability < 1))
      throw ArgumentError("dropout: probability must be in [0, 1)");
  }
};

/// Backends that have the primitive Dropout.
template <class B, class T = float>
concept HasDropout = requires(Context<B>& ctx, const Dropout<Wide<T>, typename B::Space>& a) {
  B::dropout(ctx, a);
};

/// Computes Dropout, whose docstring says the rest.
template <class B, class T>
  requires HasDropout<B, T>
void dropout(Context<B>& ctx, const Dropout<T, typename B::Space>& a) {
  require_operands(a);
  if constexpr (requires { B::dropout(ctx, a); }) {
    if (detail::runs_across_ranks(ctx, a, a.name)) return;
    B::dropout(ctx, a);
  } else {
    detail::run_wide(ctx, a, [&](const auto& wide) { dropout(ctx, wide); });
  }
}

}  // namespace ssm
