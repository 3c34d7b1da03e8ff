// SPDX-License-Identifier: Apache-2.0
#include "ssm/train/schedule.hpp"

#include <doctest/doctest.h>

#include <cmath>

#include "ssm/core/scalar.hpp"  // tolerance

namespace ssm::test {
namespace {

bool close(double x, double y) { return std::abs(x - y) <= tolerance<double>.value; }

TEST_CASE("before the warm-up ends the rate rises in a straight line from zero") {
  for (const auto kind : {ScheduleKind::constant, ScheduleKind::linear, ScheduleKind::polynomial,
                          ScheduleKind::cosine}) {
    const Schedule schedule{.kind = kind, .base = 0.8, .warmup_steps = 4, .total_steps = 12};
    CHECK(schedule.rate(0) == 0);
    CHECK(close(schedule.rate(1), 0.2));
    CHECK(close(schedule.rate(3), 0.6));
    CHECK(close(schedule.rate(4), 0.8));
  }
}

TEST_CASE("a constant schedule stays at its base for ever") {
  const Schedule schedule{.kind = ScheduleKind::constant, .base = 0.3, .total_steps = 5};
  CHECK(schedule.rate(0) == 0.3);
  CHECK(schedule.rate(1000) == 0.3);
}

TEST_CASE("a linear schedule reaches zero at the total and stays there") {
  const Schedule schedule{
      .kind = ScheduleKind::linear, .base = 0.8, .warmup_steps = 4, .total_steps = 12};
  CHECK(close(schedule.rate(6), 0.6));
  CHECK(close(schedule.rate(8), 0.4));
  CHECK(schedule.rate(12) == 0);
  CHECK(schedule.rate(13) == 0);
}

TEST_CASE("a polynomial schedule falls to its end with its power") {
  const Schedule schedule{
      .kind = ScheduleKind::polynomial, .base = 1.1, .total_steps = 10, .end = 0.1, .power = 2};
  CHECK(close(schedule.rate(5), 0.35));  // 1·(1/2)² + 0.1
  CHECK(close(schedule.rate(10), 0.1));
  CHECK(close(schedule.rate(99), 0.1));
}

TEST_CASE("a cosine schedule is at half its base half way") {
  const Schedule schedule{
      .kind = ScheduleKind::cosine, .base = 0.8, .warmup_steps = 10, .total_steps = 110};
  CHECK(close(schedule.rate(10), 0.8));
  CHECK(close(schedule.rate(60), 0.4));
  CHECK(close(schedule.rate(35), 0.4 * (1 + std::sqrt(0.5))));
  CHECK(close(schedule.rate(110), 0));
}

TEST_CASE("linear and cosine schedules end at a rate that is asked for") {
  Schedule schedule{.kind = ScheduleKind::linear, .base = 0.8, .total_steps = 10, .end = 0.2};
  CHECK(close(schedule.rate(0), 0.8));
  CHECK(close(schedule.rate(5), 0.5));
  CHECK(close(schedule.rate(10), 0.2));
  CHECK(close(schedule.rate(99), 0.2));
  schedule.kind = ScheduleKind::cosine;
  CHECK(close(schedule.rate(0), 0.8));
  CHECK(close(schedule.rate(5), 0.5));
  CHECK(close(schedule.rate(10), 0.2));
}

TEST_CASE("timm's cosine counts from the very start and ends at its minimum") {
  const Schedule schedule{.kind = ScheduleKind::cosine_timm,
                          .base = 1,
                          .warmup_steps = 10,
                          .total_steps = 100,
                          .warmup_initial = 0.5,
                          .minimum = 0.2};
  CHECK(close(schedule.rate(0), 0.5));
  CHECK(close(schedule.rate(5), 0.75));
  CHECK(close(schedule.rate(50), 0.6));
  CHECK(schedule.rate(100) == 0.2);
  CHECK(schedule.rate(1000) == 0.2);
}

TEST_CASE("a warm-up as long as the run never divides by zero") {
  const Schedule schedule{
      .kind = ScheduleKind::cosine, .base = 1, .warmup_steps = 4, .total_steps = 4};
  CHECK(std::isfinite(schedule.rate(4)));
}

TEST_CASE("a schedule is found by its name and an unknown name is refused") {
  CHECK(schedule_kind("polynomial") == ScheduleKind::polynomial);
  CHECK(schedule_kind("cosine_timm") == ScheduleKind::cosine_timm);
  CHECK_THROWS_AS(schedule_kind("step"), ArgumentError);
}

}  // namespace
}  // namespace ssm::test
