// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/core/error.hpp"   // Index
#include "ssm/core/random.hpp"  // Seed
#include "ssm/core/scalar.hpp"  // BFloat16

namespace ssm::detail {

/// What tells the weights of one model from those of another, kept once it is known: 16 hexadecimal
/// digits of a hash of the config and, for every tensor, its name, its size, and up to 8 blocks of
/// 128 elements spread over it. Of weight matrices it is the numbers rounded to bf16, so that a
/// model has the same fingerprint in whichever form its weights are kept. Of weights in f16 and
/// int8 those numbers are gone: they are remembered before (`remember`), or the fingerprint is
/// asked for.
/// Cost    at most 1024 elements of every tensor, once
class WeightsFingerprint {
 public:
  /// visit(add) calls add(name, size, is_rounded, read) for each tensor; read(to, begin, count)
  /// gives elements as float.
  template <class Visit>
  std::string of(std::string_view config, Visit&& visit) {
    const std::lock_guard lock(mutex_);
    if (!text_.empty()) return text_;
    Seed hash = Seed{0}.fork(config);
    visit([&](std::string_view name, Index size, bool is_rounded, auto&& read) {
      hash = hash.fork(name).fork(static_cast<std::uint64_t>(size));
      const Index count = block_count(size);
      const auto remembered = remembered_.find(name);
      for (Index i = 0; i < count; ++i) {
        std::array<float, block> values{};
        const Index taken = std::min(size, block);
        if (remembered != remembered_.end())
          std::copy_n(remembered->second.data() + i * block, taken, values.data());
        else
          read(values.data(), begin_of(i, size), taken);
        if (is_rounded)
          for (float& value : values) value = scalar_cast<float>(scalar_cast<BFloat16>(value));
        std::array<char, sizeof(values)> bytes;
        std::memcpy(bytes.data(), values.data(), sizeof(values));
        hash = hash.fork(std::string_view(bytes.data(), bytes.size()));
      }
    });
    constexpr const char* digits = "0123456789abcdef";
    for (int shift = 60; shift >= 0; shift -= 4) text_ += digits[(hash.value >> shift) & 15U];
    remembered_.clear();
    return text_;
  }
  /// Keeps what a fingerprint needs of a tensor that is about to be rounded; `of` reads it no more.
  template <class Read>
  void remember(std::string_view name, Index size, Read&& read) {
    const std::lock_guard lock(mutex_);
    std::vector<float>& values = remembered_[std::string(name)];
    values.resize(static_cast<std::size_t>(block_count(size) * block));
    for (Index i = 0; i < block_count(size); ++i)
      read(values.data() + i * block, begin_of(i, size), std::min(size, block));
  }
  /// The weights have changed.
  void forget() {
    const std::lock_guard lock(mutex_);
    text_.clear();
  }

 private:
  static constexpr Index block = 128;
  static constexpr Index blocks = 8;

  static Index block_count(Index size) { return std::min((size + block - 1) / block, blocks); }
  static Index begin_of(Index i, Index size) {
    const Index count = block_count(size);
    return count == 1 ? 0 : (size - std::min(size, block)) / (count - 1) * i;
  }

  std::mutex mutex_;
  std::string text_;
  std::map<std::string, std::vector<float>, std::less<>> remembered_;  // [blocks · block] by name
};

}  // namespace ssm::detail
