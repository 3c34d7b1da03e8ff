// SPDX-License-Identifier: Apache-2.0
#include "kernel/matrix_elements.cuh"
#include "kernel/number.cuh"
#include "ssm/backend/cuda/diagonal_kernel.hpp"

namespace ssm::cuda {
namespace {

/// base^exponent by squaring.
template <class Z>
SSM_HOST_DEVICE Z power(Z base, Index exponent) {
  Z result{1.0};
  for (; exponent > 0; exponent /= 2) {
    if (exponent % 2 != 0) result = result * base;
    base = base * base;
  }
  return result;
}

SSM_DEVICE inline double sum_of_lanes(device::Lanes lanes, double own) {
  return lanes.sum(device::Lanes::count, [&](Index) { return own; });
}
SSM_DEVICE inline ssm::Complex<double> sum_of_lanes(device::Lanes lanes, ssm::Complex<double> own) {
  return {sum_of_lanes(lanes, own.re), sum_of_lanes(lanes, own.im)};
}

/// A mode of the forward pass; Z is double or Complex<double>.
template <class Z>
struct KernelMode {
  Z A;       // Ā
  Z stride;  // Ā to the number of positions between two of a thread
  Z factor;  // w·C·B̄
};

template <class Z, class T>
struct DiscreteModes {
  device::Operand<const T, 1> dt;
  device::Operand<const T, 3> A, B;
  Discretization discretization;

  SSM_HOST_DEVICE DiscreteMode<Z> operator()(Index r, Index p) const {
    return discretize(discretization, static_cast<double>(dt(r)), device::number_at<Z>(A, r, p),
                      device::number_at<Z>(B, r, p));
  }
};

template <class Z, class T>
DiscreteModes<Z, T> discrete_modes(const ssm::DiagonalKernel<T, CudaSpace>& a) {
  return {device::operand(a.dt), device::operand(a.A), device::operand(a.B), a.discretization};
}

template <class Z, class T>
void kernel_of(const ssm::DiagonalKernel<T, CudaSpace>& a, double* scratch, Stream stream) {
  constexpr int together = 16;  // positions of a thread
  const auto discrete = discrete_modes<Z>(a);
  const auto C = device::operand(a.C);
  const auto kernel = device::operand(a.kernel);
  const Index rows = a.A.extent(0);
  const Index modes = a.A.extent(1);
  const Index length = a.kernel.extent(1);
  const Index stride = (length + together - 1) / together;
  auto* const mode = reinterpret_cast<KernelMode<Z>*>(scratch);
  const auto all_modes = device::matrix_elements(rows, modes);
  device::for_each_index(all_modes.count, stream, "diagonal_kernel", [=] SSM_DEVICE(Index i) {
    const auto [r, p] = all_modes.at(i);
    const DiscreteMode<Z> step = discrete(r, p);
    const double weight = device::Number<Z>::weight;
    mode[i] = {step.A, power(step.A, stride), weight * device::number_at<Z>(C, r, p) * step.B};
  });
  const auto threads = device::matrix_elements(rows, stride);
  device::for_each_index(threads.count, stream, "diagonal_kernel", [=] SSM_DEVICE(Index i) {
    const auto [r, first] = threads.at(i);
    double sum[together] = {};
    for (Index p = 0; p < modes; ++p) {
      const KernelMode<Z> own = mode[r * modes + p];
      Z term = own.factor * power(own.A, first);
      for (int k = 0; k < together; ++k) {
        sum[k] += real_part(term);
        term = term * own.stride;
      }
    }
    for (int k = 0; k < together; ++k)
      if (first + k * stride < length) kernel(r, first + k * stride) = static_cast<T>(sum[k]);
  });
}

/// With kernel[l] = w·Re(v·Āˡ) and v = C·B̄:
///   dv = w·Σ dkernel[l]·conj(Āˡ)
///   dĀ = w·conj(v)·Σ dkernel[l+1]·(l+1)·conj(Āˡ)
template <class Z, class T>
void gradients_of(const ssm::DiagonalKernelBackward<T, CudaSpace>& g, double* ddt_parts,
                  Stream stream) {
  const char* operation = "diagonal_kernel_backward";
  const auto discrete = discrete_modes<Z>(g.forward);
  const auto C = device::operand(g.forward.C);
  const auto dkernel = device::operand(g.dkernel);
  const auto ddt = device::operand(g.ddt);
  const auto dA = device::operand(g.dA);
  const auto dB = device::operand(g.dB);
  const auto dC = device::operand(g.dC);
  const Index rows = g.forward.A.extent(0);
  const Index modes = g.forward.A.extent(1);
  const Index length = g.dkernel.extent(1);
  device::for_each_row(
      rows * modes, stream, operation, [=] SSM_DEVICE(Index i, device::Lanes lanes) {
        const Index r = i / modes;
        const Index p = i % modes;
        const DiscreteMode<Z> step = discrete(r, p);
        const Z across = power(step.A, device::Lanes::count);
        Z here{};  // conj(Āˡ) comes from summing Āˡ: dkernel is real
        Z dv{};
        Z slopes{};
        bool started = false;
        lanes.each(length, [&](Index l) {
          here = started ? here * across : power(step.A, l);
          started = true;
          const double next = l + 1 < length ? dkernel(r, l + 1) : T{0};
          dv += static_cast<double>(dkernel(r, l)) * here;
          slopes += next * static_cast<double>(l + 1) * here;
        });
        const double weight = device::Number<Z>::weight;
        dv = weight * conjugate(sum_of_lanes(lanes, dv));
        slopes = weight * conjugate(sum_of_lanes(lanes, slopes));
        if (!lanes.first()) return;
        const Z c = device::number_at<Z>(C, r, p);
        const auto gradient = discretize_backward(
            discrete.discretization, static_cast<double>(discrete.dt(r)),
            device::number_at<Z>(discrete.A, r, p), device::number_at<Z>(discrete.B, r, p),
            DiscreteMode<Z>{slopes * conjugate(c * step.B), dv * conjugate(c)});
        device::add_number(dC, dv * conjugate(step.B), r, p);
        device::add_number(dA, gradient.dA, r, p);
        device::add_number(dB, gradient.dB, r, p);
        ddt_parts[i] = gradient.ddt;
      });
  device::for_each_row(rows, stream, operation, [=] SSM_DEVICE(Index r, device::Lanes lanes) {
    const double sum = lanes.sum(modes, [&](Index p) { return ddt_parts[r * modes + p]; });
    if (lanes.first()) ddt(r) += static_cast<T>(sum);
  });
}

}  // namespace

template <class T>
void diagonal_kernel(const ssm::DiagonalKernel<T, CudaSpace>& a, double* scratch, Stream stream) {
  if (a.A.extent(2) == 2)
    kernel_of<ssm::Complex<double>>(a, scratch, stream);
  else
    kernel_of<double>(a, scratch, stream);
}

template <class T>
void diagonal_kernel_backward(const ssm::DiagonalKernelBackward<T, CudaSpace>& g, double* scratch,
                              Stream stream) {
  if (g.forward.A.extent(2) == 2)
    gradients_of<ssm::Complex<double>>(g, scratch, stream);
  else
    gradients_of<double>(g, scratch, stream);
}

#define SSM_INSTANTIATE(T)                                                                         \
  template SSM_CUDA_API void diagonal_kernel<T>(const ssm::DiagonalKernel<T, CudaSpace>&, double*, \
                                                Stream);                                           \
  template SSM_CUDA_API void diagonal_kernel_backward<T>(                                          \
      const ssm::DiagonalKernelBackward<T, CudaSpace>&, double*, Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
