// SPDX-License-Identifier: Apache-2.0
#include "ssm/io/model_tensors.hpp"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <string>
#include <vector>

#include "ssm/io/checkpoint.hpp"
#include "support/temporary_folder.hpp"
#include "support/watched_heap.hpp"

namespace ssm::test {
namespace {

namespace fs = std::filesystem;

constexpr const char* first = "model-00001-of-00002.safetensors";
constexpr const char* second = "model-00002-of-00002.safetensors";

/// Writes a file with the tensors of these names, each [value, value + 1].
void write_shard(const fs::path& path, const std::vector<std::string>& names, float value) {
  DynamicTensor<float, 1> tensor({2});
  tensor(0) = value;
  tensor(1) = value + 1;
  SafetensorsWriter writer(path);
  for (const std::string& name : names) writer.add(name, tensor);
  writer.finish();
}

/// A folder with a model in two shards: a, b and c.
struct ShardedModel {
  ShardedModel() {
    fs::create_directory(model);
    write_shard(model / first, {"a", "b"}, 1);
    write_shard(model / second, {"c"}, 3);
    write_index({{"a", first}, {"b", first}, {"c", second}});
  }
  void write_index(const std::vector<std::pair<std::string, std::string>>& entries) const {
    std::string map;
    for (const auto& [tensor, file] : entries)
      map += (map.empty() ? "\"" : ",\"") + tensor + "\":\"" + file + "\"";
    write_text(model / "model.safetensors.index.json",
               "{\"metadata\":{\"total_size\":24},\"weight_map\":{" + map + "}}");
  }
  std::string complaint() const {
    try {
      const ModelTensors tensors(model);
    } catch (const CheckpointError& error) {
      return error.what();
    }
    return "";
  }
  std::string at(const std::string& file) const { return (model / file).string(); }
  std::string index() const { return at("model.safetensors.index.json"); }

  TemporaryFolder folder;
  fs::path model = folder / "model";
};

TEST_CASE("shards and their index are read as one model") {
  const ShardedModel sharded;
  const ModelTensors tensors(sharded.model);
  CHECK(tensors.names() == std::vector<std::string>{"a", "b", "c"});
  CHECK(tensors.files().size() == 2);
  CHECK(tensors.index().total_size == 24);
  CHECK(tensors.path_name() == sharded.index());
  CHECK(tensors.contains("c"));
  CHECK(!tensors.contains("d"));
  CHECK(tensors.shape("c") == std::vector<Index>{2});
  CHECK(tensors.dtype("c") == "F32");
  CHECK(tensors.byte_size("c") == 8);
  CHECK(tensors.read<float, 1>("b")(1) == 2);
  CHECK(tensors.read<double, 1>("c")(0) == 3);
  CHECK(tensors.file_of("c").path_name() == sharded.at(second));
  const ModelTensors by_index(sharded.index());
  CHECK(by_index.names() == tensors.names());
}

TEST_CASE("a single file is a model of its own, and goes before shards") {
  const ShardedModel sharded;
  write_shard(sharded.model / "model.safetensors", {"z"}, 5);
  CHECK(ModelTensors(sharded.model).names() == std::vector<std::string>{"z"});
  CHECK(ModelTensors(sharded.model / first).names() == std::vector<std::string>{"a", "b"});
}

TEST_CASE("every stored type converts to any other") {
  const TemporaryFolder folder;
  DynamicTensor<double, 1> values({3});
  values(0) = 0.5;
  values(1) = -2;
  values(2) = 1024;
  SafetensorsWriter writer(folder / "model.safetensors");
  writer.add<double>("f64", values);
  writer.add<float>("f32", values);
  writer.add<BFloat16>("bf16", values);
  writer.add<Float16>("f16", values);
  writer.finish();
  const ModelTensors tensors(folder.path());
  for (const std::string& name : tensors.names()) {
    CAPTURE(name);
    for (Index i = 0; i < 3; ++i) {
      CHECK(tensors.read<float, 1>(name)(i) == static_cast<float>(values(i)));
      CHECK(tensors.read<double, 1>(name)(i) == values(i));
    }
  }
}

TEST_CASE("parameters are loaded from shards as from one file") {
  const ShardedModel sharded;
  const ModelTensors tensors(sharded.model);
  DynamicTensor<double, 1> out({2});
  tensors.read("c", out);
  CHECK(out(1) == 4);
  DynamicTensor<float, 1> longer({3});
  CHECK_THROWS_WITH_AS(
      tensors.read("c", longer),
      (sharded.at(second) + ": tensor 'c': is [2] in the file, asked for [3]").c_str(),
      CheckpointError);
  CHECK_THROWS_WITH_AS((tensors.read<float, 1>("d")),
                       (sharded.index() + ": tensor 'd': is missing").c_str(), CheckpointError);
}

TEST_CASE("a folder with no model says so") {
  const TemporaryFolder folder;
  const std::string name = folder.path().string();
  CHECK_THROWS_WITH_AS(
      ModelTensors{folder.path()},
      (name +
       ": holds no weights: neither model.safetensors nor pytorch_model.bin, in one file or in "
       "shards, nor a .safetensors, .pt, .pth, .bin or .ckpt file")
          .c_str(),
      CheckpointError);
  CHECK_THROWS_AS(ModelTensors{folder / "absent"}, CheckpointError);
  CHECK_THROWS_AS(ModelTensors{folder / "absent.json"}, CheckpointError);
}

TEST_CASE("a shard that does not exist is named with a tensor that is said to be in it") {
  const ShardedModel sharded;
  fs::remove(sharded.model / second);
  CHECK(sharded.complaint() ==
        sharded.index() + ": tensor 'c': is in '" + second + "', which does not exist");
}

TEST_CASE("a tensor of the index that its shard does not hold is named") {
  const ShardedModel sharded;
  sharded.write_index({{"a", first}, {"b", first}, {"c", second}, {"d", second}});
  CHECK(sharded.complaint() ==
        sharded.at(second) + ": tensor 'd': is missing, the index says it is here");
}

TEST_CASE("a tensor of a shard that the index does not list is named") {
  const ShardedModel sharded;
  sharded.write_index({{"a", first}, {"c", second}});
  CHECK(sharded.complaint() == sharded.at(first) + ": tensor 'b': is not in the index");
}

TEST_CASE("a tensor in two shards is named with both") {
  const ShardedModel sharded;
  write_shard(sharded.model / second, {"b", "c"}, 3);
  CHECK(sharded.complaint() ==
        sharded.at(second) + ": tensor 'b': is in " + sharded.at(first) + " as well");
}

TEST_CASE("a tensor in another shard than the index says is named with both") {
  const ShardedModel sharded;
  sharded.write_index({{"a", first}, {"b", second}, {"c", second}});
  CHECK(sharded.complaint() ==
        sharded.at(first) + ": tensor 'b': is here, but the index says it is in '" + second + "'");
}

TEST_CASE("a tensor in two files that no index goes with is named with both") {
  const ShardedModel sharded;
  write_shard(sharded.model / second, {"b", "c"}, 3);
  const std::vector<fs::path> files{sharded.model / first, sharded.model / second};
  CHECK_THROWS_WITH_AS(
      (ModelTensors{sharded.model, files}),
      (sharded.at(second) + ": tensor 'b': is in " + sharded.at(first) + " as well").c_str(),
      CheckpointError);
}

TEST_CASE("a shard that is damaged, a folder, a pipe or a device is refused in its name") {
  const ShardedModel sharded;
  const auto is_refused = [&](const char* reason) {
    const std::string message = sharded.complaint();
    CAPTURE(message);
    return message.starts_with(sharded.at(second) + ": ") &&
           message.find(reason) != std::string::npos;
  };
  fs::resize_file(sharded.model / second, fs::file_size(sharded.model / second) - 1);
  CHECK(is_refused("outside"));
  fs::remove(sharded.model / second);
  fs::create_directory(sharded.model / second);
  CHECK(is_refused("regular file"));
  fs::remove(sharded.model / second);
  REQUIRE(::mkfifo(sharded.at(second).c_str(), 0600) == 0);
  CHECK(is_refused("regular file"));
  fs::remove(sharded.model / second);
  fs::create_symlink("/dev/zero", sharded.model / second);
  CHECK(is_refused("link out of the folder"));
}

TEST_CASE("a link out of the folder is refused, however it is spelled") {
  const ShardedModel sharded;
  fs::rename(sharded.model / second, sharded.folder / "outside.safetensors");
  fs::create_directory(sharded.model / "blobs");
  const auto refuses = [&](const fs::path& target) {
    fs::remove(sharded.model / second);
    fs::create_symlink(target, sharded.model / second);
    return sharded.complaint() == sharded.at(second) + ": is a link out of the folder";
  };
  CHECK(refuses("../outside.safetensors"));
  CHECK(refuses(sharded.folder / "outside.safetensors"));
  CHECK(refuses("../model/../outside.safetensors"));
  fs::create_symlink("../outside.safetensors", sharded.model / "step.safetensors");
  CHECK(refuses("step.safetensors"));
  fs::rename(sharded.folder / "outside.safetensors",
             sharded.model / "blobs" / "inside.safetensors");
  CHECK(refuses("blobs/inside.safetensors"));
}

TEST_CASE("a link that leads nowhere or to itself is refused") {
  const ShardedModel sharded;
  fs::remove(sharded.model / second);
  fs::create_symlink("nowhere", sharded.model / second);
  CHECK(sharded.complaint().starts_with(sharded.at(second) + ": cannot be opened: "));
  fs::remove(sharded.model / second);
  fs::create_symlink(second, sharded.model / second);
  CHECK(sharded.complaint().starts_with(sharded.at(second) + ": cannot be opened: "));
}

TEST_CASE(
    "links inside the folder, links to the folder, and the cache of Hugging Face are followed") {
  const ShardedModel sharded;
  fs::rename(sharded.model / second, sharded.model / "other.safetensors");
  fs::create_symlink("other.safetensors", sharded.model / second);
  CHECK(sharded.complaint().empty());
  fs::create_directory_symlink(sharded.model, sharded.folder / "link");
  CHECK(ModelTensors(sharded.folder / "link").names().size() == 3);

  const fs::path home = sharded.folder / "models--somebody--something";
  fs::create_directories(home / "snapshots");
  fs::create_directories(home / "blobs");
  fs::rename(sharded.model / "other.safetensors", home / "blobs" / "5c3f");
  fs::remove(sharded.model / second);
  fs::rename(sharded.model, home / "snapshots" / "revision");
  fs::create_symlink("../../blobs/5c3f", home / "snapshots" / "revision" / second);
  CHECK(ModelTensors(home / "snapshots" / "revision").read<float, 1>("c")(0) == 3);
}

TEST_CASE("what only resembles the cache of Hugging Face is not followed") {
  const ShardedModel sharded;
  fs::create_directories(sharded.folder / "snapshots");
  fs::create_directories(sharded.folder / "blobs");
  fs::create_directories(sharded.folder / "other");
  fs::rename(sharded.model / second, sharded.folder / "blobs" / "5c3f");
  fs::copy(sharded.folder / "blobs" / "5c3f", sharded.folder / "other" / "5c3f");
  const auto is_followed = [&](const char* parent, const char* target) {
    const fs::path place = sharded.folder / parent / "revision";
    fs::remove_all(place);
    fs::create_directories(place.parent_path());
    fs::copy(sharded.model, place);
    fs::create_symlink(target, place / second);
    try {
      const ModelTensors tensors(place);
      return true;
    } catch (const CheckpointError& error) {
      CHECK(std::string(error.what()).ends_with(": is a link out of the folder"));
      return false;
    }
  };
  CHECK(is_followed("snapshots", "../../blobs/5c3f"));
  CHECK(!is_followed("snapshots", "../../other/5c3f"));
  CHECK(!is_followed("models", "../../blobs/5c3f"));
}

TEST_CASE("tensors are found under the names that a family is read by") {
  const ShardedModel sharded;
  ModelTensors tensors(sharded.model);
  tensors.rename([](std::string_view name) { return "x." + std::string(name); });
  CHECK(tensors.names() == std::vector<std::string>{"x.a", "x.b", "x.c"});
  CHECK(tensors.read<float, 1>("x.c")(0) == 3);
  CHECK(!tensors.contains("c"));
  CHECK_THROWS_WITH_AS(
      tensors.rename([](std::string_view) { return std::string("y"); }),
      (sharded.index() + ": tensor 'x.b': means the same as 'a', which is there too").c_str(),
      CheckpointError);
  CHECK(tensors.contains("x.a"));
}

TEST_CASE("a shard that is cut after it was opened is an error, not a crash") {
  const ShardedModel sharded;
  const ModelTensors tensors(sharded.model);
  fs::resize_file(sharded.model / second, 20);
  CHECK_THROWS_AS((tensors.read<float, 1>("c")), CheckpointError);
  CHECK_THROWS_AS(tensors.require_unchanged_size(), CheckpointError);
}

TEST_CASE("a thousand tensors in files that are not there cost little") {
  const ShardedModel sharded;
  std::vector<std::pair<std::string, std::string>> entries;
  for (int i = 0; i < 1000; ++i)
    entries.emplace_back("t" + std::to_string(i), "f" + std::to_string(i) + ".safetensors");
  sharded.write_index(entries);
  largest_allocation = 0;
  CHECK(sharded.complaint().ends_with("which does not exist"));
  CHECK(largest_allocation < 1 << 20);
}

}  // namespace
}  // namespace ssm::test
