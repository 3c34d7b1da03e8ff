// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/diagonal_kernel.hpp"

#include "compare.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

struct Case {
  Index rows = 3, modes = 5, parts = 2, length = 65;
  Discretization discretization = Discretization::bilinear;
  Layout layout = Layout::rows;
};

template <class T>
struct Gradients {
  explicit Gradients(const Case& test)
      : dt(random_tensor<T>("ddt", test.rows)),
        A(random_tensor<T>("dA", test.rows, test.modes, test.parts)),
        B(random_tensor<T>("dB", test.rows, test.modes, test.parts)),
        C(random_tensor<T>("dC", test.rows, test.modes, test.parts)) {}
  DynamicTensor<T, 1> dt;
  DynamicTensor<T, 3> A, B, C;
};

template <class T>
void cpu_equals_reference(const Case& test) {
  CAPTURE(test.modes);
  CAPTURE(test.parts);
  CAPTURE(test.length);
  auto dt = random_tensor<T>("dt", test.rows);
  auto A = random_tensor<T>("A", test.rows, test.modes, test.parts);
  const auto B = random_tensor<T>("B", test.rows, test.modes, test.parts);
  const auto C = random_tensor<T>("C", test.rows, test.modes, test.parts);
  const auto dkernel = random_tensor<T>("dkernel", test.rows, test.length);
  for_each_index(dt, [&](Index r) { dt(r) = T(0.1) + T(0.09) * dt(r); });
  for_each_index(A, [&](Index r, Index p, Index part) {
    A(r, p, part) = part == 0 ? T(-0.6) + T(0.5) * A(r, p, part) : T(20) * A(r, p, part);
  });
  const auto run = [&](auto& ctx, Layout layout, View<T, 2> kernel, Gradients<T>& gradients) {
    const auto placed_A = place_copy(layout, A);
    const DiagonalKernel<T, HostSpace> forward{.dt = dt,
                                               .A = placed_A,
                                               .B = B,
                                               .C = C,
                                               .discretization = test.discretization,
                                               .kernel = kernel};
    diagonal_kernel(ctx, forward);
    diagonal_kernel_backward(ctx, DiagonalKernelBackward<T, HostSpace>{.forward = forward,
                                                                       .dkernel = dkernel,
                                                                       .ddt = gradients.dt,
                                                                       .dA = gradients.A,
                                                                       .dB = gradients.B,
                                                                       .dC = gradients.C});
  };
  Context<Reference> reference;
  auto expected = nan_tensor<T>(test.rows, test.length);
  Gradients<T> expected_gradients(test);
  run(reference, Layout::rows, expected, expected_gradients);
  on_each_thread_count([&](auto& ctx) {
    const auto kernel = place<T>(test.layout, test.rows, test.length);
    Gradients<T> gradients(test);
    run(ctx, test.layout, kernel, gradients);
    CHECK(difference(kernel.view, expected) < tolerance<T>.value);
    CHECK(difference(gradients.dt, expected_gradients.dt) < tolerance<T>.gradient);
    CHECK(difference(gradients.A, expected_gradients.A) < tolerance<T>.gradient);
    CHECK(difference(gradients.B, expected_gradients.B) < tolerance<T>.gradient);
    CHECK(difference(gradients.C, expected_gradients.C) < tolerance<T>.gradient);
  });
}

}  // namespace

TEST_CASE_TEMPLATE("the kernel and its gradient equal the reference at every length", T, float,
                   double) {
  for (const Index length : {0, 1, 2, 63, 64, 65, 1000})
    for (const Index parts : {1, 2}) cpu_equals_reference<T>({.parts = parts, .length = length});
}

TEST_CASE_TEMPLATE("any number of modes, both discretisations, any layout", T, float, double) {
  for (const auto kind : {Discretization::bilinear, Discretization::zero_order_hold})
    for (const Index modes : {1, 3, 4, 16, 17, 32})
      for (const Index parts : {1, 2})
        for (const Layout layout : all_layouts)
          cpu_equals_reference<T>(
              {.modes = modes, .parts = parts, .discretization = kind, .layout = layout});
}
