// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "experiment.hpp"

namespace synthetics {

/// What one run has done: its curve and, unless it is finished, the state that it goes on from.
class RunFolder {
 public:
  RunFolder(const std::filesystem::path& folder, const Run& run);

  std::filesystem::path state() const { return folder_ / "state.safetensors"; }
  std::filesystem::path curve() const { return folder_ / "curve.json"; }
  /// The curve of a run; it is written before the state.
  void write(const Settings& settings, const Run& run) const;
  /// The curve of a run that needs no state any more.
  void finish(const Settings& settings, const Run& run) const;

 private:
  std::filesystem::path folder_;
};

/// Gives a run the epochs that its folder has a curve of and, unless they are all, a state.
/// Throws  ssm::Error  if they were made with other settings
void resume(const Settings& settings, const RunFolder& folder, Run& run);

}  // namespace synthetics
