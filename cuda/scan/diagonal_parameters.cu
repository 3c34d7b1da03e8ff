// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernel/matrix_elements.cuh"
#include "kernel/parallel.cuh"
#include "ssm/backend/cuda/diagonal_parameters.hpp"

namespace ssm::cuda {

template <class T>
void diagonal_parameters(const ssm::DiagonalParameters<T, CudaSpace>& a, Stream stream) {
  const auto log_dt = device::operand(a.log_dt);
  const auto inv_A_real = device::operand(a.inv_A_real);
  const auto A_imag = device::operand(a.A_imag);
  const auto dt = device::operand(a.dt);
  const auto A = device::operand(a.A);
  const Index rows = a.inv_A_real.extent(0);
  const auto modes = device::matrix_elements(rows, a.inv_A_real.extent(1));
  // The first of the threads write dt as well.
  const Index count = std::max(modes.count, log_dt ? rows : Index{0});
  device::for_each_index(count, stream, "diagonal_parameters", [=] SSM_DEVICE(Index i) {
    if (log_dt && i < rows) dt(i) = static_cast<T>(std::exp(static_cast<double>(log_dt(i))));
    if (i >= modes.count) return;
    const auto [r, p] = modes.at(i);
    A(r, p, 0) = static_cast<T>(-std::exp(static_cast<double>(inv_A_real(r, p))));
    if (A_imag) A(r, p, 1) = A_imag(r, p);
  });
}

template <class T>
void diagonal_parameters_backward(const ssm::DiagonalParametersBackward<T, CudaSpace>& g,
                                  Stream stream) {
  const char* operation = "diagonal_parameters_backward";
  const auto dt = device::operand(g.dt);
  const auto A = device::operand(g.A);
  const auto ddt = device::operand(g.ddt);
  const auto dA = device::operand(g.dA);
  const auto dlog_dt = device::operand(g.dlog_dt);
  const auto dinv_A_real = device::operand(g.dinv_A_real);
  const auto dA_imag = device::operand(g.dA_imag);
  const auto modes = device::matrix_elements(g.A.extent(0), g.A.extent(1));
  const Index rows = g.A.extent(0);
  const Index count = std::max(modes.count, dt ? rows : Index{0});
  device::for_each_index(count, stream, operation, [=] SSM_DEVICE(Index i) {
    if (dt && i < rows) dlog_dt(i) += dt(i) * ddt(i);
    if (i >= modes.count) return;
    const auto [r, p] = modes.at(i);
    dinv_A_real(r, p) += A(r, p, 0) * dA(r, p, 0);
    if (dA_imag) dA_imag(r, p) += dA(r, p, 1);
  });
}

#define SSM_INSTANTIATE(T)                                                                        \
  template SSM_CUDA_API void diagonal_parameters<T>(const ssm::DiagonalParameters<T, CudaSpace>&, \
                                                    Stream);                                      \
  template SSM_CUDA_API void diagonal_parameters_backward<T>(                                     \
      const ssm::DiagonalParametersBackward<T, CudaSpace>&, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
