// SPDX-License-Identifier: Apache-2.0
#include "ssm/core/weight.hpp"

#include <doctest/doctest.h>

namespace ssm::test {
namespace {

struct Layer {
  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<Layer, T, Space> {
    Weight<T, Extents<dyn, 3>, Space> weight;
    Weight<T, Extents<dyn, 3>, Space> absent;
    DynamicTensor<T, 1, Space> bias;
  };
  static void for_each_parameter(auto&& visit, auto&... p) {
    visit(ParameterSpec{.name = "weight"}, p.weight...);
    visit(ParameterSpec{.name = "absent"}, p.absent...);
    visit(ParameterSpec{.name = "bias"}, p.bias...);
  }
};

Layer::Parameters<float> parameters() {
  Layer::Parameters<float> p;
  p.weight.reset({2});
  p.bias.reset({2});
  const float numbers[] = {1.F, -2.5F, 0x1.01p0F, 0x1.03p0F, 0x1.010002p0F, 1e30F};
  for (Index i = 0; i < 6; ++i) p.weight.data()[i] = numbers[i];
  return p;
}

TEST_CASE(
    "weights kept in bf16 are rounded to nearest, ties to even, and their full form is gone") {
  auto p = parameters();
  CHECK_FALSE(has_weights_in_bf16(p));
  keep_weights_in_bf16(p);
  CHECK(has_weights_in_bf16(p));
  CHECK(p.weight.data() == nullptr);
  CHECK(p.weight.bf16.extents() == DynamicExtents<2>(2, 3));
  const float expected[] = {1.F, -2.5F, 1.F, 0x1.04p0F, 0x1.02p0F};
  for (Index i = 0; i < 5; ++i) CHECK(static_cast<float>(p.weight.bf16.data()[i]) == expected[i]);
  CHECK(p.weight.bf16(1, 2) == BFloat16(1e30F));
}

TEST_CASE(
    "keeping weights in bf16 leaves other parameters, and weights that are not there, alone") {
  auto p = parameters();
  keep_weights_in_bf16(p);
  CHECK(p.bias.size() == 2);
  CHECK_FALSE(p.absent);
  CHECK(p.weight);
}

TEST_CASE("keeping weights in bf16 twice changes nothing the second time") {
  auto p = parameters();
  keep_weights_in_bf16(p);
  const BFloat16* before = p.weight.bf16.data();
  keep_weights_in_bf16(p);
  CHECK(p.weight.bf16.data() == before);
}

TEST_CASE("parameters are counted and weights copied in either form") {
  auto p = parameters();
  CHECK(parameter_count(p) == 8);
  CHECK(p.weight.clone()(1, 0) == 0x1.03p0F);
  keep_weights_in_bf16(p);
  CHECK(parameter_count(p) == 8);
  const auto copy = p.weight.clone();
  CHECK(copy.data() == nullptr);
  CHECK(copy.bf16(1, 0) == p.weight.bf16(1, 0));
}

}  // namespace
}  // namespace ssm::test
