// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include "ssm/core/scalar.hpp"  // tolerance
#include "ssm/op/diagonal_kernel.hpp"
#include "support/layout.hpp"

namespace ssm::test {

struct DiagonalKernelCase {
  Index rows = 3, modes = 5, parts = 2, length = 65;
  Discretization discretization = Discretization::bilinear;
  Layout layout = Layout::rows;
};

template <class T>
struct DiagonalKernelRun {
  DiagonalKernelRun(const DiagonalKernelCase& test, Layout layout)
      : dt(random_tensor<T>("dt", test.rows)),
        A(place_copy(layout, random_tensor<T>("A", test.rows, test.modes, test.parts))),
        B(random_tensor<T>("B", test.rows, test.modes, test.parts)),
        C(random_tensor<T>("C", test.rows, test.modes, test.parts)),
        dkernel(place_copy(layout, random_tensor<T>("dkernel", test.rows, test.length))),
        kernel(place<T>(layout, test.rows, test.length)),
        ddt(random_tensor<T>("ddt", test.rows)),
        dA(random_tensor<T>("dA", test.rows, test.modes, test.parts)),
        dB(random_tensor<T>("dB", test.rows, test.modes, test.parts)),
        dC(random_tensor<T>("dC", test.rows, test.modes, test.parts)) {
    for_each_index(dt, [&](Index r) { dt(r) = T(0.1) + T(0.09) * dt(r); });
    for_each_index(A.view, [&](Index r, Index p, Index part) {
      T& a = A.view(r, p, part);
      a = part == 0 ? T(-0.6) + T(0.5) * a : T(20) * a;
    });
  }

  template <class Ctx>
  void compute(Ctx& ctx, const DiagonalKernelCase& test) {
    const DiagonalKernel<T, HostSpace> forward{
        .dt = dt, .A = A, .B = B, .C = C, .discretization = test.discretization, .kernel = kernel};
    diagonal_kernel(ctx, forward);
    diagonal_kernel_backward(
        ctx, DiagonalKernelBackward<T, HostSpace>{
                 .forward = forward, .dkernel = dkernel, .ddt = ddt, .dA = dA, .dB = dB, .dC = dC});
  }

  DynamicTensor<T, 1> dt;
  Placed<T, 3> A;
  DynamicTensor<T, 3> B, C;
  Placed<T, 2> dkernel, kernel;
  DynamicTensor<T, 1> ddt;
  DynamicTensor<T, 3> dA, dB, dC;
};

template <class T>
void expect_equal(const DiagonalKernelCase&, const DiagonalKernelRun<T>& actual,
                  const DiagonalKernelRun<T>& expected) {
  CHECK(difference(actual.kernel.view, expected.kernel.view) < tolerance<T>.value);
  CHECK(difference(actual.ddt, expected.ddt) < tolerance<T>.gradient);
  CHECK(difference(actual.dA, expected.dA) < tolerance<T>.gradient);
  CHECK(difference(actual.dB, expected.dB) < tolerance<T>.gradient);
  CHECK(difference(actual.dC, expected.dC) < tolerance<T>.gradient);
}

}  // namespace ssm::test
