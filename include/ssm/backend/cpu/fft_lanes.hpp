// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "ssm/backend/cpu/fft_radix.hpp"

namespace ssm::cpu {

/// The transform under the causal convolution, for a channel in each lane: no shuffles, no
/// transpositions, no library.
///   z[k] = Σ_{j<n} u[j] · ρ_k^j
/// where ρ_0 … ρ_{n−1} are the n roots of ρ^n = i, in an order of the plan's own. Modulo Xⁿ = i the
/// product of two real polynomials of n terms keeps its first n coefficients in the real part and
/// the others in the imaginary part: a linear convolution of twice the length, without zero
/// padding, unweighted and with a plain product of spectra. Each pass splits X^len − σ^len into
/// `radix` factors, so its constants belong to a block, not to a position, and spectra stay in the
/// order in which the factors come: nobody looks at it.
/// spectrum   [n, 2, lanes]   real parts, then imaginary parts of the lanes
/// Cost    about 3.5·n·log₂ n operations on registers a direction, in place
/// Source  Crandall & Fagin 1994 (right-angle convolution); Bernstein 2007, "The tangent FFT" §2
///         (the ring view)
template <class T, class Arch>
class LanePlan {
 public:
  using Register = Batch<T, Arch>;
  static constexpr Index lanes = lane_count<T, Arch>;

  LanePlan(Index length, int) : length_(length) {
    for (Index block = length, count = 1; block > 1;) {
      const int radix = count == 1 ? 4 : next_radix(block);
      stages_.push_back({radix, block, static_cast<Index>(twiddles_.size())});
      for (Index b = 0; b < count; ++b) {
        const double turn = turn_of(stages_.size() - 1, b);
        for (int s = 1; s < radix; ++s) {
          const double angle = 2 * std::numbers::pi * turn * s / radix;
          twiddles_.push_back(static_cast<T>(std::cos(angle)));
          twiddles_.push_back(static_cast<T>(std::sin(angle)));
        }
      }
      block /= radix;
      count *= radix;
    }
    for (int s = 1; s < 4; ++s) {
      const double angle = std::numbers::pi / 8 * s;
      last_[2 * s] = static_cast<T>(std::cos(angle) / static_cast<double>(length));
      last_[2 * s + 1] = static_cast<T>(std::sin(angle) / static_cast<double>(length));
    }
    last_[0] = static_cast<T>(1 / static_cast<double>(length));
    last_[1] = 0;
  }

  /// Pairs of registers that make a spectrum.
  Index points() const { return length_; }
  static constexpr Index point = 2 * lanes;  // scalars
  static Complex<Register> get(const T* z) {
    return {Register::load_aligned(z), Register::load_aligned(z + lanes)};
  }
  static void put(T* z, const Complex<Register>& value) {
    value.re.store_aligned(z);
    value.im.store_aligned(z + lanes);
  }

  /// The spectrum of u, of which load(first, n, to) writes n rows to consecutive registers; rows
  /// from count on are zero.
  template <class Load>
  void forward(T* z, Index count, int, Load&& load) const {
    alignas(64) T rows[4 * chunk * lanes];
    const Index quarter = length_ / 4;
    for (Index j = 0; j < quarter; j += chunk) {
      const Index width = std::min(chunk, quarter - j);
      for (Index s = 0; s < 4; ++s) {
        const Index first = j + s * quarter;
        const Index given = std::clamp<Index>(count - first, 0, width);
        T* to = rows + s * chunk * lanes;
        if (given > 0) load(first, given, to);
        std::fill(to + given * lanes, to + width * lanes, T{0});
      }
      first_pass(rows, width, z + j * point);
    }
    for (Index t = 0; t < 4; ++t) descend(z + t * quarter * point, 1, t);
  }

  /// The rows first … first + n − 1 < count of the real part of what has this spectrum, as
  /// store(first, n, from). The spectrum is destroyed.
  template <class Store>
  void inverse(T* z, Index count, int, Store&& store) const {
    alignas(64) T rows[4 * chunk * lanes];
    const Index quarter = length_ / 4;
    for (Index t = 0; t < 4; ++t) ascend(z + t * quarter * point, 1, t);
    for (Index j = 0; j < std::min(quarter, count); j += chunk) {
      const Index width = std::min(chunk, quarter - j);
      last_pass(z + j * point, width, rows);
      for (Index s = 0; s < 4; ++s) {
        const Index first = j + s * quarter;
        const Index wanted = std::clamp<Index>(count - first, 0, width);
        if (wanted > 0) store(first, wanted, rows + s * chunk * lanes);
      }
    }
  }

 private:
  struct Stage {
    int radix;
    Index length;    // of a block before it is split
    Index twiddles;  // where its constants begin: radix − 1 complex numbers a block
  };
  static constexpr Index cached_scalars = 4096;  // a block that stays in the first-level cache
  static constexpr Index chunk = 16;  // rows of each quarter that the ends take at a time

  void first_pass(const T* rows, Index width, T* z) const {
    const Index quarter = length_ / 4;
    Register turn[6];
    unrolled<6>([&](auto i) { turn[i] = Register(twiddles_[i]); });
    for (Index j = 0; j < width; ++j, rows += lanes, z += point) {
      Complex<Register> v[4];
      v[0] = {Register::load_aligned(rows), Register(T{0})};
      unrolled<3>([&](auto s) {
        const Register u = Register::load_aligned(rows + (s + 1) * chunk * lanes);
        v[s + 1] = {u * turn[2 * s], u * turn[2 * s + 1]};
      });
      SmallTransform<4, 1>::run(v);
      unrolled<4>([&](auto s) { put(z + s * quarter * point, v[s]); });
    }
  }

  void last_pass(const T* z, Index width, T* rows) const {
    const Index quarter = length_ / 4;
    Register turn[8];
    unrolled<8>([&](auto i) { turn[i] = Register(last_[i]); });
    for (Index j = 0; j < width; ++j, rows += lanes, z += point) {
      Complex<Register> v[4];
      unrolled<4>([&](auto s) { v[s] = get(z + s * quarter * point); });
      SmallTransform<4, -1>::run(v);
      unrolled<4>([&](auto s) {
        xsimd::fma(v[s].re, turn[2 * s], v[s].im * turn[2 * s + 1])
            .store_aligned(rows + s * chunk * lanes);
      });
    }
  }

  /// The radix of the stage after the first that splits blocks of this length.
  static int next_radix(Index length) {
    for (const int factor : {5, 3})
      if (length % factor == 0) return factor;
    if (length >= 8 && length != 16) return 8;
    return length >= 4 ? 4 : 2;
  }

  /// The angle of σ^len of a stage's block, in turns.
  double turn_of(std::size_t stage, Index block) const {
    if (stage == 0) return 0.25;
    const int radix = stages_[stage - 1].radix;
    return (turn_of(stage - 1, block / radix) + static_cast<double>(block % radix)) / radix;
  }

  void descend(T* z, std::size_t stage, Index block) const {
    if (stage == stages_.size()) return;
    const Stage& s = stages_[stage];
    if (s.length * point <= cached_scalars) {
      for (std::size_t k = stage; k < stages_.size(); ++k) {
        const Index count = s.length / stages_[k].length;
        pass<true>(z, stages_[k], block * count, count);
      }
      return;
    }
    pass<true>(z, s, block, 1);
    const Index part = s.length / s.radix;
    for (Index t = 0; t < s.radix; ++t)
      descend(z + t * part * point, stage + 1, block * s.radix + t);
  }

  void ascend(T* z, std::size_t stage, Index block) const {
    if (stage == stages_.size()) return;
    const Stage& s = stages_[stage];
    if (s.length * point <= cached_scalars) {
      for (std::size_t k = stages_.size(); k-- > stage;) {
        const Index count = s.length / stages_[k].length;
        pass<false>(z, stages_[k], block * count, count);
      }
      return;
    }
    const Index part = s.length / s.radix;
    for (Index t = 0; t < s.radix; ++t)
      ascend(z + t * part * point, stage + 1, block * s.radix + t);
    pass<false>(z, s, block, 1);
  }

  template <bool Forward>
  void pass(T* z, const Stage& stage, Index block, Index count) const {
    const Index part = stage.length / stage.radix;
    const T* twiddles = twiddles_.data() + stage.twiddles + block * 2 * (stage.radix - 1);
    switch (stage.radix) {
      case 2:
        return split_blocks<2, Forward>(z, count, part, twiddles);
      case 3:
        return split_blocks<3, Forward>(z, count, part, twiddles);
      case 4:
        return split_blocks<4, Forward>(z, count, part, twiddles);
      case 5:
        return split_blocks<5, Forward>(z, count, part, twiddles);
      default:
        return split_blocks<8, Forward>(z, count, part, twiddles);
    }
  }

  template <int Radix, bool Forward>
  static void split_blocks(T* z, Index count, Index part, const T* twiddles) {
    for (Index b = 0; b < count; ++b, z += Radix * part * point, twiddles += 2 * (Radix - 1)) {
      Complex<Register> turn[Radix];
      unrolled<Radix - 1>([&](auto s) {
        turn[s + 1] = {Register(twiddles[2 * s]), Register(twiddles[2 * s + 1])};
      });
      for (Index j = 0; j < part; ++j) {
        Complex<Register> v[Radix];
        unrolled<Radix>([&](auto s) { v[s] = get(z + (j + s * part) * point); });
        if constexpr (Forward) {
          unrolled<Radix - 1>([&](auto s) { v[s + 1] = times(v[s + 1], turn[s + 1]); });
          SmallTransform<Radix, 1>::run(v);
        } else {
          SmallTransform<Radix, -1>::run(v);
          unrolled<Radix - 1>([&](auto s) { v[s + 1] = times_conjugate(v[s + 1], turn[s + 1]); });
        }
        unrolled<Radix>([&](auto s) { put(z + (j + s * part) * point, v[s]); });
      }
    }
  }

  Index length_;
  std::vector<Stage> stages_;
  std::vector<T> twiddles_;
  T last_[8];
};

/// The library's own FFT as a policy of CausalConvolution.
struct LaneFft {
  template <class T, class Arch>
  using Plan = LanePlan<T, Arch>;
};

}  // namespace ssm::cpu
