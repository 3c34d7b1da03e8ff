// SPDX-License-Identifier: Apache-2.0
#include "kind/schedule.hpp"

namespace ssm::conformance {

Schedule schedule_of(const JsonObject& options) {
  return {.kind = schedule_kind(options.text("kind", "")),
          .base = number_in(options, "base"),
          .warmup_steps = options.integer_or("warmup_steps", 0, 0),
          .total_steps = options.integer("total_steps", 0),
          .end = number_in(options, "end", 0),
          .power = number_in(options, "power", 1),
          .cycles = number_in(options, "cycles", 0.5),
          .warmup_initial = number_in(options, "warmup_initial", 0),
          .minimum = number_in(options, "minimum", 0)};
}

void check_schedule(Trial& trial) {
  const Index steps = trial.size("steps");
  for (const JsonObject& options : objects_in(trial.config(), "schedules")) {
    const Schedule schedule = schedule_of(options);
    DynamicTensor<double, 1> rates({steps});
    for (Index step = 0; step < steps; ++step) rates(step) = schedule.rate(step);
    trial.compare("output/" + options.text("name", ""), rates, tolerance<double>.value);
  }
}

}  // namespace ssm::conformance
