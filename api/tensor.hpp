// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "guarded.hpp"
#include "ssm/core/scalar.hpp"
#include "ssm/core/segments.hpp"
#include "ssm/core/tensor_view.hpp"

namespace ssm::api {

// The layout that DLPack has published.
static_assert(sizeof(void*) != 8 ||
              (sizeof(ssm_tensor) == 48 && offsetof(ssm_tensor, device) == 8 &&
               offsetof(ssm_tensor, ndim) == 16 && offsetof(ssm_tensor, type) == 20 &&
               offsetof(ssm_tensor, shape) == 24 && offsetof(ssm_tensor, strides) == 32 &&
               offsetof(ssm_tensor, byte_offset) == 40));

/// How a scalar is called in an ssm_tensor.
template <class T>
constexpr ssm_scalar scalar_of() {
  static_assert(std::is_floating_point_v<T> || std::is_signed_v<T> || HalfStorage<T>);
  constexpr int code = std::is_same_v<T, BFloat16>                                 ? 4
                       : std::is_floating_point_v<T> || std::is_same_v<T, Float16> ? 2
                                                                                   : 0;
  return {static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(8 * sizeof(T)), 1};
}
constexpr bool is_same_scalar(ssm_scalar a, ssm_scalar b) {
  return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes;
}
/// Whether sequences of this scalar are taken beside parameters in float: bf16 and f16.
constexpr bool is_half(ssm_scalar scalar) {
  return is_same_scalar(scalar, scalar_of<BFloat16>()) ||
         is_same_scalar(scalar, scalar_of<Float16>());
}

/// "float32", "int64": as in ssm_tensor, numpy and torch.
std::string scalar_name(ssm_scalar scalar);

/// Whether a tensor lies on the host, or on a CUDA device.
constexpr bool is_on_host(const ssm_tensor& tensor) {
  return tensor.device.type == 1 || tensor.device.type == 3;
}
/// What is wrong with a tensor's header, in a sentence that begins with `name`.
/// Throws  TensorError  for another scalar, memory that is not where it must be, and headers that
///                      contradict themselves; ArgumentError  where it is missing
void require_tensor(const ssm_tensor* tensor, const std::string& name, ssm_scalar scalar,
                    bool must_be_on_host = true);

/// The device of the first tensor that is there: whose current one a call is in.
/// Throws  TensorError  by name of the call for tensors of several devices
int device_of(const char* call, std::span<const ssm_tensor* const> tensors);

/// The sentence for another number of axes.
[[noreturn]] void refuse_rank(const std::string& name, const ssm_tensor& tensor,
                              const char* expected);

/// The first element of a tensor that was checked.
template <class T>
T* elements_of(const ssm_tensor& tensor) {
  auto* const bytes = static_cast<std::byte*>(tensor.data);
  return bytes == nullptr ? nullptr : reinterpret_cast<T*>(bytes + tensor.byte_offset);
}

/// The stride of an axis; left out they are those of a tensor without gaps.
std::int64_t stride_of(const ssm_tensor& tensor, int axis);

/// Refuses memory that several elements share, for what is written.
/// Throws  TensorError
void require_distinct_elements(const ssm_tensor& tensor, const std::string& name);

/// Whether the elements lie in row-major order without gaps.
bool is_contiguous(const ssm_tensor& tensor);

/// A tensor of so many axes as a view of the same memory.
/// Throws  TensorError, ShapeError
template <class T, int rank, class Space = HostSpace>
View<T, rank, Space> view_of_tensor(const ssm_tensor* tensor, const std::string& name) {
  require_tensor(tensor, name, scalar_of<std::remove_const_t<T>>(), Space::host_readable);
  if (tensor->ndim != rank) refuse_rank(name, *tensor, std::to_string(rank).c_str());
  if constexpr (!std::is_const_v<T>) require_distinct_elements(*tensor, name);
  const auto extents = [&]<std::size_t... axis>(std::index_sequence<axis...>) {
    return DynamicExtents<rank>(static_cast<Index>(tensor->shape[axis])...);
  }
  (std::make_index_sequence<rank>());
  typename View<T, rank, Space>::Strides strides{};
  for (int axis = 0; axis < rank; ++axis)
    strides[static_cast<std::size_t>(axis)] = static_cast<Index>(stride_of(*tensor, axis));
  return {elements_of<T>(*tensor), extents, strides};
}

/// A list of the caller's.
/// Throws  ArgumentError  for a negative count, and where it is missing
std::span<const ssm_tensor* const> list_of(const ssm_tensor* const* tensors, int count,
                                           const char* name);

/// Where packed sequences begin and end, on the host; nothing where it is null.
Segments segments_of(const ssm_tensor* tensor);

/// A sequence [B, L, D], or [L, D] as a batch of one.
template <class T, class Space>
View<T, 3, Space> sequence_of_tensor(const ssm_tensor* tensor, const std::string& name) {
  if (tensor != nullptr && tensor->ndim == 2)
    return view_of_tensor<T, 2, Space>(tensor, name).unsqueeze(0);
  if (tensor != nullptr && tensor->ndim != 3) {
    require_tensor(tensor, name, scalar_of<std::remove_const_t<T>>(), Space::host_readable);
    refuse_rank(name, *tensor, "2 or 3");
  }
  return view_of_tensor<T, 3, Space>(tensor, name);
}

/// One position of sequences [B, D], or [D] of one.
template <class T, class Space>
View<T, 2, Space> position_of_tensor(const ssm_tensor* tensor, const std::string& name) {
  if (tensor != nullptr && tensor->ndim == 1)
    return view_of_tensor<T, 1, Space>(tensor, name).unsqueeze(0);
  if (tensor != nullptr && tensor->ndim != 2) {
    require_tensor(tensor, name, scalar_of<std::remove_const_t<T>>(), Space::host_readable);
    refuse_rank(name, *tensor, "1 or 2");
  }
  return view_of_tensor<T, 2, Space>(tensor, name);
}

}  // namespace ssm::api
