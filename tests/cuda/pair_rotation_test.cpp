// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cuda/pair_rotation.hpp"

#include <doctest/doctest.h>

#include "ssm/backend/reference.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "support/layout.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

struct Rotations : cuda::primitive::PairRotation {
  using Space = HostSpace;
  using Resources = cuda::Resources;
};

DynamicTensor<std::int64_t, 1> positions_of(std::initializer_list<std::int64_t> numbers) {
  DynamicTensor<std::int64_t, 1> x({static_cast<Index>(numbers.size())});
  std::copy(numbers.begin(), numbers.end(), x.data());
  return x;
}

template <class T>
void equals_reference(PairRotation<T, HostSpace> call, Layout layout) {
  Context<Reference> reference;
  Context<Rotations> ctx;
  const auto shape = call.x.extents();
  DynamicTensor<T, 4> expected(shape);
  const auto y = place<T>(layout, shape[0], shape[1], shape[2], shape[3]);
  call.y = expected;
  pair_rotation(reference, call);
  call.y = y;
  pair_rotation(ctx, call);
  CHECK(difference(y.view, expected) <= tolerance<T>.value);
  const auto in_place = place<T>(layout, shape[0], shape[1], shape[2], shape[3]);
  for_each_index(call.x, [&](auto... i) { in_place.view(i...) = call.x(i...); });
  call.x = in_place;
  call.y = in_place;
  pair_rotation(ctx, call);
  CHECK(difference(in_place.view, expected) <= tolerance<T>.value);
}

}  // namespace

TEST_CASE_TEMPLATE("pairs turn as the reference turns them, from each sequence's own position", T,
                   float, double) {
  const auto position = positions_of({0, 7, 100000});
  for (const Index length : {0, 1, 65})
    for (const Index width : {2, 6, 34})
      for (const int direction : {1, -1})
        for (const Layout layout : all_layouts) {
          CAPTURE(length);
          CAPTURE(width);
          const auto x = random_tensor<T>("x", 3, length, 2, width);
          equals_reference<T>({.scale = 2, .direction = direction, .position = position, .x = x},
                              layout);
          equals_reference<T>({.direction = direction, .x = x}, layout);
        }
}

TEST_CASE_TEMPLATE("positions start again in every segment", T, float, double) {
  const Index offsets[] = {0, 0, 4, 9, 9};
  const auto position = positions_of({5, 2, 0, 1});
  const auto x = random_tensor<T>("x", 1, 9, 2, 4);
  equals_reference<T>({.position = position, .segments = offsets, .x = x}, Layout::rows);
}

TEST_CASE("positions move past the rows of their sequences, in place too") {
  Context<Rotations> ctx;
  const Index offsets[] = {0, 0, 4, 9};
  const auto position = positions_of({5, 2, 0});
  auto next = positions_of({-1, -1, -1});
  advance_position(
      ctx, AdvancePosition<HostSpace>{.segments = offsets, .position = position, .y = next});
  CHECK(difference(next, positions_of({5, 6, 5})) == 0);
  advance_position(ctx, AdvancePosition<HostSpace>{.length = 3, .position = next, .y = next});
  CHECK(difference(next, positions_of({8, 9, 8})) == 0);
  advance_position(ctx, AdvancePosition<HostSpace>{.length = 3, .y = next});
  CHECK(difference(next, positions_of({3, 3, 3})) == 0);
}
