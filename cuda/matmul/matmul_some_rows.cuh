// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "ssm/backend/cuda/on_device.hpp"
#include "ssm/op/matmul.hpp"

namespace ssm::cuda::device {

/// The most rows of a block of products, and products of one kernel.
inline constexpr Index some_rows = 64;
inline constexpr std::size_t some_rows_products = 3;

/// Products of at most some_rows rows of floats by weights kept in bf16, the first of `products`
/// that read one a, in one kernel on Hopper's tensor cores: a number of a row is the sum of three
/// of bf16, whose products with the weights are exact; sums are in float. Weights are read once.
/// Returns how many it made: none where it cannot.
std::size_t matmul_some_rows(std::span<const ssm::Matmul<float, CudaSpace>> products,
                             Stream stream);

}  // namespace ssm::cuda::device
