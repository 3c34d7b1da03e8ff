// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "ssm/backend/cpu.hpp"
#include "ssm/backend/reference.hpp"
#include "ssm/core/compare.hpp"
#include "ssm/io/checkpoint.hpp"
#include "ssm/laws/allocation_count.hpp"
#include "ssm/model/dense_retnet_language_model.hpp"
#include "ssm/model/h3_language_model.hpp"
#include "ssm/model/mamba_language_model.hpp"
#include "ssm/model/retnet_language_model.hpp"
#include "ssm/train/adamw.hpp"
#include "support/temporary_folder.hpp"
#include "support/test_tensor.hpp"

namespace ssm::test {
namespace {

constexpr Index vocabulary = 19;

auto h3_model() {
  return make_language_model(H3LanguageModelConfig{.d_model = 24,
                                                   .n_layer = 2,
                                                   .d_inner = 40,
                                                   .vocab_size = vocabulary,
                                                   .pad_vocab_size_multiple = 8,
                                                   .d_state = 4,
                                                   .attn_layer_idx = {1},
                                                   .num_heads = 2});
}
auto mamba_model() {
  return make_language_model(MambaLanguageModelConfig{
      .d_model = 24, .n_layer = 2, .vocab_size = vocabulary, .d_inner = 48, .dt_rank = 3});
}
auto dense_mamba_model() {
  return make_dense_language_model(MambaLanguageModelConfig{.d_model = 24,
                                                            .n_layer = 3,
                                                            .vocab_size = vocabulary,
                                                            .d_inner = 48,
                                                            .dt_rank = 3,
                                                            .has_tied_head = false,
                                                            .dense_block_layers = 2,
                                                            .h_select_reduction = 4});
}
auto retnet_model() {
  return make_language_model(RetNetLanguageModelConfig{.d_model = 24,
                                                       .n_layer = 2,
                                                       .vocab_size = vocabulary,
                                                       .num_heads = 2,
                                                       .d_value = 40,
                                                       .d_inner = 33});
}
auto dense_retnet_model() {
  return make_language_model(DenseRetNetLanguageModelConfig{.d_model = 32,
                                                            .n_layer = 3,
                                                            .vocab_size = vocabulary,
                                                            .num_heads = 2,
                                                            .d_key = 16,
                                                            .d_value = 64});
}

void for_each_model(auto&& check) {
  check("H3", h3_model());
  check("Mamba", mamba_model());
  check("DenseMamba", dense_mamba_model());
  check("RetNet", retnet_model());
  check("DenseRetNet", dense_retnet_model());
}

DynamicTensor<Token, 2> tokens_of(Index batch, Index length) {
  DynamicTensor<Token, 2> tokens({batch, length});
  for (Index i = 0; i < tokens.size(); ++i)
    tokens.data()[i] = static_cast<Token>((7 * i + i / 3) % vocabulary);
  return tokens;
}

/// What the weights become in a form, in single precision.
template <class P>
void round_weights(P& parameters, WeightForm form) {
  for_each_parameter(
      [&](const ParameterSpec&, auto& tensor) {
        if constexpr (requires { tensor.bf16; }) {
          if (form == WeightForm::bf16)
            for (Index i = 0; i < tensor.size(); ++i)
              tensor.data()[i] = static_cast<float>(BFloat16(tensor.data()[i]));
          if (form == WeightForm::f16)
            for (Index i = 0; i < tensor.size(); ++i)
              tensor.data()[i] = static_cast<float>(Float16(tensor.data()[i]));
          for (Index n = 0; form == WeightForm::int8 && n < tensor.extent(0); ++n) {
            const auto row = tensor.select(0, n);
            float largest = 0;
            for (Index k = 0; k < row.size(); ++k) largest = std::max(largest, std::abs(row(k)));
            const float scale = largest / 127;
            for (Index k = 0; k < row.size(); ++k) row(k) = scale * std::round(row(k) / scale);
          }
        }
      },
      parameters);
}

constexpr std::array rounded_forms{WeightForm::bf16, WeightForm::f16, WeightForm::int8};

template <class B, class L>
void logits_equal(const L& layer, WeightForm form) {
  CAPTURE(std::string(weight_form_name(form)));
  Context<B> ctx;
  auto rounded = layer.initialize(ctx, Seed{3});
  auto kept = layer.initialize(ctx, Seed{3});
  round_weights(rounded, form);
  keep_weights_in(kept, form);
  for (const Index length : {1, 2, 7, 64}) {
    CAPTURE(length);
    const auto tokens = tokens_of(3, length);
    auto expected = nan_tensor<float>(3, length, layer.padded_vocabulary());
    auto logits = nan_tensor<float>(3, length, layer.padded_vocabulary());
    layer.forward(ctx, rounded, tokens, expected);
    layer.forward(ctx, kept, tokens, logits);
    CHECK(largest_difference(logits, expected).value <= tolerance<float>.value);
    auto state = layer.initial_state(ctx, 3);
    auto last = nan_tensor<float>(3, layer.padded_vocabulary());
    for (Index t = 0; t < length; ++t) layer.step(ctx, kept, tokens.select(1, t), last, state);
    CHECK(largest_difference(last, expected.select(1, length - 1)).value <= tolerance<float>.value);
  }
}

TEST_CASE("a model whose weights are kept in bf16, f16 or int8 is that with rounded weights") {
  for_each_model([](const char* name, const auto& layer) {
    CAPTURE(std::string(name));
    for (const WeightForm form : rounded_forms) {
      logits_equal<Reference>(layer, form);
      logits_equal<Cpu>(layer, form);
    }
  });
}

TEST_CASE("every matrix of projections and embeddings is kept in the form, and counted as before") {
  for_each_model([](const char* name, const auto& layer) {
    CAPTURE(std::string(name));
    Context<Reference> ctx;
    auto parameters = layer.initialize(ctx, Seed{3});
    const Index count = parameter_count(parameters);
    keep_weights_in(parameters, WeightForm::int8);
    CHECK(parameter_count(parameters) == count);
    Index full = 0;  // matrices of projections and embeddings that are still in single precision
    for_each_parameter(
        [&](const ParameterSpec& spec, const auto& tensor) {
          if (tensor.rank() == 2 && spec.role != ParameterRole::ssm) full += tensor.size();
        },
        parameters);
    CHECK(full == 0);
  });
}

TEST_CASE("a step with weights kept in bf16, f16 or int8 allocates nothing") {
  for_each_model([](const char* name, const auto& layer) {
    for (const WeightForm form : rounded_forms) {
      if (std::string(name) == "H3") return;  // its attention's cache grows
      CAPTURE(std::string(name));
      Context<Cpu> ctx;
      auto parameters = layer.initialize(ctx, Seed{3});
      keep_weights_in(parameters, form);
      auto state = layer.initial_state(ctx, 1);
      const auto tokens = tokens_of(1, 1);
      auto logits = nan_tensor<float>(1, layer.padded_vocabulary());
      const auto step = [&] { layer.step(ctx, parameters, tokens.select(1, 0), logits, state); };
      step();
      step();
      const std::size_t before = laws::allocation_count();
      step();
      CHECK(laws::allocation_count() == before);
    }
  });
}

TEST_CASE("training refuses weights that are kept in bf16, f16 or int8, in one sentence") {
  const char* tail =
      ": weights that are kept in bf16, f16 or int8 cannot be trained, they serve inference";
  for_each_model([&](const char* name, const auto& layer) {
    for (const WeightForm form : rounded_forms) {
      CAPTURE(std::string(name));
      Context<Reference> ctx;
      auto parameters = layer.initialize(ctx, Seed{3});
      auto gradients = layer.initialize(ctx, Seed{4});
      const auto tokens = tokens_of(1, 5);
      auto logits = nan_tensor<float>(1, 5, layer.padded_vocabulary());
      auto tape = layer.make_tape();
      layer.forward(ctx, parameters, tokens, logits, tape);
      AdamW optimizer(ctx, layer, parameters);
      keep_weights_in(parameters, form);
      CHECK_THROWS_WITH_AS(layer.backward(ctx, parameters, tape, logits, gradients),
                           ("linear" + std::string(tail)).c_str(), ArgumentError);
      CHECK_THROWS_WITH_AS(layer.forward(ctx, parameters, tokens, logits, tape),
                           ("language model" + std::string(tail)).c_str(), ArgumentError);
      CHECK_THROWS_WITH_AS(optimizer.update(ctx, parameters, gradients),
                           ("AdamW" + std::string(tail)).c_str(), ArgumentError);
      CHECK_THROWS_AS(AdamW(ctx, layer, parameters), ArgumentError);
    }
  });
}

TEST_CASE("weights kept in bf16 are saved so, and load as the rounded ones") {
  const TemporaryFolder folder;
  for_each_model([&](const char* name, const auto& layer) {
    CAPTURE(std::string(name));
    Context<Reference> ctx;
    auto rounded = layer.initialize(ctx, Seed{3});
    auto kept = layer.initialize(ctx, Seed{3});
    auto loaded = layer.initialize(ctx, Seed{4});
    round_weights(rounded, WeightForm::bf16);
    keep_weights_in(kept, WeightForm::bf16);
    const auto path = folder / (std::string(name) + ".safetensors");
    SafetensorsWriter writer(path);
    save_parameters(writer, kept);
    writer.finish();
    const SafetensorsFile file(path);
    load_parameters(file, loaded);
    for_each_parameter(
        [](const ParameterSpec& spec, const auto& x, const auto& y) {
          CAPTURE(spec.name);
          CHECK(std::equal(x.data(), x.data() + x.size(), y.data(), y.data() + y.size()));
        },
        loaded, rounded);
    CHECK_THROWS_WITH_AS(load_parameters(file, kept),
                         "load_parameters: load in full precision, then keep the weights in bf16",
                         ArgumentError);
  });
}

TEST_CASE("weights kept in int8 are not saved") {
  const TemporaryFolder folder;
  Context<Reference> ctx;
  const auto layer = mamba_model();
  auto parameters = layer.initialize(ctx, Seed{3});
  keep_weights_in(parameters, WeightForm::int8);
  SafetensorsWriter writer(folder / "model.safetensors");
  CHECK_THROWS_WITH_AS(
      save_parameters(writer, parameters),
      "save_parameters: 'backbone.embeddings.weight' is kept in int8, which is not "
      "written to files",
      ArgumentError);
}

}  // namespace
}  // namespace ssm::test
