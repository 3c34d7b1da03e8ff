// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <span>
#include <ssm/core/compare.hpp>
#include <ssm/core/fill_random.hpp>
#include <ssm/io/safetensors.hpp>
#include <string>
#include <vector>

#include "support/temporary_folder.hpp"

using ssm::BFloat16;
using ssm::CheckpointError;
using ssm::dyn;
using ssm::DynamicTensor;
using ssm::Extents;
using ssm::Float16;
using ssm::Index;
using ssm::SafetensorsFile;
using ssm::SafetensorsWriter;
using ssm::Seed;
using ssm::TemporaryFolder;

namespace {

/// Elements of random bits, NaN and infinities included.
template <class T>
DynamicTensor<T, 2> random_bits(Index rows, Index columns) {
  DynamicTensor<T, 2> x({rows, columns});
  const ssm::Random random(Seed{9});
  for (Index i = 0; i < x.size(); ++i) {
    const auto words = random.bits(static_cast<std::uint64_t>(i));
    std::memcpy(static_cast<void*>(x.data() + i), words.data(), sizeof(T));
  }
  return x;
}

}  // namespace

TEST_CASE_TEMPLATE("tensors survive the way to a file and back bit for bit", T, float, double,
                   Float16, BFloat16, std::int32_t, std::int64_t) {
  const TemporaryFolder folder;
  for (const Index length : {0, 1, 2, 63, 64, 65, 1000}) {
    const auto x = random_bits<T>(3, length);
    SafetensorsWriter writer(folder / "x.safetensors");
    writer.add("x", x);
    writer.add("turned", x.transpose(0, 1));
    writer.finish();

    const SafetensorsFile file(folder / "x.safetensors");
    CHECK(file.dtype("x") == ssm::stored_dtype<T>());
    CHECK(file.shape("turned") == std::vector<Index>{length, 3});
    const auto same = file.read<T, 2>("x");
    const auto bytes = static_cast<std::size_t>(x.size()) * sizeof(T);
    CHECK(std::memcmp(same.data(), x.data(), bytes) == 0);
    DynamicTensor<T, 2> back({3, length});
    file.read("turned", back.transpose(0, 1));
    CHECK(std::memcmp(back.data(), x.data(), bytes) == 0);
    const std::vector<std::byte> raw = file.bytes("x");
    CHECK(raw.size() == bytes);
    CHECK(std::equal(raw.begin(), raw.end(), reinterpret_cast<const std::byte*>(x.data())));
  }
}

TEST_CASE("tensors of more than one buffer are read and written through any layout") {
  const TemporaryFolder folder;
  DynamicTensor<double, 3> x({3, 1000, 7});
  ssm::fill_normal(x, Seed{1});
  SafetensorsWriter writer(folder / "x.safetensors");
  writer.add<float>("x", x.transpose(0, 2));
  writer.finish();
  DynamicTensor<double, 3> back({3, 7, 1000});
  SafetensorsFile(folder / "x.safetensors").read("x", back.transpose(1, 2).transpose(0, 2));
  for (Index b = 0; b < 3; ++b)
    for (Index t = 0; t < 1000; ++t)
      for (Index d = 0; d < 7; ++d)
        REQUIRE(back(b, d, t) == static_cast<double>(static_cast<float>(x(b, t, d))));
}

TEST_CASE("reading converts floats to any float, and integers to any scalar that holds them") {
  const TemporaryFolder folder;
  DynamicTensor<double, 1> x(3);
  x(0) = 1.0 / 3;
  DynamicTensor<std::int64_t, 1> n(2);
  n(0) = -7;
  n(1) = 1000;
  SafetensorsWriter writer(folder / "x.safetensors");
  writer.add("double", x);
  writer.add<BFloat16>("bf16", x);
  writer.add("n", n);
  writer.finish();
  const SafetensorsFile file(folder / "x.safetensors");
  CHECK(file.read<float, 1>("double")(0) == static_cast<float>(1.0 / 3));
  CHECK(file.read<Float16, 1>("double")(0) == Float16(1.0F / 3));
  CHECK(file.read<double, 1>("bf16")(0) ==
        static_cast<double>(static_cast<float>(BFloat16(1.0F / 3))));
  CHECK(file.read<std::int32_t, 1>("n")(1) == 1000);
  CHECK(file.read<float, 1>("n")(0) == -7);
}

TEST_CASE("what does not convert is refused with file, tensor and reason") {
  const TemporaryFolder folder;
  DynamicTensor<float, 2> x({2, 3});
  DynamicTensor<std::int64_t, 1> large(1);
  large(0) = std::int64_t{1} << 40;
  SafetensorsWriter writer(folder / "x.safetensors");
  writer.add("x", x);
  writer.add("large", large);
  writer.finish();
  const SafetensorsFile file(folder / "x.safetensors");
  const std::string name = (folder / "x.safetensors").string();

  const auto message = [](auto&& action) {
    try {
      action();
    } catch (const CheckpointError& error) {
      return std::string(error.what());
    }
    return std::string("nothing thrown");
  };
  CHECK(message([&] { file.read<std::int32_t, 2>("x"); }) ==
        name + ": tensor 'x': is of type F32, asked for integers");
  CHECK(message([&] { file.read<float, 1>("x"); }) ==
        name + ": tensor 'x': is [2, 3] in the file, asked for 1 axes");
  CHECK(message([&] { file.read("x", x.transpose(0, 1)); }) ==
        name + ": tensor 'x': is [2, 3] in the file, asked for [3, 2]");
  CHECK(message([&] { file.read<float, 2>("y"); }) == name + ": tensor 'y': is missing");
  CHECK(message([&] { file.read<std::int32_t, 1>("large"); }) ==
        name + ": tensor 'large': holds 1099511627776, beyond the integers asked for");
  ssm::Tensor<float, Extents<2, 3>> null;
  CHECK(message([&] { file.read("x", null); }) == name + ": tensor 'x': has no memory to go to");
  CHECK_THROWS_AS(file.bytes("y"), CheckpointError);
  CHECK_FALSE(file.contains("y"));
}

TEST_CASE("metadata and names of any language survive, and names come in the order of the data") {
  const TemporaryFolder folder;
  DynamicTensor<Float16, 1> half(3);
  DynamicTensor<double, 1> wide(2);
  SafetensorsWriter writer(folder / "x.safetensors");
  writer.metadata("note", "Größe \"7\"\n\\");
  writer.metadata("step", "12");
  writer.add("名前/\"half\"", half);
  writer.add("wide", wide);
  writer.finish();
  const SafetensorsFile file(folder / "x.safetensors");
  CHECK(file.metadata() ==
        std::map<std::string, std::string>{{"note", "Größe \"7\"\n\\"}, {"step", "12"}});
  CHECK(file.names() ==
        std::vector<std::string>{"wide", "名前/\"half\""});  // wide scalars first: aligned
}

TEST_CASE("the header is padded, so that the data is aligned to 8 bytes") {
  const TemporaryFolder folder;
  for (int length = 1; length < 20; ++length) {
    DynamicTensor<double, 1> x(1);
    SafetensorsWriter writer(folder / "x.safetensors");
    writer.add(std::string(static_cast<std::size_t>(length), 'x'), x);
    writer.finish();
    CHECK(ssm::file_text(folder / "x.safetensors").size() % 8 == 0);
    CHECK_NOTHROW(SafetensorsFile(folder / "x.safetensors"));
  }
}

TEST_CASE("a file without tensors, and tensors without axes or elements, are legal") {
  const TemporaryFolder folder;
  SafetensorsWriter(folder / "empty.safetensors").finish();
  CHECK(SafetensorsFile(folder / "empty.safetensors").names().empty());
  DynamicTensor<float, 0> scalar{Extents<>()};
  scalar() = 4;
  SafetensorsWriter writer(folder / "x.safetensors");
  writer.add("scalar", scalar);
  writer.add("none", DynamicTensor<float, 2>({0, 3}));
  writer.add("span of none", std::span<const float>());
  writer.finish();
  const SafetensorsFile file(folder / "x.safetensors");
  CHECK(file.read<double, 0>("scalar")() == 4);
  CHECK(file.read<float, 2>("none").extent(1) == 3);
}

TEST_CASE("the writer borrows what has a name and keeps what is temporary") {
  const TemporaryFolder folder;
  DynamicTensor<float, 1> borrowed(1);
  SafetensorsWriter writer(folder / "x.safetensors");
  writer.add("borrowed", borrowed);
  writer.add("kept", borrowed.clone());
  borrowed(0) = 5;
  writer.finish();
  const SafetensorsFile file(folder / "x.safetensors");
  CHECK(file.read<float, 1>("borrowed")(0) == 5);
  CHECK(file.read<float, 1>("kept")(0) == 0);
}

TEST_CASE("a name used twice, the name of the metadata and a null tensor are refused") {
  const TemporaryFolder folder;
  DynamicTensor<float, 1> x(1);
  SafetensorsWriter writer(folder / "x.safetensors");
  writer.add("x", x);
  CHECK_THROWS_AS(writer.add("x", x), CheckpointError);
  CHECK_THROWS_AS(writer.add("__metadata__", x), CheckpointError);
  CHECK_THROWS_AS(writer.add("null", ssm::Tensor<float, Extents<3>>()), CheckpointError);
}

TEST_CASE("Python's safetensors reads the same tensors") {
  if (std::system("python3 -c 'import safetensors' 2>/dev/null") != 0) {
    MESSAGE("skipped: python3 has no package safetensors");
    return;
  }
  const TemporaryFolder folder;
  DynamicTensor<float, 2> x({2, 2});
  x(1, 0) = 1.5F;
  SafetensorsWriter writer(folder / "x.safetensors");
  writer.metadata("step", "3");
  writer.add("x", x.transpose(0, 1));
  writer.add<BFloat16>("half", x);
  writer.finish();
  ssm::write_text(folder / "check.py",
                  "import safetensors, struct, sys\n"
                  "found = dict(safetensors.deserialize(open(sys.argv[1], 'rb').read()))\n"
                  "assert found['x']['shape'] == [2, 2] and found['x']['dtype'] == 'F32', found\n"
                  "assert bytes(found['x']['data']) == struct.pack('<4f', 0, 1.5, 0, 0), found\n"
                  "assert found['half']['dtype'] == 'BF16' and len(found) == 2, found\n");
  const std::string command = "python3 '" + (folder / "check.py").string() + "' '" +
                              (folder / "x.safetensors").string() + "'";
  CHECK(std::system(command.c_str()) == 0);
}
