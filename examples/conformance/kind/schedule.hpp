// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../trial.hpp"
#include "ssm/train/schedule.hpp"

namespace ssm::conformance {

/// One entry of `config.schedules`, or `config.schedule` of a training case.
Schedule schedule_of(const JsonObject& options);

/// The same for every backend and scalar: rates are computed in double precision on the host.
void check_schedule(Trial& trial);

}  // namespace ssm::conformance
