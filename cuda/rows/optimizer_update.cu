// SPDX-License-Identifier: Apache-2.0
#include "kernel/ordered_sum.cuh"
#include "kernel/parallel.cuh"
#include "ssm/backend/cuda/optimizer_update.hpp"

namespace ssm::cuda {

template <class T>
void adamw_update(const ssm::AdamWUpdate<T, CudaSpace>& a, Stream stream) {
  const auto parameter = device::operand(a.parameter);
  const auto gradient = device::operand(a.gradient);
  const auto first_moment = device::operand(a.first_moment);
  const auto second_moment = device::operand(a.second_moment);
  const auto rounded_bf16 = device::operand(a.rounded_bf16);
  const auto rounded_f16 = device::operand(a.rounded_f16);
  const auto t = static_cast<double>(a.step);
  const auto gradient_scale = static_cast<T>(a.gradient_scale);
  const auto beta1 = static_cast<T>(a.beta1);
  const auto beta2 = static_cast<T>(a.beta2);
  const auto share1 = static_cast<T>(1 - a.beta1);
  const auto share2 = static_cast<T>(1 - a.beta2);
  const auto rate = static_cast<T>(a.rate / (1 - std::pow(a.beta1, t)));
  const auto root_correction = static_cast<T>(1 / std::sqrt(1 - std::pow(a.beta2, t)));
  const auto decay = static_cast<T>(a.rate * a.weight_decay);
  const auto eps = static_cast<T>(a.eps);
  device::for_each_index(a.parameter.extent(0), stream, "adamw_update", [=] SSM_DEVICE(Index i) {
    const T g = gradient_scale * gradient(i);
    const T m = beta1 * first_moment(i) + share1 * g;
    const T v = beta2 * second_moment(i) + share2 * g * g;
    const T p = parameter(i);
    first_moment(i) = m;
    second_moment(i) = v;
    const T updated = p - decay * p - rate * m / (std::sqrt(v) * root_correction + eps);
    parameter(i) = updated;
    if (rounded_bf16) rounded_bf16(i) = BFloat16(static_cast<float>(updated));
    if (rounded_f16) rounded_f16(i) = Float16(static_cast<float>(updated));
  });
}

template <class T>
void sum_of_squares(const ssm::SumOfSquares<T, CudaSpace>& a, double* partial, Stream stream) {
  const auto x = device::operand(a.x);
  const auto sum = device::operand(a.sum);
  device::ordered_sum(
      a.x.extent(0), partial, stream, "sum_of_squares",
      [=] SSM_DEVICE(Index i) {
        const double value = x(i);
        return value * value;
      },
      [=] SSM_DEVICE(double total) { sum(0) += total; });
}

#define SSM_INSTANTIATE(T)                                                                      \
  template SSM_CUDA_API void adamw_update<T>(const ssm::AdamWUpdate<T, CudaSpace>&, Stream);    \
  template SSM_CUDA_API void sum_of_squares<T>(const ssm::SumOfSquares<T, CudaSpace>&, double*, \
                                               Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
