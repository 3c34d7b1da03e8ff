// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

namespace ssm {

using Index = std::ptrdiff_t;

/// An extent that is known only at run time.
inline constexpr Index dyn = -1;

/// Base of everything the library throws.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// "[2, 65, *]": how a shape is written in messages; `dyn` prints as `*`.
inline std::string shape_text(std::span<const Index> extents) {
  std::string text = "[";
  for (std::size_t axis = 0; axis < extents.size(); ++axis) {
    if (axis > 0) text += ", ";
    text += extents[axis] == dyn ? std::string("*") : std::to_string(extents[axis]);
  }
  return text + "]";
}

/// Two extents that must agree do not.
struct ShapeError : Error {
  ShapeError(std::string_view op, std::string_view operand, std::span<const Index> expected,
             std::span<const Index> actual)
      : Error(std::string(op) + ": " + std::string(operand) + " must be " + shape_text(expected) +
              ", got " + shape_text(actual)) {}
  ShapeError(std::string_view op, std::string_view operand, std::string_view reason)
      : Error(std::string(op) + ": " + std::string(operand) + " " + std::string(reason)) {}
};

/// A value outside what a function is defined for: an empty text, a negative rate, an unknown name.
struct ArgumentError : Error {
  using Error::Error;
};

/// A library underneath refused: FFTW, cuBLAS, CUDA.
struct BackendError : Error {
  BackendError(std::string_view library, std::string_view call, long code)
      : Error(std::string(library) + ": " + std::string(call) + " failed with code " +
              std::to_string(code)) {}
};

/// An allocation of `bytes` in `space` failed.
struct OutOfMemory : Error {
  OutOfMemory(std::size_t bytes, std::string_view space)
      : Error("out of memory: " + std::to_string(bytes) + " bytes in " + std::string(space)) {}
};

/// A file from outside is damaged or does not fit; `tensor` may be empty.
struct CheckpointError : Error {
  CheckpointError(std::string_view file, std::string_view tensor, std::string_view reason)
      : Error(std::string(file) + ": " +
              (tensor.empty() ? std::string() : "tensor '" + std::string(tensor) + "': ") +
              std::string(reason)) {}
};

}  // namespace ssm
