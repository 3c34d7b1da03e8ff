// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "ssm/core/context.hpp"
#include "ssm/core/parameter.hpp"

namespace ssm {

/// A backend without primitives: what needs host memory and nothing else, files for example.
struct HostMemory {
  using Space = HostSpace;
  struct Resources {};
};

/// Copies a tensor into one of another space, which takes its extents; an empty one stays empty.
/// Waits for both.
template <class T, class E, class FromSpace, class F, class ToSpace>
void copy_tensor(const Tensor<T, E, FromSpace>& from, Tensor<T, F, ToSpace>& to) {
  using Mover = std::conditional_t<FromSpace::host_readable, ToSpace, FromSpace>;
  if (!from) {
    to = Tensor<T, F, ToSpace>();
    return;
  }
  to.resize(F(from.extents()));
  Mover::copy(to.data(), from.data(), static_cast<std::size_t>(from.size()) * sizeof(T));
}

/// Copies a tensor in a context's memory, in order with its primitives; `to` takes its extents and
/// grows as needed.
template <class B, class T, class E>
void copy_tensor(Context<B>& ctx, const Tensor<T, E, typename B::Space>& from,
                 Tensor<T, E, typename B::Space>& to) {
  if (!from) {
    to = {};
    return;
  }
  to.resize(from.extents());
  ctx.copy(to.data(), from.data(), static_cast<std::size_t>(from.size()) * sizeof(T));
}

/// What the host keeps of a state whose other tensors are elsewhere.
template <class B, class T, class E>
  requires(!std::is_same_v<typename B::Space, HostSpace>)
void copy_tensor(Context<B>&, const Tensor<T, E, HostSpace>& from, Tensor<T, E, HostSpace>& to) {
  copy_tensor(from, to);
}

/// Copies parameters, gradients or moments of the same layer from one space to another, bit for
/// bit; weights that are kept in bf16, f16 or int8 stay so.
template <class From, class To>
void copy_parameters(const From& from, To& to) {
  for_each_parameter(
      [](const ParameterSpec&, const auto& source, auto& target) {
        copy_tensor(source, target);
        if constexpr (requires { source.bf16; }) {
          copy_tensor(source.bf16, target.bf16);
          copy_tensor(source.f16, target.f16);
          copy_tensor(source.int8, target.int8);
          copy_tensor(source.scale, target.scale);
        }
      },
      from, to);
}

/// Parameters in the memory of another context.
///   ssm::Context<ssm::Cuda> gpu;
///   auto on_gpu = ssm::copy_to(gpu, layer, parameters);
///   auto back = ssm::copy_to(cpu, layer, on_gpu);
/// Cost    waits until the device is done
template <class B, class P>
auto copy_to(const Context<B>& ctx, const typename P::Layer& layer, const P& parameters) {
  auto result = layer.template zero_parameters<typename P::Scalar>(ctx);
  copy_parameters(parameters, result);
  return result;
}

/// Copies a state of layer L from one space to another; `to` has its tensors already.
template <class L, class From, class To>
void copy_state_between(const From& from, To& to) {
  L::for_each_state(
      [](const auto&, const auto& source, auto& target) { copy_tensor(source, target); }, from, to);
}

}  // namespace ssm
