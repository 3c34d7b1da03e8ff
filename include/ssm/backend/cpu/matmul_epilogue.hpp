// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/pointwise.hpp"
#include "ssm/backend/cpu/simd.hpp"
#include "ssm/op/matmul.hpp"

namespace ssm::cpu {

/// What happens to a piece of a row of a·b on its way to memory: bias, z, activation, additions.
template <class T, class Arch>
class MatmulEpilogue {
 public:
  explicit MatmulEpilogue(const ssm::Matmul<T, HostSpace>& a)
      : a_(a), bias_(a.bias), residual_(a.residual), c_(a.c), z_(a.z) {
    if (a.activation != ActivationKind::none)
      with_activation(a.activation, [&](auto kind) { activate_ = activate<kind()>; });
    is_sum_ = activate_ == nullptr && !z_ && !residual_;
  }

  /// Products c[m, n … n+count) at `products`; any count.
  void finish(Index m, Index n, Index count, const T* products) const {
    if (is_sum_)
      finish_as<true>(m, n, count, products);
    else
      finish_as<false>(m, n, count, products);
  }

 private:
  /// A sum is compiled apart: beside the call of an activation fewer registers are free.
  template <bool IsSum>
  [[gnu::noinline]] void finish_as(Index m, Index n, Index count, const T* products) const {
    constexpr Index lanes = lane_count<T, Arch>;
    for (Index i = 0; i < count; i += lanes) {
      const Index piece = std::min(lanes, count - i);
      Batch<T, Arch> value = gather<T, Arch>(products + i, 1, piece);
      if (bias_) value += bias_.load(0, n + i, piece);
      if constexpr (!IsSum) {
        if (z_) z_.store(m, n + i, piece, value);
        if (activate_ != nullptr) value = activate_(value);
        if (residual_) value += residual_.load(m, n + i, piece);
      }
      if (a_.accumulate) value += c_.load(m, n + i, piece);
      c_.store(m, n + i, piece, value);
    }
  }
  /// A call for each register, so that the loop is compiled once and not for every activation.
  template <ActivationKind Kind>
  static Batch<T, Arch> activate(Batch<T, Arch> x) {
    return activated<Kind>(x);
  }

  const ssm::Matmul<T, HostSpace>& a_;
  Rows<const T, Arch> bias_, residual_;
  Rows<T, Arch> c_, z_;
  Batch<T, Arch> (*activate_)(Batch<T, Arch>) = nullptr;
  bool is_sum_ = false;  // of products, a bias and what c has
};

}  // namespace ssm::cpu
