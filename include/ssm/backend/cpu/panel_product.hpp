// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/simd.hpp"

namespace ssm::cpu {

/// sums[i·Wide + j] += Σ_k left[i·row_stride + k·depth_stride] · right[k·right_stride + j·lanes]:
/// the register-blocked kernel of every matrix product here. Columns of the result lie in lanes;
/// `left` is broadcast, so its strides cost nothing. Strides may be std::integral_constant. `right`
/// is aligned.
template <int Rows, int Wide, class T, class Arch, class RowStride, class DepthStride,
          class RightStride>
[[gnu::always_inline]] inline void add_panel_product(const T* left, RowStride row_stride,
                                                     DepthStride depth_stride, const T* right,
                                                     RightStride right_stride, Index depth,
                                                     Batch<T, Arch> (&sums)[Rows * Wide]) {
  using Register = Batch<T, Arch>;
  for (Index k = 0; k < depth; ++k, left += depth_stride, right += right_stride) {
    Register b[Wide];
    expanded<Wide>([&](auto... j) {
      ((b[j] = Register::load_aligned(right + j * lane_count<T, Arch>)), ...);
    });
    unrolled<Rows>([&](auto i) {
      const Register x(left[i * row_stride]);
      constexpr int first = i() * Wide;
      expanded<Wide>(
          [&](auto... j) { ((sums[first + j] = xsimd::fma(x, b[j], sums[first + j])), ...); });
    });
  }
}

}  // namespace ssm::cpu
