// SPDX-License-Identifier: Apache-2.0
#include "ssm/model/dense_stack.hpp"

#include <doctest/doctest.h>

#include <vector>

#include "ssm/backend/reference.hpp"
#include "ssm/layer/dense_mamba.hpp"
#include "ssm/layer/gau_retention.hpp"
#include "ssm/layer/norm.hpp"

namespace ssm::test {
namespace {

using Scan = DenseMamba<DenseMambaConfig{
    .mamba = {.channels = 4, .inner = 5, .state = 3, .conv_width = 2, .dt_rank = 2},
    .select_hidden = 2}>;
using DenseScans = DenseStack<RmsNorm<4>, Scan>;

DenseScans scans(Index sources, std::size_t layers, DenseFusion fusion = DenseFusion::readout) {
  return DenseScans({.sources = sources}, RmsNorm<4>(),
                    std::vector<Scan>(layers, Scan({.fusion = fusion})));
}

/// What the stack makes of a sequence when its layers may read `sources` earlier ones.
DynamicTensor<double, 3> output(Index sources) {
  Context<Reference> ctx;
  const auto stack = scans(sources, 4);
  const auto p = stack.initialize<double>(ctx, Seed{1});
  DynamicTensor<double, 3> x({1, 6, 4}), y({1, 6, 4});
  const Random random(Seed{2});
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal(static_cast<std::uint64_t>(i));
  stack.forward(ctx, p, x, y);
  return y;
}

TEST_CASE("every source changes what the later layers say") {
  std::vector<double> seen;
  for (Index sources = 0; sources <= 3; ++sources) {
    const double value = output(sources)(0, 5, 1);
    for (const double other : seen) CHECK(value != other);
    seen.push_back(value);
  }
  // Three earlier layers are all there are before the fourth.
  CHECK(output(8)(0, 5, 1) == seen.back());
}

TEST_CASE("a dense stack says what it cannot be") {
  CHECK_THROWS_AS(scans(2, 0), ArgumentError);
  CHECK_THROWS_AS(scans(-1, 2), ArgumentError);
  CHECK_THROWS_AS(scans(9, 2), ArgumentError);
  using Layer = GauRetention<GauRetentionConfig{}>;
  const Layer narrow({.channels = 3,
                      .query_key_dim = 2,
                      .value_dim = 4,
                      .heads = 1,
                      .k_hidden = 2,
                      .v_hidden = 2});
  CHECK_THROWS_WITH_AS((DenseStack<RmsNorm<>, Layer>({}, RmsNorm<>({.channels = 4}), {narrow})),
                       "DenseStack: a layer takes 3 channels, the norm gives 4", ArgumentError);
}

}  // namespace
}  // namespace ssm::test
