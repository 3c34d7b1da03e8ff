// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cuda/diagonal_kernel.hpp"

#include "primitives_on_device.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

struct Case {
  Index rows = 3, modes = 5, parts = 2, length = 65;
  Discretization discretization = Discretization::bilinear;
  Layout layout = Layout::rows;
};

template <class T>
struct Results {
  Results(const Case& test, Layout layout)
      : kernel(place<T>(layout, test.rows, test.length)),
        ddt(random_tensor<T>("ddt", test.rows)),
        dA(random_tensor<T>("dA", test.rows, test.modes, test.parts)),
        dB(random_tensor<T>("dB", test.rows, test.modes, test.parts)),
        dC(random_tensor<T>("dC", test.rows, test.modes, test.parts)) {}
  Placed<T, 2> kernel;
  DynamicTensor<T, 1> ddt;
  DynamicTensor<T, 3> dA, dB, dC;
};

template <class T>
void device_equals_reference(const Case& test) {
  CAPTURE(test.rows);
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
  const auto run = [&](auto& ctx, Layout layout) {
    Results<T> out(test, layout);
    const auto placed_A = place_copy(layout, A);
    const auto placed_dkernel = place_copy(layout, dkernel);
    const DiagonalKernel<T, HostSpace> forward{.dt = dt,
                                               .A = placed_A,
                                               .B = B,
                                               .C = C,
                                               .discretization = test.discretization,
                                               .kernel = out.kernel};
    diagonal_kernel(ctx, forward);
    diagonal_kernel_backward(ctx, DiagonalKernelBackward<T, HostSpace>{.forward = forward,
                                                                       .dkernel = placed_dkernel,
                                                                       .ddt = out.ddt,
                                                                       .dA = out.dA,
                                                                       .dB = out.dB,
                                                                       .dC = out.dC});
    return out;
  };
  Context<Reference> reference;
  DeviceContext<cuda::primitive::DiagonalKernel> device;
  const auto expected = run(reference, Layout::rows);
  const auto actual = run(device, test.layout);
  CHECK(difference(actual.kernel.view, expected.kernel.view) < tolerance<T>.value);
  CHECK(difference(actual.ddt, expected.ddt) < tolerance<T>.gradient);
  CHECK(difference(actual.dA, expected.dA) < tolerance<T>.gradient);
  CHECK(difference(actual.dB, expected.dB) < tolerance<T>.gradient);
  CHECK(difference(actual.dC, expected.dC) < tolerance<T>.gradient);
}

}  // namespace

TEST_CASE_TEMPLATE("the kernel and its gradient equal the reference at every length", T, float,
                   double) {
  for (const Index length : {0, 1, 2, 15, 16, 17, 64, 1000})
    for (const Index parts : {1, 2}) device_equals_reference<T>({.parts = parts, .length = length});
}

TEST_CASE_TEMPLATE("any number of rows and modes, both discretisations, any layout", T, float,
                   double) {
  for (const auto kind : {Discretization::bilinear, Discretization::zero_order_hold})
    for (const Index rows : {0, 1, 4})
      for (const Index modes : {1, 3, 32})
        for (const Index parts : {1, 2})
          for (const Layout layout : all_layouts)
            device_equals_reference<T>({.rows = rows,
                                        .modes = modes,
                                        .parts = parts,
                                        .discretization = kind,
                                        .layout = layout});
}
