// SPDX-License-Identifier: Apache-2.0
#include "progress.hpp"

#include <doctest/doctest.h>

#include <cmath>

namespace ssm::cli::test {
namespace {

TEST_CASE("durations are minutes and seconds, with hours where there are any") {
  CHECK(duration_text(0) == "0:00");
  CHECK(duration_text(59.4) == "0:59");
  CHECK(duration_text(59.6) == "1:00");
  CHECK(duration_text(3600 + 62) == "1:01:02");
  CHECK(duration_text(-5) == "0:00");
  CHECK(duration_text(std::nan("")) == "0:00");
  CHECK(duration_text(INFINITY) == "0:00");
}

TEST_CASE("quantities have three digits and a unit") {
  CHECK(quantity_text(0) == "0");
  CHECK(quantity_text(950) == "950");
  CHECK(quantity_text(999.7) == "1.00k");
  CHECK(quantity_text(38240) == "38.2k");
  CHECK(quantity_text(999600) == "1.00M");
  CHECK(quantity_text(1.04e6) == "1.04M");
  CHECK(quantity_text(123.4e6) == "123M");
}

TEST_CASE("a line says how far the run is, how well it goes, and how long it takes") {
  const ProgressLine line{.step = 120,
                          .total_steps = 400,
                          .loss = 1.73251,
                          .rate = 8.1e-4,
                          .tokens_per_second = 38240,
                          .seconds_left = 151};
  CHECK(line.text() == "step 120/400  loss 1.7325  rate 8.10e-04  38.2k tokens/s  ETA 2:31");
  const ProgressLine timed{.step = 7, .fraction = 0.25, .loss = 5, .seconds_left = 60};
  CHECK(timed.text() == "step 7 (25%)  loss 5.0000  rate 0.00e+00  0 tokens/s  ETA 1:00");
}

}  // namespace
}  // namespace ssm::cli::test
