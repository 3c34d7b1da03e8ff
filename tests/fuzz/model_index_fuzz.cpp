// SPDX-License-Identifier: Apache-2.0
// Any bytes as the index of a folder of shards are either a model that can be read to the end, with
// the tensors of its shards and no others, or a CheckpointError.
#include <cstdint>
#include <cstdlib>
#include <ssm/io/model_tensors.hpp>
#include <string>
#include <vector>

#include "../support/temporary_folder.hpp"
#include "memory_file.hpp"

namespace {

/// Two sound shards, and things that a shard must not be.
class ShardFolder {
 public:
  ShardFolder() {
    write_shard("a.safetensors", {"x", "y"}, 1);
    write_shard("b.safetensors", {"z"}, 2);
    write_shard("c.safetensors", {"y", "z"}, 3);
    std::filesystem::create_directory(folder_ / "d.safetensors");
    std::filesystem::create_symlink("/dev/zero", folder_ / "e.safetensors");
    std::filesystem::create_symlink("b.safetensors", folder_ / "f.safetensors");
    std::filesystem::create_symlink(index_.path(), folder_ / "model.safetensors.index.json");
  }
  const std::filesystem::path& path() const { return folder_.path(); }
  void hold(const std::uint8_t* data, std::size_t size) const { index_.hold(data, size); }

 private:
  void write_shard(const char* file, const std::vector<std::string>& names, float value) const {
    ssm::DynamicTensor<float, 1> tensor({1});
    tensor(0) = value;
    ssm::SafetensorsWriter writer(folder_ / file);
    for (const std::string& name : names) writer.add(name, tensor);
    writer.finish();
  }

  ssm::TemporaryFolder folder_;
  MemoryFile index_;
};

void read_everything(const std::filesystem::path& path) {
  const ssm::ModelTensors tensors(path);
  for (const auto& [name, file] : tensors.index().file_of) {
    const float value = tensors.read<float, 1>(name)(0);
    const std::string place = tensors.file_of(name).path_name();
    const bool is_sound = value == (place.ends_with("/a.safetensors")   ? 1.0F
                                    : place.ends_with("/b.safetensors") ? 2.0F
                                                                        : 3.0F);
    if (!is_sound || !place.starts_with(path.string())) std::abort();
  }
  if (tensors.names().size() != tensors.index().file_of.size()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const ShardFolder folder;
  folder.hold(data, size);
  try {
    read_everything(folder.path());
  } catch (const ssm::CheckpointError&) {
  }
  return 0;
}
