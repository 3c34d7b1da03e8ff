// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/cascaded_scan.hpp"

#include "compare.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "support/cascaded_scan_call.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

template <class T>
void check_same(const CascadedCall<T>& actual, const CascadedCall<T>& expected, Tolerance allowed) {
  CHECK(difference(actual.y, expected.y) <= allowed.value);
  CHECK(difference(actual.final_state, expected.final_state) <= allowed.value);
  CHECK(difference(actual.dgate, expected.dgate) <= allowed.gradient);
  CHECK(difference(actual.ddt, expected.ddt) <= allowed.gradient);
  CHECK(difference(actual.dA, expected.dA) <= allowed.gradient);
  CHECK(difference(actual.dC, expected.dC) <= allowed.gradient);
  CHECK(difference(actual.dinitial, expected.dinitial) <= allowed.gradient);
  for (std::size_t i = 0; i < actual.gradients.size(); ++i) {
    const auto& a = actual.gradients[i];
    const auto& e = expected.gradients[i];
    CHECK(difference(a.u, e.u) <= allowed.gradient);
    CHECK(difference(a.dt, e.dt) <= allowed.gradient);
    CHECK(difference(a.B, e.B) <= allowed.gradient);
    CHECK(difference(a.A, e.A) <= allowed.gradient);
    CHECK(difference(a.initial_state, e.initial_state) <= allowed.gradient);
  }
}

template <class T>
void cpu_equals_reference(const CascadedSizes& sizes) {
  CAPTURE(sizes.sources);
  CAPTURE(sizes.batch);
  CAPTURE(sizes.length);
  CAPTURE(sizes.channels);
  CAPTURE(sizes.states);
  Context<Reference> reference;
  CascadedCall<T> expected(sizes);
  expected.run(reference);
  expected.run_backward(reference);
  on_each_thread_count([&](auto& ctx) {
    CascadedCall<T> actual(sizes);
    actual.run(ctx);
    actual.run_backward(ctx);
    check_same(actual, expected, tolerance<T>);
  });
}

}  // namespace

TEST_CASE_TEMPLATE("the scan and its gradient equal the reference at every length", T, float,
                   double) {
  for (const Index length : {0, 1, 2, 31, 32, 33, 63, 64, 65, 1000})
    for (const Index batch : {1, 3})
      cpu_equals_reference<T>(
          {.batch = batch, .length = length, .channels = 20, .initial = batch == 3});
}

TEST_CASE_TEMPLATE("any number of sources, channels and states", T, float, double) {
  for (const Index sources : {0, 1, 3, 8})
    cpu_equals_reference<T>({.sources = sources, .length = 40, .channels = 17, .states = 5});
  for (const Index channels : {1, 15, 16, 40})
    for (const Index states : {1, 2, 4, 7, 16, 33})
      cpu_equals_reference<T>({.length = 35, .channels = channels, .states = states});
  cpu_equals_reference<T>({.batch = 0, .length = 5});
}

TEST_CASE_TEMPLATE("more blocks of channels than one group has, and more sequences than slots", T,
                   float, double) {
  cpu_equals_reference<T>({.batch = 11, .length = 5, .channels = 600, .states = 4});
}

TEST_CASE_TEMPLATE("packed segments, empty ones among them", T, float, double) {
  const Index offsets[] = {0, 0, 1, 4, 4, 110};
  cpu_equals_reference<T>({.batch = 1, .length = 110, .channels = 20, .segments = offsets});
}

TEST_CASE_TEMPLATE("any layout of the sequences", T, float, double) {
  const CascadedSizes sizes{.length = 40, .channels = 20, .states = 5};
  Context<Reference> reference;
  CascadedCall<T> expected(sizes);
  expected.run(reference);
  for (const Layout layout : all_layouts) {
    Context<Cpu> ctx;
    CascadedCall<T> actual(sizes);
    auto operands = actual.operands();
    const auto gate = place_copy(layout, actual.gate), dt = place_copy(layout, actual.dt);
    const auto C = place_copy(layout, actual.C), u = place_copy(layout, actual.sources[0].u);
    const auto y = place_copy(layout, actual.y);
    operands.gate = gate;
    operands.dt = dt;
    operands.C = C;
    operands.y = y;
    actual.source_views[0].u = u;
    cascaded_scan(ctx, operands);
    CHECK(difference(y.view, expected.y) <= tolerance<T>.value);
  }
}

TEST_CASE_TEMPLATE("the state may be updated in place", T, float, double) {
  for (const Index length : {0, 1, 40}) {
    Context<Cpu> ctx;
    CascadedCall<T> apart({.length = length}), in_place({.length = length});
    apart.run(ctx);
    auto operands = in_place.operands();
    operands.final_state = in_place.initial_state;
    cascaded_scan(ctx, operands);
    CHECK(difference(in_place.initial_state, apart.final_state) == 0);
    CHECK(difference(in_place.y, apart.y) == 0);
  }
}

TEST_CASE("the same thread count gives the same gradient bits") {
  const CascadedSizes sizes{.batch = 5, .length = 300, .channels = 96};
  on_each_thread_count([&](auto& ctx) {
    CascadedCall<float> once(sizes), again(sizes);
    for (auto* call : {&once, &again}) {
      call->run(ctx);
      call->run_backward(ctx);
    }
    check_same(again, once, Tolerance{});
  });
}
