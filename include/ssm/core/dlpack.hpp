// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "ssm/core/scalar.hpp"
#include "ssm/core/tensor.hpp"

// Tensors of other libraries by DLPack (https://dmlc.github.io/dlpack), without copies. Its structs
// are template arguments: a program includes the dlpack.h that it has, of version 0.5 or later, and
// this header needs none.
namespace ssm {

/// DLTensor.
template <class D>
concept DlpackTensor = requires(const D& tensor) {
  tensor.data;
  tensor.device.device_type;
  tensor.device.device_id;
  tensor.ndim;
  tensor.dtype.code;
  tensor.dtype.bits;
  tensor.dtype.lanes;
  tensor.shape;
  tensor.strides;
  tensor.byte_offset;
};
/// DLManagedTensor, or DLManagedTensorVersioned: a tensor with its owner.
template <class M>
concept DlpackManaged = requires(M& managed) {
  requires DlpackTensor<decltype(managed.dl_tensor)>;
  managed.manager_ctx;
  managed.deleter;
};
/// DLManagedTensorVersioned.
template <class M>
concept DlpackVersioned = DlpackManaged<M> && requires(M& managed) {
  managed.version.major;
  managed.version.minor;
  managed.flags;
};

/// DLPack's number of the device that a memory space is on, and whether the space reads tensors of
/// another device. A backend with a space of its own specializes it.
template <class Space>
struct DlpackDevice;
/// Host memory, also if it is page-locked for CUDA or ROCm.
template <>
struct DlpackDevice<HostSpace> {
  static constexpr int type = 1;
  static constexpr bool reads(int other) { return other == 1 || other == 3 || other == 11; }
};

namespace detail {

/// DLDataType.
struct DlpackScalar {
  unsigned code, bits, lanes;
  friend bool operator==(const DlpackScalar&, const DlpackScalar&) = default;
};
template <class T>
constexpr DlpackScalar dlpack_scalar() {
  constexpr unsigned bits = 8 * sizeof(T);
  if constexpr (std::is_same_v<T, BFloat16>)
    return {4, bits, 1};
  else if constexpr (std::is_same_v<T, bool>)
    return {6, bits, 1};
  else if constexpr (std::is_floating_point_v<T> || std::is_same_v<T, Float16>)
    return {2, bits, 1};
  else {
    static_assert(std::is_integral_v<T>, "DLPack has no such scalar");
    return {std::is_signed_v<T> ? 0U : 1U, bits, 1};
  }
}
[[gnu::cold]] inline std::string scalar_name(const DlpackScalar& scalar) {
  constexpr std::array<const char*, 7> kinds{"int",    "uint",    "float", "handle",
                                             "bfloat", "complex", "bool"};
  std::string name =
      scalar.code < kinds.size() ? kinds[scalar.code] : message({"code ", scalar.code, " of "});
  name += std::to_string(scalar.bits);
  return scalar.lanes == 1 ? name : message({name, "x", scalar.lanes});
}

/// A DLTensor's header, whatever its struct.
struct DlpackHeader {
  const void* data;
  int device;
  DlpackScalar scalar;
  std::int64_t byte_offset;
  std::span<const std::int64_t> shape, strides;  // strides may be left out
};
template <class D>
DlpackHeader dlpack_header(const D& tensor) {
  if (tensor.ndim < 0 || (tensor.ndim > 0 && tensor.shape == nullptr))
    throw ArgumentError(message({"from_dlpack: the tensor has ", tensor.ndim, " axes and ",
                                 tensor.shape == nullptr ? "no shape" : "a shape"}));
  const auto axes = static_cast<std::size_t>(tensor.ndim);
  DlpackHeader header{tensor.data,
                      static_cast<int>(tensor.device.device_type),
                      {tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes},
                      static_cast<std::int64_t>(tensor.byte_offset),
                      {tensor.shape, axes},
                      {}};
  if (tensor.strides != nullptr) header.strides = {tensor.strides, axes};
  return header;
}

/// Refuses what a view of `rank` axes of this scalar cannot be of. `align` is a power of two.
[[gnu::noinline]] inline void require_dlpack(const DlpackHeader& tensor, int rank,
                                             const DlpackScalar& scalar, std::size_t align,
                                             bool is_device_read, std::string_view space,
                                             bool is_written) {
  const auto refuse = [](std::string_view why) {
    throw ArgumentError(message({"from_dlpack: the tensor ", why}));
  };
  if (!is_device_read)
    refuse(message({"lies on a device of type ", tensor.device, ", which is not ", space}));
  if (tensor.scalar != scalar)
    refuse(message({"is of ", scalar_name(tensor.scalar), ", must be of ", scalar_name(scalar)}));
  if (tensor.shape.size() != static_cast<std::size_t>(rank))
    throw ShapeError("from_dlpack", "the tensor",
                     message({"must have ", rank, " axes, got ", tensor.shape.size()}));
  std::uint64_t elements = 1;
  bool is_empty = false;
  for (std::size_t axis = 0; axis < tensor.shape.size(); ++axis) {
    const std::int64_t extent = tensor.shape[axis];
    if (extent < 0) refuse(message({"has the extent ", extent, " on axis ", axis}));
    is_empty = is_empty || extent == 0;
    if (is_empty) continue;
    constexpr std::uint64_t most = std::uint64_t{1} << 56;
    if (elements > most / static_cast<std::uint64_t>(extent))
      refuse("has more elements than memory can hold");
    elements *= static_cast<std::uint64_t>(extent);
    if (is_written && extent > 1 && !tensor.strides.empty() && tensor.strides[axis] == 0)
      refuse(message({"has the stride 0 on axis ", axis,
                      ", and what is written needs memory for each element"}));
  }
  if (is_empty) return;
  if (tensor.data == nullptr) refuse("has no memory");
  const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(tensor.data) +
                                 static_cast<std::uintptr_t>(tensor.byte_offset);
  if (address % align != 0) refuse("begins at an address that is no multiple of its scalar's size");
}

}  // namespace detail

/// A view of a tensor of DLPack, in memory that stays its owner's.
///   const auto x = ssm::from_dlpack<const float, 3>(tensor);         // any strides
///   const auto y = ssm::from_dlpack<float, 3, ssm::CudaSpace>(tensor);
/// Which of several devices of a kind it lies on is not asked.
/// Throws  ArgumentError  for another scalar or device, a header that contradicts itself, and for
///                        elements to be written that share memory
///         ShapeError     for another number of axes
template <class T, int Rank, class Space = HostSpace, DlpackTensor D>
View<T, Rank, Space> from_dlpack(const D& tensor) {
  using Value = std::remove_const_t<T>;
  const detail::DlpackHeader header = detail::dlpack_header(tensor);
  const int device = header.device;
  detail::require_dlpack(header, Rank, detail::dlpack_scalar<Value>(), alignof(Value),
                         DlpackDevice<Space>::reads(device), Space::name(), !std::is_const_v<T>);
  auto* const bytes = static_cast<std::byte*>(tensor.data);
  auto* const data = bytes == nullptr ? nullptr : reinterpret_cast<T*>(bytes + header.byte_offset);
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    const DynamicExtents<Rank> extents(static_cast<Index>(header.shape[I])...);
    return header.strides.empty()
               ? View<T, Rank, Space>(data, extents)
               : View<T, Rank, Space>(data, extents, {static_cast<Index>(header.strides[I])...});
  }
  (std::make_index_sequence<static_cast<std::size_t>(Rank)>());
}

/// A tensor that came by DLPack with its owner, who is told when this is gone. Move-only.
template <class T, int Rank, class Space, DlpackManaged M>
class ImportedTensor {
 public:
  explicit ImportedTensor(M* managed) : managed_(managed) {}
  ImportedTensor(ImportedTensor&& other) noexcept
      : managed_(std::exchange(other.managed_, nullptr)),
        view_(std::exchange(other.view_, View<T, Rank, Space>())) {}
  ImportedTensor& operator=(ImportedTensor&& other) noexcept {
    std::swap(managed_, other.managed_);
    std::swap(view_, other.view_);
    return *this;
  }
  ~ImportedTensor() {
    if (managed_ != nullptr && managed_->deleter != nullptr) managed_->deleter(managed_);
  }

  View<T, Rank, Space> view() const { return view_; }
  template <class U, class E>
    requires std::is_constructible_v<TensorView<U, E, Space>, View<T, Rank, Space>>
  operator TensorView<U, E, Space>() const { return view_; }

 private:
  template <class, int, class, DlpackManaged N>
  friend auto from_dlpack(N*);

  M* managed_;
  View<T, Rank, Space> view_;
};

/// Takes a tensor of DLPack over: DLManagedTensor or DLManagedTensorVersioned. Its deleter is
/// called when the result is gone, or when this throws.
///   const auto x = ssm::from_dlpack<const float, 3>(managed);
///   layer.forward(ctx, parameters, x.view(), y);
/// Throws  what `from_dlpack` of a DLTensor throws; ArgumentError for a read-only tensor that is to
///         be written and for a major version of DLPack that is not known
template <class T, int Rank, class Space = HostSpace, DlpackManaged M>
auto from_dlpack(M* managed) {
  if (managed == nullptr) throw ArgumentError("from_dlpack: no tensor");
  ImportedTensor<T, Rank, Space, M> result(managed);
  if constexpr (DlpackVersioned<M>) {
    if (managed->version.major > 1)
      throw ArgumentError(message({"from_dlpack: the tensor is of DLPack ", managed->version.major,
                                   ", this library knows 1"}));
    if (!std::is_const_v<T> && (managed->flags & 1U) != 0)
      throw ArgumentError("from_dlpack: the tensor is read-only, and is to be written");
  }
  result.view_ = from_dlpack<T, Rank, Space>(managed->dl_tensor);
  return result;
}

/// A view as a DLTensor, for calls that take one: `get` is valid as long as this is there and the
/// memory is. Const elements are given without saying so; who takes them must not write.
///   their_function(ssm::DlpackView<DLTensor, 3>(x.view()).get());
template <DlpackTensor D, int Rank>
class DlpackView {
 public:
  template <class T, class E, class Space>
    requires(E::rank() == Rank)
  explicit DlpackView(const TensorView<T, E, Space>& view, int device_id = 0) {
    using Value = std::remove_const_t<T>;
    for (std::size_t axis = 0; axis < shape_.size(); ++axis) {
      shape_[axis] = view.extent(static_cast<int>(axis));
      strides_[axis] = view.stride(static_cast<int>(axis));
    }
    constexpr detail::DlpackScalar scalar = detail::dlpack_scalar<Value>();
    tensor_.data = const_cast<Value*>(view.data());
    tensor_.device.device_type =
        static_cast<decltype(tensor_.device.device_type)>(DlpackDevice<Space>::type);
    tensor_.device.device_id = device_id;
    tensor_.ndim = Rank;
    tensor_.dtype.code = static_cast<decltype(tensor_.dtype.code)>(scalar.code);
    tensor_.dtype.bits = static_cast<decltype(tensor_.dtype.bits)>(scalar.bits);
    tensor_.dtype.lanes = static_cast<decltype(tensor_.dtype.lanes)>(scalar.lanes);
    tensor_.byte_offset = 0;
    point();
  }
  DlpackView(const DlpackView& other)
      : tensor_(other.tensor_), shape_(other.shape_), strides_(other.strides_) {
    point();
  }
  DlpackView& operator=(const DlpackView& other) {
    tensor_ = other.tensor_;
    shape_ = other.shape_;
    strides_ = other.strides_;
    point();
    return *this;
  }

  D* get() { return &tensor_; }
  const D* get() const { return &tensor_; }
  D& operator*() { return tensor_; }
  const D& operator*() const { return tensor_; }

 private:
  void point() {
    tensor_.shape = shape_.data();
    tensor_.strides = strides_.data();
  }

  D tensor_{};
  std::array<std::int64_t, static_cast<std::size_t>(Rank)> shape_{}, strides_{};
};

/// Hands a view on by DLPack, together with the owner of its memory, which lives as long as whoever
/// takes it wants: a std::shared_ptr, a tensor, or anything else that can be moved.
///   DLManagedTensorVersioned* out = ssm::to_dlpack<DLManagedTensorVersioned>(y.view(), shared);
/// A versioned one says if the elements are const.
/// Throws  std::bad_alloc
template <DlpackManaged M, class T, class E, class Space, class Owner>
M* to_dlpack(const TensorView<T, E, Space>& view, Owner owner, int device_id = 0) {
  struct Exported {
    Owner owner;
    DlpackView<decltype(M::dl_tensor), E::rank()> tensor;
    M managed{};
  };
  auto* const exported = new Exported{
      std::move(owner), DlpackView<decltype(M::dl_tensor), E::rank()>(view, device_id)};
  M& managed = exported->managed;
  managed.dl_tensor = *exported->tensor;
  managed.manager_ctx = exported;
  managed.deleter = [](M* self) { delete static_cast<Exported*>(self->manager_ctx); };
  if constexpr (DlpackVersioned<M>) {
    managed.version.major = 1;
    managed.version.minor = 0;
    managed.flags = std::is_const_v<T> ? 1U : 0U;  // read-only
  }
  return &managed;
}

/// Hands a tensor on by DLPack, memory and all.
///   DLManagedTensor* out = ssm::to_dlpack<DLManagedTensor>(std::move(y));
/// A tensor over borrowed memory hands on the tensor and leaves the memory with its owner, who
/// must outlive it.
template <DlpackManaged M, class T, class E, class Space>
M* to_dlpack(Tensor<T, E, Space>&& tensor, int device_id = 0) {
  const TensorView<T, E, Space> view = tensor.view();
  return to_dlpack<M>(view, std::move(tensor), device_id);
}

}  // namespace ssm
