// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/decayed_attention.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "cuda/tensor_cores_on_host.hpp"
#include "ssm/op/normalization.hpp"
#include "ssm/op/pair_rotation.hpp"
#include "support/primitive_laws.hpp"

namespace ssm::test {
namespace {

struct Case {
  Index batch = 1, length = 65, heads = 3, keys = 8, values = 12;
  Index chunk = 0;
  bool states = true;
  Segments segments{};
  Layout layout = Layout::rows;
};

/// One head does not fade.
template <class Run>
void set_decays(Run& run) {
  const auto log_decay = run.writable(run.forward.log_decay);
  for_each_index(log_decay, [&](Index h) {
    using T = std::remove_cvref_t<decltype(log_decay(h))>;
    log_decay(h) =
        h == 2 ? T{0} : static_cast<T>(std::log1p(-std::exp2(-2.0 - static_cast<double>(h))));
  });
}

template <class T>
struct Run : OperandRun<DecayedAttention<T, HostSpace>, DecayedAttentionBackward<T, HostSpace>> {
  using Test = Case;
  Run(const Case& test, Layout layout)
      : Run::OperandRun({{'B', test.batch},
                         {'L', test.length},
                         {'H', test.heads},
                         {'K', test.keys},
                         {'V', test.values}},
                        layout, test.segments,
                        left_out({{"initial_state", test.states},
                                  {"dinitial_state", test.states},
                                  {"final_state", test.states},
                                  {"dfinal_state", test.states}}),
                        InputGradients::overwritten, layout) {
    this->forward.chunk = test.chunk;
    set_decays(*this);
  }
  void evaluate(auto& ctx) { decayed_attention(ctx, this->forward); }
  void differentiate(auto& ctx) { decayed_attention_backward(ctx, this->backward()); }
  template <class B>
  static constexpr bool exists = HasDecayedAttention<B, T>;
};

template <class T>
struct ScoreNormRun : OperandRun<DecayedScoreNorm<T, HostSpace>, NoGradient> {
  using Test = Case;
  ScoreNormRun(const Case& test, Layout layout)
      : ScoreNormRun::OperandRun(
            {{'B', test.batch}, {'L', test.length}, {'H', test.heads}, {'K', test.keys}}, layout,
            test.segments) {
    set_decays(*this);
  }
  void evaluate(auto& ctx) { decayed_score_norm(ctx, this->forward); }
  template <class B>
  static constexpr bool exists = HasDecayedAttention<B, T>;
};

template <class T>
void both_equal_reference(const Case& test) {
  equals_reference<Run<T>>(test);
  equals_reference<ScoreNormRun<T>>(test);
}

constexpr Case small(Case test) {
  test.heads = 2;
  test.keys = 3;
  test.values = 5;
  return test;
}

/// The parallel form: every pair of positions, then what is left of the initial state.
DynamicTensor<double, 4> all_pairs(const DecayedAttention<double, HostSpace>& a) {
  auto y = zero_tensor(a.y.extent(0), a.y.extent(1), a.y.extent(2), a.y.extent(3));
  for_each_index(y, [&](Index b, Index n, Index h, Index j) {
    for (Index i = 0; i < a.q.extent(3); ++i) {
      double seen =
          std::exp(static_cast<double>(n + 1) * a.log_decay(h)) * a.initial_state(b, h, i, j);
      for (Index m = 0; m <= n; ++m)
        seen += std::exp(static_cast<double>(n - m) * a.log_decay(h)) * a.k(b, m, h, i) *
                a.v(b, m, h, j);
      y(b, n, h, j) += a.q(b, n, h, i) * seen;
    }
  });
  return y;
}

TEST_CASE("the recurrence, chunks of any size and all pairs of positions agree") {
  for (const Index length : {1, 2, 63, 64, 65})
    for (const Index batch : {1, 3})
      for (const Index chunk : {0, 1, 7, 64}) {
        const Case test = small({.batch = batch, .length = length, .chunk = chunk});
        on_each_backend<Run<double>>([&](auto& ctx) {
          Run<double> call(test, Layout::rows);
          call.evaluate(ctx);
          CHECK(difference(call.forward.y, all_pairs(call.forward)) <= tolerance<double>.value);
        });
      }
}

TEST_CASE("states are carried, kept apart, and updated in place") {
  carries_its_state<Run<double>>(
      small({.batch = 2, .length = 130}),
      {0, 1, 2, 3, 4, 13, 22, 31, 40, 49, 58, 67, 76, 85, 94, 103, 112, 121, 130});
  const std::vector<Index> offsets{0, 4, 4, 7};
  packs_sequences<Run<double>>(small({.length = 7, .segments = offsets}));
  for (const Index length : {1, 2, 65, 130})
    updates_its_state_in_place<Run<double>>(small({.batch = 2, .length = length}));
}

TEST_CASE("gradients of operands and initial state equal central differences") {
  const std::vector<Index> offsets{0, 4, 4, 7};
  has_its_gradients<Run<double>>(small({.batch = 2, .length = 7}));
  has_its_gradients<Run<double>>(small({.length = 7, .segments = offsets}));
}

TEST_CASE("the final state's gradient passes an empty segment unfaded") {
  on_each_backend<Run<double>>([&](auto& ctx) {
    Run<double> call(small({.length = 0}), Layout::rows);
    compute(ctx, call);
    CHECK(difference(call.forward.final_state, call.forward.initial_state) == 0);
    CHECK(difference(call.gradient.dinitial_state, call.gradient.dfinal_state) == 0);
  });
}

TEST_CASE_TEMPLATE(
    "retention_scale is the sum of the decays up to the absolute position, by A² where scores are "
    "given",
    T, float, double) {
  on_each_backend<Run<T>>([](auto& ctx) {
    constexpr double decay = 0.75;
    const auto log_decay = tensor_of<T>({std::log(decay), 0});
    DynamicTensor<std::int64_t, 1> position({2});
    position(0) = 0;
    position(1) = 1000;
    auto y = nan_tensor<T>(2, 70, 2), expected = y.clone();
    RetentionScale<T, HostSpace> call{.log_decay = log_decay, .position = position, .y = y};
    for_each_index(y, [&](Index b, Index t, Index h) {
      const auto n = static_cast<double>(position(b) + t);
      expected(b, t, h) =
          static_cast<T>(h == 1 ? n + 1 : (1 - std::pow(decay, n + 1)) / (1 - decay));
    });
    retention_scale(ctx, call);
    CHECK(difference(y, expected) <= tolerance<T>.value);

    auto scores = nan_tensor<T>(2, 70, 2);
    for_each_index(scores, [&](Index b, Index t, Index h) {
      scores(b, t, h) = static_cast<T>(t < 20 ? 0.01 : t < 40 ? 123.0 : 1e7);
      const double sum = static_cast<double>(expected(b, t, h));
      const double a = std::clamp(static_cast<double>(scores(b, t, h)) / std::sqrt(sum), 1.0, 5e4);
      expected(b, t, h) = static_cast<T>(sum * a * a);
    });
    call.score_norm = scores;
    call.y = scores;
    retention_scale(ctx, call);
    CHECK(difference(scores, expected) <= tolerance<T>.value);
  });
}

TEST_CASE("the numbers of the published code, behind its head norm") {
  on_each_backend<Run<double>>([](auto& ctx) {
    constexpr Index length = 12, heads = 2, dk = 4, dv = 6;
    const auto wave = [](double seed, Index width) {
      auto x = zero_tensor(1, length, heads, width);
      for_each_index(x, [&](Index b, Index t, Index h, Index i) {
        x(b, t, h, i) =
            std::sin(0.37 * static_cast<double>(t + 1) + 0.91 * static_cast<double>(i + 1) +
                     1.7 * static_cast<double>(h) + seed);
      });
      return x;
    };
    auto q = wave(0.1, dk), k = wave(2.3, dk);
    const auto v = wave(4.7, dv);
    const auto log_decay = tensor_of({std::log(1 - 1 / 32.0), std::log(1 - 1 / 64.0)});
    pair_rotation(ctx, PairRotation<double, HostSpace>{.x = q, .y = q});
    pair_rotation(ctx, PairRotation<double, HostSpace>{.scale = 0.5, .x = k, .y = k});
    auto y = nan_tensor(1, length, heads, dv);
    decayed_attention(ctx, DecayedAttention<double, HostSpace>{
                               .q = q, .k = k, .v = v, .log_decay = log_decay, .y = y});
    auto scale = nan_tensor(1, length, heads);
    decayed_score_norm(ctx, DecayedScoreNorm<double, HostSpace>{
                                .q = q, .k = k, .log_decay = log_decay, .y = scale});
    retention_scale(ctx, RetentionScale<double, HostSpace>{
                             .log_decay = log_decay, .score_norm = scale, .y = scale});
    auto normalized = nan_tensor(length * heads, dv);
    const auto row = [&](double eps, Index t, Index h) {
      normalization(ctx, Normalization<double, HostSpace>{.kind = NormalizationKind::rms,
                                                          .eps = eps,
                                                          .x = y.reshape(length * heads, dv),
                                                          .eps_scale = scale.flatten(),
                                                          .y = normalized});
      return ssm::clone(normalized.select(0, t * heads + h));
    };
    constexpr double printed = 1e-8;
    CHECK(difference(row(1e-6, 0, 0), tensor_of({0.44696601, -0.85370627, -1.4948832, -0.98125015,
                                                 0.29040699, 1.33772225})) <= printed);
    CHECK(difference(row(1e-6, 11, 1), tensor_of({0.65450604, -0.68149343, -1.49103344, -1.14873744,
                                                  0.080968, 1.24812497})) <= printed);
    CHECK(difference(row(0, 5, 0), tensor_of({-1.29092602, -1.09309892, -0.05084361, 1.03068882,
                                              1.31600537, 0.58469659})) <= printed);
  });
}

TEST_CASE("operands of other extents are refused") {
  Context<Reference> ctx;
  const Run<double> call(small({.length = 4}), Layout::rows);
  const auto refuses = [&](auto change) {
    auto operands = call.forward;
    change(operands);
    CHECK_THROWS_AS(decayed_attention(ctx, operands), ShapeError);
  };
  const auto wide = zero_tensor(1, 4, 2, 4);
  const auto longer = zero_tensor(1, 5, 2, 5);
  const auto narrow = zero_tensor(1, 2, 3, 6);
  refuses([&](auto& a) { a.k = wide; });
  refuses([&](auto& a) { a.v = longer; });
  refuses([&](auto& a) { a.initial_state = narrow; });
  refuses([&](auto& a) { a.chunk = -1; });
}

TEST_CASE_TEMPLATE("decayed attention and its gradient equal the reference at every length", T,
                   float, double) {
  for (const Index length : {0, 1, 2, 63, 64, 65, 95, 96, 97, 200, 1000})
    for (const Index batch : {1, 3})
      for (const bool states : {false, true})
        both_equal_reference<T>({.batch = batch, .length = length, .heads = 2, .states = states});
}

TEST_CASE_TEMPLATE("any number of positions multiplied directly", T, float, double) {
  for (const Index chunk : {1, 2, 5, 12, 13, 32, 64, 1000})
    for (const bool states : {false, true})
      equals_reference<Run<T>>({.length = 70, .chunk = chunk, .states = states});
}

TEST_CASE_TEMPLATE("any widths of keys and values", T, float, double) {
  for (const Index keys : {1, 2, 7, 33, 48})
    for (const Index values : {1, 3, 16, 31, 97})
      for (const Index heads : {1, 3})
        both_equal_reference<T>({.length = 40, .heads = heads, .keys = keys, .values = values});
}

TEST_CASE_TEMPLATE("heads that are too few for the threads are divided", T, float, double) {
  both_equal_reference<T>({.length = 130, .heads = 1, .keys = 70, .values = 200});
  both_equal_reference<T>({.length = 130, .heads = 3, .keys = 70, .values = 40});
}

TEST_CASE_TEMPLATE("a single position reads and writes the state once, also in place", T, float,
                   double) {
  for (const Index values : {1, 5, 64, 700})
    for (const Index keys : {1, 3, 64, 66}) {
      const Case test{.batch = 3, .length = 1, .heads = 3, .keys = keys, .values = values};
      both_equal_reference<T>(test);
      updates_its_state_in_place<Run<T>>(test, on_other_backends<Run<T>>);
    }
}

TEST_CASE_TEMPLATE("any layout of the operands", T, float, double) {
  for (const Layout layout : all_layouts)
    for (const Index length : {1, 60})
      both_equal_reference<T>({.batch = 2, .length = length, .layout = layout});
}

TEST_CASE_TEMPLATE("packed segments do not see each other", T, float, double) {
  const Index offsets[] = {0, 0, 1, 60, 60, 230};
  for (const bool states : {false, true})
    both_equal_reference<T>({.length = 230, .states = states, .segments = offsets});
}

#ifdef SSM_TEST_ON_CUDA
using TensorCores = BasicCuda<HostSpace, cuda::TensorCoreKernels>;

TEST_CASE_TEMPLATE("half types on tensor cores, and in float where those cannot", T, BFloat16,
                   Float16) {
  cuda::pretend_tensor_core_kernels(true);
  const auto equal = [](const Case& test) { equals_reference<Run<T>>(test, only<TensorCores>); };
  for (const Index length : {0, 1, 31, 32, 33, 127, 128, 129, 300})
    for (const bool states : {false, true})
      equal({.batch = 2, .length = length, .keys = 16, .values = 48, .states = states});
  for (const Index keys : {16, 48, 128, 144, 8, 24})
    for (const Index values : {16, 64, 80, 128, 208, 12})
      equal({.length = 140, .heads = 2, .keys = keys, .values = values});
  for (const Index chunk : {1, 20, 40, 64, 1000})
    equal({.length = 170, .keys = 16, .values = 16, .chunk = chunk});
  for (const Layout layout : all_layouts)
    equal({.batch = 2, .length = 140, .keys = 32, .values = 16, .layout = layout});
  const Index offsets[] = {0, 0, 1, 60, 60, 230, 400};
  for (const bool states : {false, true})
    equal({.length = 400, .keys = 48, .values = 80, .states = states, .segments = offsets});
  repeats_its_bits<Run<T>>({.length = 300, .keys = 32, .values = 32});
  // So many heads that blocks walk along sequences, values and all.
  for (const Index length : {129, 200, 300})
    for (const bool states : {false, true})
      equal({.batch = 8, .length = length, .heads = 8, .keys = 32, .values = 48, .states = states});
  equal({.batch = 8, .length = 260, .heads = 4, .keys = 144, .values = 208});
  for (const Index chunk : {40, 100})
    equal({.batch = 8, .length = 170, .heads = 8, .keys = 16, .values = 16, .chunk = chunk});
  equal({.length = 400, .heads = 16, .keys = 48, .values = 80, .segments = offsets});
  repeats_its_bits<Run<T>>(
      {.batch = 8, .length = 300, .heads = 8, .keys = 32, .values = 32, .states = false});
  cuda::pretend_tensor_core_kernels(false);
}
#endif

}  // namespace
}  // namespace ssm::test
