// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/core/scalar.hpp"  // Token
#include "ssm/op/widened.hpp"

namespace ssm {

/// What becomes of the losses of all rows.
enum class Reduction { mean, sum };

/// Negative log-likelihood of the targets under softmax(logits), with its gradient in the same
/// pass.
///   loss = Σ_m −ln softmax(logits[m])[targets[m]]  over rows whose target is not `ignore_index`,
///          divided by their number for `mean` (0 if there are none)
///   dlogits[m,v] = scale · (softmax(logits[m])[v] − [v = targets[m]])  (/ number for `mean`),
///                  0 in ignored rows
/// logits    [M, V]   nats, finite
/// targets   [M]
/// loss      [1]      overwritten
/// dlogits   [M, V]   optional, overwritten; may be the same memory as logits
/// Cost    O(M·V)
/// Throws  ShapeError; ArgumentError  for a target that is neither in the vocabulary nor ignored
template <class T, class Space>
struct CrossEntropy {
  View<const T, 2, Space> logits{};
  View<const Token, 1, Space> targets{};
  Token ignore_index = -100;
  Reduction reduction = Reduction::mean;
  double scale = 1;  // dL/dloss
  View<Wide<T>, 1, Space> loss{};
  View<T, 2, Space> dlogits{};

  static constexpr const char* name = "cross_entropy";
  static constexpr void for_each_operand(auto&& visit) {
    visit(input("logits", "MV"), &CrossEntropy::logits, nullptr);
    visit(input("targets", "M"), &CrossEntropy::targets, nullptr);
    visit(output("loss", "1"), &CrossEntropy::loss, nullptr);
    visit(output("dlogits", "MV").optional(), &CrossEntropy::dlogits, nullptr);
  }
};

/// Backends that have the primitive CrossEntropy.
template <class B, class T = float>
concept HasCrossEntropy = requires(Context<B>& ctx,
                                   const CrossEntropy<Wide<T>, typename B::Space>& a) {
  B::cross_entropy(ctx, a);
};

/// Computes CrossEntropy, whose docstring says the rest.
template <class B, class T>
  requires HasCrossEntropy<B, T>
void cross_entropy(Context<B>& ctx, const CrossEntropy<T, typename B::Space>& a) {
  require_operands(a);
  if constexpr (B::Space::host_readable)
    for (Index m = 0; m < a.logits.extent(0); ++m) {
      const Token target = a.targets(m);
      if (target != a.ignore_index && (target < 0 || target >= a.logits.extent(1)))
        throw ArgumentError(message({"cross_entropy: target ", target, " at row ", m,
                                     " is outside the vocabulary of ", a.logits.extent(1)}));
    }
  if constexpr (requires { B::cross_entropy(ctx, a); })
    B::cross_entropy(ctx, a);
  else
    detail::run_wide(ctx, a, [&](const auto& wide) { cross_entropy(ctx, wide); });
}

}  // namespace ssm
