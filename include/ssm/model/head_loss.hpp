// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "ssm/layer/linear.hpp"  // linear_backward
#include "ssm/op/cross_entropy.hpp"

namespace ssm {

/// The loss of the next tokens under a head, with all its gradients, a part of the rows at a time:
/// logits of all rows are never held.
///   logits = x·Wᵀ      losses[i] = Σ_m −ln softmax(logits[m])[targets[m]]   over part i
///   d = scale · (softmax(logits) − onehot(targets))      dx = d·W      dweight += dᵀ·x
/// x, dx              [M, D]
/// weight, dweight    [V, D]
/// targets            [M]
/// losses             [parts]   overwritten: one for each at_once rows
/// Rows whose target is `ignore_index` count nothing. For the gradient of a mean, `scale` is to be
/// divided by the number of the others.
/// Cost    6·M·V·D operations, as many as without parts; scratch for at_once·V logits
template <class T, class Space>
struct HeadLoss {
  View<const T, 2, Space> x{};
  View<const T, 2, Space> weight{};
  View<const Token, 1, Space> targets{};
  Token ignore_index = -100;
  double scale = 1;
  Index at_once = 0;  // rows of a part
  View<Wide<T>, 1, Space> losses{};
  View<T, 2, Space> dx{};
  View<Wide<T>, 2, Space> dweight{};

  static Index parts(Index rows, Index at_once) { return (rows + at_once - 1) / at_once; }
  /// Rows of a part, all parts nearly alike, if so many logits may be held; all where they fit.
  static Index rows_for(Index rows, Index vocabulary, Index logits) {
    const Index most = std::max<Index>(1, logits / vocabulary);
    if (rows <= most) return rows;
    const Index even = parts(rows, parts(rows, most));
    const Index tiles = (even + 127) / 128 * 128;  // of products on a device
    return tiles <= most ? tiles : even;
  }
};

/// Computes HeadLoss.
/// Throws  ShapeError; ArgumentError  for a target that is neither in the vocabulary nor ignored
template <class B, class T>
  requires(HasMatmul<B, T>&& HasCrossEntropy<B, T>)
void head_loss(Context<B>& ctx, const HeadLoss<T, typename B::Space>& a) {
  using Space = typename B::Space;
  const Index rows = a.x.extent(0);
  for (Index i = 0, begin = 0; begin < rows; ++i, begin += a.at_once) {
    auto frame = ctx.workspace().frame();
    const Index end = std::min(begin + a.at_once, rows);
    const auto x = a.x.slice(0, begin, end);
    const auto logits = frame.template tensor<T>(end - begin, a.weight.extent(0));
    matmul(ctx, Matmul<T, Space>{.a = x, .b = a.weight.transpose(0, 1), .c = logits});
    cross_entropy(ctx, CrossEntropy<T, Space>{.logits = logits,
                                              .targets = a.targets.slice(0, begin, end),
                                              .ignore_index = a.ignore_index,
                                              .reduction = Reduction::sum,
                                              .scale = a.scale,
                                              .loss = a.losses.slice(0, i, i + 1),
                                              .dlogits = logits});
    linear_backward(ctx, LinearBackward<T, Space>{.weight = a.weight,
                                                  .x = x,
                                                  .dy = logits,
                                                  .dx = a.dx.slice(0, begin, end),
                                                  .dweight = a.dweight});
  }
}

}  // namespace ssm
