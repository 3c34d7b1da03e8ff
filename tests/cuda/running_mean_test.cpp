// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#ifndef SSM_TEST_CUDA
#define SSM_TEST_CUDA
#endif
#include "ssm/layer/mean_pool.hpp"
#include "support/check_layer.hpp"

namespace {

TEST_CASE("MeanPool obeys every law on the CUDA backend") {
  ssm::laws::check_layer(ssm::MeanPool<ssm::MeanPoolConfig{}>({.channels = 5}));
}

}  // namespace
