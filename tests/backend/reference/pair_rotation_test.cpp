// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/pair_rotation.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "support/backends.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

DynamicTensor<std::int64_t, 1> positions_of(std::initializer_list<std::int64_t> numbers) {
  DynamicTensor<std::int64_t, 1> x({static_cast<Index>(numbers.size())});
  std::copy(numbers.begin(), numbers.end(), x.data());
  return x;
}

TEST_CASE("neighboring channels turn by angles that reach from 1 to 1/base") {
  laws::for_each_backend_and_scalar([]<class B, class T>(const char* name) {
    CAPTURE(std::string(name));
    Context<B> ctx;
    const auto x = tensor_of<T>({1, 2, 3, 4, 5, 6});
    const auto position = positions_of({3});
    auto y = nan_tensor<T>(1, 1, 1, 6);
    pair_rotation(
        ctx, PairRotation<T, HostSpace>{
                 .base = 9, .scale = 2, .position = position, .x = x.reshape(1, 1, 1, 6), .y = y});
    auto expected = nan_tensor<T>(1, 1, 1, 6);
    for (Index i = 0; i < 3; ++i) {
      const double angle = 3 * std::pow(9, -static_cast<double>(i) / 2);
      const double first = static_cast<double>(2 * i + 1), second = first + 1;
      expected(0, 0, 0, 2 * i) =
          static_cast<T>(2 * (first * std::cos(angle) - second * std::sin(angle)));
      expected(0, 0, 0, 2 * i + 1) =
          static_cast<T>(2 * (second * std::cos(angle) + first * std::sin(angle)));
    }
    CHECK(difference(y, expected) <= tolerance<T>.value);
  });
}

TEST_CASE("a single pair turns by its position") {
  laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    Context<B> ctx;
    auto x = zero_tensor(1, 4, 1, 2);
    for (Index t = 0; t < 4; ++t) x(0, t, 0, 0) = 1;
    pair_rotation(ctx, PairRotation<double, HostSpace>{.x = x, .y = x});
    for (Index t = 0; t < 4; ++t) {
      CHECK(std::abs(x(0, t, 0, 0) - std::cos(static_cast<double>(t))) <= tolerance<double>.value);
      CHECK(std::abs(x(0, t, 0, 1) - std::sin(static_cast<double>(t))) <= tolerance<double>.value);
    }
  });
}

TEST_CASE(
    "every sequence has a first position of its own, and the opposite direction undoes all of it") {
  laws::for_each_backend_and_scalar([]<class B, class T>(const char* name) {
    CAPTURE(std::string(name));
    for (const Index length : {0, 1, 2, 63, 64, 65, 1000})
      for (const Index width : {2, 6, 34}) {
        CAPTURE(length);
        CAPTURE(width);
        Context<B> ctx;
        Context<Reference> reference;
        const auto x = random_tensor<T>("x", 3, length, 2, width);
        const auto position = positions_of({0, 7, 100000});
        auto y = nan_tensor<T>(3, length, 2, width), expected = y.clone();
        PairRotation<T, HostSpace> call{.position = position, .x = x, .y = y};
        pair_rotation(ctx, call);
        call.y = expected;
        pair_rotation(reference, call);
        CHECK(difference(y, expected) <= tolerance<T>.value);
        call = {.direction = -1, .position = position, .x = y, .y = y};
        pair_rotation(ctx, call);
        CHECK(difference(y, x) <= tolerance<T>.value);
      }
  });
}

TEST_CASE("positions start again in every segment, from where it says") {
  laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    Context<B> ctx;
    const auto x = random_tensor("x", 1, 9, 2, 4);
    const std::vector<Index> offsets{0, 0, 4, 9};
    const auto position = positions_of({5, 2, 0});
    auto packed = nan_tensor(1, 9, 2, 4);
    pair_rotation(ctx, PairRotation<double, HostSpace>{
                           .position = position, .segments = offsets, .x = x, .y = packed});
    for (Index s = 1; s < 3; ++s) {
      const auto begin = offsets[static_cast<std::size_t>(s)];
      const auto end = offsets[static_cast<std::size_t>(s) + 1];
      auto alone = nan_tensor(1, end - begin, 2, 4);
      pair_rotation(ctx, PairRotation<double, HostSpace>{.position = position.slice(0, s, s + 1),
                                                         .x = x.slice(1, begin, end),
                                                         .y = alone});
      CHECK(difference(packed.slice(1, begin, end), alone) <= tolerance<double>.value);
    }
    auto next = positions_of({-1, -1, -1});
    advance_position(
        ctx, AdvancePosition<HostSpace>{.segments = offsets, .position = position, .y = next});
    CHECK(difference(next, positions_of({5, 6, 5})) == 0);
    advance_position(ctx, AdvancePosition<HostSpace>{.length = 3, .position = next, .y = next});
    CHECK(difference(next, positions_of({8, 9, 8})) == 0);
    advance_position(ctx, AdvancePosition<HostSpace>{.length = 3, .y = next});
    CHECK(difference(next, positions_of({3, 3, 3})) == 0);
  });
}

TEST_CASE("channels that are no pairs and positions that are too few are refused") {
  Context<Reference> ctx;
  auto odd = zero_tensor(1, 1, 1, 3);
  auto even = zero_tensor(2, 1, 1, 4);
  const auto position = positions_of({0});
  const PairRotation<double, HostSpace> no_pairs{.x = odd, .y = odd};
  const PairRotation<double, HostSpace> too_few{.position = position, .x = even, .y = even};
  CHECK_THROWS_AS(pair_rotation(ctx, no_pairs), ShapeError);
  CHECK_THROWS_AS(pair_rotation(ctx, too_few), ShapeError);
}

}  // namespace
}  // namespace ssm::test
