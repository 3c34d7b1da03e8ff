// SPDX-License-Identifier: Apache-2.0
#include "ssm/op/decayed_attention.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "ssm/core/elementwise.hpp"  // clone
#include "ssm/op/normalization.hpp"
#include "ssm/op/pair_rotation.hpp"
#include "support/backends.hpp"
#include "support/gradient_check.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

constexpr Index heads = 2, keys = 3, values = 5;

struct Operands {
  explicit Operands(Index batch, Index length)
      : q(random_tensor("q", batch, length, heads, keys)),
        k(random_tensor("k", batch, length, heads, keys)),
        v(random_tensor("v", batch, length, heads, values)),
        initial(random_tensor("initial", batch, heads, keys, values)),
        final(nan_tensor(batch, heads, keys, values)),
        y(nan_tensor(batch, length, heads, values)),
        log_decay(tensor_of({std::log(0.9), std::log(0.5)})) {}
  DecayedAttention<double, HostSpace> call() {
    return {.q = q,
            .k = k,
            .v = v,
            .log_decay = log_decay,
            .initial_state = initial,
            .final_state = final,
            .y = y};
  }
  DynamicTensor<double, 4> q, k, v, initial, final, y;
  DynamicTensor<double, 1> log_decay;
};

/// The parallel form: every pair of positions, then what is left of the initial state.
DynamicTensor<double, 4> all_pairs(const Operands& a) {
  auto y = zero_tensor(a.q.extent(0), a.q.extent(1), heads, values);
  for_each_index(y, [&](Index b, Index n, Index h, Index j) {
    for (Index i = 0; i < keys; ++i) {
      double seen = std::exp(static_cast<double>(n + 1) * a.log_decay(h)) * a.initial(b, h, i, j);
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
    for (const Index batch : {1, 3}) {
      CAPTURE(length);
      Operands a(batch, length);
      const auto expected = all_pairs(a);
      Context<Reference> reference;
      decayed_attention(reference, a.call());
      CHECK(difference(a.y, expected) <= tolerance<double>.value);
      const auto final = a.final.clone();
      for (const Index chunk : {0, 1, 7, 64}) {
        Context<Cpu> ctx;
        Operands other(batch, length);
        auto call = other.call();
        call.chunk = chunk;
        decayed_attention(ctx, call);
        CHECK(difference(other.y, expected) <= tolerance<double>.value);
        CHECK(difference(other.final, final) <= tolerance<double>.value);
      }
    }
}

TEST_CASE("a sequence may be cut anywhere, its state carried over in place") {
  laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    constexpr Index length = 130;
    Context<B> ctx;
    Operands whole(2, length);
    decayed_attention(ctx, whole.call());
    for (Index cut = 0; cut <= length; cut += cut < 4 ? 1 : 9) {
      CAPTURE(cut);
      Operands parts(2, length);
      for (const auto& [begin, end] : {std::pair{Index{0}, cut}, std::pair{cut, length}}) {
        auto call = parts.call();
        call.q = call.q.slice(1, begin, end);
        call.k = call.k.slice(1, begin, end);
        call.v = call.v.slice(1, begin, end);
        call.y = call.y.slice(1, begin, end);
        call.final_state = parts.initial;
        decayed_attention(ctx, call);
      }
      CHECK(difference(parts.y, whole.y) <= tolerance<double>.value);
      CHECK(difference(parts.initial, whole.final) <= tolerance<double>.value);
    }
  });
}

TEST_CASE("gradients of operands and initial state equal central differences") {
  laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    Context<B> ctx;
    ctx.workspace().fill_with_nan(true);
    const std::vector<Index> offsets{0, 4, 4, 7};
    for (const bool packed : {false, true}) {
      const Index batch = packed ? 1 : 2, sequences = packed ? 3 : 2;
      Operands a(batch, 7);
      a.initial = random_tensor("initial", sequences, heads, keys, values);
      a.final = nan_tensor(sequences, heads, keys, values);
      const auto dy = random_tensor("dy", batch, 7, heads, values);
      const auto dfinal = random_tensor("dfinal", sequences, heads, keys, values);
      auto call = a.call();
      if (packed) call.segments = offsets;
      auto dq = nan_tensor(batch, 7, heads, keys), dk = dq.clone();
      auto dv = nan_tensor(batch, 7, heads, values);
      auto dinitial = nan_tensor(sequences, heads, keys, values);
      decayed_attention_backward(
          ctx, DecayedAttentionBackward<double, HostSpace>{.forward = call,
                                                           .dy = dy,
                                                           .dfinal_state = dfinal,
                                                           .dq = dq,
                                                           .dk = dk,
                                                           .dv = dv,
                                                           .dinitial_state = dinitial});
      const auto loss = [&] {
        decayed_attention(ctx, call);
        return inner_product(dy, a.y) + inner_product(dfinal, a.final);
      };
      constexpr double allowed = tolerance<double>.gradient;
      CHECK(gradient_error(loss, a.q, dq) <= allowed);
      CHECK(gradient_error(loss, a.k, dk) <= allowed);
      CHECK(gradient_error(loss, a.v, dv) <= allowed);
      CHECK(gradient_error(loss, a.initial, dinitial) <= allowed);
    }
  });
}

TEST_CASE("the final state's gradient passes an empty segment unfaded") {
  laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    Context<B> ctx;
    Operands a(1, 0);
    const auto dfinal = random_tensor("dfinal", 1, heads, keys, values);
    auto dinitial = nan_tensor(1, heads, keys, values);
    auto none = zero_tensor(1, 0, heads, keys), dv = zero_tensor(1, 0, heads, values);
    decayed_attention(ctx, a.call());
    CHECK(difference(a.final, a.initial) == 0);
    decayed_attention_backward(
        ctx, DecayedAttentionBackward<double, HostSpace>{.forward = a.call(),
                                                         .dy = dv,
                                                         .dfinal_state = dfinal,
                                                         .dq = none,
                                                         .dk = none,
                                                         .dv = dv,
                                                         .dinitial_state = dinitial});
    CHECK(difference(dinitial, dfinal) == 0);
  });
}

TEST_CASE(
    "retention_scale is the sum of the decays up to the absolute position, by A² where scores are "
    "given") {
  laws::for_each_backend_and_scalar([]<class B, class T>(const char* name) {
    CAPTURE(std::string(name));
    Context<B> ctx;
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
  laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    Context<B> ctx;
    constexpr Index length = 12, dk = 4, dv = 6;
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
  Operands a(1, 4);
  const auto wide = zero_tensor(1, 4, heads, keys + 1);
  const auto longer = zero_tensor(1, 5, heads, values);
  const auto narrow = zero_tensor(1, heads, keys, values + 1);
  auto call = a.call();
  call.k = wide;
  CHECK_THROWS_AS(decayed_attention(ctx, call), ShapeError);
  call = a.call();
  call.v = longer;
  CHECK_THROWS_AS(decayed_attention(ctx, call), ShapeError);
  call = a.call();
  call.initial_state = narrow;
  CHECK_THROWS_AS(decayed_attention(ctx, call), ShapeError);
  call = a.call();
  call.chunk = -1;
  CHECK_THROWS_AS(decayed_attention(ctx, call), ShapeError);
}

}  // namespace
}  // namespace ssm::test
