// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>

#include "ssm/backend/cpu/matmul_epilogue.hpp"
#include "ssm/backend/cpu/parallel.hpp"

namespace ssm::cpu {

/// ssm::matmul by Eigen's product, for comparison and for whoever prefers it; it costs 3 s of
/// compilation and runs on one thread. Operands whose
/// strides Eigen's products cannot take are copied first.
///   struct Mine : ssm::Cpu, ssm::cpu::MatmulEigen<> { using ssm::cpu::MatmulEigen<>::matmul; };
template <class Arch = xsimd::default_arch>
struct MatmulEigen {
  template <class Ctx, Real T>
  static void matmul(Ctx& ctx, const ssm::Matmul<T, typename Ctx::Space>& a) {
    const Index rows = a.c.extent(0), columns = a.c.extent(1), depth = a.a.extent(1);
    for (Index m = 0; a.a_sum && m < rows; ++m)
      for (Index k = 0; k < depth; ++k) a.a_sum(m) += a.a(m, k);
    if (rows == 0 || columns == 0) return;
    auto frame = ctx.workspace().frame();
    View<const T, 2> b = a.b;
    if (!b) {
      const View<T, 2> full = frame.template tensor<T>(depth, columns);
      for (Index k = 0; k < depth; ++k)
        for (Index n = 0; n < columns; ++n)
          full(k, n) = a.b_bf16  ? scalar_cast<T>(a.b_bf16(k, n))
                       : a.b_f16 ? scalar_cast<T>(a.b_f16(k, n))
                                 : static_cast<T>(a.b_scale(n)) * static_cast<T>(a.b_int8(k, n));
      b = full;
    }
    const View<T, 2> product = frame.template tensor<T>(rows, columns);
    Eigen::Map<Matrix<T, Eigen::RowMajor>> c(product.data(), rows, columns);
    with_map(frame, a.a, [&](const auto& left) {
      with_map(frame, b, [&](const auto& right) { c.noalias() = left * right; });
    });
    const MatmulEpilogue<T, Arch> epilogue(a);
    parallel(ctx.resources().threads(), rows, 16, [&](Range range, int) {
      for (Index m = range.begin; m < range.end; ++m)
        epilogue.finish(m, 0, columns, &product(m, 0));
    });
  }

 private:
  template <class T, int Order>
  using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Order>;

  template <class Frame, class T, class F>
  static void with_map(Frame& frame, View<const T, 2> view, F&& body) {
    const Index rows = view.extent(0), columns = view.extent(1);
    if (view.stride(1) != 1 && view.stride(0) != 1) {
      const View<T, 2> copy = frame.template tensor<T>(rows, columns);
      for (Index i = 0; i < rows; ++i)
        for (Index j = 0; j < columns; ++j) copy(i, j) = view(i, j);
      view = copy;
    }
    using Stride = Eigen::OuterStride<>;
    if (view.stride(1) == 1)
      body(Eigen::Map<const Matrix<T, Eigen::RowMajor>, 0, Stride>(view.data(), rows, columns,
                                                                   Stride(view.stride(0))));
    else
      body(Eigen::Map<const Matrix<T, Eigen::ColMajor>, 0, Stride>(view.data(), rows, columns,
                                                                   Stride(view.stride(1))));
  }
};

}  // namespace ssm::cpu
