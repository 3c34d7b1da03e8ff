// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include "ssm/backend/cpu/parallel.hpp"
#include "ssm/op/dropout.hpp"

namespace ssm::cpu {

/// ssm::dropout; the random numbers are those of ssm::Random, drawn for several counters side by
/// side.
template <class Arch>
struct Dropout {
  template <class Ctx, Real T>
  static void dropout(Ctx& ctx, const ssm::Dropout<T, typename Ctx::Space>& a) {
    const T scale = static_cast<T>(1 / (1 - a.probability));
    // uniform = (word >> 11)·2⁻⁵³, so the comparison with the probability is one of integers.
    const auto threshold = static_cast<std::uint64_t>(std::ceil(a.probability * 0x1p53));
    const Index n = a.x.extent(0);
    parallel(ctx.resources().threads(), (n + lanes - 1) / lanes, 64, [&](Range range, int) {
      std::uint64_t word[lanes];
      for (Index block = range.begin; block < range.end; ++block) {
        const Index first = block * lanes;
        random_words(a.seed.value, static_cast<std::uint64_t>(first), word);
        const Index count = std::min<Index>(lanes, n - first);
        for (Index i = 0; i < count; ++i)
          a.y(first + i) = (word[i] >> 11) >= threshold ? a.x(first + i) * scale : T{0};
      }
    });
  }

 private:
  static constexpr int lanes = 16;

  /// The first two words of Philox4x32-10 for `lanes` counters; the loops over lanes are what a
  /// compiler vectorizes.
  static void random_words(std::uint64_t seed, std::uint64_t first, std::uint64_t* word) {
    std::uint32_t c0[lanes], c1[lanes], c2[lanes], c3[lanes];
    for (int i = 0; i < lanes; ++i) {
      const std::uint64_t counter = first + static_cast<std::uint64_t>(i);
      c0[i] = static_cast<std::uint32_t>(counter);
      c1[i] = static_cast<std::uint32_t>(counter >> 32);
      c2[i] = c3[i] = 0;
    }
    auto key0 = static_cast<std::uint32_t>(seed);
    auto key1 = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round, key0 += 0x9E3779B9U, key1 += 0xBB67AE85U)
      for (int i = 0; i < lanes; ++i) {
        const std::uint64_t p = std::uint64_t{0xD2511F53U} * c0[i];
        const std::uint64_t q = std::uint64_t{0xCD9E8D57U} * c2[i];
        c0[i] = static_cast<std::uint32_t>(q >> 32) ^ c1[i] ^ key0;
        c1[i] = static_cast<std::uint32_t>(q);
        c2[i] = static_cast<std::uint32_t>(p >> 32) ^ c3[i] ^ key1;
        c3[i] = static_cast<std::uint32_t>(p);
      }
    for (int i = 0; i < lanes; ++i) word[i] = (std::uint64_t{c1[i]} << 32) | c0[i];
  }
};

}  // namespace ssm::cpu
