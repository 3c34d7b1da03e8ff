// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "ssm/layer/diagonal_ssm.hpp"
#include "support/check_layer.hpp"

namespace {

using ssm::DiagonalForm;
using ssm::DiagonalSsm;
using ssm::DiagonalSsmConfig;
using ssm::Discretization;
using ssm::dyn;

TEST_CASE("DiagonalSsm obeys every law with sizes in the type") {
  ssm::laws::check_every_law(
      DiagonalSsm<DiagonalSsmConfig{.channels = 3, .state = 4}>({.dt_min = 0.05, .dt_max = 0.5}));
}

TEST_CASE("DiagonalSsm obeys every law with zoh and sizes at run time, wider than any register") {
  ssm::laws::check_every_law(DiagonalSsm<DiagonalSsmConfig{.state = dyn}>(
      {.channels = 37, .state = 6, .discretization = Discretization::zero_order_hold}));
}

TEST_CASE("DiagonalSsm obeys every law with real modes, an odd number of them") {
  ssm::laws::check_every_law(
      DiagonalSsm<DiagonalSsmConfig{.channels = 2, .state = 3, .complex = false}>(
          {.discretization = Discretization::zero_order_hold}));
}

TEST_CASE("a wide DiagonalSsm obeys the laws about threads and memory, scanned and convolved") {
  ssm::laws::check_laws_at_scale(DiagonalSsm<DiagonalSsmConfig{.state = dyn}>(
      {.channels = 192, .state = 16, .discretization = Discretization::zero_order_hold}));
  ssm::laws::check_laws_at_scale(
      DiagonalSsm<DiagonalSsmConfig{.state = dyn, .form = DiagonalForm::convolution}>(
          {.channels = 192, .state = 16}));
}

TEST_CASE("DiagonalSsm obeys every law as a convolution") {
  ssm::laws::check_every_law(
      DiagonalSsm<DiagonalSsmConfig{.state = dyn, .form = DiagonalForm::convolution}>(
          {.channels = 5, .state = 4}));
}

TEST_CASE("DiagonalSsm obeys every law as a convolution with real modes") {
  ssm::laws::check_every_law(
      DiagonalSsm<DiagonalSsmConfig{
          .channels = 2, .state = 2, .complex = false, .form = DiagonalForm::convolution}>());
}

}  // namespace
