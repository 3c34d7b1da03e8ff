// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ssm/core/scalar.hpp"
#include "ssm/core/tensor_view.hpp"

namespace ssm {

/// Scratch memory for the length of a call: a bump arena that grows to its high-water mark and then
/// never allocates.
///   auto frame = ctx.workspace().frame();
///   auto scores = frame.template tensor<float>(batch, length);     // gone with the frame
/// The memory is the workspace's own, or the caller's:
///   // as much as the same calls have used elsewhere
///   std::vector<std::byte> memory(warm.workspace().peak() + 64);
///   ctx.workspace().borrow(memory);  // from here on nothing else is allocated
/// Elements are unspecified; with `fill_with_nan(true)` floating-point scratch starts as NaN, so
/// that reading what was never written shows.
template <MemorySpace Space>
class Workspace {
 public:
  /// How much of the memory is in use.
  struct Mark {
    std::size_t block;
    std::size_t used;
    std::size_t in_use;
  };
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
    [[gnu::noinline]] View<T, int{sizeof...(N)}, Space> tensor(N... extents) {
      const DynamicExtents<int{sizeof...(N)}> shape(extents...);
      return {owner_->template take<T>(detail::element_count<T>(shape, Space::name())), shape};
    }
    template <class T, Index... E>
    [[gnu::noinline]] TensorView<T, Extents<E...>, Space> tensor(Extents<E...> shape) {
      return {owner_->template take<T>(detail::element_count<T>(shape, Space::name())), shape};
    }

   private:
    friend class Workspace;
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
    return Frame(this, mark());
  }
  Mark mark() const { return {current_, blocks_.empty() ? 0 : blocks_[current_].used, in_use_}; }
  /// A frame whose memory is behind what was in use at an earlier mark, since which nothing was
  /// allocated: for the same work once more, beside the same memory.
  Frame frame_behind(const Mark& earlier) {
    Frame result = frame();
    go_to(earlier);
    return result;
  }

  /// Takes all scratch from memory of the caller, which must outlive its use; an empty span: from
  /// memory of its own again. A call that needs more than is there throws OutOfMemory and says how
  /// much it had; nothing is allocated behind it. Up to 63 bytes at the start are left out, so that
  /// tensors are aligned to 64.
  /// Throws  ArgumentError  while frames are open
  void borrow(std::span<std::byte> memory) {
    if (open_frames_ > 0)
      throw ArgumentError("workspace: memory cannot be exchanged while it is in use");
    free_blocks();
    is_borrowed_ = !memory.empty();
    if (!is_borrowed_) return;
    const auto beyond = reinterpret_cast<std::uintptr_t>(memory.data()) % alignment;
    const std::size_t skipped = beyond == 0 ? 0 : std::min(alignment - beyond, memory.size());
    blocks_.push_back({memory.data() + skipped, memory.size() - skipped, 0});
  }
  bool is_borrowed() const { return is_borrowed_; }

  void fill_with_nan(bool on) { fill_with_nan_ = on; }

  /// Bytes held.
  std::size_t capacity() const {
    std::size_t total = 0;
    for (const Block& block : blocks_) total += block.size;
    return total;
  }
  /// The largest number of bytes that have been in use at once.
  std::size_t peak() const { return peak_; }

 private:
  struct Block {
    std::byte* data;
    std::size_t size;
    std::size_t used;
  };
  static constexpr std::size_t alignment = 64;           // bytes
  static constexpr std::size_t first_block = 64 * 1024;  // bytes
  static constexpr std::size_t most_ahead = 4 << 20;     // bytes beyond what is asked for

  template <class T>
  T* take(Index count) {
    const std::size_t bytes =
        (static_cast<std::size_t>(std::max<Index>(count, 1)) * sizeof(T) + alignment - 1) /
        alignment * alignment;
    T* result = reinterpret_cast<T*>(take_bytes(bytes));
    if constexpr (Space::host_readable && std::numeric_limits<T>::has_quiet_NaN)
      if (fill_with_nan_) std::fill_n(result, count, std::numeric_limits<T>::quiet_NaN());
    if constexpr (Space::host_readable && HalfStorage<T>)
      if (fill_with_nan_) std::fill_n(result, count, T(std::numeric_limits<float>::quiet_NaN()));
    return result;
  }
  [[gnu::noinline]] std::byte* take_bytes(std::size_t bytes) {
    while (current_ < blocks_.size() && blocks_[current_].used + bytes > blocks_[current_].size) {
      if (current_ + 1 == blocks_.size()) break;
      ++current_;
    }
    if (blocks_.empty() || blocks_[current_].used + bytes > blocks_[current_].size) {
      if (is_borrowed_) refuse_borrowed(in_use_ + bytes, capacity());
      // Doubles the arena while it is small.
      const std::size_t size = std::max({bytes, first_block, std::min(capacity(), most_ahead)});
      blocks_.push_back({static_cast<std::byte*>(Space::allocate(size)), size, 0});
      current_ = blocks_.size() - 1;
    }
    Block& block = blocks_[current_];
    std::byte* result = block.data + block.used;
    block.used += bytes;
    in_use_ += bytes;
    peak_ = std::max(peak_, in_use_);
    return result;
  }
  [[noreturn, gnu::cold, gnu::noinline]] static void refuse_borrowed(std::size_t wanted,
                                                                     std::size_t size) {
    throw OutOfMemory(wanted, message({"a workspace that borrows ", size}));
  }
  void go_to(const Mark& mark) {
    for (std::size_t i = mark.block + 1; i < blocks_.size(); ++i) blocks_[i].used = 0;
    if (!blocks_.empty()) blocks_[mark.block].used = mark.used;
    current_ = mark.block;
    in_use_ = mark.in_use;
  }
  void release(const Mark& mark) {
    go_to(mark);
    if (--open_frames_ == 0 && blocks_.size() > 1) join_blocks();
  }
  void join_blocks() {  // next time the high-water mark fits one block, and grows by a step of it
    const std::size_t total = std::min(capacity(), peak_ + most_ahead);
    free_blocks();
    try {
      blocks_.push_back({static_cast<std::byte*>(Space::allocate(total)), total, 0});
    } catch (const std::exception&) {  // the next frame starts small again
    }
  }
  void free_blocks() {
    if (!is_borrowed_)
      for (const Block& block : blocks_) Space::deallocate(block.data);
    blocks_.clear();
    current_ = 0;
  }

  std::vector<Block> blocks_;
  std::size_t current_ = 0;
  std::size_t in_use_ = 0;
  std::size_t peak_ = 0;
  int open_frames_ = 0;
  bool is_borrowed_ = false;
  bool fill_with_nan_ = false;
};

}  // namespace ssm
