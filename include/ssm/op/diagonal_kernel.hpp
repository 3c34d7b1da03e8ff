// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/op/discretization.hpp"

namespace ssm {

/// The convolution kernel of a diagonal state-space model: what turns DiagonalScan into
/// CausalConvolution.
///   kernel[r,l] = w · Re Σ_p C[r,p] · B̄[r,p] · Ā[r,p]^l
/// with w = 2 for complex modes, 1 for real ones.
/// dt        [R]           seconds
/// A, B, C   [R, P, 1|2]
/// kernel    [R, L]        overwritten
/// Cost    O(R·P·L)
/// Throws  ShapeError  if R or P disagree
/// Source  Gu et al. 2022 (S4D) §3.2
template <class T, class Space>
struct DiagonalKernel {
  View<const T, 1, Space> dt{};
  View<const T, 3, Space> A{};
  View<const T, 3, Space> B{};
  View<const T, 3, Space> C{};
  Discretization discretization = Discretization::bilinear;
  View<T, 2, Space> kernel{};
};

/// The vector–Jacobian product of DiagonalKernel; every gradient is added to.
template <class T, class Space>
struct DiagonalKernelBackward {
  DiagonalKernel<T, Space> forward{};  // kernel is not read
  View<const T, 2, Space> dkernel{};
  View<T, 1, Space> ddt{};
  View<T, 3, Space> dA{};
  View<T, 3, Space> dB{};
  View<T, 3, Space> dC{};
};

/// Backends that have the primitive DiagonalKernel.
template <class B, class T = float>
concept HasDiagonalKernel = requires(Context<B>& ctx, const DiagonalKernel<T, typename B::Space>& a,
                                     const DiagonalKernelBackward<T, typename B::Space>& g) {
  B::diagonal_kernel(ctx, a);
  B::diagonal_kernel_backward(ctx, g);
};

namespace detail {
template <class T, class Space>
void require_operands(const DiagonalKernel<T, Space>& a) {
  const char* op = "diagonal_kernel";
  require_extents(op, "dt", a.dt, {dyn});
  require_extents(op, "A", a.A, {a.dt.extent(0), dyn, dyn});
  require_extents(op, "B", a.B, a.A.extents().to_array());
  require_extents(op, "C", a.C, a.A.extents().to_array());
}
}  // namespace detail

/// Computes DiagonalKernel, whose docstring says the rest.
template <class B, class T>
  requires HasDiagonalKernel<B, T>
void diagonal_kernel(Context<B>& ctx, const DiagonalKernel<T, typename B::Space>& a) {
  detail::require_operands(a);
  require_extents("diagonal_kernel", "kernel", a.kernel, {a.dt.extent(0), dyn});
  B::diagonal_kernel(ctx, a);
}

/// Computes DiagonalKernelBackward, whose docstring says the rest.
template <class B, class T>
  requires HasDiagonalKernel<B, T>
void diagonal_kernel_backward(Context<B>& ctx,
                              const DiagonalKernelBackward<T, typename B::Space>& g) {
  const char* op = "diagonal_kernel_backward";
  detail::require_operands(g.forward);
  const auto coefficients = g.forward.A.extents().to_array();
  require_extents(op, "dkernel", g.dkernel, {coefficients[0], dyn});
  require_extents(op, "ddt", g.ddt, {coefficients[0]});
  require_extents(op, "dA", g.dA, coefficients);
  require_extents(op, "dB", g.dB, coefficients);
  require_extents(op, "dC", g.dC, coefficients);
  B::diagonal_kernel_backward(ctx, g);
}

}  // namespace ssm
