// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdlib>

namespace ssm::cuda::device {

/// How many lanes of a warp arrive at a barrier in shared memory when the warp has read what is to
/// be written over. One is enough: the others' reads come before it, by a barrier of the group or
/// an instruction of the whole warp. compute-sanitizer's racecheck follows no order from lane to
/// lane: where SSM_RACECHECK is set in the environment all 32 arrive.
inline int arriving_lanes() {
  static const int lanes = std::getenv("SSM_RACECHECK") != nullptr ? 32 : 1;
  return lanes;
}

}  // namespace ssm::cuda::device
