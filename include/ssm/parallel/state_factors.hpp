// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ssm/core/scalar.hpp"
#include "ssm/core/segments.hpp"
#include "ssm/op/decayed_attention.hpp"
#include "ssm/op/diagonal_scan.hpp"
#include "ssm/op/discretize.hpp"
#include "ssm/op/selective_scan.hpp"
#include "ssm/op/ssd_scan.hpp"

// What a stretch makes of the state that it begins from, for each linear recurrence.
namespace ssm::detail {

/// How the state of a primitive passes through a stretch that adds nothing to it. For each:
///   static constexpr bool is_complex(const Op&)   whether numbers are two scalars
///   static void write(const Op&, const Sequence&, std::span<Wide<T>> factors)   of a row of state
template <class Op>
struct StateFactors;

/// The step of a scan from what is given for it.
inline double scan_step(double raw, bool is_softplus) {
  return is_softplus ? std::max(raw, 0.0) + std::log1p(std::exp(-std::abs(raw))) : raw;
}

template <class T, class Space>
struct StateFactors<DiagonalScan<T, Space>> {
  static bool is_complex(const DiagonalScan<T, Space>& a) { return a.A.extent(2) == 2; }
  /// Ā to the power of the length
  static void write(const DiagonalScan<T, Space>& a, const Sequence& s,
                    std::span<Wide<T>> factors) {
    const Index rows = a.A.extent(0), modes = a.A.extent(1), parts = a.A.extent(2);
    const Index channels = a.x.extent(2);
    for (Index d = 0; d < channels; ++d)
      for (Index p = 0; p < modes; ++p) {
        const Index r = d % rows;
        const auto part = [&](const auto& tensor, Index i) {
          return i < parts ? static_cast<double>(tensor(r, p, i)) : 0.0;
        };
        const Complex<double> A{part(a.A, 0), part(a.A, 1)}, B{part(a.B, 0), part(a.B, 1)};
        Complex<double> step = discretize(a.discretization, static_cast<double>(a.dt(r)), A, B).A;
        Complex<double> power{1, 0};
        for (auto length = static_cast<std::uint64_t>(s.end - s.begin); length > 0; length /= 2) {
          if (length % 2 == 1) power = power * step;
          step = step * step;
        }
        const auto at = static_cast<std::size_t>((d * modes + p) * parts);
        factors[at] = static_cast<Wide<T>>(power.re);
        if (parts == 2) factors[at + 1] = static_cast<Wide<T>>(power.im);
      }
  }
};

template <class T, class Space>
struct StateFactors<SelectiveScan<T, Space>> {
  static bool is_complex(const SelectiveScan<T, Space>&) { return false; }
  /// exp(A · Σ_t Δ_t)
  static void write(const SelectiveScan<T, Space>& a, const Sequence& s,
                    std::span<Wide<T>> factors) {
    const Index channels = a.A.extent(0), states = a.A.extent(1);
    std::vector<double> sums(static_cast<std::size_t>(channels));
    for (Index t = s.begin; t < s.end; ++t)
      for (Index d = 0; d < channels; ++d)
        sums[static_cast<std::size_t>(d)] +=
            scan_step(scalar_cast<double>(a.dt(s.batch, t, d)) +
                          (a.dt_bias ? static_cast<double>(a.dt_bias(d)) : 0.0),
                      a.dt_softplus);
    for (Index d = 0; d < channels; ++d)
      for (Index n = 0; n < states; ++n)
        factors[static_cast<std::size_t>(d * states + n)] = static_cast<Wide<T>>(
            std::exp(static_cast<double>(a.A(d, n)) * sums[static_cast<std::size_t>(d)]));
  }
};

template <class T, class Space>
struct StateFactors<SsdScan<T, Space>> {
  static bool is_complex(const SsdScan<T, Space>&) { return false; }
  /// exp(A · Σ_t Δ_t)
  static void write(const SsdScan<T, Space>& a, const Sequence& s, std::span<Wide<T>> factors) {
    const Index heads = a.A.extent(0);
    const std::size_t width = factors.size() / static_cast<std::size_t>(heads);
    for (Index h = 0; h < heads; ++h) {
      double sum = 0;
      for (Index t = s.begin; t < s.end; ++t)
        sum += std::clamp(scan_step(scalar_cast<double>(a.dt(s.batch, t, h)) +
                                        (a.dt_bias ? static_cast<double>(a.dt_bias(h)) : 0.0),
                                    a.dt_softplus),
                          a.dt_min, a.dt_max);
      const auto head = factors.subspan(static_cast<std::size_t>(h) * width, width);
      std::fill(head.begin(), head.end(),
                static_cast<Wide<T>>(std::exp(static_cast<double>(a.A(h)) * sum)));
    }
  }
};

template <class T, class Space>
struct StateFactors<DecayedAttention<T, Space>> {
  static bool is_complex(const DecayedAttention<T, Space>&) { return false; }
  /// γ to the power of the length
  static void write(const DecayedAttention<T, Space>& a, const Sequence& s,
                    std::span<Wide<T>> factors) {
    const Index heads = a.log_decay.extent(0);
    const std::size_t width = factors.size() / static_cast<std::size_t>(heads);
    for (Index h = 0; h < heads; ++h) {
      const auto head = factors.subspan(static_cast<std::size_t>(h) * width, width);
      std::fill(head.begin(), head.end(),
                static_cast<Wide<T>>(std::exp(static_cast<double>(a.log_decay(h)) *
                                              static_cast<double>(s.end - s.begin))));
    }
  }
};

}  // namespace ssm::detail
