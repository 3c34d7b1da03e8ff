// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "ssm/layer/h3.hpp"
#include "support/check_layer.hpp"

namespace {

using ssm::Discretization;
using ssm::dyn;
using ssm::H3;
using ssm::H3Config;

/// Head widths only at run time, so that one type serves all of them.
using Dynamic = H3<H3Config{.state = dyn, .head_dim = dyn}>;

TEST_CASE("H3 obeys every law with sizes in the type") {
  ssm::laws::check_every_law(
      H3<H3Config{.channels = 4, .state = 4, .head_dim = 2}>({.dt_min = 0.05, .dt_max = 0.5}));
}

TEST_CASE("H3 obeys every law with one channel a head") {
  ssm::laws::check_every_law(Dynamic({.channels = 5, .state = 4, .head_dim = 1}));
}

TEST_CASE("H3 obeys every law with two channels a head, wider than any vector register") {
  ssm::laws::check_every_law(Dynamic({.channels = 38, .state = 2, .head_dim = 2}));
}

TEST_CASE("H3 obeys every law with four channels a head") {
  ssm::laws::check_every_law(Dynamic({.channels = 8, .state = 6, .head_dim = 4}));
}

TEST_CASE("a wide H3 obeys the laws about threads and memory") {
  ssm::laws::check_laws_at_scale(Dynamic({.channels = 192, .state = 16, .head_dim = 1}));
  ssm::laws::check_laws_at_scale(Dynamic({.channels = 64, .state = 8, .head_dim = 4}));
}

TEST_CASE("H3 obeys every law with zero-order hold") {
  ssm::laws::check_every_law(
      H3<H3Config{.channels = 3, .state = 4}>({.discretization = Discretization::zero_order_hold}));
}

}  // namespace
