// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/retention.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "ssm/core/elementwise.hpp"
#include "support/backends.hpp"
#include "support/test_tensor.hpp"

namespace {

using ssm::Index;
using ssm::Retention;
using ssm::RetentionConfig;
using ssm::RetentionForm;
using ssm::RetentionOptions;
using ssm::test::difference;
using ssm::test::nan_tensor;
using ssm::test::random_tensor;
using Dynamic = Retention<RetentionConfig{}>;

constexpr RetentionOptions sizes{.channels = 8, .value_dim = 12, .heads = 2, .eps = 1e-2};

Dynamic layer_of(RetentionForm form, double eps = sizes.eps) {
  RetentionOptions options = sizes;
  options.form = form;
  options.eps = eps;
  return Dynamic(options);
}

/// Queries and keys of everyday size, so that the parallel form's normalizer counts.
template <class B>
auto large_parameters(ssm::Context<B>& ctx) {
  auto p = layer_of(RetentionForm::recurrent).template initialize<double>(ctx, ssm::Seed{5});
  for (Index i = 0; i < p.q_proj.weight.size(); ++i) {
    p.q_proj.weight.data()[i] *= 20;
    p.k_proj.weight.data()[i] *= 20;
  }
  return p;
}

TEST_CASE("the two forms differ by eps alone") {
  ssm::laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    ssm::Context<B> ctx;
    const auto p = large_parameters(ctx);
    const auto x = random_tensor("x", 2, 65, 8);
    const auto run = [&](RetentionForm form, double eps) {
      auto y = nan_tensor(2, 65, 8);
      layer_of(form, eps).forward(ctx, p, x, y);
      return y;
    };
    using enum RetentionForm;
    CHECK(difference(run(parallel, 1e-2), run(recurrent, 1e-2)) > 1e-3);
    CHECK(difference(run(parallel, 1e-30), run(recurrent, 1e-30)) <= ssm::tolerance<double>.value);
  });
}

TEST_CASE("a call that carries a state computes the recurrent form") {
  ssm::laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    ssm::Context<B> ctx;
    const auto p = large_parameters(ctx);
    const auto x = random_tensor("x", 2, 9, 8);
    const auto run = [&](RetentionForm form) {
      const Dynamic layer = layer_of(form);
      auto state = layer.template initial_state<double>(ctx, 2);
      auto y = nan_tensor(2, 9, 8);
      layer.prefill(ctx, p, x, y, state);
      return y;
    };
    CHECK(difference(run(RetentionForm::parallel), run(RetentionForm::recurrent)) == 0);
  });
}

TEST_CASE("packed segments of the parallel form equal separate sequences") {
  ssm::laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    ssm::Context<B> ctx;
    const Dynamic layer = layer_of(RetentionForm::parallel);
    const auto p = large_parameters(ctx);
    const auto x = random_tensor("x", 1, 120, 8);
    const std::vector<Index> offsets{0, 0, 50, 120};
    auto y = nan_tensor(1, 120, 8);
    layer.forward(ctx, p, x, y, {.segments = offsets});
    for (const auto& [begin, end] : {std::pair<Index, Index>{0, 50}, {50, 120}}) {
      const auto part = ssm::test::positions(x, begin, end);
      auto alone = nan_tensor(1, end - begin, 8);
      layer.forward(ctx, p, part, alone);
      CHECK(difference(ssm::test::positions(y, begin, end), alone) <= ssm::tolerance<double>.value);
    }
  });
}

TEST_CASE("sequences of one batch may stand at different positions") {
  ssm::laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    ssm::Context<B> ctx;
    const Dynamic layer = layer_of(RetentionForm::recurrent);
    const auto p = large_parameters(ctx);
    auto together = layer.template initial_state<double>(ctx, 2);
    const auto x = random_tensor("x", 2, 6, 8);
    auto y = nan_tensor(2, 6, 8);
    std::vector<decltype(together)> alone;
    for (Index b = 0; b < 2; ++b) {
      alone.push_back(layer.template initial_state<double>(ctx, 1));
      const auto past = random_tensor("past", 1, 3 + 4 * b, 8);
      auto unused = nan_tensor(1, 3 + 4 * b, 8);
      layer.prefill(ctx, p, past, unused, alone.back());
      CHECK(alone.back().position(0) == 3 + 4 * b);
      together.position(b) = alone.back().position(0);
      ssm::copy(alone.back().retention.select(0, 0), together.retention.select(0, b));
    }
    layer.prefill(ctx, p, x, y, together);
    for (Index b = 0; b < 2; ++b) {
      const auto part = ssm::clone(x.slice(0, b, b + 1));
      auto expected = nan_tensor(1, 6, 8);
      layer.prefill(ctx, p, part, expected, alone[static_cast<std::size_t>(b)]);
      CHECK(difference(y.slice(0, b, b + 1), expected) <= ssm::tolerance<double>.value);
    }
  });
}

TEST_CASE("Retention names its parameters and states as checkpoints do") {
  ssm::Context<ssm::Reference> ctx;
  const Retention<RetentionConfig{.head_weight = true}> layer(sizes);
  auto p = layer.zero_parameters(ctx);
  std::vector<std::string> names;
  ssm::for_each_parameter(
      [&](const ssm::ParameterSpec& spec, auto&) { names.push_back(spec.name); }, p);
  auto state = layer.initial_state(ctx, 1);
  layer.for_each_state([&](const std::string& name, auto&) { names.push_back(name); }, state);
  CHECK(names == std::vector<std::string>{"q_proj.weight", "k_proj.weight", "v_proj.weight",
                                          "g_proj.weight", "group_norm.weight", "out_proj.weight",
                                          "retention", "position"});
}

TEST_CASE("Retention refuses widths that the heads do not divide, and keys that are no pairs") {
  CHECK_THROWS_AS(Dynamic({.channels = 8, .value_dim = 12, .heads = 3}), ssm::ArgumentError);
  CHECK_THROWS_AS(Dynamic({.channels = 8, .value_dim = 13, .heads = 2}), ssm::ArgumentError);
  CHECK_THROWS_AS(Dynamic({.channels = 6, .value_dim = 12, .heads = 2}), ssm::ArgumentError);
  CHECK_THROWS_AS(Dynamic({.channels = 8, .value_dim = 12}), ssm::ArgumentError);
}

}  // namespace
