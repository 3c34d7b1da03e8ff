// expect: S4D: state must be even
// SPDX-License-Identifier: Apache-2.0
#include <ssm/layer/s4d.hpp>

const ssm::S4D<ssm::S4DConfig{.channels = 4, .state = 7}> layer;
