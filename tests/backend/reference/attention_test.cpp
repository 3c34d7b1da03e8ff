// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/reference/attention.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <vector>

#include "ssm/backend/reference.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "support/gradient_check.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

/// One call with all its memory: two heads of four channels, `cached` positions before the first
/// query.
template <class T = double>
struct AttentionCall {
  AttentionCall(Index batch, Index length, Index cached, Segments offsets = {})
      : segments(offsets),
        q(random_tensor<T>("q", batch, length, 2, 4)),
        k(random_tensor<T>("k", batch, cached + length, 2, 4)),
        v(random_tensor<T>("v", batch, cached + length, 2, 4)),
        y(nan_tensor<T>(batch, length, 2, 4)),
        log_sum(nan_tensor<T>(batch, length, 2)) {
    ctx.workspace().fill_with_nan(true);
  }

  ssm::Attention<T, HostSpace> operands() {
    return {.scale = 0.5, .q = q, .k = k, .v = v, .segments = segments, .y = y, .log_sum = log_sum};
  }
  void run() { attention(ctx, operands()); }

  Context<Reference> ctx;
  Segments segments;
  DynamicTensor<T, 4> q, k, v, y;
  DynamicTensor<T, 3> log_sum;
};

TEST_CASE("two positions give the hand-worked numbers") {
  Context<Reference> ctx;
  const auto q = tensor_of({1, 1});
  const auto k = tensor_of({0, std::log(3.0)});
  const auto v = tensor_of({10, 20});
  auto y = nan_tensor(1, 2, 1, 1);
  auto log_sum = nan_tensor(1, 2, 1);
  attention(ctx, Attention<double, HostSpace>{.q = q.reshape(1, 2, 1, 1),
                                              .k = k.reshape(1, 2, 1, 1),
                                              .v = v.reshape(1, 2, 1, 1),
                                              .y = y,
                                              .log_sum = log_sum});
  CHECK(difference(y, tensor_of({10, 17.5}).reshape(1, 2, 1, 1)) < tolerance<double>.value);
  CHECK(difference(log_sum, tensor_of({0, std::log(4.0)}).reshape(1, 2, 1)) <
        tolerance<double>.value);
}

TEST_CASE("queries after a cache equal the end of the whole sequence") {
  AttentionCall<> whole(3, 65, 0);
  whole.run();
  AttentionCall<> last(3, 2, 63);
  auto operands = last.operands();
  operands.q = whole.q.slice(1, 63, 65);
  operands.k = whole.k;
  operands.v = whole.v;
  attention(last.ctx, operands);
  CHECK(difference(last.y, whole.y.slice(1, 63, 65)) == 0);
}

TEST_CASE("packed segments equal separate sequences") {
  const std::vector<Index> offsets{0, 4, 4, 5, 12};
  AttentionCall<> packed(1, 12, 0, offsets);
  packed.run();
  for (Index i = 0; i < 4; ++i) {
    const Index begin = offsets[static_cast<std::size_t>(i)];
    const Index end = offsets[static_cast<std::size_t>(i) + 1];
    AttentionCall<> alone(1, end - begin, 0);
    auto operands = alone.operands();
    operands.q = packed.q.slice(1, begin, end);
    operands.k = packed.k.slice(1, begin, end);
    operands.v = packed.v.slice(1, begin, end);
    attention(alone.ctx, operands);
    CHECK(difference(alone.y, packed.y.slice(1, begin, end)) == 0);
  }
}

TEST_CASE("scores of thousands stay finite") {
  AttentionCall<float> call(1, 64, 0);
  for_each_index(call.q, [&](auto... i) { call.q(i...) *= 1e4F; });
  call.run();
  for_each_index(call.y, [&](auto... i) { CHECK(std::abs(call.y(i...)) <= 1); });
}

template <class Call>
void check_gradients(Call& call) {
  attention(call.ctx, call.operands());
  const auto y = call.y.clone();
  const auto log_sum = call.log_sum.clone();
  const auto dy = random_tensor("dy", call.q.extent(0), call.q.extent(1), 2, 4);
  auto dq = nan_tensor(call.q.extent(0), call.q.extent(1), 2, 4);
  auto dk = nan_tensor(call.k.extent(0), call.k.extent(1), 2, 4);
  auto dv = dk.clone();
  attention_backward(call.ctx, AttentionBackward<double, HostSpace>{.forward = call.operands(),
                                                                    .y = y,
                                                                    .log_sum = log_sum,
                                                                    .dy = dy,
                                                                    .dq = dq,
                                                                    .dk = dk,
                                                                    .dv = dv});
  const auto loss = [&] {
    attention(call.ctx, call.operands());
    return inner_product(dy, call.y);
  };
  CHECK(gradient_error(loss, call.q, dq) < tolerance<double>.gradient);
  CHECK(gradient_error(loss, call.k, dk) < tolerance<double>.gradient);
  CHECK(gradient_error(loss, call.v, dv) < tolerance<double>.gradient);
}

TEST_CASE("gradients equal central differences, cached positions included") {
  for (const Index length : {0, 1, 5})
    for (const Index cached : {0, 3}) {
      CAPTURE(length);
      CAPTURE(cached);
      AttentionCall<> call(2, length, cached);
      check_gradients(call);
    }
}

TEST_CASE("gradients of packed segments equal central differences") {
  const std::vector<Index> offsets{0, 2, 2, 6};
  AttentionCall<> call(1, 6, 0, offsets);
  check_gradients(call);
}

/// Three packed sequences of 4, 0 and 2 new positions behind 3, 1 and 0 cached ones, or a batch of
/// three with two new ones each.
struct CachedCall : AttentionCall<> {
  explicit CachedCall(bool is_packed)
      : AttentionCall<>(is_packed ? 1 : 3, is_packed ? 6 : 2, 0,
                        is_packed ? Segments(offsets) : Segments()) {
    k = random_tensor("k", 3, 8, 2, 4);
    v = random_tensor("v", 3, 8, 2, 4);
  }
  ssm::Attention<double, HostSpace> operands() {
    auto a = AttentionCall<>::operands();
    a.cached = cached;
    return a;
  }

  static constexpr Index offsets[] = {0, 4, 4, 6};
  std::vector<std::int64_t> cached{3, 1, 0};
};

TEST_CASE("sequences with as many cached positions as they say equal separate calls") {
  for (const bool is_packed : {true, false}) {
    CAPTURE(is_packed);
    CachedCall call(is_packed);
    attention(call.ctx, call.operands());
    for_each_sequence(call.q.extent(0), call.q.extent(1), call.segments, [&](const Sequence& s) {
      const Index length = s.end - s.begin;
      const Index total = call.cached[static_cast<std::size_t>(s.row)] + length;
      AttentionCall<> alone(1, length, 0);
      auto operands = alone.operands();
      operands.q = call.q.slice(0, s.batch, s.batch + 1).slice(1, s.begin, s.end);
      operands.k = call.k.slice(0, s.row, s.row + 1).slice(1, 0, total);
      operands.v = call.v.slice(0, s.row, s.row + 1).slice(1, 0, total);
      attention(alone.ctx, operands);
      CHECK(difference(alone.y, call.y.slice(0, s.batch, s.batch + 1).slice(1, s.begin, s.end)) ==
            0);
    });
  }
}

TEST_CASE("gradients of sequences behind different numbers of cached positions") {
  for (const bool is_packed : {true, false}) {
    CAPTURE(is_packed);
    CachedCall call(is_packed);
    check_gradients(call);
  }
}

TEST_CASE("numbers of cached positions that do not fit are refused") {
  CachedCall call(true);
  call.cached = {3, 1};
  CHECK_THROWS_WITH_AS(attention(call.ctx, call.operands()),
                       "attention: cached must have 3 elements, one for each sequence, got 2",
                       ShapeError);
  call.cached = {3, 1, -1};
  CHECK_THROWS_WITH_AS(attention(call.ctx, call.operands()),
                       "attention: cached must not be negative, got -1", ShapeError);
  call.cached = {5, 1, 0};
  CHECK_THROWS_WITH_AS(attention(call.ctx, call.operands()),
                       "attention: k has 8 positions for 9 queries", ShapeError);
  call.cached = {std::numeric_limits<std::int64_t>::max(), 1, 0};
  CHECK_THROWS_AS(attention(call.ctx, call.operands()), ShapeError);
}

TEST_CASE("fewer keys than queries, or packed keys of another length, are refused") {
  AttentionCall<> call(1, 5, 0);
  auto operands = call.operands();
  const auto short_keys = zero_tensor(1, 4, 2, 4);
  operands.k = short_keys;
  operands.v = short_keys;
  CHECK_THROWS_WITH_AS(attention(call.ctx, operands), "attention: k has 4 positions for 5 queries",
                       ShapeError);
  const std::vector<Index> offsets{0, 5};
  AttentionCall<> packed(1, 5, 2, offsets);
  CHECK_THROWS_AS(packed.run(), ShapeError);
}

}  // namespace
}  // namespace ssm::test
