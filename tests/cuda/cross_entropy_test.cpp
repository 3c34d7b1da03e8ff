// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cuda/cross_entropy.hpp"

#include "primitives_on_device.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

using DeviceCrossEntropy = DeviceContext<cuda::primitive::CrossEntropy>;

template <class T>
void device_equals_reference(Index rows, Index vocabulary, Reduction reduction, Layout layout,
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
  DeviceCrossEntropy device;
  auto loss = nan_tensor<T>(1);
  auto dlogits = nan_tensor<T>(rows, vocabulary);
  run(reference, logits, loss, dlogits);
  const auto placed = place_copy(layout, logits);
  const auto actual = place<T>(layout, rows, vocabulary);
  auto actual_loss = nan_tensor<T>(1);
  run(device, placed, actual_loss, {});
  CHECK(difference(actual_loss, loss) < tolerance<T>.value);
  run(device, placed, actual_loss, actual);
  CHECK(difference(actual_loss, loss) < tolerance<T>.value);
  CHECK(difference(actual.view, dlogits) < tolerance<T>.gradient);
  run(device, placed, actual_loss, placed);  // over the logits themselves
  CHECK(difference(actual_loss, loss) < tolerance<T>.value);
  CHECK(difference(placed.view, dlogits) < tolerance<T>.gradient);
}

}  // namespace

TEST_CASE_TEMPLATE("cross entropy and its gradient equal the reference for every vocabulary", T,
                   float, double) {
  for (const Index vocabulary : {1, 2, 3, 63, 64, 65, 1000})
    for (const auto reduction : {Reduction::mean, Reduction::sum})
      for (const Layout layout : all_layouts)
        for (const Index rows : {0, 1, 13})
          device_equals_reference<T>(rows, vocabulary, reduction, layout, 5, 3);
}

TEST_CASE_TEMPLATE("rows beyond one slice of the sum", T, float, double) {
  for (const auto reduction : {Reduction::mean, Reduction::sum})
    device_equals_reference<T>(2500, 5, reduction, Layout::rows, 5, 3);
}

TEST_CASE_TEMPLATE("logits far apart overflow nothing", T, float, double) {
  device_equals_reference<T>(5, 65, Reduction::mean, Layout::rows, 1e4, 3);
}

TEST_CASE_TEMPLATE("when every row is ignored, loss and gradient are zero", T, float, double) {
  device_equals_reference<T>(4, 65, Reduction::mean, Layout::rows, 1, 1);
  device_equals_reference<T>(4, 65, Reduction::sum, Layout::rows, 1, 1);
}

TEST_CASE("a target outside the vocabulary, where nobody could look, shows as NaN") {
  const auto logits = random_tensor<float>("logits", 3, 5);
  for (const Token bad : {-1, 5}) {
    DynamicTensor<Token, 1> targets({3});
    targets(0) = 0, targets(1) = bad, targets(2) = 4;
    auto loss = zero_tensor<float>(1);
    auto dlogits = zero_tensor<float>(3, 5);
    DeviceCrossEntropy ctx;
    OnDevice<cuda::primitive::CrossEntropy>::cross_entropy(
        ctx, CrossEntropy<float, HostSpace>{
                 .logits = logits, .targets = targets, .loss = loss, .dlogits = dlogits});
    CHECK(std::isnan(loss(0)));
    for (Index v = 0; v < 5; ++v) {
      CHECK(std::isnan(dlogits(1, v)));
      for (const Index m : {0, 2}) CHECK(std::isfinite(dlogits(m, v)));
    }
  }
}
