// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "experiment.hpp"

namespace synthetics {

/// A table of best and final accuracies with the published ones, for a terminal.
std::string table(const Settings& settings, const Data& data, const std::vector<Run>& runs);

/// Settings and every epoch of every run.
std::string json(const Settings& settings, const Data& data, const std::vector<Run>& runs);

/// Test accuracy over epochs as one self-contained SVG, a line for each run, a color for each
/// model.
std::string plot(const Settings& settings, const Data& data, const std::vector<Run>& runs);

}  // namespace synthetics
