// expect: H3: state must be even
// SPDX-License-Identifier: Apache-2.0
#include <ssm/layer/h3.hpp>

const ssm::H3<ssm::H3Config{.channels = 4, .state = 7}> layer;
