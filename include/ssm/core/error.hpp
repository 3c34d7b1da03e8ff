// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

namespace ssm {

/// Signed, for extents, strides, positions and counts.
using Index = std::ptrdiff_t;

/// An extent that is known only at run time.
inline constexpr Index dyn = -1;

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
      : Error(std::string(op) + ": " + std::string(operand) + " must be " + shape_text(expected) +
              ", got " + shape_text(actual)) {}
  [[gnu::cold]] ShapeError(std::string_view op, std::string_view operand, std::string_view reason)
      : Error(std::string(op) + ": " + std::string(operand) + " " + std::string(reason)) {}
};

/// A value outside what a function is defined for: an empty text, a negative rate, an unknown name.
struct ArgumentError : Error {
  using Error::Error;
};

/// A library underneath refused: FFTW, cuBLAS, CUDA.
struct BackendError : Error {
  [[gnu::cold]] BackendError(std::string_view library, std::string_view call, long code)
      : Error(std::string(library) + ": " + std::string(call) + " failed with code " +
              std::to_string(code)) {}
};

/// An allocation of `bytes` in `space` failed.
struct OutOfMemory : Error {
  [[gnu::cold]] OutOfMemory(std::size_t bytes, std::string_view space)
      : Error("out of memory: " + std::to_string(bytes) + " bytes in " + std::string(space)) {}
};

namespace detail {
// Messages are put together out of line: checks are inlined everywhere, what they say is not.
[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_size(int axis, Index fixed, Index got) {
  throw ShapeError("extents", "axis " + std::to_string(axis),
                   "must be " + (fixed == dyn ? std::string("a size") : std::to_string(fixed)) +
                       ", got " + std::to_string(got));
}
[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_axis(const char* op, int axis,
                                                               std::span<const Index> extents) {
  throw ShapeError(op, "axis " + std::to_string(axis), "does not exist in " + shape_text(extents));
}
[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_range(Index begin, Index end, int axis,
                                                                std::span<const Index> extents) {
  throw ShapeError("slice", "range [" + std::to_string(begin) + ", " + std::to_string(end) + ")",
                   "is outside axis " + std::to_string(axis) + " of " + shape_text(extents));
}
[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_index(Index index, int axis,
                                                                std::span<const Index> extents) {
  throw ShapeError("select", "index " + std::to_string(index),
                   "is outside axis " + std::to_string(axis) + " of " + shape_text(extents));
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
  throw ShapeError("reshape", "view of " + shape_text(from), reason);
}
[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_no_memory(
    std::span<const Index> extents) {
  throw ArgumentError("borrow: no memory for a tensor of " + shape_text(extents));
}
[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_growth(Index capacity,
                                                                 std::span<const Index> extents) {
  throw ArgumentError("tensor: borrowed memory of " + std::to_string(capacity) +
                      " elements cannot grow to " + shape_text(extents));
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
      : Error(std::string(file) + ": " +
              (tensor.empty() ? std::string() : "tensor '" + std::string(tensor) + "': ") +
              std::string(reason)) {}
};

}  // namespace ssm
