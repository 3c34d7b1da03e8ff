// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/pair_rotation.hpp"

#include <cmath>
#include <vector>

#include "support/primitive_laws.hpp"

namespace ssm::test {
namespace {

struct Case {
  Index batch = 3, length = 65, heads = 2, width = 6;
  double scale = 1;
  int direction = 1;
  bool positions = true;  // of the sequences: 0, 7, 100000, …
  Segments segments{};
  Layout layout = Layout::rows;
};

template <class T>
struct Run : OperandRun<PairRotation<T, HostSpace>, NoGradient> {
  using Test = Case;
  Run(const Case& test, Layout layout)
      : Run::OperandRun(
            {{'B', test.batch}, {'L', test.length}, {'H', test.heads}, {'K', test.width}}, layout,
            test.segments, left_out({{"position", test.positions}})) {
    this->forward.scale = test.scale;
    this->forward.direction = test.direction;
    if (!test.positions) return;
    constexpr std::int64_t starts[] = {0, 7, 100000, 5};
    const auto position = this->writable(this->forward.position);
    for_each_index(position, [&](Index s) { position(s) = starts[s]; });
  }
  void evaluate(auto& ctx) { pair_rotation(ctx, this->forward); }
  template <class B>
  static constexpr bool exists = HasPairRotation<B, T>;
};

TEST_CASE_TEMPLATE("neighboring channels turn by angles that reach from 1 to 1/base", T, float,
                   double) {
  Run<T> call({.batch = 1, .length = 1, .heads = 1, .scale = 2}, Layout::rows);
  call.forward.base = 9;
  call.set(call.forward.x, {1, 2, 3, 4, 5, 6});
  call.set(call.forward.position, {3});
  auto expected = nan_tensor<T>(1, 1, 1, 6);
  for (Index i = 0; i < 3; ++i) {
    const double angle = 3 * std::pow(9, -static_cast<double>(i) / 2);
    const double first = static_cast<double>(2 * i + 1), second = first + 1;
    expected(0, 0, 0, 2 * i) =
        static_cast<T>(2 * (first * std::cos(angle) - second * std::sin(angle)));
    expected(0, 0, 0, 2 * i + 1) =
        static_cast<T>(2 * (second * std::cos(angle) + first * std::sin(angle)));
  }
  on_each_backend<Run<T>>([&](auto& ctx) {
    call.evaluate(ctx);
    CHECK(difference(call.forward.y, expected) <= tolerance<T>.value);
  });
}

TEST_CASE("a single pair turns by its position") {
  on_each_backend<Run<double>>([](auto& ctx) {
    Run<double> call({.batch = 1, .length = 4, .heads = 1, .width = 2, .positions = false},
                     Layout::rows);
    call.set(call.forward.x, {1, 0, 1, 0, 1, 0, 1, 0});
    call.evaluate(ctx);
    const auto& y = call.forward.y;
    for (Index t = 0; t < 4; ++t) {
      CHECK(std::abs(y(0, t, 0, 0) - std::cos(static_cast<double>(t))) <= tolerance<double>.value);
      CHECK(std::abs(y(0, t, 0, 1) - std::sin(static_cast<double>(t))) <= tolerance<double>.value);
    }
  });
}

TEST_CASE_TEMPLATE("the opposite direction undoes all of it, in place", T, float, double) {
  for (const Index length : {0, 1, 2, 63, 64, 65, 1000})
    on_each_backend<Run<T>>([&](auto& ctx) {
      Run<T> call({.length = length, .width = 34}, Layout::rows);
      call.evaluate(ctx);
      const auto x = clone(call.forward.x);
      call.forward.x = call.forward.y;
      call.forward.direction = -1;
      call.evaluate(ctx);
      CHECK(difference(call.forward.y, x) <= tolerance<T>.value);
    });
}

TEST_CASE("positions start again in every segment, from where it says") {
  const std::vector<Index> offsets{0, 0, 4, 9, 9};
  packs_sequences<Run<double>>({.batch = 1, .length = 9, .width = 4, .segments = offsets});
}

TEST_CASE("positions move past the rows of their sequences, in place too") {
  using Positions = OperandRun<AdvancePosition<HostSpace>, NoGradient>;
  const std::vector<Index> offsets{0, 0, 4, 9};
  on_each_backend<Run<double>>([&](auto& ctx) {
    Positions call({{'S', 3}}, Layout::rows);
    auto& a = call.forward;
    const auto moves_to = [&](std::initializer_list<double> expected) {
      advance_position(ctx, a);
      CHECK(difference(a.y, tensor_of<std::int64_t>(expected)) == 0);
    };
    call.set(a.position, {5, 2, 0});
    a.segments = offsets;
    moves_to({5, 6, 5});
    a.segments = {};
    a.length = 3;
    a.position = a.y;
    moves_to({8, 9, 8});
    a.position = {};
    moves_to({3, 3, 3});
  });
}

TEST_CASE("channels that are no pairs and positions that are too few are refused") {
  Context<Reference> ctx;
  Run<double> no_pairs({.width = 3}, Layout::rows);
  CHECK_THROWS_AS(no_pairs.evaluate(ctx), ShapeError);
  Run<double> too_few({.batch = 2}, Layout::rows);
  too_few.forward.position = too_few.forward.position.slice(0, 0, 1);
  CHECK_THROWS_AS(too_few.evaluate(ctx), ShapeError);
}

TEST_CASE_TEMPLATE("pairs turn as the reference turns them, from each sequence's own position", T,
                   float, double) {
  for (const Index length : {0, 1, 2, 65})
    for (const Index width : {2, 6, 34})
      for (const int direction : {1, -1})
        for (const bool positions : {false, true})
          for (const Layout layout : all_layouts) {
            const Case test{.length = length,
                            .width = width,
                            .scale = positions ? 2.0 : 1.0,
                            .direction = direction,
                            .positions = positions,
                            .layout = layout};
            equals_reference<Run<T>>(test);
            on_other_backends<Run<T>>([&](auto& ctx) {
              Run<T> apart(test, layout), in_place(test, layout);
              in_place.forward.y = in_place.writable(in_place.forward.x);
              apart.evaluate(ctx);
              in_place.evaluate(ctx);
              CHECK(difference(in_place.forward.y, apart.forward.y) <= tolerance<T>.value);
            });
          }
}

TEST_CASE_TEMPLATE("sequences and segments of any length equal the reference", T, float, double) {
  for (const Index length : {63, 64, 1000}) equals_reference<Run<T>>({.length = length});
  const Index offsets[] = {0, 0, 4, 9, 9};
  equals_reference<Run<T>>({.batch = 1, .length = 9, .segments = offsets});
}

}  // namespace
}  // namespace ssm::test
