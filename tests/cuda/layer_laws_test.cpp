// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#ifndef SSM_TEST_CUDA
#define SSM_TEST_CUDA
#endif
#include "ssm/layer/h3.hpp"
#include "support/check_layer.hpp"

namespace {

using ssm::dyn;
using ssm::H3;
using ssm::H3Config;

using Dynamic = H3<H3Config{.state = dyn, .head_dim = dyn}>;

TEST_CASE("H3 obeys every law on the CUDA backend with one channel a head") {
  ssm::laws::check_every_law(Dynamic({.channels = 5, .state = 4, .head_dim = 1}));
}

TEST_CASE("H3 obeys every law on the CUDA backend with two channels a head") {
  ssm::laws::check_every_law(Dynamic({.channels = 6, .state = 4, .head_dim = 2}));
}

}  // namespace
