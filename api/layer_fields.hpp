// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>
#include <string_view>

#include "options.hpp"
#include "ssm/layer/dense_fusion.hpp"
#include "ssm/layer/diagonal_initialization.hpp"
#include "ssm/layer/mamba_sizes.hpp"
#include "ssm/layer/retention_heads.hpp"
#include "ssm/op/discretization.hpp"

// Fields that several kinds of layers have.
namespace ssm::api {

inline constexpr double any_number = std::numeric_limits<double>::max();

/// A size that must be there.
inline Index needed_size(const JsonObject& config, std::string_view field) {
  return static_cast<Index>(config.integer(field, 1));
}

inline Discretization discretization_of(const JsonObject& config, std::string_view otherwise) {
  return word_option<Discretization>(
      config, "discretization", otherwise,
      {{"bilinear", Discretization::bilinear}, {"zoh", Discretization::zero_order_hold}});
}
inline DiagonalMeasure measure_of(const JsonObject& config, std::string_view otherwise) {
  return word_option<DiagonalMeasure>(config, "measure", otherwise,
                                      {{"lin", DiagonalMeasure::lin},
                                       {"inv", DiagonalMeasure::inv},
                                       {"inv2", DiagonalMeasure::inv2},
                                       {"quad", DiagonalMeasure::quad},
                                       {"legs", DiagonalMeasure::legs},
                                       {"real", DiagonalMeasure::real},
                                       {"random", DiagonalMeasure::random}});
}
inline RetentionForm form_of(const JsonObject& config) {
  return word_option<RetentionForm>(
      config, "form", "recurrent",
      {{"recurrent", RetentionForm::recurrent}, {"parallel", RetentionForm::parallel}});
}
inline DenseFusion fusion_of(const JsonObject& config, std::string_view otherwise) {
  return word_option<DenseFusion>(
      config, "fusion", otherwise,
      {{"readout", DenseFusion::readout}, {"carried", DenseFusion::carried}});
}
/// What the fields of a Mamba say; see `mamba_kind`.
inline MambaOptions mamba_options(const JsonObject& config) {
  return {.channels = needed_size(config, "channels"),
          .inner = size_option(config, "inner"),
          .expand = size_option(config, "expand"),
          .state = size_option(config, "state"),
          .conv_width = size_option(config, "conv_width"),
          .dt_rank = size_option(config, "dt_rank"),
          .conv_bias = config.boolean("conv_bias", true),
          .bias = config.boolean("bias", false),
          .dt_min = config.number("dt_min", 0.001, 0, any_number),
          .dt_max = config.number("dt_max", 0.1, 0, any_number),
          .dt_floor = config.number("dt_floor", 1e-4, 0, any_number)};
}

}  // namespace ssm::api
