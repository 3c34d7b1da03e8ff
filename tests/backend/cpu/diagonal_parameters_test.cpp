// SPDX-License-Identifier: Apache-2.0
#include "ssm/backend/cpu/diagonal_parameters.hpp"

#include "compare.hpp"

using namespace ssm;
using namespace ssm::test;

namespace {

template <class T>
void cpu_equals_reference(Index rows, Index modes, bool complex, Layout layout) {
  CAPTURE(rows);
  CAPTURE(modes);
  CAPTURE(complex);
  const Index parts = complex ? 2 : 1;
  const auto log_dt = random_tensor<T>("log_dt", rows);
  const auto inv_A_real = random_tensor<T>("inv_A_real", rows, modes);
  const auto A_imag = random_tensor<T>("A_imag", rows, modes);
  const auto ddt = random_tensor<T>("ddt", rows);
  const auto dA = random_tensor<T>("dA", rows, modes, parts);
  struct Results {
    DynamicTensor<T, 1> dt, dlog_dt;
    Placed<T, 3> A;
    DynamicTensor<T, 2> dinv_A_real, dA_imag;
  };
  const auto run = [&](auto& ctx, Layout where) {
    Results out{nan_tensor<T>(rows), random_tensor<T>("dlog_dt", rows),
                place<T>(where, rows, modes, parts), random_tensor<T>("dinv_A_real", rows, modes),
                random_tensor<T>("dA_imag", rows, modes)};
    const auto placed_real = place_copy(where, inv_A_real);
    const auto placed_imag = place_copy(where, A_imag);
    const auto placed_dA = place_copy(where, dA);
    diagonal_parameters(
        ctx, DiagonalParameters<T, HostSpace>{.log_dt = log_dt,
                                              .inv_A_real = placed_real,
                                              .A_imag = complex ? placed_imag.view : View<T, 2>(),
                                              .dt = out.dt,
                                              .A = out.A});
    diagonal_parameters_backward(ctx, DiagonalParametersBackward<T, HostSpace>{
                                          .dt = out.dt,
                                          .A = out.A,
                                          .ddt = ddt,
                                          .dA = placed_dA,
                                          .dlog_dt = out.dlog_dt,
                                          .dinv_A_real = out.dinv_A_real,
                                          .dA_imag = complex ? out.dA_imag.view() : View<T, 2>()});
    return out;
  };
  Context<Reference> reference;
  const auto expected = run(reference, Layout::rows);
  on_each_thread_count([&](auto& ctx) {
    const auto actual = run(ctx, layout);
    CHECK(difference(actual.dt, expected.dt) < tolerance<T>.value);
    CHECK(difference(actual.A.view, expected.A.view) < tolerance<T>.value);
    CHECK(difference(actual.dlog_dt, expected.dlog_dt) < tolerance<T>.gradient);
    CHECK(difference(actual.dinv_A_real, expected.dinv_A_real) < tolerance<T>.gradient);
    CHECK(difference(actual.dA_imag, expected.dA_imag) < tolerance<T>.gradient);
  });
}

}  // namespace

TEST_CASE_TEMPLATE("dt, A and their gradients equal the reference, real and complex, in any layout",
                   T, float, double) {
  for (const Index rows : {1, 17, 300})
    for (const Index modes : {1, 5, 16, 33})
      for (const bool complex : {false, true})
        for (const Layout layout : all_layouts)
          cpu_equals_reference<T>(rows, modes, complex, layout);
}
