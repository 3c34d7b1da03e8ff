// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/op/discretization.hpp"

namespace ssm {

template <class T, class Space>
struct DiagonalKernelBackward;

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

  static constexpr const char* name = "diagonal_kernel";
  static constexpr void for_each_operand(auto&& visit) {
    using Gradient = DiagonalKernelBackward<T, Space>;
    visit(parameter("dt", "R").with_gradient(), &DiagonalKernel::dt, &Gradient::ddt);
    visit(parameter("A", "RPZ").with_gradient(), &DiagonalKernel::A, &Gradient::dA);
    visit(parameter("B", "RPZ").with_gradient(), &DiagonalKernel::B, &Gradient::dB);
    visit(parameter("C", "RPZ").with_gradient(), &DiagonalKernel::C, &Gradient::dC);
    visit(output("kernel", "RL"), &DiagonalKernel::kernel, &Gradient::dkernel);
  }
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
concept HasDiagonalKernel = requires(Context<B>& ctx,
                                     const DiagonalKernel<Wide<T>, typename B::Space>& a,
                                     const DiagonalKernelBackward<Wide<T>, typename B::Space>& g) {
  B::diagonal_kernel(ctx, a);
  B::diagonal_kernel_backward(ctx, g);
};

/// Computes DiagonalKernel, whose docstring says the rest.
template <class B, Real T>
  requires HasDiagonalKernel<B, T>
void diagonal_kernel(Context<B>& ctx, const DiagonalKernel<T, typename B::Space>& a) {
  require_operands(a);
  B::diagonal_kernel(ctx, a);
}

/// Computes DiagonalKernelBackward, whose docstring says the rest.
template <class B, Real T>
  requires HasDiagonalKernel<B, T>
void diagonal_kernel_backward(Context<B>& ctx,
                              const DiagonalKernelBackward<T, typename B::Space>& g) {
  require_gradients<DiagonalKernel<T, typename B::Space>>(g);
  B::diagonal_kernel_backward(ctx, g);
}

}  // namespace ssm
