// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/backend/cpu/simd.hpp"

namespace ssm::cpu {

/// Some neighboring channels of one sequence of a [B, L, D] operand, one in each lane of a
/// register.
template <class T, class Arch>
class Positions {
 public:
  using Value = std::remove_const_t<T>;
  using Register = Batch<Value, Arch>;

  Positions(const View<T, 3, HostSpace>& view, Index batch, Index channel, Index count)
      : data_(view ? view.data() + batch * view.stride(0) + channel * view.stride(2) : nullptr),
        step_(view.stride(1)),
        stride_(view.stride(2)),
        count_(count) {}

  explicit operator bool() const { return data_ != nullptr; }
  /// Whether every lane has a channel and they lie side by side, or there is no operand: then
  /// `load_whole` and `store_whole` do what `load` and `store` do, in fewer instructions.
  bool is_whole() const {
    return data_ == nullptr || (stride_ == 1 && count_ == lane_count<Value, Arch>);
  }
  [[gnu::always_inline]] Register load_whole(Index t) const {
    return cpu::load<Value, Arch>(data_ + t * step_);
  }
  [[gnu::always_inline]] void store_whole(Index t, const Register& value) const {
    cpu::store<Value, Arch>(data_ + t * step_, value);
  }
  [[gnu::always_inline]] Register load(Index t) const {
    return gather<Value, Arch>(data_ + t * step_, stride_, count_);
  }
  [[gnu::always_inline]] void store(Index t, const Register& value) const {
    scatter<Value, Arch>(data_ + t * step_, stride_, count_, value);
  }

 private:
  T* data_;
  Index step_;
  Index stride_;
  Index count_;
};

/// Asks for the lines of one channel at some positions of a [B, L, D] operand, into the
/// second-level cache. Rows that lie pages apart are beyond what the machine foresees by itself.
template <class T>
void prefetch(const View<T, 3, HostSpace>& view, Index batch, Index begin, Index length,
              Index channel) {
  constexpr int for_reading = 0;
  constexpr int second_level = 2;
  const T* at =
      view.data() + batch * view.stride(0) + begin * view.stride(1) + channel * view.stride(2);
  for (Index t = 0; t < length; ++t)
    __builtin_prefetch(at + t * view.stride(1), for_reading, second_level);
}

}  // namespace ssm::cpu
