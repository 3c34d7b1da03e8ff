// SPDX-License-Identifier: Apache-2.0
// Any bytes are either a file of torch.save that can be read to the end or a CheckpointError; so is
// any pickle.
#include <cstddef>
#include <span>
#include <ssm/io/torch_file.hpp>
#include <string>

#include "memory_file.hpp"

namespace {

template <class Read>
void refuse_or(Read&& read) {
  try {
    read();
  } catch (const ssm::CheckpointError&) {
  }
}

template <class T>
void read_as(const ssm::TorchFile& file, const std::string& name) {
  if (ssm::detail::checked_size(file.shape(name)) > 1 << 20) return;  // time, not memory
  refuse_or([&] { file.read<T, 0>(name); });
  refuse_or([&] { file.read<T, 1>(name); });
  refuse_or([&] { file.read<T, 2>(name); });
}

void read_everything(const std::filesystem::path& path) {
  const ssm::TorchFile file(path);
  for (const std::string& name : file.names()) {
    file.bytes(name);
    read_as<float>(file, name);
    read_as<std::int32_t>(file, name);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const MemoryFile memory;
  memory.hold(data, size);
  refuse_or([&] { read_everything(memory.path()); });

  // The pickle alone, without an archive around it, which random changes seldom leave whole.
  const std::string name = "input";
  refuse_or([&] {
    ssm::detail::PickleReader reader(std::as_bytes(std::span(data, size)), name);
    const auto root = reader.read();
    const ssm::detail::TorchStateDict::Storages storages{{"0", {0, 4096}}, {"1", {4096, 64}}};
    ssm::detail::TorchStateDict(name, storages).tensors_of(*root);
  });
  return 0;
}
