// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cuda/diagonal_parameters.hpp"

#include "primitives_on_device.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

struct Case {
  Index rows = 3, modes = 5;
  bool complex = true, steps = true;
  Layout layout = Layout::rows;
};

template <class T>
struct Results {
  Results(const Case& test, Layout layout)
      : dt(nan_tensor<T>(test.rows)),
        dlog_dt(random_tensor<T>("dlog_dt", test.rows)),
        A(place<T>(layout, test.rows, test.modes, test.complex ? 2 : 1)),
        dinv_A_real(random_tensor<T>("dinv_A_real", test.rows, test.modes)),
        dA_imag(random_tensor<T>("dA_imag", test.rows, test.modes)) {}
  DynamicTensor<T, 1> dt, dlog_dt;
  Placed<T, 3> A;
  DynamicTensor<T, 2> dinv_A_real, dA_imag;
};

template <class T>
void device_equals_reference(const Case& test) {
  CAPTURE(test.rows);
  CAPTURE(test.modes);
  CAPTURE(test.complex);
  CAPTURE(test.steps);
  const auto log_dt = random_tensor<T>("log_dt", test.rows);
  const auto inv_A_real = random_tensor<T>("inv_A_real", test.rows, test.modes);
  const auto A_imag = random_tensor<T>("A_imag", test.rows, test.modes);
  const auto ddt = random_tensor<T>("ddt", test.rows);
  const auto dA = random_tensor<T>("dA", test.rows, test.modes, test.complex ? 2 : 1);
  const auto run = [&](auto& ctx, Layout where) {
    Results<T> out(test, where);
    const auto placed_real = place_copy(where, inv_A_real);
    const auto placed_imag = place_copy(where, A_imag);
    const auto placed_dA = place_copy(where, dA);
    DiagonalParameters<T, HostSpace> forward{.inv_A_real = placed_real, .A = out.A};
    DiagonalParametersBackward<T, HostSpace> backward{
        .A = out.A, .dA = placed_dA, .dinv_A_real = out.dinv_A_real};
    if (test.steps) {
      forward.log_dt = log_dt;
      forward.dt = out.dt;
      backward.dt = out.dt;
      backward.ddt = ddt;
      backward.dlog_dt = out.dlog_dt;
    }
    if (test.complex) {
      forward.A_imag = placed_imag;
      backward.dA_imag = out.dA_imag;
    }
    diagonal_parameters(ctx, forward);
    diagonal_parameters_backward(ctx, backward);
    return out;
  };
  Context<Reference> reference;
  DeviceContext<cuda::primitive::DiagonalParameters> device;
  const auto expected = run(reference, Layout::rows);
  const auto actual = run(device, test.layout);
  if (test.steps) CHECK(difference(actual.dt, expected.dt) < tolerance<T>.value);
  CHECK(difference(actual.A.view, expected.A.view) < tolerance<T>.value);
  CHECK(difference(actual.dlog_dt, expected.dlog_dt) < tolerance<T>.gradient);
  CHECK(difference(actual.dinv_A_real, expected.dinv_A_real) < tolerance<T>.gradient);
  CHECK(difference(actual.dA_imag, expected.dA_imag) < tolerance<T>.gradient);
}

}  // namespace

TEST_CASE_TEMPLATE("dt, A and their gradients equal the reference, real and complex, in any layout",
                   T, float, double) {
  for (const Index rows : {0, 1, 17})
    for (const Index modes : {1, 5, 33})
      for (const bool complex : {false, true})
        for (const bool steps : {false, true})
          for (const Layout layout : all_layouts)
            device_equals_reference<T>({rows, modes, complex, steps, layout});
}
