// SPDX-License-Identifier: Apache-2.0
#include <ssm/backend/cpu.hpp>
#include <ssm/backend/reference.hpp>
#include <ssm/laws/doctest.hpp>
#include <ssm/ssm.hpp>
#include <string>

#include "operands.hpp"
//
#include "backend.hpp"
//
#include "layer.hpp"

// [laws of the layer]
// A backend of one's own with a kernel of one's own.
struct Fast : ssm::Cpu, mine::RunningSumLoops {};

TEST_CASE("Accumulate obeys every law") {
  ssm::laws::check_every_law_against<mine::Reference, mine::Reference, Fast>(mine::Accumulate(5));
}
// [/laws of the layer]

TEST_CASE("a stack of residual Accumulates obeys every law") {
  using Block = ssm::Residual<ssm::LayerNorm<3>, mine::Accumulate>;
  const Block block(ssm::LayerNorm<3>(), mine::Accumulate(3));
  ssm::laws::check_every_law_against<mine::Reference, Fast>(ssm::Stack<Block>({block, block}));
}
