// SPDX-License-Identifier: Apache-2.0
// Any bytes are either an array that can be read to the end or a CheckpointError.
#include <ssm/io/npy.hpp>
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
void read_as(const ssm::NpyFile& file) {
  refuse_or([&] { file.read<T, 0>(); });
  refuse_or([&] { file.read<T, 1>(); });
  refuse_or([&] { file.read<T, 3>(); });
}

void read_everything(const std::filesystem::path& path) {
  const ssm::NpyFile file(path);
  read_as<double>(file);
  read_as<ssm::BFloat16>(file);
  read_as<std::int32_t>(file);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const MemoryFile memory;
  memory.hold(data, size);
  refuse_or([&] { read_everything(memory.path()); });

  const std::string text(reinterpret_cast<const char*>(data), size);
  refuse_or([&] { ssm::parse_npy_header(text, "input"); });
  return 0;
}
