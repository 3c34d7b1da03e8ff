// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/layer/shift_ssm.hpp"
#include "ssm/model/bidirectional.hpp"
#include "support/layer_case.hpp"

namespace ssm::laws {

/// Layers that are not causal: they have no state, and the laws about streams do not hold. As
/// `every_layer`.
inline constexpr auto every_whole_sequence_layer = std::tuple(layer_case(
    {.name = "Bidirectional (no prefill, step or state)",
     .header = "ssm/model/bidirectional.hpp",
     .source = ""},
    [] { return Bidirectional<ShiftSsm<ShiftSsmConfig{.channels = 3, .state = 4}>>(); }));

}  // namespace ssm::laws
