// SPDX-License-Identifier: Apache-2.0
#include "ssm/io/weights.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "ssm/core/no_memory.hpp"
#include "ssm/io/checkpoint.hpp"
#include "support/temporary_folder.hpp"
#include "support/tiny_model.hpp"

namespace ssm::test {
namespace {

const H3LanguageModelConfig sizes{.d_model = 8,
                                  .n_layer = 3,
                                  .d_inner = 12,
                                  .vocab_size = 9,
                                  .d_state = 4,
                                  .attn_layer_idx = {1},
                                  .num_heads = 2};
using P = H3LanguageModel::Parameters<float>;

/// A model in a file, its matrices in float or in a half type.
struct Saved {
  explicit Saved(WeightForm form = WeightForm::full) {
    keep_weights_in(model.parameters, form);
    SafetensorsWriter writer(folder / "model.safetensors");
    save_parameters(writer, model.parameters);
    writer.finish();
  }
  P read(const WeightReading& reading) const {
    P parameters;
    ssm::read_weights(ModelTensors(folder.path()),
                      model.layer.zero_parameters<float>(Context<ShapesOnly>()), parameters,
                      reading);
    return parameters;
  }

  TemporaryFolder folder;
  Model<P> model = tiny_model<float>(sizes);
};

/// Elements in either form, and how many tensors are borrowed.
struct Elements {
  explicit Elements(const P& parameters) {
    for_each_parameter(
        [&](const ParameterSpec&, const auto& tensor) {
          for (Index i = 0; i < tensor.size(); ++i) all.push_back(tensor.data()[i]);
          bool is_borrowed = tensor.is_borrowed();
          if constexpr (requires { tensor.bf16; }) {
            for (Index i = 0; i < tensor.bf16.size(); ++i)
              all.push_back(scalar_cast<float>(tensor.bf16.data()[i]));
            is_borrowed = is_borrowed || tensor.bf16.is_borrowed();
          }
          (is_borrowed ? borrowed : own) += 1;
        },
        parameters);
  }
  std::vector<float> all;
  int borrowed = 0;
  int own = 0;
};

TEST_CASE("weights are read into memory of their own, or stay in the file, bit for bit") {
  const Saved saved;
  const std::vector<float> expected = Elements(saved.model.parameters).all;
  const P read = saved.read({});
  CHECK(Elements(read).all == expected);
  CHECK(Elements(read).borrowed == 0);
  std::vector<FileMapping> mappings;
  const P mapped = saved.read({.mappings = &mappings});
  CHECK(Elements(mapped).all == expected);
  CHECK(Elements(mapped).own == 0);
}

TEST_CASE("weights read in bf16 are those that are rounded afterwards") {
  Saved saved;
  const P read = saved.read({.form = WeightForm::bf16});
  CHECK(weight_form(read) == WeightForm::bf16);
  CHECK(!read.embedding.is_borrowed());
  CHECK(read.embedding.data() == nullptr);
  std::vector<FileMapping> mappings;
  const P mapped = saved.read({.form = WeightForm::bf16, .mappings = &mappings});
  CHECK(Elements(mapped).borrowed > 0);  // norms
  CHECK(Elements(mapped).own > 0);       // matrices, rounded
  keep_weights_in(saved.model.parameters, WeightForm::bf16);
  const std::vector<float> expected = Elements(saved.model.parameters).all;
  CHECK(Elements(read).all == expected);
  CHECK(Elements(mapped).all == expected);
  CHECK(parameter_bytes(read) == parameter_bytes(saved.model.parameters));
  CHECK(parameter_count(read) == parameter_count(saved.model.parameters));
}

TEST_CASE("weights read in int8 are those that are rounded afterwards, of whichever numbers") {
  for (const WeightForm stored : {WeightForm::full, WeightForm::bf16}) {
    const Saved saved(stored);
    Index seen = 0;
    P read, expected = saved.read({});
    ssm::read_weights(ModelTensors(saved.folder.path()),
                      saved.model.layer.zero_parameters<float>(Context<ShapesOnly>()), read,
                      {.form = WeightForm::int8},
                      [&](const ParameterSpec&, const auto& tensor) { seen += tensor.size(); });
    keep_weights_in(expected, WeightForm::int8);
    CHECK(weight_form(read) == WeightForm::int8);
    CHECK(parameter_bytes(read) == parameter_bytes(expected));
    Index matrices = 0, wrong = 0;
    for_each_parameter(
        [&](const ParameterSpec&, const auto& x, const auto& y) {
          for (Index i = 0; i < x.size(); ++i) wrong += x.data()[i] != y.data()[i];
          if constexpr (requires { x.int8; }) {
            matrices += x.int8.size();
            for (Index i = 0; i < x.int8.size(); ++i) wrong += x.int8.data()[i] != y.int8.data()[i];
            for (Index n = 0; n < x.scale.size(); ++n) wrong += x.scale(n) != y.scale(n);
          }
        },
        read, expected);
    CHECK(matrices > 0);
    CHECK(seen == matrices);
    CHECK(wrong == 0);
  }
}

TEST_CASE("weights read in f16 are those that are rounded afterwards, or those of an f16 file") {
  for (const WeightForm stored : {WeightForm::full, WeightForm::bf16, WeightForm::f16}) {
    const Saved saved(stored);
    Index seen = 0, matrices = 0, wrong = 0;
    P read, expected = saved.read({});
    ssm::read_weights(ModelTensors(saved.folder.path()),
                      saved.model.layer.zero_parameters<float>(Context<ShapesOnly>()), read,
                      {.form = WeightForm::f16},
                      [&](const ParameterSpec&, const auto& tensor) { seen += tensor.size(); });
    keep_weights_in(expected, WeightForm::f16);
    CHECK(weight_form(read) == WeightForm::f16);
    for_each_parameter(
        [&](const ParameterSpec&, const auto& x, const auto& y) {
          if constexpr (requires { x.f16; }) {
            matrices += x.f16.size();
            for (Index i = 0; i < x.f16.size(); ++i)
              wrong += x.f16.data()[i].bits() != y.f16.data()[i].bits();
          }
        },
        read, expected);
    CHECK(matrices > 0);
    CHECK(seen == (stored == WeightForm::f16 ? 0 : matrices));
    CHECK(wrong == 0);
  }
}

TEST_CASE("a number that int8 cannot hold is refused with its file and tensor") {
  Saved saved;
  saved.model.parameters.embedding(4, 2) = std::numeric_limits<float>::quiet_NaN();
  SafetensorsWriter writer(saved.folder / "model.safetensors");
  save_parameters(writer, saved.model.parameters);
  writer.finish();
  try {
    (void)saved.read({.form = WeightForm::int8});
    FAIL("a NaN became an int8");
  } catch (const CheckpointError& error) {
    const std::string message = error.what();
    CAPTURE(message);
    CHECK(message.find("model.safetensors") != std::string::npos);
    CHECK(message.find("embedding") != std::string::npos);
    CHECK(message.find("row 4 has a number that is not finite") != std::string::npos);
  }
}

TEST_CASE(
    "matrices that a file has in bf16 stay there in bf16, and are widened in full precision") {
  const Saved saved(WeightForm::bf16);
  const std::vector<float> expected = Elements(saved.model.parameters).all;
  std::vector<FileMapping> mappings;
  const P half = saved.read({.form = WeightForm::bf16, .mappings = &mappings});
  CHECK(Elements(half).all == expected);
  CHECK(Elements(half).own == 0);
  const P full = saved.read({.mappings = &mappings});
  CHECK(Elements(full).all == expected);
  CHECK(!full.embedding.is_borrowed());
}

TEST_CASE("what is written to weights that stay in a file is this process's alone") {
  const Saved saved;
  const std::string before = file_text(saved.folder / "model.safetensors");
  std::vector<FileMapping> mappings;
  P mapped = saved.read({.mappings = &mappings});
  for_each_parameter(
      [](const ParameterSpec&, auto& tensor) {
        for (Index i = 0; i < tensor.size(); ++i) tensor.data()[i] = 7;
      },
      mapped);
  CHECK(mapped.embedding(2, 3) == 7);
  CHECK(file_text(saved.folder / "model.safetensors") == before);
  std::filesystem::remove(saved.folder / "model.safetensors");
  CHECK(mapped.embedding(1, 1) == 7);
}

TEST_CASE("a file that was cut since it was opened is refused before it is mapped") {
  const Saved saved;
  const ModelTensors tensors(saved.folder.path());
  std::filesystem::resize_file(saved.folder / "model.safetensors", 1000);
  std::vector<FileMapping> mappings;
  P parameters;
  CHECK_THROWS_AS(
      ssm::read_weights(tensors, saved.model.layer.zero_parameters<float>(Context<ShapesOnly>()),
                        parameters, {.mappings = &mappings}),
      CheckpointError);
}

}  // namespace
}  // namespace ssm::test
