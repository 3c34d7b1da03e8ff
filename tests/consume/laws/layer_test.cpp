// SPDX-License-Identifier: Apache-2.0
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <cmath>
#include <ssm/backend/cpu.hpp>
#include <ssm/backend/reference.hpp>
#include <ssm/ssm.hpp>
#include <string>

#include "the_layer.hpp"

// [its laws]
#include <ssm/laws/doctest.hpp>

TEST_CASE("LeakySum obeys every law") {
  ssm::laws::check_every_law<ssm::Reference, ssm::Cpu>(LeakySum<5>());
}
// [/its laws]

// And as a part of a model.
TEST_CASE("a residual LeakySum obeys every law") {
  ssm::laws::check_every_law<ssm::Cpu>(ssm::Residual<ssm::RmsNorm<3>, LeakySum<3>>());
}
