// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "ssm/core/elementwise.hpp"
#include "ssm/laws/named_tensor.hpp"

namespace ssm::laws {

/// How a sequence [B, L, D] lies in memory.
enum class Strides {
  none,             // contiguous
  longer_sequence,  // a slice of a longer one
  more_channels,    // some channels of more
  column_major,     // every sequence with its positions contiguous
  reversed_time     // the last position first
};

inline const char* text(Strides strides) {
  switch (strides) {
    case Strides::none:
      return "contiguous";
    case Strides::longer_sequence:
      return "a slice of a longer sequence";
    case Strides::more_channels:
      return "some channels of more";
    case Strides::column_major:
      return "column-major";
    case Strides::reversed_time:
      return "reversed in time";
  }
  return "";
}

/// A sequence that lies so, amid memory that nobody may read or write: NaN, and as much of it
/// before and behind as the sequence has elements, so that whoever ignores the strides reads it.
template <class T>
class LaidOut {
 public:
  LaidOut(Strides strides, Index batch, Index length, Index width) {
    const Index size = 4 + batch * (length + 3) * (width + 3);
    memory_.resize({3 * size});
    ssm::fill(memory_, scalar_cast<T>(std::numeric_limits<Wide<T>>::quiet_NaN()));
    T* start = memory_.data() + size;
    const View<T, 3> plain(start, {batch, length, width});
    switch (strides) {
      case Strides::none:
        view_ = plain;
        break;
      case Strides::longer_sequence:
        view_ = View<T, 3>(start, {batch, length + 3, width}).slice(1, 2, 2 + length);
        break;
      case Strides::more_channels:
        view_ = View<T, 3>(start, {batch, length, width + 3}).slice(2, 1, 1 + width);
        break;
      case Strides::column_major:
        view_ = View<T, 3>(start, {batch, width, length}).transpose(1, 2);
        break;
      case Strides::reversed_time:
        view_ = plain.reverse(1);
        break;
    }
    ssm::fill(view_, T{});
    gaps_ = nan_count();
  }
  LaidOut(Strides strides, const NamedTensor& from)
      : LaidOut(strides, from.extents[0], from.extents[1], from.extents[2]) {
    std::size_t next = 0;
    ssm::for_each_element([&](T& element) { element = scalar_cast<T>(from.values[next++]); },
                          view_);
  }

  const View<T, 3>& view() const { return view_; }
  /// The sequence, with a NaN in it where memory beside it was written.
  NamedTensor read(std::string name) const {
    const auto extents = view_.extents().to_array();
    NamedTensor result{std::move(name), {extents.begin(), extents.end()}, {}};
    Index own = 0;
    ssm::for_each_element(
        [&](const T& element) {
          const auto value = scalar_cast<double>(element);
          own += std::isnan(value) ? 1 : 0;
          result.values.push_back(value);
        },
        view_);
    if (nan_count() != gaps_ + own && !result.values.empty())
      result.values.front() = std::numeric_limits<double>::quiet_NaN();
    return result;
  }

 private:
  Index nan_count() const {
    return std::count_if(memory_.data(), memory_.data() + memory_.size(),
                         [](T element) { return std::isnan(scalar_cast<double>(element)); });
  }

  DynamicTensor<T, 1> memory_;
  View<T, 3> view_;
  Index gaps_ = 0;
};

}  // namespace ssm::laws
