// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/core/elementwise.hpp"  // for_each_element
#include "ssm/io/file.hpp"

namespace ssm {

/// The scalars that files hold.
template <class T>
concept StoredScalar =
    Real<T> || HalfStorage<T> || std::same_as<T, std::int32_t> || std::same_as<T, std::int64_t>;

namespace detail {

static_assert(std::endian::native == std::endian::little, "files are little-endian");

inline constexpr Index elements_at_once = 8192;

/// Numbers may be narrowed, but fractions do not silently become integers.
template <class From, class To>
inline constexpr bool is_storable = std::integral<From> || !std::integral<To>;

template <class To, class From>
bool fits(From value) {
  if constexpr (std::integral<To> && std::integral<From>)
    return std::in_range<To>(value);
  else
    return true;
}

/// Elements on their way into a file as `Stored`, some at a time.
template <class Stored, class Value>
class ElementWriter {
 public:
  ElementWriter(AtomicFile& file, Index count) : file_(file) {
    buffer_.reserve(static_cast<std::size_t>(std::min(count, elements_at_once)));
  }
  void operator()(const Value& value) {
    if (!fits<Stored>(value))
      throw CheckpointError(file_.name(), "", "a value does not fit the integers it is stored in");
    buffer_.push_back(scalar_cast<Stored>(value));
    if (buffer_.size() == buffer_.capacity()) flush();
  }
  void flush() {
    file_.write(std::as_bytes(std::span(buffer_)));
    buffer_.clear();
  }

 private:
  AtomicFile& file_;
  std::vector<Stored> buffer_;
};

/// Writes the elements of a view in row-major order as `Stored`.
template <class Stored, class View>
void write_elements(AtomicFile& file, const View& view) {
  using Value = typename View::Value;
  static_assert(is_storable<Value, Stored>, "fractions cannot be stored as integers");
  if constexpr (std::same_as<Value, Stored>) {
    if (view.is_contiguous())
      return file.write(
          std::as_bytes(std::span(view.data(), static_cast<std::size_t>(view.size()))));
  }
  ElementWriter<Stored, Value> writer(file, view.size());
  for_each_element(writer, view);
  writer.flush();
}

/// `Stored` elements of a file from byte `offset` on, some at a time.
template <class Stored, class Value>
class ElementReader {
 public:
  ElementReader(const FileReader& file, const std::string& tensor, std::uint64_t offset,
                Index count)
      : file_(file), tensor_(tensor), offset_(offset), left_(count) {}

  void operator()(Value& value) {
    if (next_ == buffer_.size()) refill();
    if constexpr (std::integral<Stored> && std::integral<Value>)
      if (!fits<Value>(buffer_[next_]))
        throw CheckpointError(
            file_.name(), tensor_,
            "holds " + std::to_string(buffer_[next_]) + ", beyond the integers asked for");
    value = scalar_cast<Value>(buffer_[next_++]);
  }

 private:
  void refill() {
    buffer_.resize(static_cast<std::size_t>(std::min(left_, elements_at_once)));
    file_.read(offset_, std::as_writable_bytes(std::span(buffer_)));
    offset_ += buffer_.size() * sizeof(Stored);
    left_ -= static_cast<Index>(buffer_.size());
    next_ = 0;
  }

  const FileReader& file_;
  const std::string& tensor_;
  std::uint64_t offset_;
  Index left_;
  std::vector<Stored> buffer_;
  std::size_t next_ = 0;
};

/// Elements that lie one behind the other, for whoever visits others in order.
template <class Value>
struct InOrder {
  const Value* next;
  void operator()(Value& value) { value = *next++; }
};

/// Fills a view in row-major order with `Stored` elements from byte `offset` on.
template <class Stored, class View>
void read_elements(const FileReader& file, const std::string& tensor, std::uint64_t offset,
                   const View& view) {
  using Value = typename View::Value;
  if constexpr (!is_storable<Stored, Value>) {
    throw CheckpointError(file.name(), tensor, "holds fractions, asked for integers");
  } else {
    if constexpr (std::same_as<Value, Stored>) {
      if (view.is_contiguous())
        return file.read(offset, std::as_writable_bytes(std::span(
                                     view.data(), static_cast<std::size_t>(view.size()))));
    }
    for_each_element(ElementReader<Stored, Value>(file, tensor, offset, view.size()), view);
  }
}

/// The number of elements of a shape from outside; −1 where it, or a part of it, is too large for
/// an Index.
inline Index checked_size(std::span<const Index> shape) {
  Index product = 1;
  bool empty = false;
  for (const Index extent : shape) {
    if (extent == 0) {
      empty = true;
    } else if (extent < 0 || product > std::numeric_limits<Index>::max() / extent) {
      return -1;
    } else {
      product *= extent;
    }
  }
  return empty ? 0 : product;
}

inline void require_same_shape(const std::string& file, const std::string& tensor,
                               std::span<const Index> shape, std::span<const Index> wanted,
                               bool has_memory) {
  if (!has_memory) throw CheckpointError(file, tensor, "has no memory to go to");
  if (!std::equal(shape.begin(), shape.end(), wanted.begin(), wanted.end()))
    throw CheckpointError(
        file, tensor, "is " + shape_text(shape) + " in the file, asked for " + shape_text(wanted));
}
template <class View>
void require_shape(const std::string& file, const std::string& tensor, std::span<const Index> shape,
                   const View& view) {
  require_same_shape(file, tensor, shape, view.extents().to_array(), view || view.size() == 0);
}

/// A tensor of the file's shape. Throws CheckpointError if the rank differs.
template <class T, int Rank>
DynamicTensor<T, Rank> tensor_of_shape(const std::string& file, const std::string& tensor,
                                       std::span<const Index> shape) {
  if (shape.size() != static_cast<std::size_t>(Rank))
    throw CheckpointError(
        file, tensor,
        "is " + shape_text(shape) + " in the file, asked for " + std::to_string(Rank) + " axes");
  std::array<Index, static_cast<std::size_t>(Rank)> extents{};
  for (std::size_t axis = 0; axis < extents.size(); ++axis) extents[axis] = shape[axis];
  return DynamicTensor<T, Rank>(
      std::apply([](auto... n) { return DynamicExtents<Rank>(n...); }, extents));
}

}  // namespace detail
}  // namespace ssm
