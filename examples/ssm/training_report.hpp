// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "line_plot.hpp"
#include "metrics_log.hpp"
#include "ssm/language_model/training_run.hpp"  // TrainingMoment
#include "ssm/train/text_loss.hpp"
#include "status_line.hpp"

namespace ssm::cli {

/// metrics.jsonl, loss.svg and what standard error shows of a training run.
class TrainingReport {
 public:
  /// Entries of the folder's metrics after `resumed_step` are dropped. Without `bytes_per_token`,
  /// 0, bits are per token.
  TrainingReport(const std::filesystem::path& folder, Index resumed_step, Index tokens_per_step,
                 Index log_every, bool quiet, double bytes_per_token = 1);

  void say(const std::string& line) { status_.say(line); }
  /// Says that the first step is under way, which takes a large model a while.
  void begin() { status_.hint("the first step is under way"); }
  void add(const TrainingMoment& moment, const TrainingStep& result);
  /// Writes the curve, too.
  void add(const TrainingMoment& moment, const TextLoss& held_out);

 private:
  using Clock = std::chrono::steady_clock;

  bool has_evaluation(Index step, Index tokens) const;
  void show(const TrainingMoment& moment);
  double tokens_per_second() const;

  std::filesystem::path folder_;
  MetricsLog log_;
  StatusLine status_;
  Index tokens_per_step_;
  Index log_every_;
  double bytes_per_token_;
  std::vector<PlotPoint> training_curve_, held_out_curve_;
  double smooth_loss_ = 0;
  double loss_sum_ = 0;  // since the last entry
  Index losses_ = 0;
  double speed_ = 0;  // tokens per second, at the last entry
  Clock::time_point last_entry_ = Clock::now();
};

}  // namespace ssm::cli
