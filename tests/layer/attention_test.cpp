// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/attention.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <complex>
#include <numeric>
#include <string>
#include <vector>

#include "ssm/core/fill_random.hpp"
#include "support/backends.hpp"
#include "support/test_tensor.hpp"

namespace {

using ssm::CausalAttention;
using ssm::CausalAttentionConfig;
using ssm::Index;

using Dynamic = CausalAttention<CausalAttentionConfig{}>;

/// Wqkv hands the channels through to q, k and v; out_proj is the identity; no biases.
template <class T, class P>
void hand_through(P& p, Index channels) {
  for (Index d = 0; d < channels; ++d) {
    for (Index part = 0; part < 3; ++part) p.Wqkv.weight(part * channels + d, d) = T{1};
    p.out_proj.weight(d, d) = T{1};
  }
}

/// A head of four channels; the first two of them turned by the position in radians.
template <class X>
std::array<double, 4> turned(const X& x, Index position, Index head) {
  std::array<double, 4> result{};
  for (Index d = 0; d < 4; ++d)
    result[static_cast<std::size_t>(d)] = static_cast<double>(x(0, position, 4 * head + d));
  const std::complex<double> pair =
      std::complex<double>(result[0], result[1]) * std::polar(1.0, static_cast<double>(position));
  result[0] = pair.real();
  result[1] = pair.imag();
  return result;
}

TEST_CASE("CausalAttention is a softmax of scaled products of turned heads over positions so far") {
  ssm::laws::for_each_backend_and_scalar([]<class B, class T>(const char* name) {
    CAPTURE(std::string(name));
    const Dynamic layer({.channels = 8, .heads = 2, .rotary_dim = 2});
    ssm::Context<B> ctx;
    auto p = layer.template zero_parameters<T>(ctx);
    hand_through<T>(p, 8);
    ssm::DynamicTensor<T, 3> x({1, 5, 8});
    ssm::fill_normal(x, ssm::Seed{3});
    ssm::DynamicTensor<T, 3> y({1, 5, 8});
    layer.forward(ctx, p, x, y);
    for (Index h = 0; h < 2; ++h)
      for (Index t = 0; t < 5; ++t) {
        const auto query = turned(x, t, h);
        std::vector<double> weights;
        for (Index s = 0; s <= t; ++s) {
          const auto key = turned(x, s, h);
          const double product = std::inner_product(query.begin(), query.end(), key.begin(), 0.0);
          weights.push_back(std::exp(product / 2));
        }
        const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
        for (Index d = 4 * h; d < 4 * h + 4; ++d) {
          double expected = 0;
          for (Index s = 0; s <= t; ++s)
            expected +=
                weights[static_cast<std::size_t>(s)] / sum * static_cast<double>(x(0, s, d));
          CHECK(std::abs(static_cast<double>(y(0, t, d)) - expected) <= ssm::tolerance<T>.value);
        }
      }
  });
}

TEST_CASE("the cache holds one row of keys and values for each position so far") {
  ssm::Context<ssm::Reference> ctx;
  const Dynamic layer({.channels = 6, .heads = 2});
  const auto p = layer.initialize<float>(ctx, ssm::Seed{1});
  auto state = layer.initial_state(ctx, 3);
  CHECK(state.k.extents() == ssm::DynamicExtents<4>(0, 3, 2, 3));
  ssm::DynamicTensor<float, 3> x({3, 5, 6});
  ssm::fill(x, 1);
  ssm::DynamicTensor<float, 3> y({3, 5, 6});
  layer.prefill(ctx, p, x, y, state);
  layer.step(ctx, p, x.select(1, 0), y.select(1, 0), state);
  CHECK(state.k.extents() == ssm::DynamicExtents<4>(6, 3, 2, 3));
  CHECK(state.v.extents() == ssm::DynamicExtents<4>(6, 3, 2, 3));
}

TEST_CASE("CausalAttention names its parameters as checkpoints do") {
  ssm::Context<ssm::Reference> ctx;
  auto p = Dynamic({.channels = 4, .heads = 2}).zero_parameters(ctx);
  std::vector<std::string> names;
  ssm::for_each_parameter(
      [&](const ssm::ParameterSpec& spec, auto&) { names.push_back(spec.name); }, p);
  CHECK(names ==
        std::vector<std::string>{"Wqkv.weight", "Wqkv.bias", "out_proj.weight", "out_proj.bias"});
  CHECK(p.Wqkv.weight.extents() == ssm::DynamicExtents<2>(12, 4));
}

TEST_CASE("CausalAttention refuses heads, rotations and caches that do not fit") {
  CHECK_THROWS_AS(Dynamic({.channels = 6, .heads = 4}), ssm::ArgumentError);
  CHECK_THROWS_AS(Dynamic({.channels = 6, .heads = 0}), ssm::ArgumentError);
  CHECK_THROWS_AS(Dynamic({.channels = 6}), ssm::ArgumentError);
  CHECK_THROWS_AS(Dynamic({.channels = 6, .heads = 2, .rotary_dim = 4}), ssm::ArgumentError);
  CHECK_THROWS_AS(Dynamic({.channels = 6, .heads = 2, .rotary_dim = 1}), ssm::ArgumentError);
  const Dynamic layer({.channels = 6, .heads = 2});
  ssm::Context<ssm::Reference> ctx;
  const auto p = layer.zero_parameters(ctx);
  ssm::DynamicTensor<float, 3> x({1, 5, 6});
  ssm::DynamicTensor<float, 3> y({1, 5, 6});
  ssm::DynamicTensor<float, 3> swapped({5, 1, 6});
  auto two = layer.initial_state(ctx, 2);
  CHECK_THROWS_AS(layer.prefill(ctx, p, x, y, two), ssm::ShapeError);
  CHECK_THROWS_AS(layer.forward(ctx, p, x, swapped), ssm::ShapeError);
  auto one = layer.initial_state(ctx, 1);
  layer.prefill(ctx, p, x, y, one);
  one.position(0) = 6;
  CHECK_THROWS_WITH_AS(layer.prefill(ctx, p, x, y, one),
                       "CausalAttention: state position must lie between 0 and the 5 rows of the "
                       "cache, got 6",
                       ssm::ShapeError);
  one.position(0) = -1;
  CHECK_THROWS_AS(layer.prefill(ctx, p, x, y, one), ssm::ShapeError);
}

TEST_CASE("packed prompts of different lengths are read at once, and continue as a batch") {
  ssm::laws::for_each_backend_and_scalar([]<class B, class T>(const char* name) {
    CAPTURE(std::string(name));
    const Dynamic layer({.channels = 6, .heads = 2, .rotary_dim = 2});
    ssm::Context<B> ctx;
    const auto p = layer.template initialize<T>(ctx, ssm::Seed{1});
    ssm::DynamicTensor<T, 3> x({1, 9, 6});
    ssm::fill_normal(x, ssm::Seed{2});
    ssm::DynamicTensor<T, 3> y({1, 9, 6});
    ssm::DynamicTensor<T, 3> next({3, 1, 6});
    ssm::fill_normal(next, ssm::Seed{3});
    ssm::DynamicTensor<T, 3> after({3, 1, 6});
    const std::vector<Index> segments{0, 2, 2, 9};
    auto state = layer.template initial_state<T>(ctx, 3);
    layer.forward(ctx, p, x, y,
                  {.segments = segments, .initial_state = &state, .final_state = &state});
    CHECK(state.k.extents() == ssm::DynamicExtents<4>(7, 3, 2, 3));
    layer.step(ctx, p, next.select(1, 0), after.select(1, 0), state);
    CHECK(state.position(0) == 3);
    CHECK(state.position(1) == 1);
    CHECK(state.position(2) == 8);
    for (Index i = 0; i < 3; ++i) {
      const Index begin = segments[static_cast<std::size_t>(i)];
      const Index end = segments[static_cast<std::size_t>(i) + 1];
      auto alone = layer.template initial_state<T>(ctx, 1);
      ssm::DynamicTensor<T, 3> y_alone({1, end - begin, 6});
      ssm::DynamicTensor<T, 3> after_alone({1, 1, 6});
      layer.prefill(ctx, p, x.slice(1, begin, end), y_alone, alone);
      layer.step(ctx, p, next.slice(0, i, i + 1).select(1, 0), after_alone.select(1, 0), alone);
      CHECK(ssm::test::difference(y_alone, y.slice(1, begin, end)) <= ssm::tolerance<T>.value);
      CHECK(ssm::test::difference(after_alone, after.slice(0, i, i + 1)) <=
            ssm::tolerance<T>.value);
    }
  });
}

}  // namespace
