// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "ssm/one_set_of_flags.hpp"

namespace ssm {

/// Signed, for extents, strides, positions and counts.
using Index = std::ptrdiff_t;

/// An extent that is known only at run time.
inline constexpr Index dyn = -1;

/// A piece of a message: text or a number.
class MessagePart {
 public:
  MessagePart(std::string_view text) : text_(text) {}
  MessagePart(const char* text) : text_(text) {}
  MessagePart(const std::string& text) : text_(text) {}
  template <std::integral I>
  MessagePart(I number) : integer_(static_cast<std::int64_t>(number)), is_integer_(true) {}
  MessagePart(double number) : real_(number), is_real_(true) {}

  std::string text() const {
    if (is_integer_) return std::to_string(integer_);
    return is_real_ ? std::to_string(real_) : std::string(text_);
  }

 private:
  std::string_view text_;
  std::int64_t integer_ = 0;
  double real_ = 0;
  bool is_integer_ = false, is_real_ = false;
};

/// The parts, one behind the other. Compiled once, as messages are put together in many places.
[[gnu::cold, gnu::noinline]] inline std::string message(std::initializer_list<MessagePart> parts) {
  std::string all;
  for (const MessagePart& part : parts) all += part.text();
  return all;
}

/// Base of everything the library throws.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// "[2, 65, *]": how a shape is written in messages; `dyn` prints as `*`.
[[gnu::cold]] inline std::string shape_text(std::span<const Index> extents) {
  std::string text = "[";
  for (std::size_t axis = 0; axis < extents.size(); ++axis) {
    if (axis > 0) text += ", ";
    text += extents[axis] == dyn ? std::string("*") : std::to_string(extents[axis]);
  }
  return text + "]";
}

/// Two extents that must agree do not.
struct ShapeError : Error {
  [[gnu::cold]] ShapeError(std::string_view op, std::string_view operand,
                           std::span<const Index> expected, std::span<const Index> actual)
      : Error(message({op, ": ", operand, " must be ", shape_text(expected), ", got ",
                       shape_text(actual)})) {}
  [[gnu::cold]] ShapeError(std::string_view op, std::string_view operand, std::string_view reason)
      : Error(message({op, ": ", operand, " ", reason})) {}
};

/// A value outside what a function is defined for: an empty text, a negative rate, an unknown name.
struct ArgumentError : Error {
  using Error::Error;
};

/// A library underneath refused: FFTW, cuBLAS, CUDA.
struct BackendError : Error {
  [[gnu::cold]] BackendError(std::string_view library, std::string_view call, long code)
      : Error(message({library, ": ", call, " failed with code ", code})) {}
};

/// An allocation of `bytes` in `space` failed.
struct OutOfMemory : Error {
  [[gnu::cold]] OutOfMemory(std::size_t bytes, std::string_view space)
      : Error(message({"out of memory: ", bytes, " bytes in ", space})) {}
};

namespace detail {
// Messages are put together out of line: checks are inlined everywhere, what they say is not.
[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_size(int axis, Index fixed, Index got) {
  throw ShapeError(
      "extents", message({"axis ", axis}),
      message({"must be ", fixed == dyn ? std::string("a size") : std::to_string(fixed), ", got ",
               got}));
}
[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_axis(const char* op, int axis,
                                                               std::span<const Index> extents) {
  throw ShapeError(op, message({"axis ", axis}),
                   message({"does not exist in ", shape_text(extents)}));
}
[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_range(Index begin, Index end, int axis,
                                                                std::span<const Index> extents) {
  throw ShapeError("slice", message({"range [", begin, ", ", end, ")"}),
                   message({"is outside axis ", axis, " of ", shape_text(extents)}));
}
[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_index(Index index, int axis,
                                                                std::span<const Index> extents) {
  throw ShapeError("select", message({"index ", index}),
                   message({"is outside axis ", axis, " of ", shape_text(extents)}));
}
/// Whether the first axis runs fastest, without gaps.
inline bool is_column_major(std::span<const Index> extents, std::span<const Index> strides) {
  Index expected = 1;
  for (std::size_t axis = 0; axis < extents.size(); ++axis) {
    if (extents[axis] != 1 && strides[axis] != expected) return false;
    expected *= extents[axis];
  }
  return true;
}
[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_reshape(std::span<const Index> from,
                                                                  std::span<const Index> strides,
                                                                  bool is_contiguous,
                                                                  std::span<const Index> to) {
  std::string reason;
  if (is_contiguous)
    reason = "has another number of elements than " + shape_text(to);
  else if (!is_column_major(from, strides))
    reason = "has gaps or another order than row-major; ssm::clone copies it";
  else if (from.size() == 2)
    reason = "is column-major; .transpose(0, 1) of it is row-major, and ssm::clone copies it";
  else
    reason = "is column-major; .transpose changes its order, and ssm::clone copies it";
  throw ShapeError("reshape", message({"view of ", shape_text(from)}), reason);
}
[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_no_memory(
    std::span<const Index> extents) {
  throw ArgumentError(message({"borrow: no memory for a tensor of ", shape_text(extents)}));
}
[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_growth(Index capacity,
                                                                 std::span<const Index> extents) {
  throw ArgumentError(message(
      {"tensor: borrowed memory of ", capacity, " elements cannot grow to ", shape_text(extents)}));
}
[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_extents(std::string_view op,
                                                                  std::string_view operand,
                                                                  bool is_given,
                                                                  std::span<const Index> expected,
                                                                  std::span<const Index> actual) {
  if (!is_given) throw ShapeError(op, operand, "is missing");
  throw ShapeError(op, operand, expected, actual);
}
}  // namespace detail

/// A file from outside is damaged or does not fit; `tensor` may be empty.
struct CheckpointError : Error {
  [[gnu::cold]] CheckpointError(std::string_view file, std::string_view tensor,
                                std::string_view reason)
      : Error(message({file, ": ",
                       (tensor.empty() ? std::string() : "tensor '" + std::string(tensor) + "': "),
                       reason})) {}
};

}  // namespace ssm
