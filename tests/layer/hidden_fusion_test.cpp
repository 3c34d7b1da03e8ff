// SPDX-License-Identifier: Apache-2.0
#include "ssm/layer/hidden_fusion.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "support/backends.hpp"
#include "support/gradient_check.hpp"
#include "support/test_tensor.hpp"

namespace {

using ssm::Index;
using Sum = ssm::HiddenFusion<ssm::HiddenFusionConfig{.normalize = false}>;
using Normalized = ssm::HiddenFusion<ssm::HiddenFusionConfig{}>;

template <class T>
using Sources = std::vector<ssm::View<const T, 3>>;

TEST_CASE("HiddenFusion adds every source, in place too, and copies where there is none") {
  ssm::laws::for_each_backend_and_scalar([]<class B, class T>(const char* name) {
    CAPTURE(std::string(name));
    for (const Index length : {0, 1, 65}) {
      CAPTURE(length);
      ssm::Context<B> ctx;
      const Sum layer({.channels = 6});
      const auto p = layer.template zero_parameters<T>(ctx);
      auto h = ssm::test::random_tensor<T>("h", 2, length, 6);
      const auto first = ssm::test::random_tensor<T>("first", 2, length, 6);
      const auto second = ssm::test::random_tensor<T>("second", 2, length, 6);
      auto y = ssm::test::nan_tensor<T>(2, length, 6);
      auto expected = h.clone();
      layer.evaluate(ctx, p, h, Sources<T>{}, y, nullptr);
      CHECK(ssm::test::difference(y, expected) == 0);
      ssm::test::for_each_index(expected,
                                [&](auto... i) { expected(i...) += first(i...) + second(i...); });
      layer.evaluate(ctx, p, h, Sources<T>{first, second}, y, nullptr);
      CHECK(ssm::test::difference(y, expected) <= ssm::tolerance<T>.value);
      layer.evaluate(ctx, p, h, Sources<T>{first, second}, h, nullptr);
      CHECK(ssm::test::difference(h, expected) <= ssm::tolerance<T>.value);
    }
  });
}

TEST_CASE("gradients of a normalized HiddenFusion equal central differences") {
  ssm::laws::for_each_backend([]<class B>(const char* name) {
    CAPTURE(std::string(name));
    ssm::Context<B> ctx;
    ctx.workspace().fill_with_nan(true);
    const Normalized layer({.channels = 5, .eps = 1e-2});
    auto p = layer.template zero_parameters<double>(ctx);
    p.norm.weight = ssm::test::random_tensor("weight", 5);
    auto h = ssm::test::random_tensor("h", 1, 3, 5);
    auto source = ssm::test::random_tensor("source", 1, 3, 5);
    const auto dy = ssm::test::random_tensor("dy", 1, 3, 5);
    auto y = ssm::test::nan_tensor(1, 3, 5);
    auto dsum = ssm::test::nan_tensor(1, 3, 5);
    Normalized::Tape<double> tape;
    auto gradients = layer.template zero_parameters<double>(ctx);
    const auto loss = [&] {
      layer.evaluate(ctx, p, h, Sources<double>{source, source}, y, nullptr);
      return ssm::test::inner_product(dy, y);
    };
    layer.evaluate(ctx, p, h, Sources<double>{source, source}, y, &tape);
    layer.differentiate(ctx, p, tape, dy, dsum, gradients);
    constexpr double allowed = ssm::tolerance<double>.gradient;
    CHECK(ssm::test::gradient_error(loss, h, dsum) <= allowed);
    CHECK(ssm::test::gradient_error(loss, p.norm.weight, gradients.norm.weight) <= allowed);
    for (Index i = 0; i < dsum.size(); ++i) dsum.data()[i] *= 2;  // the source was given twice
    CHECK(ssm::test::gradient_error(loss, source, dsum) <= allowed);
  });
}

TEST_CASE("HiddenFusion refuses an eps that nothing would use") {
  CHECK_NOTHROW(Normalized({.channels = 2, .eps = 1e-3}));
  CHECK_THROWS_WITH_AS(Sum({.channels = 2, .eps = 1e-3}),
                       "HiddenFusion: eps is given, but nothing is normalized", ssm::ArgumentError);
}

TEST_CASE("HiddenFusion refuses a source of other extents") {
  ssm::Context<ssm::Reference> ctx;
  const Sum layer({.channels = 2});
  const auto p = layer.zero_parameters(ctx);
  const auto h = ssm::test::zero_tensor<float>(1, 3, 2);
  const auto longer = ssm::test::zero_tensor<float>(1, 4, 2);
  auto y = ssm::test::zero_tensor<float>(1, 3, 2);
  CHECK_THROWS_AS(layer.evaluate(ctx, p, h, Sources<float>{longer}, y, nullptr), ssm::ShapeError);
}

}  // namespace
