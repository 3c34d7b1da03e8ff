// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "ssm/backend/cpu/fft_radix.hpp"
#include "ssm/backend/cpu/transpose.hpp"

namespace ssm::cpu {

/// The transform of LanePlan through a library's FFT of one sequence: a channel in each row,
/// weighted so that the cyclic transform becomes the one modulo Xⁿ = i.
///   z[k] = Σ_{j<n} u[j]·w[j]·e^(−2πi·jk/n)        w[j] = e^(πi·j/2n)
/// spectrum   [lanes, n, 2]   interleaved; rows padded to whole registers
/// `Rows` transforms n complex numbers in place: forward(row, worker), inverse(row, worker),
/// neither scaled.
template <class T, class Arch, class Rows>
class RowPlan {
 public:
  using Register = Batch<T, Arch>;
  static constexpr Index lanes = lane_count<T, Arch>;

  RowPlan(Index length, int threads)
      : length_(length), row_((length + padding - 1) / padding * padding), rows_(length, threads) {
    for (Index j = 0; j < row_; ++j) {
      const double angle =
          std::numbers::pi * static_cast<double>(j) / static_cast<double>(2 * length);
      cosine_.push_back(static_cast<T>(std::cos(angle)));
      sine_.push_back(static_cast<T>(std::sin(angle)));
    }
  }

  Index points() const { return row_; }
  static constexpr Index point = 2 * lanes;  // scalars

  static Complex<Register> get(const T* z) {
    const Register low = Register::load_aligned(z), high = Register::load_aligned(z + lanes);
    return {Shuffle::even(low, high), Shuffle::odd(low, high)};
  }
  static void put(T* z, const Complex<Register>& value) {
    Shuffle::low(value.re, value.im).store_aligned(z);
    Shuffle::high(value.re, value.im).store_aligned(z + lanes);
  }

  template <class Load>
  void forward(T* z, Index count, int worker, Load&& load) const {
    alignas(64) T rows[lanes * lanes];
    for (Index j = 0; j < length_; j += lanes) {
      const Index given = std::clamp<Index>(count - j, 0, lanes);
      if (given > 0) load(j, given, rows);
      std::fill(rows + given * lanes, rows + lanes * lanes, T{0});
      Register tile[lanes];
      for (Index i = 0; i < lanes; ++i) tile[i] = Register::load_aligned(rows + i * lanes);
      Transposition<T, Arch>::run(tile);
      const auto cosine = cpu::load<T, Arch>(cosine_.data() + j),
                 sine = cpu::load<T, Arch>(sine_.data() + j);
      for (Index lane = 0; lane < lanes; ++lane)
        put(z + 2 * (lane * row_ + j), {tile[lane] * cosine, tile[lane] * sine});
    }
    for (Index lane = 0; lane < lanes; ++lane) rows_.forward(z + 2 * lane * row_, worker);
  }

  template <class Store>
  void inverse(T* z, Index count, int worker, Store&& store) const {
    alignas(64) T rows[lanes * lanes];
    for (Index lane = 0; lane < lanes; ++lane) rows_.inverse(z + 2 * lane * row_, worker);
    const Register scale(T{1} / static_cast<T>(length_));
    for (Index j = 0; j < count; j += lanes) {
      Register tile[lanes];
      const auto cosine = cpu::load<T, Arch>(cosine_.data() + j),
                 sine = cpu::load<T, Arch>(sine_.data() + j);
      for (Index lane = 0; lane < lanes; ++lane) {
        const auto value = get(z + 2 * (lane * row_ + j));
        tile[lane] = scale * xsimd::fma(value.re, cosine, value.im * sine);
      }
      Transposition<T, Arch>::run(tile);
      for (Index i = 0; i < lanes; ++i) tile[i].store_aligned(rows + i * lanes);
      store(j, std::min(lanes, count - j), rows);
    }
  }

 private:
  using Shuffle = Interleave<T, Arch>;
  static constexpr Index padding = lanes < 4 ? 4 : lanes;

  Index length_;
  Index row_;  // complex numbers
  Rows rows_;
  std::vector<T> cosine_;
  std::vector<T> sine_;
};

}  // namespace ssm::cpu
