// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/decayed_attention.hpp"

#include "compare.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

struct Case {
  Index batch = 1, length = 65, heads = 3, keys = 8, values = 12;
  Index chunk = 0;
  bool states = true;
  Segments segments{};
  Layout layout = Layout::rows;
  Index sequences() const { return sequence_count(batch, segments); }
};

template <class T>
struct Run {
  Run(const Case& test, Layout layout)
      : q(operand("q", layout, test.batch, test.length, test.heads, test.keys)),
        k(operand("k", layout, test.batch, test.length, test.heads, test.keys)),
        v(operand("v", layout, test.batch, test.length, test.heads, test.values)),
        dy(operand("dy", layout, test.batch, test.length, test.heads, test.values)),
        initial(operand("initial", layout, test.sequences(), test.heads, test.keys, test.values)),
        dfinal(operand("dfinal", layout, test.sequences(), test.heads, test.keys, test.values)),
        y(place<T>(layout, test.batch, test.length, test.heads, test.values)),
        dq(place<T>(layout, test.batch, test.length, test.heads, test.keys)),
        dk(place<T>(layout, test.batch, test.length, test.heads, test.keys)),
        dv(place<T>(layout, test.batch, test.length, test.heads, test.values)),
        final(place<T>(layout, test.sequences(), test.heads, test.keys, test.values)),
        dinitial(place<T>(layout, test.sequences(), test.heads, test.keys, test.values)),
        score_norm(nan_tensor<T>(test.batch, test.length, test.heads)) {}

  template <class Ctx>
  void compute(Ctx& ctx, const Case& test) {
    DynamicTensor<T, 1> log_decay({test.heads});
    for (Index h = 0; h < test.heads; ++h)
      log_decay(h) =
          h == 2 ? T{0} : static_cast<T>(std::log1p(-std::exp2(-2.0 - static_cast<double>(h))));
    DecayedAttention<T, HostSpace> forward{.q = q,
                                           .k = k,
                                           .v = v,
                                           .log_decay = log_decay,
                                           .chunk = test.chunk,
                                           .segments = test.segments,
                                           .y = y};
    DecayedAttentionBackward<T, HostSpace> backward{.dy = dy, .dq = dq, .dk = dk, .dv = dv};
    if (test.states) {
      forward.initial_state = initial;
      forward.final_state = final;
      backward.dfinal_state = dfinal;
      backward.dinitial_state = dinitial;
    }
    backward.forward = forward;
    decayed_attention(ctx, forward);
    decayed_attention_backward(ctx, backward);
    decayed_score_norm(
        ctx,
        DecayedScoreNorm<T, HostSpace>{
            .q = q, .k = k, .log_decay = log_decay, .segments = test.segments, .y = score_norm});
  }
  template <class... N>
  static Placed<T, 4> operand(const char* name, Layout layout, N... extents) {
    return place_copy(layout, random_tensor<T>(name, extents...));
  }

  Placed<T, 4> q, k, v, dy, initial, dfinal;
  Placed<T, 4> y, dq, dk, dv, final, dinitial;
  DynamicTensor<T, 3> score_norm;
};

template <class T>
void expect_equal(const Case& test, const Run<T>& actual, const Run<T>& expected) {
  CHECK(difference(actual.y.view, expected.y.view) < tolerance<T>.value);
  CHECK(difference(actual.score_norm, expected.score_norm) < tolerance<T>.value);
  CHECK(difference(actual.dq.view, expected.dq.view) < tolerance<T>.gradient);
  CHECK(difference(actual.dk.view, expected.dk.view) < tolerance<T>.gradient);
  CHECK(difference(actual.dv.view, expected.dv.view) < tolerance<T>.gradient);
  if (!test.states) return;
  CHECK(difference(actual.final.view, expected.final.view) < tolerance<T>.value);
  CHECK(difference(actual.dinitial.view, expected.dinitial.view) < tolerance<T>.gradient);
}

template <class T>
void cpu_equals_reference(const Case& test) {
  expect_reference_on_cpu<Run<T>>(test);
}

}  // namespace

TEST_CASE_TEMPLATE("decayed attention and its gradient equal the reference at every length", T,
                   float, double) {
  for (const Index length : {0, 1, 2, 63, 64, 65, 95, 96, 97, 200, 1000})
    for (const Index batch : {1, 3})
      for (const bool states : {false, true})
        cpu_equals_reference<T>({.batch = batch, .length = length, .heads = 2, .states = states});
}

TEST_CASE_TEMPLATE("any number of positions multiplied directly", T, float, double) {
  for (const Index chunk : {1, 2, 5, 12, 13, 32, 64, 1000})
    for (const bool states : {false, true})
      cpu_equals_reference<T>({.length = 70, .chunk = chunk, .states = states});
}

TEST_CASE_TEMPLATE("any widths of keys and values", T, float, double) {
  for (const Index keys : {1, 2, 7, 33, 48})
    for (const Index values : {1, 3, 16, 31, 97})
      for (const Index heads : {1, 3})
        cpu_equals_reference<T>({.length = 40, .heads = heads, .keys = keys, .values = values});
}

TEST_CASE_TEMPLATE("heads that are too few for the threads are divided", T, float, double) {
  cpu_equals_reference<T>({.length = 130, .heads = 1, .keys = 70, .values = 200});
  cpu_equals_reference<T>({.length = 130, .heads = 3, .keys = 70, .values = 40});
}

TEST_CASE_TEMPLATE("a single position reads and writes the state once, also in place", T, float,
                   double) {
  for (const Index values : {1, 5, 64, 700})
    for (const Index keys : {1, 3, 64, 66}) {
      const Case test{.batch = 3, .length = 1, .heads = 3, .keys = keys, .values = values};
      cpu_equals_reference<T>(test);
      Context<Cpu> ctx{cpu::Resources(2)};
      Run<T> apart(test, Layout::rows);
      apart.compute(ctx, test);
      Run<T> in_place(test, Layout::rows);
      const auto log_decay = zero_tensor<T>(3);
      const DecayedAttention<T, HostSpace> call{.q = in_place.q,
                                                .k = in_place.k,
                                                .v = in_place.v,
                                                .log_decay = log_decay,
                                                .initial_state = in_place.initial,
                                                .final_state = in_place.initial,
                                                .y = in_place.y};
      DecayedAttention<T, HostSpace> other = call;
      other.final_state = in_place.final;
      other.y = apart.y;
      decayed_attention(ctx, other);
      decayed_attention(ctx, call);
      CHECK(difference(in_place.y.view, apart.y.view) == 0);
      CHECK(difference(in_place.initial.view, in_place.final.view) == 0);
    }
}

TEST_CASE_TEMPLATE("any layout of the operands", T, float, double) {
  for (const Layout layout : all_layouts)
    for (const Index length : {1, 60})
      cpu_equals_reference<T>({.batch = 2, .length = length, .layout = layout});
}

TEST_CASE_TEMPLATE("packed segments do not see each other", T, float, double) {
  const Index offsets[] = {0, 0, 1, 60, 60, 230};
  for (const bool states : {false, true})
    cpu_equals_reference<T>({.length = 230, .states = states, .segments = offsets});
}
