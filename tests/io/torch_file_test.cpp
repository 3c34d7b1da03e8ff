// SPDX-License-Identifier: Apache-2.0
#include "ssm/io/torch_file.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ssm/io/model_tensors.hpp"
#include "support/temporary_folder.hpp"
#include "support/watched_heap.hpp"

using ssm::CheckpointError;
using ssm::Index;
using ssm::TemporaryFolder;
using ssm::TorchFile;

namespace {

std::filesystem::path data(const char* name) {
  return std::filesystem::path(SSM_TEST_DATA) / "torch" / name;
}

/// What make.py counts up: element i is i/4 − 2.
float number(Index i) { return static_cast<float>(i) / 4 - 2; }

void expect_state_dict(const TorchFile& file) {
  CHECK(file.names() == std::vector<std::string>{"weight", "transposed", "view", "tied", "expanded",
                                                 "bf16", "f16", "f64", "int64", "bool", "empty",
                                                 "scalar", "parameter"});
  CHECK(file.dtype("weight") == "F32");
  CHECK(file.dtype("bf16") == "BF16");
  CHECK(file.shape("transposed") == std::vector<Index>{3, 4});
  const auto weight = file.read<float, 2>("weight");
  const auto tied = file.read<float, 2>("tied");
  const auto transposed = file.read<float, 2>("transposed");
  const auto view = file.read<double, 2>("view");
  for (Index i = 0; i < 3; ++i)
    for (Index j = 0; j < 4; ++j) {
      CHECK(weight(i, j) == number(4 * i + j));
      CHECK(tied(i, j) == number(4 * i + j));
      CHECK(transposed(i, j) == number(3 * j + i));
    }
  for (Index i = 0; i < 2; ++i)
    for (Index j = 0; j < 2; ++j) {
      CHECK(view(i, j) == number(4 * (i + 1) + j + 1));
      CHECK(file.read<float, 2>("parameter")(i, j) == number(2 * i + j));
    }
  for (Index j = 0; j < 3; ++j) {
    CHECK(file.read<float, 2>("expanded")(0, j) == number(j));
    CHECK(file.read<float, 2>("expanded")(1, j) == number(j));
  }
  for (Index i = 0; i < 10; ++i) {
    CHECK(file.read<float, 2>("bf16").data()[i] == number(i));
    CHECK(file.read<ssm::BFloat16, 2>("f16").data()[i] == ssm::BFloat16(number(i)));
  }
  CHECK(file.read<float, 1>("f64")(6) == number(6));
  CHECK(file.read<std::int32_t, 2>("int64")(1, 2) == 5);
  CHECK(file.read<float, 2>("empty").size() == 0);
  CHECK(file.read<float, 0>("scalar")() == 1.5F);
  CHECK_THROWS_WITH_AS(
      (file.read<float, 1>("bool")),
      (file.path_name() + ": tensor 'bool': is of type BOOL, which is not supported").c_str(),
      CheckpointError);
  CHECK_THROWS_AS((file.read<std::int32_t, 2>("transposed")), CheckpointError);
}

TEST_CASE("a state dict of torch.save is read, views and shared storages too") {
  expect_state_dict(TorchFile(data("state_dict.pt")));
}
TEST_CASE("so is one of the format before zip") {
  expect_state_dict(TorchFile(data("before_zip.pt")));
}

TEST_CASE("of a Lightning checkpoint the model is read, and nothing beside it") {
  const TorchFile file(data("lightning.ckpt"));
  CHECK(file.names() == std::vector<std::string>{"model.weight", "model.transposed"});
  CHECK(file.read<float, 2>("model.weight")(2, 3) == number(11));
}

TEST_CASE("a file that wants something run is refused by its name") {
  try {
    TorchFile{data("calls.pt")};
    FAIL("it was read");
  } catch (const CheckpointError& error) {
    CHECK(std::string(error.what()).find("wants to call 'posix.system'") != std::string::npos);
  }
  CHECK_THROWS_WITH_AS(TorchFile{data("no_tensors.pt")},
                       (data("no_tensors.pt").string() + ": holds no tensors").c_str(),
                       CheckpointError);
}

TEST_CASE("a folder's only file of weights is found, whatever its name") {
  const TemporaryFolder folder;
  std::filesystem::copy_file(data("state_dict.pt"), folder / "H3-125M.pt");
  CHECK(ssm::ModelTensors(folder.path()).contains("weight"));
  std::filesystem::copy_file(data("state_dict.pt"), folder / "pytorch_model.bin");
  CHECK(ssm::ModelTensors(folder.path()).path_name() == (folder / "pytorch_model.bin").string());
  std::filesystem::remove(folder / "pytorch_model.bin");
  std::filesystem::copy_file(data("lightning.ckpt"), folder / "last.ckpt");
  CHECK_THROWS_WITH_AS(
      ssm::ModelTensors(folder.path()),
      (folder.path().string() + ": holds several files of weights, name one: H3-125M.pt, last.ckpt")
          .c_str(),
      CheckpointError);
}

TEST_CASE("a safetensors file whose header's length begins like a pickle is none") {
  const TemporaryFolder folder;
  for (const std::size_t length : {0x80U, 0x280U, 0x480U}) {
    std::string header = R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
    header.resize(length, ' ');
    std::string file(8, '\0');
    file[0] = static_cast<char>(length & 0xffU);
    file[1] = static_cast<char>(length >> 8U);
    ssm::write_text(folder / "model.safetensors", file + header + std::string(4, '\0'));
    CHECK(ssm::ModelTensors(folder.path()).read<float, 1>("a")(0) == 0);
  }
}

TEST_CASE("shards of torch files have an index") {
  const TemporaryFolder folder;
  std::filesystem::copy_file(data("state_dict.pt"), folder / "pytorch_model-00001-of-00001.bin");
  std::string map;
  for (const std::string& name : TorchFile(data("state_dict.pt")).names())
    map += (map.empty() ? "\"" : ",\"") + name + "\":\"pytorch_model-00001-of-00001.bin\"";
  ssm::write_text(folder / "pytorch_model.bin.index.json",
                  "{\"metadata\":{\"total_size\":0},\"weight_map\":{" + map + "}}");
  const ssm::ModelTensors tensors(folder.path());
  CHECK(tensors.read<float, 2>("weight")(1, 1) == number(5));
}

/// Reads whatever can be read.
void read_all(ssm::FileReader reader) {
  try {
    const TorchFile file(std::move(reader));
    for (const std::string& name : file.names()) {
      try {
        if (file.shape(name).size() == 2) file.read<float, 2>(name);
      } catch (const CheckpointError&) {
      }
    }
  } catch (const CheckpointError&) {
  }
}

ssm::FileReader in_memory(const std::string& text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {"memory", std::vector<std::byte>(bytes.begin(), bytes.end())};
}

TEST_CASE("a file that is cut off or damaged anywhere is read or refused") {
  for (const char* name : {"state_dict.pt", "before_zip.pt"}) {
    const std::string whole = ssm::file_text(data(name));
    ssm::largest_allocation = 0;
    for (std::size_t size = 0; size < whole.size(); size += 7) {
      CHECK_THROWS_AS(TorchFile{in_memory(whole.substr(0, size))}, CheckpointError);
    }
    for (std::size_t at = 0; at < whole.size(); at += 3)
      for (const char change : {'\x01', '\x80', '\xff'}) {
        std::string damaged = whole;
        damaged[at] = static_cast<char>(damaged[at] ^ change);
        read_all(in_memory(damaged));
      }
    CHECK(ssm::largest_allocation < std::size_t{1} << 27);
  }
}

/// A zip archive with numbers of 64 bits wherever there may be some.
class Zip64 {
 public:
  void add(const std::string& name, const std::string& content) {
    const std::uint64_t begin = file_.size();
    file_ += "PK\x03\x04";
    put(45, 2), put(0, 2), put(0, 2), put(0, 4), put(0, 4), put(~0U, 4), put(~0U, 4);
    put(name.size(), 2), put(20, 2);
    file_ += name;
    put(1, 2), put(16, 2), put(content.size(), 8), put(content.size(), 8);
    file_ += content;
    std::string body;
    std::swap(body, file_);  // the directory is written by the same functions
    file_ = std::move(directory_);
    file_ += "PK\x01\x02";
    put(45, 2), put(45, 2), put(0, 2), put(0, 2), put(0, 4), put(0, 4), put(~0U, 4), put(~0U, 4);
    put(name.size(), 2), put(28, 2), put(0, 2), put(0, 2), put(0, 2), put(0, 4), put(~0U, 4);
    file_ += name;
    put(1, 2), put(24, 2), put(content.size(), 8), put(content.size(), 8), put(begin, 8);
    directory_ = std::move(file_);
    file_ = std::move(body);
    ++count_;
  }
  std::string finish() {
    const std::uint64_t directory = file_.size();
    file_ += directory_;
    const std::uint64_t end = file_.size();
    file_ += "PK\x06\x06";
    put(44, 8), put(45, 2), put(45, 2), put(0, 4), put(0, 4), put(count_, 8), put(count_, 8);
    put(directory_.size(), 8), put(directory, 8);
    file_ += "PK\x06\x07";
    put(0, 4), put(end, 8), put(1, 4);
    file_ += "PK\x05\x06";
    put(0xffff, 2), put(0xffff, 2), put(0xffff, 2), put(0xffff, 2), put(~0U, 4), put(~0U, 4);
    put(0, 2);
    return file_;
  }

 private:
  void put(std::uint64_t number, int bytes) {
    for (int i = 0; i < bytes; ++i) file_ += static_cast<char>(number >> (8 * i));
  }

  std::string file_, directory_;
  std::uint64_t count_ = 0;
};

TEST_CASE("an archive with 64-bit sizes is read") {
  const std::string original = ssm::file_text(data("state_dict.pt"));
  const ssm::FileReader reader(data("state_dict.pt"));
  const ssm::detail::ZipArchive archive(reader);
  Zip64 zip;
  for (const auto& [name, entry] : archive.entries())
    zip.add(name, original.substr(static_cast<std::size_t>(entry.begin),
                                  static_cast<std::size_t>(entry.size)));
  const TemporaryFolder folder;
  ssm::write_text(folder / "large.pt", zip.finish());
  expect_state_dict(TorchFile(folder / "large.pt"));
}

}  // namespace
