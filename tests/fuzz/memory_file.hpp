// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>

/// A file without a disk that holds one input at a time, so that readers are fuzzed through the
/// door they have.
class MemoryFile {
 public:
  MemoryFile() : number_(::memfd_create("input", MFD_CLOEXEC)) {
    if (number_ < 0) std::abort();
  }
  std::filesystem::path path() const { return "/proc/self/fd/" + std::to_string(number_); }
  void hold(const std::uint8_t* data, std::size_t size) const {
    const bool done = ::ftruncate(number_, 0) == 0 &&
                      ::pwrite(number_, data, size, 0) == static_cast<::ssize_t>(size);
    if (!done) std::abort();
  }

 private:
  int number_;
};
