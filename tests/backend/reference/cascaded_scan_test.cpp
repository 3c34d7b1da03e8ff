// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/reference/cascaded_scan.hpp"

#include <doctest/doctest.h>

#include <vector>

#include "ssm/backend/reference.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "support/cascaded_scan_call.hpp"
#include "support/gradient_check.hpp"

namespace ssm::test {
namespace {

struct NanContext : Context<Reference> {
  NanContext() { workspace().fill_with_nan(true); }
};

TEST_CASE("what one source drives is the sum of its states that the gates let in, faded") {
  NanContext ctx;
  CascadedCall<> call({.sources = 1, .batch = 1, .length = 5, .channels = 1, .states = 1});
  call.run(ctx);
  const auto& source = call.sources[0];
  double state = source.initial_state(0, 0, 0), own = call.initial_state(0, 0, 0);
  for (Index t = 0; t < 5; ++t) {
    const double dt = source.dt(0, t, 0);
    state = std::exp(dt * source.A(0, 0)) * state + dt * source.B(0, t, 0) * source.u(0, t, 0);
    own = std::exp(call.dt(0, t, 0) * call.A(0, 0)) * own + call.gate(0, t, 0) * state;
    CHECK(call.y(0, t, 0) == doctest::Approx(call.C(0, t, 0) * own));
  }
  CHECK(call.final_state(0, 0, 0) == doctest::Approx(own));
}

TEST_CASE("sources add up") {
  NanContext ctx;
  for (const Index sources : {2, 8}) {
    CascadedCall<> all({.sources = sources, .initial = false});
    all.run(ctx);
    auto sum = zero_tensor(3, 7, 2);
    for (std::size_t i = 0; i < all.sources.size(); ++i) {
      auto one = all.operands();
      one.sources = one.sources.subspan(i, 1);
      auto y = nan_tensor(3, 7, 2);
      one.y = y;
      cascaded_scan(ctx, one);
      for_each_index(sum, [&](auto... at) { sum(at...) += y(at...); });
    }
    CHECK(difference(all.y, sum) < tolerance<double>.value);
  }
}

TEST_CASE("without sources a state fades") {
  NanContext ctx;
  CascadedCall<> call({.sources = 0, .length = 2});
  call.run(ctx);
  const double dt = call.dt(1, 0, 1) + call.dt(1, 1, 1);
  CHECK(call.final_state(1, 1, 2) ==
        doctest::Approx(std::exp(dt * call.A(1, 2)) * call.initial_state(1, 1, 2)));
}

TEST_CASE("packed segments equal separate sequences and an empty one keeps its state") {
  NanContext ctx;
  const std::vector<Index> offsets{0, 5, 5, 6, 20};
  CascadedCall<> packed({.batch = 1, .length = 20, .segments = offsets});
  packed.run(ctx);
  for (Index row = 0; row < 4; ++row) {
    const Index begin = offsets[static_cast<std::size_t>(row)];
    const Index end = offsets[static_cast<std::size_t>(row) + 1];
    CascadedCall<> alone({.batch = 1, .length = end - begin});
    const auto cut = [&](auto& to, const auto& from) { to = positions(from, begin, end); };
    const auto take_row = [&](auto& to, const auto& from) {
      for_each_index(to, [&](Index, Index d, Index n) { to(0, d, n) = from(row, d, n); });
    };
    cut(alone.gate, packed.gate);
    cut(alone.dt, packed.dt);
    cut(alone.C, packed.C);
    take_row(alone.initial_state, packed.initial_state);
    for (std::size_t i = 0; i < 2; ++i) {
      cut(alone.sources[i].u, packed.sources[i].u);
      cut(alone.sources[i].dt, packed.sources[i].dt);
      cut(alone.sources[i].B, packed.sources[i].B);
      take_row(alone.sources[i].initial_state, packed.sources[i].initial_state);
      alone.source_views[i] = alone.sources[i].views(true);
    }
    alone.run(ctx);
    CHECK(difference(alone.y, positions(packed.y, begin, end)) == 0);
    CHECK(difference(alone.final_state, packed.final_state.slice(0, row, row + 1)) == 0);
  }
  CHECK(difference(packed.final_state.slice(0, 1, 2), packed.initial_state.slice(0, 1, 2)) == 0);
}

void check_gradients(CascadedCall<> call) {
  NanContext ctx;
  fill(call.dA, 0);
  for (auto& gradient : call.gradients) {
    for (auto* tensor : {&gradient.u, &gradient.dt, &gradient.B, &gradient.initial_state})
      fill(*tensor, 0);
    fill(gradient.A, 0);
  }
  call.run_backward(ctx);
  const auto loss = [&] {
    call.run(ctx);
    return inner_product(call.dy, call.y) + inner_product(call.dfinal, call.final_state);
  };
  const double bound = tolerance<double>.gradient;
  if (call.sizes.sources > 0) CHECK(gradient_error(loss, call.gate, call.dgate) < bound);
  CHECK(gradient_error(loss, call.dt, call.ddt) < bound);
  CHECK(gradient_error(loss, call.A, call.dA) < bound);
  CHECK(gradient_error(loss, call.C, call.dC) < bound);
  CHECK(gradient_error(loss, call.initial_state, call.dinitial) < bound);
  for (std::size_t i = 0; i < call.sources.size(); ++i) {
    auto& source = call.sources[i];
    auto& gradient = call.gradients[i];
    CHECK(gradient_error(loss, source.u, gradient.u) < bound);
    CHECK(gradient_error(loss, source.dt, gradient.dt) < bound);
    CHECK(gradient_error(loss, source.A, gradient.A) < bound);
    CHECK(gradient_error(loss, source.B, gradient.B) < bound);
    CHECK(gradient_error(loss, source.initial_state, gradient.initial_state) < bound);
  }
}

TEST_CASE("gradients equal central differences") {
  for (const Index length : {0, 1, 2, 7})
    for (const Index sources : {0, 1, 3}) {
      CAPTURE(length);
      CAPTURE(sources);
      check_gradients(CascadedCall<>({.sources = sources, .batch = 2, .length = length}));
    }
  const std::vector<Index> offsets{0, 4, 4, 9, 10};
  check_gradients(CascadedCall<>({.batch = 1, .length = 10, .segments = offsets}));
}

TEST_CASE("gradients of sources are added to, and may be left out") {
  NanContext ctx;
  CascadedCall<> once({}), twice({});
  const auto before = once.gradients[1].u.clone();
  once.run_backward(ctx);
  twice.run_backward(ctx);
  twice.run_backward(ctx);
  CHECK(twice.gradients[1].u(1, 2, 0) - before(1, 2, 0) ==
        doctest::Approx(2 * (once.gradients[1].u(1, 2, 0) - before(1, 2, 0))));
  CHECK(difference(twice.ddt, once.ddt) == 0);
  CascadedCall<> without({});
  auto g = without.backward();
  g.dsources = {};
  CHECK_NOTHROW(cascaded_scan_backward(ctx, g));
  CHECK(difference(without.ddt, once.ddt) == 0);
  without.gradient_views[0] = {};
  CHECK_NOTHROW(without.run_backward(ctx));
}

TEST_CASE("operands that do not fit are named") {
  NanContext ctx;
  CascadedCall<> call({});
  const auto wide = zero_tensor(3, 7, 4);
  auto operands = call.operands();
  operands.C = wide;
  CHECK_THROWS_WITH_AS(cascaded_scan(ctx, operands),
                       "cascaded_scan: C must be [3, 7, 3], got [3, 7, 4]", ShapeError);
  operands = call.operands();
  operands.gate = {};
  CHECK_THROWS_WITH_AS(cascaded_scan(ctx, operands), "cascaded_scan: gate is missing", ShapeError);
  call.source_views[1].u = {};
  CHECK_THROWS_WITH_AS(cascaded_scan(ctx, call.operands()), "cascaded_scan: source u is missing",
                       ShapeError);
  CascadedCall<> many({.sources = 9});
  CHECK_THROWS_WITH_AS(cascaded_scan(ctx, many.operands()), "cascaded_scan: 9 sources, 8 at most",
                       ArgumentError);
}

}  // namespace
}  // namespace ssm::test
