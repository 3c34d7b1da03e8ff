// SPDX-License-Identifier: Apache-2.0
// Any bytes are either a file that can be read to the end or a CheckpointError.
#include <ssm/io/safetensors.hpp>
#include <string>
#include <string_view>

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
void read_as(const ssm::SafetensorsFile& file, const std::string& name) {
  refuse_or([&] { file.read<T, 0>(name); });
  refuse_or([&] { file.read<T, 1>(name); });
  refuse_or([&] { file.read<T, 2>(name); });
}

void read_everything(const std::filesystem::path& path) {
  const ssm::SafetensorsFile file(path);
  for (const std::string& name : file.names()) {
    file.bytes(name);
    read_as<float>(file, name);
    read_as<ssm::Float16>(file, name);
    read_as<std::int32_t>(file, name);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const MemoryFile memory;
  memory.hold(data, size);
  refuse_or([&] { read_everything(memory.path()); });

  // The header without its length in front, which random changes seldom leave right.
  if (size > 0) {
    const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
    refuse_or([&] { ssm::parse_safetensors_header(text, data[0], "input"); });
  }
  return 0;
}
