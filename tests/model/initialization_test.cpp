// SPDX-License-Identifier: Apache-2.0
#include "ssm/model/initialization.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include "ssm/backend/cpu.hpp"
#include "ssm/backend/reference.hpp"
#include "ssm/model/h3_language_model.hpp"
#include "ssm/model/mamba_language_model.hpp"
#include "ssm/model/retnet_language_model.hpp"

using namespace ssm;

namespace {

struct RetNetsInitialization : H3Names {
  using Initialization = RetNetInitialization;
};

template <class Model>
void check_same_bits(const Model& model) {
  Context<Reference> one_by_one;
  const auto expected = model.template initialize<float>(one_by_one, Seed{5});
  for (const int threads : {1, 2, 3}) {
    CAPTURE(threads);
    Context<Cpu> ctx{cpu::Resources(threads)};
    const auto actual = model.template initialize<float>(ctx, Seed{5});
    for_each_parameter(
        [](const ParameterSpec& spec, const auto& a, const auto& b) {
          CAPTURE(spec.name);
          CHECK(std::equal(a.data(), a.data() + a.size(), b.data(), b.data() + b.size()));
        },
        actual, expected);
  }
}

}  // namespace

TEST_CASE("a deviation that the initialization does not read is refused") {
  using Block = Residual<LayerNorm<4>, Linear<LinearConfig{.inputs = 4, .outputs = 4}>>;
  using Backbone = Stack<Block>;
  const auto model = [](LanguageModelConfig config) {
    return BasicLanguageModel<Backbone, LayerNorm<4>, RetNetsInitialization>(
        config, Backbone(std::vector<Block>(1)), LayerNorm<4>());
  };
  CHECK_NOTHROW(model({.vocabulary = 5}));
  CHECK_THROWS_WITH_AS(
      model({.vocabulary = 5, .initializer_range = 0.1}),
      "language model: initializer_range is given, but its initialization does not read it",
      ArgumentError);
}

TEST_CASE("initial weights are the same bits on any number of threads") {
  check_same_bits(make_language_model(H3LanguageModelConfig{
      .d_model = 192, .n_layer = 1, .d_inner = 256, .vocab_size = 300, .d_state = 4}));
  check_same_bits(make_language_model(MambaLanguageModelConfig{
      .d_model = 192, .n_layer = 1, .vocab_size = 300, .d_inner = 384, .dt_rank = 12}));
  check_same_bits(make_language_model(RetNetLanguageModelConfig{
      .d_model = 192, .n_layer = 1, .vocab_size = 300, .d_value = 384, .d_inner = 256}));
}
