// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <span>

#include "ssm/core/elementwise.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "ssm/op/attention.hpp"
#include "support/layout.hpp"

namespace ssm::test {

struct AttentionCase {
  Index batch = 1, length = 65, cached = 0, heads = 3, width = 8;
  Segments segments{};
  std::span<const std::int64_t>
      cached_of{};  // by sequence; then `cached` is one more than any of them
  Layout layout = Layout::rows;

  Index key_rows() const { return cached_of.empty() ? batch : sequence_count(batch, segments); }
};

template <class T>
struct AttentionRun {
  AttentionRun(const AttentionCase& test, Layout layout)
      : q(operand("q", test, test.length, layout)),
        k(keys("k", test, layout)),
        v(keys("v", test, layout)),
        dy(operand("dy", test, test.length, layout)),
        y(result(test, test.batch, test.length, layout)),
        dq(result(test, test.batch, test.length, layout)),
        dk(result(test, test.key_rows(), test.cached + test.length, layout)),
        dv(result(test, test.key_rows(), test.cached + test.length, layout)),
        log_sum(nan_tensor<T>(test.batch, test.length, test.heads)) {}

  template <class Ctx>
  void compute(Ctx& ctx, const AttentionCase& test) {
    const Attention<T, HostSpace> forward{.scale = 1.7,
                                          .q = q,
                                          .k = k,
                                          .v = v,
                                          .segments = test.segments,
                                          .cached = test.cached_of,
                                          .y = y,
                                          .log_sum = log_sum};
    attention(ctx, forward);
    attention_backward(ctx, AttentionBackward<T, HostSpace>{.forward = forward,
                                                            .y = y,
                                                            .log_sum = log_sum,
                                                            .dy = dy,
                                                            .dq = dq,
                                                            .dk = dk,
                                                            .dv = dv});
  }
  static Placed<T, 4> operand(const char* name, const AttentionCase& test, Index length,
                              Layout layout) {
    return place_copy(layout, random_tensor<T>(name, test.batch, length, test.heads, test.width));
  }
  /// What nothing may read is NaN.
  static Placed<T, 4> keys(const char* name, const AttentionCase& test, Layout layout) {
    const Index total = test.cached + test.length;
    auto all = random_tensor<T>(name, test.key_rows(), total, test.heads, test.width);
    if (!test.cached_of.empty())
      for_each_sequence(test.batch, test.length, test.segments, [&](const Sequence& s) {
        const auto used = test.cached_of[static_cast<std::size_t>(s.row)] + s.end - s.begin;
        fill(all.slice(0, s.row, s.row + 1).slice(1, used, total),
             std::numeric_limits<T>::quiet_NaN());
      });
    return place_copy(layout, all);
  }
  static Placed<T, 4> result(const AttentionCase& test, Index rows, Index length, Layout layout) {
    return place<T>(layout, rows, length, test.heads, test.width);
  }

  Placed<T, 4> q, k, v, dy, y, dq, dk, dv;
  DynamicTensor<T, 3> log_sum;
};

template <class T>
void expect_equal(const AttentionCase&, const AttentionRun<T>& actual,
                  const AttentionRun<T>& expected) {
  CHECK(difference(actual.y.view, expected.y.view) < tolerance<T>.value);
  CHECK(difference(actual.log_sum, expected.log_sum) < tolerance<T>.value);
  CHECK(difference(actual.dq.view, expected.dq.view) < tolerance<T>.gradient);
  CHECK(difference(actual.dk.view, expected.dk.view) < tolerance<T>.gradient);
  CHECK(difference(actual.dv.view, expected.dv.view) < tolerance<T>.gradient);
}

}  // namespace ssm::test
