// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/composed/h3_mixer.hpp"

#include <doctest/doctest.h>

#include <vector>

#include "ssm/backend/reference.hpp"
#include "ssm/core/scalar.hpp"  // tolerance
#include "support/gradient_check.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

struct MixerSizes {
  Index batch = 2;
  Index length = 6;
  Index channels = 4;
  Index heads = 4;
  Segments segments{};
};

/// One call with all its memory; every head has 3 modes, every channel 3 taps.
struct MixerCall {
  explicit MixerCall(const MixerSizes& n)
      : segments(n.segments),
        q(random_tensor("q", n.batch, n.length, n.channels)),
        k(random_tensor("k", n.batch, n.length, n.channels)),
        v(random_tensor("v", n.batch, n.length, n.channels)),
        A(random_tensor("A", n.heads, 3, 2)),
        B(random_tensor("B", n.heads, 3, 2)),
        C(random_tensor("C", n.heads, 3, 2)),
        y(nan_tensor(n.batch, n.length, n.channels)),
        initial_shift(random_tensor("shift", sequence_count(n.batch, segments), n.channels, 3)),
        final_shift(nan_tensor(sequence_count(n.batch, segments), n.channels, 3)),
        shift_B(random_tensor("shift_B", n.channels, 3)),
        shift_C(random_tensor("shift_C", n.channels, 3)),
        shift_skip(random_tensor("shift_skip", n.channels)),
        dt(random_tensor("dt", n.heads)),
        skip(random_tensor("skip", n.heads)),
        initial_diagonal(random_tensor("diagonal", sequence_count(n.batch, segments),
                                       n.channels / n.heads, n.channels / n.heads, n.heads, 3, 2)),
        final_diagonal(nan_tensor(sequence_count(n.batch, segments), n.channels / n.heads,
                                  n.channels / n.heads, n.heads, 3, 2)) {
    ctx.workspace().fill_with_nan(true);
    for (Index h = 0; h < n.heads; ++h) {
      dt(h) = 0.5 + dt(h) / 4;
      for (Index p = 0; p < 3; ++p) A(h, p, 0) -= 1.5;
    }
  }

  H3Mixer<double, HostSpace> operands() {
    return {.q = q,
            .k = k,
            .v = v,
            .shift_B = shift_B,
            .shift_C = shift_C,
            .shift_skip = shift_skip,
            .dt = dt,
            .A = A,
            .B = B,
            .C = C,
            .skip = skip,
            .segments = segments,
            .initial_shift = initial_shift,
            .final_shift = final_shift,
            .initial_diagonal = initial_diagonal,
            .final_diagonal = final_diagonal,
            .y = y};
  }
  void run() { h3_mixer(ctx, operands()); }

  Context<Reference> ctx;
  Segments segments;
  DynamicTensor<double, 3> q, k, v, A, B, C, y, initial_shift, final_shift;
  DynamicTensor<double, 2> shift_B, shift_C;
  DynamicTensor<double, 1> shift_skip, dt, skip;
  DynamicTensor<double, 6> initial_diagonal, final_diagonal;
};

TEST_CASE("every head width equals the printed formula, one diagonal scan for each product") {
  for (const Index heads : {4, 2, 1}) {
    CAPTURE(heads);
    const Index batch = 2;
    const Index length = 6;
    const Index width = 4 / heads;
    MixerCall call({.batch = batch, .length = length, .heads = heads});
    call.run();
    auto shifted = nan_tensor(batch, length, 4);
    shift_convolution(call.ctx,
                      ShiftConvolution<double, HostSpace>{.B = call.shift_B,
                                                          .C = call.shift_C,
                                                          .skip = call.shift_skip,
                                                          .x = call.k,
                                                          .initial_state = call.initial_shift,
                                                          .y = shifted});
    auto expected = zero_tensor(batch, length, 4);
    auto kv = nan_tensor(batch, length, 1);
    auto s = nan_tensor(batch, length, 1);
    auto state = nan_tensor(batch, 1, 3, 2);
    auto states = nan_tensor(batch, width, width, heads, 3, 2);
    for (Index h = 0; h < heads; ++h)
      for (Index i = 0; i < width; ++i)
        for (Index j = 0; j < width; ++j) {
          for_each_index(kv, [&](Index b, Index t, Index) {
            kv(b, t, 0) = shifted(b, t, h * width + i) * call.v(b, t, h * width + j);
          });
          const auto initial =
              call.initial_diagonal.slice(1, i, i + 1).select(2, j).slice(2, h, h + 1);
          diagonal_scan(call.ctx,
                        DiagonalScan<double, HostSpace>{.dt = call.dt.slice(0, h, h + 1),
                                                        .A = call.A.slice(0, h, h + 1),
                                                        .B = call.B.slice(0, h, h + 1),
                                                        .C = call.C.slice(0, h, h + 1),
                                                        .skip = call.skip.slice(0, h, h + 1),
                                                        .x = kv,
                                                        .initial_state = initial.select(1, 0),
                                                        .final_state = state,
                                                        .y = s});
          for_each_index(s, [&](Index b, Index t, Index) {
            expected(b, t, h * width + j) += call.q(b, t, h * width + i) * s(b, t, 0);
          });
          for_each_index(state, [&](Index b, Index, Index p, Index part) {
            states(b, i, j, h, p, part) = state(b, 0, p, part);
          });
        }
    CHECK(difference(call.y, expected) < tolerance<double>.value);
    CHECK(difference(call.final_diagonal, states) < tolerance<double>.value);
  }
}

TEST_CASE("packed segments equal separate sequences") {
  const std::vector<Index> offsets{0, 4, 4, 9};
  for (const Index heads : {4, 2}) {
    MixerCall packed({.batch = 1, .length = 9, .heads = heads, .segments = offsets});
    packed.run();
    for (Index i = 0; i < 3; ++i) {
      CAPTURE(i);
      const Index begin = offsets[static_cast<std::size_t>(i)];
      const Index end = offsets[static_cast<std::size_t>(i) + 1];
      MixerCall alone({.batch = 1, .length = end - begin, .heads = heads});
      auto operands = alone.operands();
      operands.q = packed.q.slice(1, begin, end);
      operands.k = packed.k.slice(1, begin, end);
      operands.v = packed.v.slice(1, begin, end);
      operands.initial_shift = packed.initial_shift.slice(0, i, i + 1);
      operands.initial_diagonal = packed.initial_diagonal.slice(0, i, i + 1);
      h3_mixer(alone.ctx, operands);
      CHECK(difference(alone.y, packed.y.slice(1, begin, end)) == 0);
      CHECK(difference(alone.final_shift, packed.final_shift.slice(0, i, i + 1)) == 0);
      CHECK(difference(alone.final_diagonal, packed.final_diagonal.slice(0, i, i + 1)) == 0);
    }
  }
}

TEST_CASE("a sequence in two parts with the states between them equals the whole") {
  for (const Index heads : {4, 2}) {
    MixerCall whole({.length = 65, .heads = heads});
    whole.run();
    MixerCall parts({.length = 65, .heads = heads});
    for (const auto& [begin, end] : {std::pair<Index, Index>{0, 1}, {1, 1}, {1, 65}}) {
      auto operands = parts.operands();
      operands.q = whole.q.slice(1, begin, end);
      operands.k = whole.k.slice(1, begin, end);
      operands.v = whole.v.slice(1, begin, end);
      operands.y = parts.y.slice(1, begin, end);
      operands.final_shift = parts.initial_shift;  // the state advances in place
      operands.final_diagonal = parts.initial_diagonal;
      h3_mixer(parts.ctx, operands);
    }
    CHECK(difference(parts.y, whole.y) < tolerance<double>.value);
    CHECK(difference(parts.initial_shift, whole.final_shift) < tolerance<double>.value);
    CHECK(difference(parts.initial_diagonal, whole.final_diagonal) < tolerance<double>.value);
  }
}

void check_gradients(MixerCall& call) {
  const auto dy = random_tensor("dy", call.y.extent(0), call.y.extent(1), call.y.extent(2));
  const auto dfinal_shift = random_tensor("dshift", call.final_shift.extent(0),
                                          call.final_shift.extent(1), call.final_shift.extent(2));
  auto dfinal_diagonal = call.initial_diagonal.clone();
  for_each_index(dfinal_diagonal, [&](auto... i) { dfinal_diagonal(i...) *= -0.7; });
  auto dq = nan_tensor(call.q.extent(0), call.q.extent(1), call.q.extent(2));
  auto dk = dq.clone();
  auto dv = dq.clone();
  auto dinitial_shift = call.final_shift.clone();
  auto dinitial_diagonal = call.final_diagonal.clone();
  auto dshift_B = zero_tensor(4, 3);
  auto dshift_C = zero_tensor(4, 3);
  auto dshift_skip = zero_tensor(4);
  auto ddt = zero_tensor(call.dt.extent(0));
  auto dskip = zero_tensor(call.dt.extent(0));
  auto dA = zero_tensor(call.A.extent(0), 3, 2);
  auto dB = dA.clone();
  auto dC = dA.clone();
  h3_mixer_backward(call.ctx,
                    H3MixerBackward<double, HostSpace>{.forward = call.operands(),
                                                       .dy = dy,
                                                       .dfinal_shift = dfinal_shift,
                                                       .dfinal_diagonal = dfinal_diagonal,
                                                       .dq = dq,
                                                       .dk = dk,
                                                       .dv = dv,
                                                       .dinitial_shift = dinitial_shift,
                                                       .dinitial_diagonal = dinitial_diagonal,
                                                       .dshift_B = dshift_B,
                                                       .dshift_C = dshift_C,
                                                       .dshift_skip = dshift_skip,
                                                       .ddt = ddt,
                                                       .dA = dA,
                                                       .dB = dB,
                                                       .dC = dC,
                                                       .dskip = dskip});
  const auto loss = [&] {
    call.run();
    return inner_product(dy, call.y) + inner_product(dfinal_shift, call.final_shift) +
           inner_product(dfinal_diagonal, call.final_diagonal);
  };
  const double bound = tolerance<double>.gradient;
  CHECK(gradient_error(loss, call.q, dq) < bound);
  CHECK(gradient_error(loss, call.k, dk) < bound);
  CHECK(gradient_error(loss, call.v, dv) < bound);
  CHECK(gradient_error(loss, call.initial_shift, dinitial_shift) < bound);
  CHECK(gradient_error(loss, call.initial_diagonal, dinitial_diagonal) < bound);
  CHECK(gradient_error(loss, call.shift_B, dshift_B) < bound);
  CHECK(gradient_error(loss, call.shift_C, dshift_C) < bound);
  CHECK(gradient_error(loss, call.shift_skip, dshift_skip) < bound);
  CHECK(gradient_error(loss, call.dt, ddt) < bound);
  CHECK(gradient_error(loss, call.A, dA) < bound);
  CHECK(gradient_error(loss, call.B, dB) < bound);
  CHECK(gradient_error(loss, call.C, dC) < bound);
  CHECK(gradient_error(loss, call.skip, dskip) < bound);
}

TEST_CASE("gradients equal central differences for every head width") {
  for (const Index heads : {4, 2, 1})
    for (const Index length : {0, 1, 5}) {
      CAPTURE(heads);
      CAPTURE(length);
      MixerCall call({.length = length, .heads = heads});
      check_gradients(call);
    }
}

TEST_CASE("gradients of packed segments equal central differences") {
  const std::vector<Index> offsets{0, 2, 2, 5};
  MixerCall call({.batch = 1, .length = 5, .heads = 2, .segments = offsets});
  check_gradients(call);
}

TEST_CASE("states with gaps between heads are refused, not misread") {
  MixerCall call({.heads = 2});
  auto operands = call.operands();
  operands.final_diagonal = call.final_diagonal.transpose(1, 2);
  CHECK_THROWS_WITH_AS(h3_mixer(call.ctx, operands),
                       "h3_mixer: diagonal state must have one stride over its axes i, j, h",
                       ShapeError);
  const auto three = zero_tensor(3);
  operands = call.operands();
  operands.dt = three;
  CHECK_THROWS_WITH_AS(h3_mixer(call.ctx, operands),
                       "h3_mixer: dt has 3 heads, which do not divide the 4 channels", ShapeError);
}

}  // namespace
}  // namespace ssm::test
