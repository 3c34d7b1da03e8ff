// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/matmul.hpp"

namespace ssm::cuda::device {

/// The most rows of a block of products, and products of one kernel.
inline constexpr Index some_rows = 64;
inline constexpr std::size_t some_rows_products = 3;

/// How many of the first products matmul_some_rows makes at once: of at most some_rows rows of
/// floats, which they share, by weights kept in bf16. None where it cannot.
std::size_t count_some_rows(std::span<const ssm::Matmul<float, CudaSpace>> products);

/// Makes them in one kernel on Hopper's tensor cores, which reads the weights once. A number of a
/// row is the sum of three of bf16, whose products with the weights are exact; sums are in float.
/// rows_in_parts   [3, M, K]   aligned to 16
void matmul_some_rows(std::span<const ssm::Matmul<float, CudaSpace>> products,
                      const BFloat16* rows_in_parts, Stream stream);

}  // namespace ssm::cuda::device
