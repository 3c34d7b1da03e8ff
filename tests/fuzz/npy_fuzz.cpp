// SPDX-License-Identifier: Apache-2.0
// Any bytes are either an array that can be read to the end or a CheckpointError.
#include <cstdlib>
#include <ssm/io/npy_tokens.hpp>
#include <string>
#include <vector>

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
  read_as<std::uint8_t>(file);
  refuse_or([&] {
    const ssm::NpyTokens tokens(path);
    std::vector<ssm::Token> all(static_cast<std::size_t>(tokens.size()));
    tokens.read(0, all);
    for (const ssm::Token token : all)
      if (token < 0) std::abort();
  });
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
