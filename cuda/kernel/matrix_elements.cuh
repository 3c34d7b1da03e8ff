// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernel/parallel.cuh"

namespace ssm::cuda::device {

/// The elements of matrices of one shape, one index for each. Where no matrix has a gap between its
/// rows, rows and columns are one axis and nothing is divided; elsewhere 64-bit division is avoided
/// while 32 bits do.
struct MatrixElements {
  struct Position {
    Index row;
    Index column;
  };

  Index count;
  Index width;

  SSM_HOST_DEVICE Position at(Index i) const {
    if (i < width) return {0, i};
    if (count <= Index{0xffffffff}) {
      const auto index = static_cast<std::uint32_t>(i);
      const auto columns = static_cast<std::uint32_t>(width);
      return {index / columns, index % columns};
    }
    return {i / width, i % width};
  }
};

/// Elements whose row is wanted.
inline MatrixElements matrix_elements(Index rows, Index width) { return {rows * width, width}; }
/// Elements that only these matrices, null or [rows, width], are indexed with.
template <class First, class... Views>
MatrixElements matrix_elements(Index rows, Index width, const First& first, const Views&... views) {
  const auto has_no_gap = [width](const auto& view) {
    return !view || view.stride(0) == width * view.stride(1);
  };
  const bool flat = has_no_gap(first) && (has_no_gap(views) && ...);
  return {rows * width, flat ? rows * width : width};
}

}  // namespace ssm::cuda::device
