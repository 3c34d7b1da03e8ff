// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "ssm/backend/cpu/fft_radix.hpp"
#include "ssm/core/tensor_view.hpp"

namespace ssm::cpu {

/// The spectra of the blocks of an operand, or of the parts of a kernel, of a register of channels.
/// Points are taken four at a time through all blocks: independent sums hide the latency of the
/// products, and what they read stays in the cache.
template <class T, class Plan>
class ConvolutionSpectra {
 public:
  static constexpr Index quad_points = 4;

  /// Scalars from one spectrum to the next: not a power of two, so that the same points fall into
  /// different cache sets.
  static Index padded_size(const Plan& plan) { return (plan.points() + quad_points) * Plan::point; }

  ConvolutionSpectra(const Plan& plan, const View<T, 2>& memory)
      : data_(memory.data()), stride_(memory.stride(0)), size_(plan.points() * Plan::point) {}

  T* at(Index block) const { return data_ + block * stride_; }
  void clear(Index count) const {
    for (Index i = 0; i < count; ++i) std::fill_n(at(i), size_, T{0});
  }

  /// U_i ← U_i − i·U_{i−1}, from the last block on.
  void subtract_turned_previous(Index quad, Index blocks) const {
    for (Index i = blocks - 1; i > 0; --i) {
      T* z = at(i, quad);
      const T* previous = at(i - 1, quad);
      for_each_point([&](auto p) {
        const Number a = Plan::get(z + p * Plan::point), b = Plan::get(previous + p * Plan::point);
        Plan::put(z + p * Plan::point, Number{a.re + b.im, a.im - b.re});
      });
    }
  }
  /// G_i ← G_i + i·G_{i+1}, from the first block on.
  void add_turned_next(Index quad, Index blocks) const {
    for (Index i = 0; i + 1 < blocks; ++i) {
      T* z = at(i, quad);
      const T* next = at(i + 1, quad);
      for_each_point([&](auto p) {
        const Number a = Plan::get(z + p * Plan::point), b = Plan::get(next + p * Plan::point);
        Plan::put(z + p * Plan::point, Number{a.re - b.im, a.im + b.re});
      });
    }
  }

  /// U_i ← Σ_j K_j·U_{i−j}, in place from the last block on.
  void filter(Index quad, Index blocks, const ConvolutionSpectra& kernel, Index parts) const {
    for (Index i = blocks - 1; i >= 0; --i) {
      Sums sums;
      for (Index j = 0; j < std::min(parts, i + 1); ++j)
        sums.template add<false>(at(i - j, quad), kernel.at(j, quad));
      sums.store(at(i, quad));
    }
  }
  /// G_i ← Σ_j conj(K_j)·G_{i+j}, in place from the first block on.
  void filter_backward(Index quad, Index blocks, const ConvolutionSpectra& kernel,
                       Index parts) const {
    for (Index i = 0; i < blocks; ++i) {
      Sums sums;
      for (Index j = 0; j < std::min(parts, blocks - i); ++j)
        sums.template add<true>(at(i + j, quad), kernel.at(j, quad));
      sums.store(at(i, quad));
    }
  }
  /// K_j ← K_j + Σ_i G_{i+j}·conj(U_i)
  void add_correlation(Index quad, Index parts, const ConvolutionSpectra& gradient,
                       const ConvolutionSpectra& input, Index blocks) const {
    for (Index j = 0; j < std::min(parts, blocks); ++j) {
      Sums sums(at(j, quad));
      for (Index i = 0; i + j < blocks; ++i)
        sums.template add<true>(gradient.at(i + j, quad), input.at(i, quad));
      sums.store(at(j, quad));
    }
  }

 private:
  using Register = typename Plan::Register;
  using Number = Complex<Register>;

  T* at(Index block, Index quad) const {
    return data_ + block * stride_ + quad * quad_points * Plan::point;
  }
  template <class F>
  [[gnu::always_inline]] static void for_each_point(F&& body) {
    unrolled<static_cast<int>(quad_points)>(body);
  }

  /// Four sums of products, kept in registers.
  class Sums {
   public:
    Sums() {
      for_each_point([&](auto p) { sums_[p] = {Register(T{0}), Register(T{0})}; });
    }
    explicit Sums(const T* from) {
      for_each_point([&](auto p) { sums_[p] = Plan::get(from + p * Plan::point); });
    }
    /// += a·b or a·conj(b)
    template <bool Conjugate>
    [[gnu::always_inline]] void add(const T* left, const T* right) {
      for_each_point([&](auto p) {
        const Number a = Plan::get(left + p * Plan::point), b = Plan::get(right + p * Plan::point);
        Number& sum = sums_[p];
        if constexpr (Conjugate) {
          sum.re = xsimd::fma(a.im, b.im, xsimd::fma(a.re, b.re, sum.re));
          sum.im = xsimd::fnma(a.re, b.im, xsimd::fma(a.im, b.re, sum.im));
        } else {
          sum.re = xsimd::fnma(a.im, b.im, xsimd::fma(a.re, b.re, sum.re));
          sum.im = xsimd::fma(a.im, b.re, xsimd::fma(a.re, b.im, sum.im));
        }
      });
    }
    void store(T* to) const {
      for_each_point([&](auto p) { Plan::put(to + p * Plan::point, sums_[p]); });
    }

   private:
    Number sums_[4];
  };

  T* data_;
  Index stride_;  // scalars
  Index size_;
};

}  // namespace ssm::cpu
