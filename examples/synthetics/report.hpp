// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "experiment.hpp"

namespace synthetics {

/// A table of best and final accuracies with the published ones, for a terminal.
std::string table(const Settings& settings, const Data& data, const std::vector<Run>& runs);

/// Everything that a run follows from, beside its model, width and seed.
nlohmann::ordered_json settings_json(const Settings& settings);

/// Settings and every epoch of every run.
std::string json(const Settings& settings, const Data& data, const std::vector<Run>& runs);

/// Test accuracy over epochs as one self-contained SVG, a line for each run, a color for each
/// model.
std::string plot(const Settings& settings, const Data& data, const std::vector<Run>& runs);

}  // namespace synthetics
