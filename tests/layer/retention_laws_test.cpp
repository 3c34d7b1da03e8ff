// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "ssm/layer/retention.hpp"
#include "support/check_layer.hpp"

namespace {

using ssm::Retention;
using ssm::RetentionConfig;
using Dynamic = Retention<RetentionConfig{}>;

TEST_CASE("Retention obeys every law with sizes in the type") {
  ssm::laws::check_every_law(
      Retention<RetentionConfig{.channels = 4, .value_dim = 6, .heads = 2}>({.eps = 0.5}));
}

TEST_CASE("Retention obeys every law with one pair of channels a head, and GELU as its gate") {
  ssm::laws::check_every_law(Dynamic({.channels = 6,
                                      .value_dim = 6,
                                      .heads = 3,
                                      .gate = ssm::ActivationKind::gelu_tanh,
                                      .eps = 0.5}));
}

TEST_CASE("Retention obeys every law with a weight behind the head norm") {
  ssm::laws::check_every_law(Retention<RetentionConfig{.head_weight = true}>(
      {.channels = 4, .value_dim = 20, .heads = 1, .eps = 0.5}));
}

TEST_CASE("a wide Retention obeys the laws about threads and memory") {
  ssm::laws::check_laws_at_scale(
      Dynamic({.channels = 192, .value_dim = 288, .heads = 3, .eps = 0.5}));
}

}  // namespace
