// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <limits>
#include <ssm/core/compare.hpp>
#include <ssm/core/fill_random.hpp>
#include <ssm/io/checkpoint.hpp>
#include <string>
#include <vector>

#include "support/temporary_folder.hpp"

using ssm::CheckpointError;
using ssm::dyn;
using ssm::DynamicTensor;
using ssm::Extents;
using ssm::Index;
using ssm::load_parameters;
using ssm::ParameterSpec;
using ssm::SafetensorsFile;
using ssm::SafetensorsWriter;
using ssm::save_parameters;
using ssm::TemporaryFolder;
using ssm::Tensor;

namespace {

/// An embedding that the head reports again under the same name, an inner part, and a bias that may
/// be left out.
struct Tied {
  template <class T, class Space = ssm::HostSpace>
  struct Parameters : ssm::ParametersOf<Tied, T, Space> {
    Tensor<T, Extents<dyn, 4>, Space> embedding;
    Tensor<T, Extents<dyn>, Space> D;
    Tensor<T, Extents<3>, Space> bias;
  };
  template <class Visit, class... P>
  static void for_each_parameter(Visit&& visit, P&... p) {
    visit(ParameterSpec{.name = "embedding"}, p.embedding...);
    auto inner = ssm::scoped("mixer", visit);
    inner(ParameterSpec{.name = "D"}, p.D...);
    visit(ParameterSpec{.name = "bias"}, p.bias...);
    visit(ParameterSpec{.name = "embedding"}, p.embedding...);
  }
};

/// Two tensors under one name.
struct Clashing {
  template <class T, class Space = ssm::HostSpace>
  struct Parameters : ssm::ParametersOf<Clashing, T, Space> {
    Tensor<T, Extents<dyn>, Space> a;
    Tensor<T, Extents<dyn>, Space> b;
  };
  template <class Visit, class... P>
  static void for_each_parameter(Visit&& visit, P&... p) {
    visit(ParameterSpec{.name = "weight"}, p.a...);
    visit(ParameterSpec{.name = "weight"}, p.b...);
  }
};

template <class T>
Tied::Parameters<T> parameters(double value, bool random = false) {
  Tied::Parameters<T> p;
  p.embedding.reset({65});
  p.D.reset({7});
  ssm::fill(p.embedding, value);
  ssm::fill(p.D, value);
  if (random) {
    ssm::fill_normal(p.embedding, ssm::Seed{1});
    ssm::fill_normal(p.D, ssm::Seed{2});
  }
  return p;
}

template <class P>
void save(const std::filesystem::path& path, const P& p, const std::string& prefix = "") {
  SafetensorsWriter writer(path);
  save_parameters(writer, p, prefix);
  writer.finish();
}

/// The message of loading `file` into parameters that hold 5, having checked that they still do.
std::string refusal(const std::filesystem::path& path) {
  auto p = parameters<float>(5);
  std::string message = "nothing thrown";
  try {
    load_parameters(SafetensorsFile(path), p);
  } catch (const CheckpointError& error) {
    message = error.what();
  }
  bool unchanged = true;
  ssm::for_each_element([&](float value) { unchanged = unchanged && value == 5; }, p.embedding);
  ssm::for_each_element([&](float value) { unchanged = unchanged && value == 5; }, p.D);
  CHECK(unchanged);
  return message.starts_with(path.string() + ": ") ? message.substr(path.string().size() + 2)
                                                   : message;
}

}  // namespace

TEST_CASE_TEMPLATE("parameters survive the way to a file and back bit for bit", T, float, double) {
  const TemporaryFolder folder;
  auto from = parameters<T>(0, true);
  from.D(3) = std::numeric_limits<T>::denorm_min();
  from.D(4) = -std::numeric_limits<T>::infinity();
  save(folder / "x", from);
  auto to = parameters<T>(5);
  load_parameters(SafetensorsFile(folder / "x"), to);
  CHECK(ssm::all_close(to.embedding, from.embedding, 0));
  CHECK(ssm::all_close(to.D, from.D, 0));
  CHECK_FALSE(static_cast<bool>(to.bias));
}

TEST_CASE(
    "names are scoped, a tied tensor is stored once, and one that does not exist is not stored") {
  const TemporaryFolder folder;
  save(folder / "x", parameters<float>(1), "model.");
  auto names = SafetensorsFile(folder / "x").names();
  std::sort(names.begin(), names.end());
  CHECK(names == std::vector<std::string>{"model.embedding", "model.mixer.D"});
}

TEST_CASE("parameters of another scalar are converted") {
  const TemporaryFolder folder;
  const auto from = parameters<double>(0, true);
  save(folder / "x", from);
  auto to = parameters<float>(5);
  load_parameters(SafetensorsFile(folder / "x"), to);
  CHECK(to.D(1) == static_cast<float>(from.D(1)));
}

TEST_CASE("several parameter structs share a file under their prefixes") {
  const TemporaryFolder folder;
  const auto weights = parameters<float>(1);
  const auto moments = parameters<float>(2);
  SafetensorsWriter writer(folder / "x");
  save_parameters(writer, weights, "model.");
  save_parameters(writer, moments, "adamw.mean.");
  writer.finish();
  const SafetensorsFile file(folder / "x");
  auto to = parameters<float>(5);
  load_parameters(file, to, "adamw.mean.");
  CHECK(to.D(0) == 2);
  load_parameters(file, to, "model.");
  CHECK(to.D(0) == 1);
}

TEST_CASE(
    "a missing tensor, other extents and other types are refused by name, and nothing changes") {
  const TemporaryFolder folder;
  const DynamicTensor<float, 2> embedding({65, 4});
  const DynamicTensor<float, 1> wrong(8);
  const DynamicTensor<std::int32_t, 1> D(7);
  {
    SafetensorsWriter writer(folder / "x");
    writer.add("embedding", embedding);
    writer.finish();
    CHECK(refusal(folder / "x") == "tensor 'mixer.D': is missing");
  }
  {
    SafetensorsWriter writer(folder / "x");
    writer.add("embedding", embedding);
    writer.add("mixer.D", wrong);
    writer.finish();
    CHECK(refusal(folder / "x") == "tensor 'mixer.D': is [8] in the file, asked for [7]");
  }
  {
    SafetensorsWriter writer(folder / "x");
    writer.add("embedding", embedding.reshape(4, 65));
    writer.add("mixer.D", D);
    writer.finish();
    CHECK(refusal(folder / "x") == "tensor 'embedding': is [4, 65] in the file, asked for [65, 4]");
  }
}

TEST_CASE("an unexpected tensor is refused unless told otherwise, and nothing changes") {
  const TemporaryFolder folder;
  const auto from = parameters<float>(1);
  const DynamicTensor<float, 1> extra(3);
  SafetensorsWriter writer(folder / "x");
  save_parameters(writer, from);
  writer.add("bias", extra);
  writer.finish();
  CHECK(refusal(folder / "x") == "tensor 'bias': is not expected");
  auto to = parameters<float>(5);
  load_parameters(SafetensorsFile(folder / "x"), to, "", ssm::UnexpectedTensors::ignore);
  CHECK(to.D(0) == 1);
}

TEST_CASE("a file cut after it was opened changes nothing") {
  const TemporaryFolder folder;
  save(folder / "x", parameters<float>(1));
  const SafetensorsFile file(folder / "x");
  std::filesystem::resize_file(folder / "x", std::filesystem::file_size(folder / "x") - 4);
  auto to = parameters<float>(5);
  CHECK_THROWS_AS(load_parameters(file, to), CheckpointError);
  CHECK(to.embedding(0, 0) == 5);
  CHECK(to.D(0) == 5);
}

TEST_CASE("two different tensors under one name are refused when saved and when loaded") {
  const TemporaryFolder folder;
  Clashing::Parameters<float> p;
  p.a.reset({3});
  p.b.reset({3});
  const std::string reason = ": tensor 'weight': is the name of two different parameters";
  CHECK_THROWS_WITH_AS(save(folder / "x", p), ((folder / "x").string() + reason).c_str(),
                       CheckpointError);
  SafetensorsWriter writer(folder / "x");
  writer.add("weight", p.a);
  writer.finish();
  CHECK_THROWS_AS(load_parameters(SafetensorsFile(folder / "x"), p), CheckpointError);
}
