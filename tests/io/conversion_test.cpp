// SPDX-License-Identifier: Apache-2.0
#include "ssm/io/conversion.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "support/temporary_folder.hpp"

namespace ssm::test {
namespace {

/// Tensors of several types, one larger than a block of a conversion.
struct Saved {
  Saved() {
    DynamicTensor<float, 2> wide({600, 700});
    for (Index i = 0; i < wide.size(); ++i)
      wide.data()[i] = std::sin(static_cast<float>(i)) * 1e-3F;
    DynamicTensor<double, 1> exact({3});
    for (Index i = 0; i < 3; ++i) exact(i) = 1.0 / static_cast<double>(i + 3);
    DynamicTensor<std::int64_t, 1> whole({2});
    whole(0) = -5, whole(1) = std::int64_t{1} << 40;
    SafetensorsWriter writer(folder / "in.safetensors");
    writer.add("wide", wide);
    writer.add("exact", exact);
    writer.add("whole", whole);
    writer.add<Float16>("half", exact);
    writer.finish();
  }
  std::vector<std::filesystem::path> convert(const std::string& out,
                                             const ConversionOptions& options = {}) const {
    const ModelTensors from(folder / "in.safetensors");
    return convert_weights(from, from.names(), folder / out, options);
  }
  std::string complaint(const std::string& out, const ConversionOptions& options) const {
    try {
      convert(out, options);
    } catch (const CheckpointError& error) {
      return error.what();
    }
    return "";
  }

  TemporaryFolder folder;
};

TEST_CASE("converted tensors have the bytes, the types and the extents that they had") {
  const Saved saved;
  std::uint64_t seen = 0, total = 0;
  const auto files = saved.convert("out.safetensors", {.progress = [&](auto done, auto all) {
                                     seen = done;
                                     total = all;
                                   }});
  CHECK(files == std::vector{saved.folder / "out.safetensors"});
  CHECK(total == 600 * 700 * 4 + 3 * 8 + 2 * 8 + 3 * 2);
  CHECK(seen == total);
  const SafetensorsFile in(saved.folder / "in.safetensors"), out(saved.folder / "out.safetensors");
  for (const std::string name : {"wide", "exact", "whole", "half"}) {
    CAPTURE(name);
    CHECK(out.dtype(name) == in.dtype(name));
    CHECK(out.shape(name) == in.shape(name));
    CHECK(out.is_identical(name, in, name));
  }
}

TEST_CASE("fractions are rounded to the type asked for, integers stay what they are") {
  const Saved saved;
  saved.convert("out", {.dtype = "BF16"});
  const SafetensorsFile in(saved.folder / "in.safetensors");
  const ModelTensors out(saved.folder / "out");
  for (const std::string name : {"wide", "exact", "half"}) CHECK(out.dtype(name) == "BF16");
  CHECK(out.dtype("whole") == "I64");
  const auto from = in.read<float, 2>("wide");
  const auto to = out.read<float, 2>("wide");
  Index wrong = 0;
  for (Index i = 0; i < from.size(); ++i)
    wrong += to.data()[i] != scalar_cast<float>(scalar_cast<BFloat16>(from.data()[i]));
  CHECK(wrong == 0);
}

TEST_CASE("shards are none larger than asked for, with an index of all") {
  const Saved saved;
  const auto files = saved.convert("out", {.shard_bytes = 50});
  CHECK(files.size() == 3);  // two shards and the index: the large tensor has one of its own
  CHECK(files.back().filename() == "model.safetensors.index.json");
  CHECK(files.front().filename() == "model-00001-of-00002.safetensors");
  const ModelTensors out(saved.folder / "out");
  CHECK(out.names() == std::vector<std::string>{"exact", "half", "whole", "wide"});
  CHECK(out.index().total_size == 600 * 700 * 4 + 46);
  const SafetensorsFile in(saved.folder / "in.safetensors");
  for (const std::string& name : out.names()) CHECK(out.file_of(name).is_identical(name, in, name));
}

TEST_CASE("a number that the new type cannot hold, and weights in the way, are refused") {
  const Saved saved;
  {
    DynamicTensor<float, 1> large({1});
    large(0) = 1e6F;
    SafetensorsWriter writer(saved.folder / "in.safetensors");
    writer.add("large", large);
    writer.finish();
  }
  const std::string file = (saved.folder / "in.safetensors").string();
  CHECK(saved.complaint("out", {.dtype = "F16"}) ==
        file + ": tensor 'large': holds 1000000.000000, which F16 cannot hold");
  CHECK(!std::filesystem::exists(saved.folder / "out" / "model.safetensors"));
  CHECK(saved.complaint("out", {}) == "");
  CHECK(saved.complaint("out", {}) ==
        (saved.folder / "out" / "model.safetensors").string() + ": exists already");
}

}  // namespace
}  // namespace ssm::test
