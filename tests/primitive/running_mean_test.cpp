// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/running_mean.hpp"

#include <cstdint>
#include <vector>

#include "support/primitive_laws.hpp"

namespace ssm::test {
namespace {

struct Case {
  Index batch = 2, length = 5, channels = 3;
  bool states = true;  // sums and positions
  Segments segments{};
  Layout layout = Layout::rows;
};

template <class T>
struct Run : OperandRun<RunningMean<T, HostSpace>, RunningMeanBackward<T, HostSpace>> {
  using Test = Case;
  Run(const Case& test, Layout layout)
      : Run::OperandRun({{'B', test.batch}, {'L', test.length}, {'D', test.channels}}, layout,
                        test.segments,
                        left_out({{"initial_sum", test.states}, {"position", test.states}})) {
    this->gradient.segments = test.segments;
    if (!test.states) return;
    const auto position = this->writable(this->forward.position);
    for_each_index(position, [&](Index s) { position(s) = 3 * s; });
  }
  void evaluate(auto& ctx) { running_mean(ctx, this->forward); }
  void differentiate(auto& ctx) { running_mean_backward(ctx, this->backward()); }
  template <class B>
  static constexpr bool exists = HasRunningMean<B, T>;
};

TEST_CASE("a mean goes on from the sum and the number of the positions before") {
  Run<double> call({.batch = 1, .length = 2, .channels = 1}, Layout::rows);
  auto& a = call.forward;
  call.set(a.x, {4, 6});
  call.set(a.initial_sum, {5});
  call.set(a.position, {2});
  on_each_backend<Run<double>>([&](auto& ctx) {
    call.evaluate(ctx);
    CHECK(difference(a.y, tensor_of({3, 15.0 / 4}).reshape(1, 2, 1)) <= allowed_beside(ctx));
    CHECK(a.final_sum(0, 0) == 15);
  });
}

TEST_CASE("sums are kept apart, and updated in place") {
  const std::vector<Index> offsets{0, 3, 3, 7};
  packs_sequences<Run<double>>({.batch = 1, .length = 7, .segments = offsets});
  for (const Index length : {0, 1, 5}) updates_its_state_in_place<Run<double>>({.length = length});
}

TEST_CASE("the gradient of a mean equals central differences, over packed sequences too") {
  const std::vector<Index> offsets{0, 3, 3, 7};
  for (const bool states : {false, true}) {
    has_its_gradients<Run<double>>({.states = states});
    has_its_gradients<Run<double>>(
        {.batch = 1, .length = 7, .states = states, .segments = offsets});
  }
}

TEST_CASE("means may overwrite what they are of, and their gradient dy") {
  on_each_backend<Run<double>>([](auto& ctx) {
    Run<double> apart({.states = false}, Layout::rows), in_place({.states = false}, Layout::rows);
    in_place.forward.y = in_place.writable(in_place.forward.x);
    in_place.gradient.dx = in_place.writable(in_place.gradient.dy);
    compute(ctx, apart);
    compute(ctx, in_place);
    CHECK(difference(in_place.forward.y, apart.forward.y) == 0);
    CHECK(difference(in_place.gradient.dx, apart.gradient.dx) == 0);
  });
}

TEST_CASE("operands of a mean that do not fit are refused by name") {
  Context<Reference> ctx;
  Run<double> call({}, Layout::rows);
  auto wide = zero_tensor(2, 5, 4);
  const auto sum = zero_tensor(1, 3);
  auto operands = call.forward;
  operands.y = wide;
  CHECK_THROWS_WITH_AS(running_mean(ctx, operands),
                       "running_mean: y must be [2, 5, 3], got [2, 5, 4]", ShapeError);
  operands = call.forward;
  operands.initial_sum = sum;
  CHECK_THROWS_WITH_AS(running_mean(ctx, operands),
                       "running_mean: initial_sum must be [2, 3], got [1, 3]", ShapeError);
}

TEST_CASE_TEMPLATE("any length, channels and layout equal the reference", T, float, double) {
  for (const Index length : {0, 1, 64, 65})
    for (const Index channels : {1, 17, 40})
      for (const bool states : {false, true})
        for (const Layout layout : all_layouts)
          equals_reference<Run<T>>({.batch = 3,
                                    .length = length,
                                    .channels = channels,
                                    .states = states,
                                    .layout = layout});
  const Index offsets[] = {0, 0, 1, 40, 40, 110};
  equals_reference<Run<T>>({.batch = 1, .length = 110, .segments = offsets});
}

}  // namespace
}  // namespace ssm::test
