// SPDX-License-Identifier: Apache-2.0
#include "ssm/io/model_index.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "support/temporary_folder.hpp"
#include "support/watched_heap.hpp"

namespace ssm::test {
namespace {

std::string in_file(const std::string& file) {
  return R"({"metadata":{},"weight_map":{"w":")" + file + R"("}})";
}
std::string with_size(const std::string& size) {
  return R"({"metadata":{"total_size":)" + size + R"(},"weight_map":{"w":"a.safetensors"}})";
}

struct Corruption {
  const char* what;
  std::string text;
  const char* reason;  // a part of the message
};

const std::vector<Corruption> corruptions{
    {"no bytes at all", "", "not JSON"},
    {"a text cut in the middle", R"({"weight_map":{"w":"a.safe)", "not JSON"},
    {"a list", "[]", "must be a JSON object"},
    {"no map", R"({"metadata":{"total_size":8}})", "'weight_map' is missing"},
    {"a map that is null", R"({"weight_map":null})", "'weight_map' is missing"},
    {"a map that is a list", R"({"weight_map":["a.safetensors"]})", "must be a JSON object"},
    {"a map of nothing", R"({"weight_map":{}})", "lists no tensors"},
    {"a tensor in a number", R"({"weight_map":{"w":3}})", "tensor 'w': must have a file's name"},
    {"a tensor in two files", R"({"weight_map":{"w":"a.safetensors","w":"b.safetensors"}})",
     "'w' occurs twice"},
    {"two maps", R"({"weight_map":{"w":"a.safetensors"},"weight_map":{}})", "occurs twice"},
    {"a file without a name", in_file(""), "tensor 'w': is in ''"},
    {"a file that is only an ending", in_file(".safetensors"), "in the folder"},
    {"the folder itself", in_file("."), "in the folder"},
    {"the folder above", in_file(".."), "in the folder"},
    {"a file in the folder above", in_file("../a.safetensors"), "in the folder"},
    {"a file further away", in_file("x/../../a.safetensors"), "in the folder"},
    {"an absolute path", in_file("/etc/a.safetensors"), "in the folder"},
    {"a folder below", in_file("x/a.safetensors"), "in the folder"},
    {"the folder spelled out", in_file("./a.safetensors"), "in the folder"},
    {"a separator of another system", in_file("..\\\\a.safetensors"), "in the folder"},
    {"a device", in_file("/dev/zero"), "in the folder"},
    {"a file of another kind", in_file("pytorch_model.npz"), "in the folder"},
    {"a name with a zero byte", in_file("a\\u0000.safetensors"), "in the folder"},
    {"a name with a line break", in_file("a\\nb.safetensors"), "'a?b.safetensors'"},
    {"a name longer than any file's", in_file(std::string(5000, 'a') + ".safetensors"),
     "in the folder"},
    {"metadata that are a list", R"({"metadata":[],"weight_map":{"w":"a.safetensors"}})",
     "'metadata' must be a JSON object"},
    {"a negative size", with_size("-1"), "total_size"},
    {"half a byte", with_size("8.5"), "total_size"},
    {"a size beyond all numbers", with_size("1e30"), "total_size"},
    {"a size that is text", with_size("\"8\""), "total_size"},
    {"a size that is a truth", with_size("true"), "total_size"},
    {"a hundred thousand open brackets", std::string(100'000, '['), "nested too deeply"},
    {"a hundred thousand open maps",
     [] {
       std::string text;
       for (int i = 0; i < 100'000; ++i) text += "{\"weight_map\":";
       return text;
     }(),
     "nested too deeply"},
};

ModelIndex read(const TemporaryFolder& folder, const std::string& text) {
  write_text(folder / "index.json", text);
  return read_model_index(folder / "index.json");
}

TEST_CASE("the index says which file holds a tensor") {
  const TemporaryFolder folder;
  const ModelIndex index = read(
      folder,
      R"({"metadata":{"total_size":16,"format":"pt"},"weight_map":{"b":"model-2.safetensors","a":"model-1.safetensors"}})");
  CHECK(index.file_of.size() == 2);
  CHECK(index.file_of.at("a") == "model-1.safetensors");
  CHECK(index.file_of.at("b") == "model-2.safetensors");
  CHECK(index.total_size == 16);
}

TEST_CASE("the total size may be left out, and older files have it as a fraction") {
  const TemporaryFolder folder;
  CHECK(!read(folder, R"({"weight_map":{"w":"a.safetensors"}})").total_size);
  CHECK(read(folder, with_size("8.0")).total_size == 8);
  CHECK(read(folder, with_size("18446744073709551615")).total_size == ~std::uint64_t{0});
}

TEST_CASE(
    "every damage to an index is a CheckpointError that names the file and the reason, and costs "
    "little memory") {
  const TemporaryFolder folder;
  const std::string path = (folder / "index.json").string();
  for (const Corruption& corruption : corruptions) {
    CAPTURE(std::string(corruption.what));
    std::string message;
    write_text(path, corruption.text);
    largest_allocation = 0;
    try {
      read_model_index(path);
    } catch (const CheckpointError& error) {
      message = error.what();
    }
    CHECK(largest_allocation < (std::size_t{1} << 20) + corruption.text.size());
    CHECK_MESSAGE(message.starts_with(path + ": "), message);
    CHECK_MESSAGE(message.find(corruption.reason) != std::string::npos, message);
    CHECK(message.find('\n') == std::string::npos);
    CHECK(message.size() < path.size() + 400);
  }
}

TEST_CASE("an index larger than any model needs is refused before it is read") {
  const TemporaryFolder folder;
  write_text(folder / "index.json", "{}");
  std::filesystem::resize_file(folder / "index.json", std::uintmax_t{1} << 40);
  largest_allocation = 0;
  CHECK_THROWS_AS(read_model_index(folder / "index.json"), CheckpointError);
  CHECK(largest_allocation < 1 << 20);
}

}  // namespace
}  // namespace ssm::test
