// expect: DiagonalSsm: state must be even
// SPDX-License-Identifier: Apache-2.0
#include <ssm/layer/diagonal_ssm.hpp>

const ssm::DiagonalSsm<ssm::DiagonalSsmConfig{.channels = 4, .state = 7}> layer;
