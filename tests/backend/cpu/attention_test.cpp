// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/attention.hpp"

#include <vector>

#include "compare.hpp"
#include "support/attention_run.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

using Case = AttentionCase;
template <class T>
using Run = AttentionRun<T>;

template <class T>
void cpu_equals_reference(const Case& test) {
  expect_reference_on_cpu<Run<T>>(test);
}

}  // namespace

TEST_CASE_TEMPLATE("attention and its gradient equal the reference at every length", T, float,
                   double) {
  for (const Index length : {1, 2, 4, 5, 47, 48, 49, 63, 64, 65, 200})
    for (const Index batch : {1, 3}) cpu_equals_reference<T>({.batch = batch, .length = length});
}

TEST_CASE_TEMPLATE("any width of the heads", T, float, double) {
  for (const Index width : {1, 2, 7, 16, 33, 64})
    for (const Index length : {3, 70})
      cpu_equals_reference<T>({.length = length, .heads = 2, .width = width});
}

TEST_CASE_TEMPLATE("new positions see the cached ones", T, float, double) {
  for (const Index cached : {1, 63, 100, 777})
    for (const Index length : {0, 1, 3, 50})
      cpu_equals_reference<T>({.batch = 2, .length = length, .cached = cached});
}

TEST_CASE_TEMPLATE("any layout of the operands", T, float, double) {
  for (const Layout layout : all_layouts)
    for (const Index length : {2, 60})
      cpu_equals_reference<T>({.length = length, .layout = layout});
}

TEST_CASE_TEMPLATE("packed segments do not see each other", T, float, double) {
  const Index offsets[] = {0, 0, 1, 60, 60, 130};
  cpu_equals_reference<T>({.length = 130, .segments = offsets});
}

TEST_CASE_TEMPLATE("every sequence has as many cached positions as it says, packed or not", T,
                   float, double) {
  const std::vector<std::int64_t> cached{3, 0, 70, 1, 9};
  const std::vector<Index> offsets{0, 0, 4, 5, 70, 130};
  for (const Layout layout : all_layouts) {
    cpu_equals_reference<T>(
        {.length = 130, .cached = 71, .segments = offsets, .cached_of = cached, .layout = layout});
    for (const Index length : {0, 1, 3, 40})
      cpu_equals_reference<T>(
          {.batch = 5, .length = length, .cached = 71, .cached_of = cached, .layout = layout});
  }
}

TEST_CASE_TEMPLATE("rotary embeddings equal the reference, forwards and back", T, float, double) {
  const Index offsets[] = {0, 0, 70, 150};
  const std::int64_t starts[] = {5, 41, 2};
  const auto x = random_tensor<T>("x", 1, 150, 2, 10);
  for (const Index dimension : {0, 2, 6, 10})
    for (const bool packed : {false, true})
      for (const int direction : {1, -1})
        for (const Layout layout : all_layouts) {
          CAPTURE(dimension);
          CAPTURE(packed);
          const auto run = [&](auto& ctx, View<const T, 4> from, View<T, 4> y) {
            rotary(ctx, Rotary<T, HostSpace>{.dimension = dimension,
                                             .base = 100,
                                             .position = 37,
                                             .positions = packed ? std::span(starts)
                                                                 : std::span<const std::int64_t>(),
                                             .direction = direction,
                                             .segments = packed ? Segments(offsets) : Segments(),
                                             .x = from,
                                             .y = y});
          };
          Context<Reference> reference;
          auto expected = nan_tensor<T>(1, 150, 2, 10);
          run(reference, x, expected);
          on_each_thread_count([&](auto& ctx) {
            const auto placed = place_copy(layout, x);
            const auto y = place<T>(layout, 1, 150, 2, 10);
            run(ctx, placed, y);
            CHECK(difference(y.view, expected) < tolerance<T>.value);
            run(ctx, placed, placed);  // in place
            CHECK(difference(placed.view, expected) < tolerance<T>.value);
          });
        }
}
