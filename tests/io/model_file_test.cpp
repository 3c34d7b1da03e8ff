// SPDX-License-Identifier: Apache-2.0
#include "ssm/io/model_file.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "ssm/backend/reference.hpp"
#include "ssm/layer/linear.hpp"
#include "ssm/layer/s4d.hpp"
#include "ssm/model/model.hpp"
#include "ssm/model/sequential.hpp"
#include "support/temporary_folder.hpp"
#include "support/tiny_model.hpp"

namespace ssm::test {
namespace {

template <Index Width>
using Small = Sequential<Named<"encoder", Linear<LinearConfig{.inputs = 2, .outputs = Width}>>,
                         S4D<S4DConfig{.channels = Width, .state = 4}>>;

template <Index Width = 3, class T = float>
auto small_model(Seed seed) {
  Context<Reference> ctx;
  const Small<Width> layer;
  return Model{layer, layer.template initialize<T>(ctx, seed)};
}

TEST_CASE("a saved model is loaded bit for bit, by the names of its parameters") {
  const TemporaryFolder folder;
  const auto model = small_model(Seed{1});
  save(folder / "model.safetensors", model);
  CHECK(SafetensorsFile(folder / "model.safetensors").contains("encoder.weight"));
  CHECK(SafetensorsFile(folder / "model.safetensors").contains("layers.1.D"));
  auto other = small_model(Seed{2});
  CHECK(distance(model.parameters, other.parameters) > 0);
  load(folder / "model.safetensors", other);
  CHECK(distance(model.parameters, other.parameters) == 0);
}

TEST_CASE("a file of another model is refused with the tensor, and the model stays as it was") {
  const TemporaryFolder folder;
  const auto path = folder / "model.safetensors";
  save(path, small_model<4>(Seed{1}));
  auto model = small_model<3>(Seed{2});
  const auto before = copy_of(model.parameters, model.layer);
  try {
    load(path, model);
    FAIL("the widths differ");
  } catch (const CheckpointError& error) {
    CHECK(std::string(error.what()).find("encoder.weight") != std::string::npos);
  }
  CHECK(distance(model.parameters, before) == 0);
  CHECK_THROWS_AS(load(folder / "absent.safetensors", model), CheckpointError);
  CHECK_THROWS_AS(save(folder / "absent" / "model.safetensors", model), CheckpointError);
}

}  // namespace
}  // namespace ssm::test
