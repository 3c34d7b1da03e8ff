// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/cross_entropy.hpp"

#include "compare.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

template <class T>
void cpu_equals_reference(Index rows, Index vocabulary, Reduction reduction, Layout layout,
                          double spread, Index ignored_every) {
  CAPTURE(rows);
  CAPTURE(vocabulary);
  CAPTURE(spread);
  auto logits = random_tensor<T>("logits", rows, vocabulary);
  for_each_index(logits, [&](Index m, Index v) { logits(m, v) *= static_cast<T>(spread); });
  DynamicTensor<Token, 1> targets({rows});
  for (Index m = 0; m < rows; ++m)
    targets(m) = m % ignored_every == 1 % ignored_every ? Token{-100}
                                                        : static_cast<Token>(m * 7 % vocabulary);
  const auto run = [&](auto& ctx, View<const T, 2> from, View<T, 1> loss, View<T, 2> dlogits) {
    cross_entropy(ctx, CrossEntropy<T, HostSpace>{.logits = from,
                                                  .targets = targets,
                                                  .reduction = reduction,
                                                  .scale = 3,
                                                  .loss = loss,
                                                  .dlogits = dlogits});
  };
  Context<Reference> reference;
  auto loss = nan_tensor<T>(1);
  auto dlogits = nan_tensor<T>(rows, vocabulary);
  run(reference, logits, loss, dlogits);
  on_each_thread_count([&](auto& ctx) {
    const auto placed = place_copy(layout, logits);
    const auto cpu_dlogits = place<T>(layout, rows, vocabulary);
    auto cpu_loss = nan_tensor<T>(1);
    run(ctx, placed, cpu_loss, {});
    CHECK(difference(cpu_loss, loss) < tolerance<T>.value);
    run(ctx, placed, cpu_loss, cpu_dlogits);
    CHECK(difference(cpu_loss, loss) < tolerance<T>.value);
    CHECK(difference(cpu_dlogits.view, dlogits) < tolerance<T>.gradient);
    run(ctx, placed, cpu_loss, placed);  // over the logits themselves
    CHECK(difference(placed.view, dlogits) < tolerance<T>.gradient);
  });
}

}  // namespace

TEST_CASE_TEMPLATE("cross entropy and its gradient equal the reference for every vocabulary", T,
                   float, double) {
  for (const Index vocabulary : {1, 2, 63, 64, 65, 1000})
    for (const auto reduction : {Reduction::mean, Reduction::sum})
      for (const Layout layout : all_layouts)
        for (const Index rows : {0, 1, 13})
          cpu_equals_reference<T>(rows, vocabulary, reduction, layout, 5, 3);
}

TEST_CASE_TEMPLATE("logits far apart overflow nothing", T, float, double) {
  cpu_equals_reference<T>(5, 65, Reduction::mean, Layout::rows, 1e4, 3);
}

TEST_CASE_TEMPLATE("when every row is ignored, loss and gradient are zero", T, float, double) {
  cpu_equals_reference<T>(4, 65, Reduction::mean, Layout::rows, 1, 1);
  cpu_equals_reference<T>(4, 65, Reduction::sum, Layout::rows, 1, 1);
}
