// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <utility>

#include "ssm/core/tensor_view.hpp"
#include "ssm/core/view_of.hpp"

namespace ssm {

namespace detail {
/// The memory of a tensor of any scalar and extents. `zeroed`: its own, from allocate_zeroed, which
/// spaces that are made from HostSpace may lack.
template <class Space, bool HasZeroedBlocks>
struct Block {
  enum class Memory : char { own, zeroed, borrowed };

  void* data = nullptr;
  Index capacity = 0;  // elements
  Memory memory = Memory::own;

  /// Lets go of what there is and takes a block for `count` elements; returns whether it is zero.
  [[gnu::noinline]] bool grow(Index count, std::size_t element_size, [[maybe_unused]] bool zeros) {
    const Index grown_count = std::max<Index>(count, 1);  // a tensor of no elements is not null
    const std::size_t bytes = static_cast<std::size_t>(grown_count) * element_size;
    bool is_zero = false;
    void* grown = nullptr;
    if constexpr (HasZeroedBlocks) {
      is_zero = zeros && bytes >= Space::least_zeroed;
      if (is_zero) grown = Space::allocate_zeroed(bytes);
    }
    if (!is_zero) grown = Space::allocate(bytes);
    release();
    data = grown;
    capacity = grown_count;
    memory = is_zero ? Memory::zeroed : Memory::own;
    return is_zero;
  }

  [[gnu::noinline]] void release() noexcept {
    if (data == nullptr || memory == Memory::borrowed) return;
    if constexpr (HasZeroedBlocks)
      if (memory == Memory::zeroed) return Space::deallocate_zeroed(data);
    Space::deallocate(data);
  }
};
}  // namespace detail

/// Owns elements in row-major order, or borrows them (`borrow`). Move-only; `clone()` copies.
/// Elements start out zero.
///   Tensor<float, Extents<dyn, dyn, 256>> x({batch, length});
/// Converts to a view wherever one is asked for.
/// Throws  OutOfMemory
template <class T, class ExtentsType, class SpaceType = HostSpace>
class Tensor {
  static_assert(std::is_trivially_copyable_v<T> && !std::is_const_v<T>);

 public:
  using Element = T;
  using Value = T;
  using Shape = ExtentsType;
  using Space = SpaceType;
  using ViewType = TensorView<T, Shape, Space>;
  using ConstView = TensorView<const T, Shape, Space>;
  static constexpr int rank() { return Shape::rank(); }

  Tensor() = default;
  explicit Tensor(Shape extents) { reset(extents); }
  explicit Tensor(const Index (&length)[1])  // without it, g++ finds Tensor({length}) ambiguous
      requires(Shape::rank() == 1 || Shape::rank_dynamic() == 1)
      : Tensor(Shape(length[0])) {}
  [[gnu::noinline]] Tensor(Tensor&& other) noexcept { swap(other); }
  [[gnu::noinline]] Tensor& operator=(Tensor&& other) noexcept {
    Tensor(std::move(other)).swap(*this);
    return *this;
  }
  ~Tensor() { block_.release(); }

  /// A tensor in memory that belongs to somebody else and outlives it: parameters, gradients,
  /// moments or states that another library keeps. Row-major; `capacity` elements may be used, at
  /// least those of `extents`.
  ///   tensor = Tensor<float, Extents<dyn, 8>>::borrow(pointer, {length});
  /// Elements are read and written there, and never freed. `resize`, `reset` and `extend` work up
  /// to the capacity and throw beyond. Moving and swapping hand the borrowed memory on, a
  /// moved-from tensor is empty; assigning another tensor lets go of it and leaves its elements as
  /// they are; `clone` owns its copy.
  /// Throws  ArgumentError  for extents without memory
  static Tensor borrow(T* memory, Shape extents, Index capacity = 0) {
    const Index count = detail::element_count<T>(extents, Space::name());
    if (memory == nullptr && count > 0) detail::refuse_no_memory(extents.to_array());
    if (memory == nullptr) return Tensor(extents);  // no elements need no memory
    Tensor result;
    result.block_ = {memory, std::max(count, capacity), Block::Memory::borrowed};
    result.extents_ = extents;
    return result;
  }
  bool is_borrowed() const { return block_.memory == Block::Memory::borrowed; }

  /// A tensor that owns a block from now on, which Space::deallocate takes back: one that holds
  /// these extents, which are row-major.
  static Tensor adopt(T* block, Shape extents) {
    Tensor result;
    result.block_ = {block, std::max<Index>(extents.size(), 1), Block::Memory::own};
    result.extents_ = extents;
    return result;
  }

  /// Takes other extents; the elements are unspecified afterwards. Allocates only to grow.
  void resize(Shape extents) { fit(extents, false); }

  /// Takes other extents; every element is zero afterwards. Allocates only to grow.
  void reset(Shape extents) {
    if (fit(extents, true)) return;
    if constexpr (Space::host_readable)
      std::fill_n(data(), size(), T{});
    else
      Space::fill_zero(data(), static_cast<std::size_t>(size()) * sizeof(T));
  }

  /// Takes longer extents along the first axis; elements so far stay, new ones are unspecified.
  /// Allocates geometrically, at least for `reserved` elements.
  void extend(Shape extents, Index reserved = 0) {
    const Index used = std::min(size(), extents.size());
    const Index wanted = is_borrowed() ? extents.size() : std::max(extents.size(), reserved);
    if (wanted > block_.capacity || block_.data == nullptr) {
      if (is_borrowed()) detail::refuse_growth(block_.capacity, extents.to_array());
      Tensor grown;
      grown.block_.grow(std::max(wanted, 2 * block_.capacity), sizeof(T), false);
      if constexpr (Space::host_readable)
        std::copy_n(data(), used, grown.data());
      else if (used > 0)
        Space::copy(grown.data(), data(), static_cast<std::size_t>(used) * sizeof(T));
      swap(grown);
    }
    extents_ = extents;
  }

  Tensor clone() const {
    Tensor copy;
    if (data() == nullptr) return copy;
    copy.resize(extents_);
    if constexpr (Space::host_readable)
      std::copy_n(data(), size(), copy.data());
    else
      Space::copy(copy.data(), data(), static_cast<std::size_t>(size()) * sizeof(T));
    return copy;
  }

  explicit operator bool() const { return block_.data != nullptr; }
  T* data() { return elements(); }
  const T* data() const { return elements(); }
  const Shape& extents() const { return extents_; }
  Index extent(int axis) const { return extents_[axis]; }
  Index size() const { return block_.data == nullptr ? 0 : extents_.size(); }

  ViewType view() { return data() == nullptr ? ViewType() : ViewType(data(), extents_); }
  ConstView view() const { return data() == nullptr ? ConstView() : ConstView(data(), extents_); }

  template <class U, class E>
    requires std::is_constructible_v<TensorView<U, E, Space>, ViewType>
  [[gnu::noinline]] operator TensorView<U, E, Space>() { return view(); }
  template <class U, class E>
    requires std::is_constructible_v<TensorView<U, E, Space>, ConstView>
  [[gnu::noinline]] operator TensorView<U, E, Space>() const { return view(); }

  template <class... I>
    requires(sizeof...(I) == static_cast<std::size_t>(Shape::rank()) && Space::host_readable)
  T& operator()(I... index) { return view()(index...); }
  template <class... I>
    requires(sizeof...(I) == static_cast<std::size_t>(Shape::rank()) && Space::host_readable)
  const T& operator()(I... index) const { return view()(index...); }

  auto slice(int axis, Index begin, Index end) { return view().slice(axis, begin, end); }
  auto slice(int axis, Index begin, Index end) const { return view().slice(axis, begin, end); }
  auto select(int axis, Index index) { return view().select(axis, index); }
  auto select(int axis, Index index) const { return view().select(axis, index); }
  auto transpose(int a, int b) { return view().transpose(a, b); }
  auto transpose(int a, int b) const { return view().transpose(a, b); }
  template <class... N>
  auto reshape(N... extents) {
    return view().reshape(extents...);
  }
  template <class... N>
  auto reshape(N... extents) const {
    return view().reshape(extents...);
  }
  auto unsqueeze(int axis) { return view().unsqueeze(axis); }
  auto unsqueeze(int axis) const { return view().unsqueeze(axis); }
  auto reverse(int axis) { return view().reverse(axis); }
  auto reverse(int axis) const { return view().reverse(axis); }
  auto flatten() { return view().flatten(); }
  auto flatten() const { return view().flatten(); }

  void swap(Tensor& other) noexcept {
    std::swap(block_, other.block_);
    std::swap(extents_, other.extents_);
  }

 private:
  using Block = detail::Block<Space, std::is_trivially_default_constructible_v<T> &&
                                         std::is_same_v<Space, HostSpace>>;

  T* elements() const { return static_cast<T*>(block_.data); }

  /// Takes other extents. Returns whether that took a new block of zeros, as large ones are if
  /// asked for.
  bool fit(Shape extents, bool zeros) {
    const Index count = detail::element_count<T>(extents, Space::name());
    bool is_zero = false;
    if (count > block_.capacity || block_.data == nullptr) {
      if (is_borrowed()) detail::refuse_growth(block_.capacity, extents.to_array());
      is_zero = block_.grow(count, sizeof(T), zeros);
    }
    extents_ = extents;
    return is_zero;
  }

  Block block_;
  Shape extents_{};
};

/// A tensor whose extents are all known at run time.
template <class T, int Rank, class Space = HostSpace>
using DynamicTensor = Tensor<T, DynamicExtents<Rank>, Space>;

/// The view of a tensor.
template <class T, class E, class S>
TensorView<T, E, S> view_of(Tensor<T, E, S>& tensor) {
  return tensor.view();
}
/// The read-only view of a tensor.
template <class T, class E, class S>
TensorView<const T, E, S> view_of(const Tensor<T, E, S>& tensor) {
  return tensor.view();
}

}  // namespace ssm
