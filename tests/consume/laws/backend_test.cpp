// SPDX-License-Identifier: Apache-2.0
#include <ssm/backend/cpu.hpp>
#include <ssm/laws/doctest.hpp>
#include <ssm/ssm.hpp>

#include "own_primitive.hpp"

// [laws of the backend]
TEST_CASE("H3 and a language model of it obey every law on Mine") {
  ssm::laws::check_every_law<Mine>(ssm::H3<ssm::H3Config{.channels = 4, .state = 4}>());
  ssm::laws::check_every_law<Mine>(
      ssm::LanguageModel<ssm::Vocabulary{5}, ssm::Width{8}, ssm::H3Block>());
}
// [/laws of the backend]

TEST_CASE("the primitive that Mine replaces was called") { CHECK(Mine::calls > 0); }
