// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cuda/attention.hpp"

#include <vector>

#include "ssm/backend/reference.hpp"
#include "support/attention_run.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

using Case = AttentionCase;
template <class T>
using Run = AttentionRun<T>;

struct Attentions : cuda::primitive::Attention {
  using Space = HostSpace;
  using Resources = cuda::Resources;
};

template <class T>
void equals_reference(const Case& test) {
  CAPTURE(test.length);
  CAPTURE(test.cached);
  CAPTURE(test.width);
  Context<Reference> reference;
  Run<T> expected(test, Layout::rows);
  expected.compute(reference, test);
  Context<Attentions> ctx;
  ctx.workspace().fill_with_nan(true);
  Run<T> actual(test, test.layout);
  actual.compute(ctx, test);
  expect_equal(test, actual, expected);
}

}  // namespace

TEST_CASE_TEMPLATE("attention and its gradient equal the reference at every length", T, float,
                   double) {
  for (const Index length : {0, 1, 2, 15, 16, 17, 63, 64, 65, 130})
    for (const Index batch : {1, 3}) equals_reference<T>({.batch = batch, .length = length});
}

TEST_CASE_TEMPLATE("any width of the heads", T, float, double) {
  for (const Index width : {1, 2, 31, 32, 33, 80})
    equals_reference<T>({.length = 20, .heads = 2, .width = width});
}

TEST_CASE_TEMPLATE("new positions see the cached ones", T, float, double) {
  for (const Index cached : {1, 63, 100})
    for (const Index length : {0, 1, 3, 50})
      equals_reference<T>({.batch = 2, .length = length, .cached = cached});
}

TEST_CASE_TEMPLATE("any layout of the operands", T, float, double) {
  for (const Layout layout : all_layouts) equals_reference<T>({.length = 60, .layout = layout});
}

TEST_CASE_TEMPLATE("packed segments do not see each other", T, float, double) {
  const Index offsets[] = {0, 0, 1, 60, 60, 130, 130};
  equals_reference<T>({.length = 130, .segments = offsets});
}

TEST_CASE_TEMPLATE("every sequence has as many cached positions as it says, packed or not", T,
                   float, double) {
  const std::vector<std::int64_t> cached{3, 0, 70, 1, 9};
  const std::vector<Index> offsets{0, 0, 4, 5, 70, 130};
  for (const Layout layout : all_layouts) {
    equals_reference<T>(
        {.length = 130, .cached = 71, .segments = offsets, .cached_of = cached, .layout = layout});
    for (const Index length : {0, 1, 3, 40})
      equals_reference<T>(
          {.batch = 5, .length = length, .cached = 71, .cached_of = cached, .layout = layout});
  }
}

TEST_CASE_TEMPLATE("large scores do not overflow", T, float, double) {
  Context<Reference> reference;
  Context<Attentions> ctx;
  auto q = random_tensor<T>("q", 1, 40, 1, 4);
  for_each_index(q, [&](auto... i) { q(i...) *= 1000; });
  const auto v = random_tensor<T>("v", 1, 40, 1, 4);
  auto expected = nan_tensor<T>(1, 40, 1, 4);
  auto actual = nan_tensor<T>(1, 40, 1, 4);
  attention(reference, Attention<T, HostSpace>{.q = q, .k = q, .v = v, .y = expected});
  attention(ctx, Attention<T, HostSpace>{.q = q, .k = q, .v = v, .y = actual});
  CHECK(difference(actual, expected) < tolerance<T>.value);
}

TEST_CASE_TEMPLATE("rotary embeddings equal the reference, forwards and back, in place too", T,
                   float, double) {
  const Index offsets[] = {0, 0, 70, 150};
  const std::int64_t starts[] = {5, 41, 2};
  const auto x = random_tensor<T>("x", 1, 150, 2, 10);
  Context<Reference> reference;
  Context<Attentions> ctx;
  for (const Index dimension : {0, 2, 6, 10})
    for (const bool packed : {false, true})
      for (const int direction : {1, -1})
        for (const Layout layout : all_layouts) {
          CAPTURE(dimension);
          CAPTURE(packed);
          auto expected = nan_tensor<T>(1, 150, 2, 10);
          const auto y = place<T>(layout, 1, 150, 2, 10);
          const auto in_place = place_copy(layout, x);
          Rotary<T, HostSpace> call{
              .dimension = dimension,
              .base = 100,
              .position = 37,
              .positions = packed ? std::span(starts) : std::span<const std::int64_t>(),
              .direction = direction,
              .segments = packed ? Segments(offsets) : Segments(),
              .x = x,
              .y = expected};
          rotary(reference, call);
          call.y = y;
          rotary(ctx, call);
          CHECK(difference(y.view, expected) < tolerance<T>.value);
          call.x = in_place;
          call.y = in_place;
          rotary(ctx, call);
          CHECK(difference(in_place.view, expected) < tolerance<T>.value);
        }
}
