// SPDX-License-Identifier: Apache-2.0
#include "ssm/io/optimizer_checkpoint.hpp"

#include <doctest/doctest.h>

#include "ssm/backend/reference.hpp"
#include "ssm/layer/linear.hpp"
#include "ssm/train/adamw.hpp"
#include "support/temporary_folder.hpp"

namespace ssm::test {
namespace {

using Layer = Linear<LinearConfig{.inputs = 3, .outputs = 2}>;
using P = Layer::Parameters<float>;

struct Optimizer {
  Optimizer()
      : parameters(layer.initialize(ctx, Seed{1})), adamw(ctx, layer, parameters, {.rate = 0.1}) {}

  Context<Reference> ctx;
  Layer layer;
  P parameters;
  AdamW<P> adamw;
};

TEST_CASE("an optimizer comes back with its step and both moments") {
  const TemporaryFolder folder;
  Optimizer saved;
  const P gradients = saved.layer.initialize(saved.ctx, Seed{2});
  saved.adamw.update(saved.ctx, saved.parameters, gradients);
  saved.adamw.update(saved.ctx, saved.parameters, gradients);
  save_optimizer(folder / "optimizer.safetensors", saved.adamw);
  Optimizer loaded;
  load_optimizer(folder / "optimizer.safetensors", loaded.adamw);
  CHECK(loaded.adamw.step() == 2);
  for (Index i = 0; i < 6; ++i) {
    CHECK(loaded.adamw.first_moment().weight.data()[i] ==
          saved.adamw.first_moment().weight.data()[i]);
    CHECK(loaded.adamw.second_moment().weight.data()[i] ==
          saved.adamw.second_moment().weight.data()[i]);
    CHECK(saved.adamw.second_moment().weight.data()[i] != 0);
  }
}

TEST_CASE("another kind of file, or one without a sound step, is refused") {
  const TemporaryFolder folder;
  const auto path = folder / "optimizer.safetensors";
  Optimizer optimizer;
  const auto write = [&](const char* format, const char* step) {
    SafetensorsWriter writer(path);
    if (format != nullptr) writer.metadata("format", format);
    if (step != nullptr) writer.metadata("step", step);
    save_parameters(writer, optimizer.adamw.first_moment(), "first_moment.");
    save_parameters(writer, optimizer.adamw.second_moment(), "second_moment.");
    writer.finish();
  };
  write("ssm-adamw-1", "12");
  load_optimizer(path, optimizer.adamw);
  CHECK(optimizer.adamw.step() == 12);
  for (const char* step : {"", "-1", "1.5", "12 ", "99999999999999999999"}) {
    write("ssm-adamw-1", step);
    CHECK_THROWS_AS(load_optimizer(path, optimizer.adamw), CheckpointError);
  }
  write("ssm-adamw-1", nullptr);
  CHECK_THROWS_AS(load_optimizer(path, optimizer.adamw), CheckpointError);
  write(nullptr, "12");
  CHECK_THROWS_AS(load_optimizer(path, optimizer.adamw), CheckpointError);
}

}  // namespace
}  // namespace ssm::test
