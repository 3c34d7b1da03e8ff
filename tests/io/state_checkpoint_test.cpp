// SPDX-License-Identifier: Apache-2.0
#include "ssm/io/state_checkpoint.hpp"

#include <doctest/doctest.h>

#include "ssm/backend/reference.hpp"
#include "support/temporary_folder.hpp"
#include "support/tiny_model.hpp"

namespace ssm::test {
namespace {

/// A model with a state after a few tokens.
struct Reader {
  Reader() : state(model.layer.initial_state<float>(ctx, 2)) {}
  void read() {
    DynamicTensor<Token, 2> tokens({2, 5});
    for (Index i = 0; i < 10; ++i) tokens.data()[i] = static_cast<Token>(i % 7);
    DynamicTensor<float, 3> logits({2, 5, model.layer.padded_vocabulary()});
    model.layer.prefill(ctx, model.parameters, tokens, logits, state);
  }

  Context<Reference> ctx;
  Model<H3LanguageModel::Parameters<float>> model = tiny_model<float>();
  H3LanguageModel::State<float> state;
};

TEST_CASE("a state comes back bit for bit") {
  const TemporaryFolder folder;
  Reader saved, loaded;
  saved.read();
  SafetensorsWriter writer(folder / "state.safetensors");
  save_state<H3LanguageModel>(writer, saved.state, "state.");
  writer.finish();
  load_state<H3LanguageModel>(SafetensorsFile(folder / "state.safetensors"), loaded.state,
                              "state.");
  int tensors = 0;
  H3LanguageModel::for_each_state(
      [&](const std::string&, const auto& a, const auto& b) {
        ++tensors;
        double sum = 0;
        for (Index i = 0; i < a.size(); ++i) {
          CHECK(a.data()[i] == b.data()[i]);
          sum += std::abs(a.data()[i]);
        }
        CHECK(sum > 0);
      },
      saved.state, loaded.state);
  CHECK(tensors == 5);  // shift and diagonal of two layers, and the position
}

TEST_CASE("a state of another batch, or with a tensor missing, is refused") {
  const TemporaryFolder folder;
  Reader saved;
  SafetensorsWriter writer(folder / "state.safetensors");
  save_state<H3LanguageModel>(writer, saved.state);
  writer.finish();
  const SafetensorsFile file(folder / "state.safetensors");
  auto other = saved.model.layer.initial_state<float>(saved.ctx, 3);
  CHECK_THROWS_AS(load_state<H3LanguageModel>(file, other), CheckpointError);
  CHECK_THROWS_AS(load_state<H3LanguageModel>(file, saved.state, "absent."), CheckpointError);
}

}  // namespace
}  // namespace ssm::test
