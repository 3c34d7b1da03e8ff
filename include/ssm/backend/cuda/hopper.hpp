// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace ssm::cuda {

/// Work is split for so many multiprocessors, those of an H100 or H200. A constant, since how a sum
/// is split decides its bits: they are the same on devices that have more or fewer.
inline constexpr int hopper_multiprocessors = 132;

}  // namespace ssm::cuda
