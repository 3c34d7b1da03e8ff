// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <exception>
#include <limits>
#include <utility>
#include <vector>

#include "ssm/core/tensor_view.hpp"

namespace ssm {

/// Scratch memory for the length of a call: a bump arena that grows to its high-water mark and then never allocates.
///   auto frame = ctx.workspace().frame();
///   auto scores = frame.template tensor<float>(batch, length);     // gone with the frame
/// Elements are unspecified; with `fill_with_nan(true)` floating-point scratch starts as NaN, so that reading
/// what was never written shows.
template <MemorySpace Space>
class Workspace {
 public:
  /// Gives memory until its end, and all of that back then.
  class Frame {
   public:
    Frame(Frame&& other) noexcept
        : owner_(std::exchange(other.owner_, nullptr)), mark_(other.mark_) {}
    Frame& operator=(Frame&&) = delete;
    ~Frame() {
      if (owner_ != nullptr) owner_->release(mark_);
    }

    /// A row-major view of these extents. Throws OutOfMemory.
    template <class T, std::convertible_to<Index>... N>
    View<T, int{sizeof...(N)}, Space> tensor(N... extents) {
      const DynamicExtents<int{sizeof...(N)}> shape(extents...);
      return {owner_->template take<T>(detail::element_count<T>(shape, Space::name())), shape};
    }
    template <class T, Index... E>
    TensorView<T, Extents<E...>, Space> tensor(Extents<E...> shape) {
      return {owner_->template take<T>(detail::element_count<T>(shape, Space::name())), shape};
    }

   private:
    friend class Workspace;
    struct Mark {
      std::size_t block;
      std::size_t used;
    };
    Frame(Workspace* owner, Mark mark) : owner_(owner), mark_(mark) {}
    Workspace* owner_;
    Mark mark_;
  };

  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { free_blocks(); }

  Frame frame() {
    ++open_frames_;
    return Frame(this, {current_, blocks_.empty() ? 0 : blocks_[current_].used});
  }
  void fill_with_nan(bool on) { fill_with_nan_ = on; }

  /// Bytes held.
  std::size_t capacity() const {
    std::size_t total = 0;
    for (const Block& block : blocks_) total += block.size;
    return total;
  }

 private:
  struct Block {
    std::byte* data;
    std::size_t size;
    std::size_t used;
  };
  static constexpr std::size_t alignment = 64;           // bytes
  static constexpr std::size_t first_block = 64 * 1024;  // bytes

  template <class T>
  T* take(Index count) {
    const std::size_t bytes =
        (static_cast<std::size_t>(std::max<Index>(count, 1)) * sizeof(T) + alignment - 1) /
        alignment * alignment;
    T* result = reinterpret_cast<T*>(take_bytes(bytes));
    if constexpr (Space::host_readable && std::numeric_limits<T>::has_quiet_NaN)
      if (fill_with_nan_) std::fill_n(result, count, std::numeric_limits<T>::quiet_NaN());
    return result;
  }
  std::byte* take_bytes(std::size_t bytes) {
    while (current_ < blocks_.size() && blocks_[current_].used + bytes > blocks_[current_].size) {
      if (current_ + 1 == blocks_.size()) break;
      ++current_;
    }
    if (blocks_.empty() || blocks_[current_].used + bytes > blocks_[current_].size) {
      const std::size_t size = std::max({bytes, first_block, capacity()});  // doubles the arena
      blocks_.push_back({static_cast<std::byte*>(Space::allocate(size)), size, 0});
      current_ = blocks_.size() - 1;
    }
    Block& block = blocks_[current_];
    std::byte* result = block.data + block.used;
    block.used += bytes;
    return result;
  }
  void release(typename Frame::Mark mark) {
    for (std::size_t i = mark.block + 1; i < blocks_.size(); ++i) blocks_[i].used = 0;
    if (!blocks_.empty()) blocks_[mark.block].used = mark.used;
    current_ = mark.block;
    if (--open_frames_ == 0 && blocks_.size() > 1) join_blocks();
  }
  void join_blocks() {  // next time the whole high-water mark fits one block
    const std::size_t total = capacity();
    free_blocks();
    try {
      blocks_.push_back({static_cast<std::byte*>(Space::allocate(total)), total, 0});
    } catch (const std::exception&) {  // the next frame starts small again
    }
  }
  void free_blocks() {
    for (const Block& block : blocks_) Space::deallocate(block.data);
    blocks_.clear();
    current_ = 0;
  }

  std::vector<Block> blocks_;
  std::size_t current_ = 0;
  int open_frames_ = 0;
  bool fill_with_nan_ = false;
};

}  // namespace ssm
