// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "ssm/layer/gau_retention.hpp"
#include "support/check_layer.hpp"

namespace {

using ssm::GauRetention;
using ssm::GauRetentionConfig;

TEST_CASE("GauRetention obeys every law by itself, with sizes in the type") {
  ssm::laws::check_every_law(GauRetention<GauRetentionConfig{.channels = 5,
                                                             .query_key_dim = 4,
                                                             .value_dim = 6,
                                                             .heads = 2,
                                                             .k_hidden = 1,
                                                             .v_hidden = 2}>({.eps = 0.5}));
}

TEST_CASE("GauRetention obeys every law by itself, with sizes at run time") {
  ssm::laws::check_every_law(GauRetention<GauRetentionConfig{}>({.channels = 3,
                                                                 .query_key_dim = 2,
                                                                 .value_dim = 18,
                                                                 .heads = 1,
                                                                 .k_hidden = 2,
                                                                 .v_hidden = 1,
                                                                 .eps = 0.5}));
}

TEST_CASE("GauRetention that reads other layers' states obeys every law by itself") {
  ssm::laws::check_every_law(GauRetention<GauRetentionConfig{.channels = 5,
                                                             .query_key_dim = 4,
                                                             .value_dim = 6,
                                                             .heads = 2,
                                                             .k_hidden = 1,
                                                             .v_hidden = 2}>(
      {.eps = 0.5, .fusion = ssm::DenseFusion::readout}));
}

TEST_CASE("a wide GauRetention obeys the laws about threads and memory") {
  ssm::laws::check_laws_at_scale(GauRetention<GauRetentionConfig{}>({.channels = 96,
                                                                     .query_key_dim = 48,
                                                                     .value_dim = 192,
                                                                     .heads = 2,
                                                                     .k_hidden = 3,
                                                                     .v_hidden = 6,
                                                                     .eps = 0.5}));
}

}  // namespace
