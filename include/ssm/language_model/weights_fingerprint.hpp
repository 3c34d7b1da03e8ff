// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>

#include "ssm/core/random.hpp"  // Seed

namespace ssm::detail {

/// What tells the weights of one model from those of another, kept once it is known: 16 hexadecimal
/// digits of a hash of the config and, for every tensor, its name, its size, and up to 8 blocks of
/// 512 bytes spread over it.
/// Cost    at most 4 KiB of every tensor, once
class WeightsFingerprint {
 public:
  /// visit(add) calls add(name, data, bytes, copy) for each tensor; copy(to, from, bytes) reads the
  /// memory that they are in.
  template <class Visit>
  std::string of(std::string_view config, Visit&& visit) {
    const std::lock_guard lock(mutex_);
    if (!text_.empty()) return text_;
    Seed hash = Seed{0}.fork(config);
    visit([&](std::string_view name, const void* data, std::size_t bytes, auto&& copy) {
      hash = hash.fork(name).fork(std::uint64_t{bytes});
      const std::size_t count = std::min((bytes + block - 1) / block, blocks);
      for (std::size_t i = 0; i < count; ++i) {
        std::array<char, block> read{};
        const std::size_t size = std::min(bytes, block);
        const std::size_t begin = count == 1 ? 0 : (bytes - size) * i / (count - 1);
        copy(read.data(), static_cast<const char*>(data) + begin, size);
        hash = hash.fork(std::string_view(read.data(), size));
      }
    });
    constexpr const char* digits = "0123456789abcdef";
    for (int shift = 60; shift >= 0; shift -= 4) text_ += digits[(hash.value >> shift) & 15U];
    return text_;
  }
  /// The weights have changed.
  void forget() {
    const std::lock_guard lock(mutex_);
    text_.clear();
  }

 private:
  static constexpr std::size_t block = 512;
  static constexpr std::size_t blocks = 8;

  std::mutex mutex_;
  std::string text_;
};

}  // namespace ssm::detail
