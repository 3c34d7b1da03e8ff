// expect: GatedStateSpace: state must be even
// SPDX-License-Identifier: Apache-2.0
#include <ssm/layer/gated_state_space.hpp>

const ssm::GatedStateSpace<ssm::GatedStateSpaceConfig{
    .channels = 4, .gate_channels = 4, .state_channels = 2, .state = 7}>
    layer;
