// expect: deleted
// SPDX-License-Identifier: Apache-2.0
#include <ssm/core/view_of.hpp>
#include <vector>

std::vector<float> samples();
const auto view = ssm::view_of(samples());
