// SPDX-License-Identifier: Apache-2.0
#include "kernel/activation_functions.cuh"
#include "kernel/half_numbers.cuh"
#include "kernel/matrix_elements.cuh"
#include "ssm/backend/cuda/activation.hpp"

namespace ssm::cuda {

template <class T>
void activation(const ssm::Activation<T, CudaSpace>& a, Stream stream) {
  const auto x = device::operand(a.x);
  const auto gate = device::operand(a.gate);
  const auto y = device::operand(a.y);
  const ActivationKind kind = a.kind;
  const auto elements = device::matrix_elements(a.x.extent(0), a.x.extent(1), a.x, a.gate, a.y);
  device::for_each_index(elements.count, stream, "activation", [=] SSM_DEVICE(Index i) {
    const auto [m, d] = elements.at(i);
    const auto value = device::activate(kind, device::widened(x(m, d)));
    y(m, d) = device::narrowed<T>(gate ? value * device::widened(gate(m, d)) : value);
  });
}

template <class T>
void activation_backward(const ssm::ActivationBackward<T, CudaSpace>& g, Stream stream) {
  const auto x = device::operand(g.forward.x);
  const auto gate = device::operand(g.forward.gate);
  const auto dy = device::operand(g.dy);
  const auto dx = device::operand(g.dx);
  const auto dgate = device::operand(g.dgate);
  const ActivationKind kind = g.forward.kind;
  const auto elements = device::matrix_elements(g.forward.x.extent(0), g.forward.x.extent(1),
                                                g.forward.x, g.forward.gate, g.dy, g.dx, g.dgate);
  device::for_each_index(elements.count, stream, "activation_backward", [=] SSM_DEVICE(Index i) {
    const auto [m, d] = elements.at(i);
    using S = Wide<T>;
    const S input = device::widened(x(m, d));
    const S gradient = device::widened(dy(m, d));
    const S factor = gate ? device::widened(gate(m, d)) : S{1};
    if (gate) dgate(m, d) = device::narrowed<T>(device::activate(kind, input) * gradient);
    dx(m, d) = device::narrowed<T>(device::activation_slope(kind, input) * factor * gradient);
  });
}

#define SSM_INSTANTIATE(T)                                                                        \
  template SSM_CUDA_API void activation<T>(const ssm::Activation<T, CudaSpace>&, Stream);         \
  template SSM_CUDA_API void activation_backward<T>(const ssm::ActivationBackward<T, CudaSpace>&, \
                                                    Stream);
SSM_INSTANTIATE(float)
SSM_INSTANTIATE(double)
SSM_INSTANTIATE(BFloat16)
SSM_INSTANTIATE(Float16)
#undef SSM_INSTANTIATE

}  // namespace ssm::cuda
