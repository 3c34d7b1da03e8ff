// SPDX-License-Identifier: Apache-2.0
#include "training_report.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "progress.hpp"
#include "ssm/io/json_file.hpp"  // write_text_file
#include "ssm/train/evaluation.hpp"

namespace ssm::cli {

TrainingReport::TrainingReport(const std::filesystem::path& folder, Index resumed_step,
                               Index tokens_per_step, Index log_every, bool quiet,
                               double bytes_per_token)
    : folder_(folder),
      log_(folder / "metrics.jsonl", resumed_step),
      status_(quiet),
      tokens_per_step_(tokens_per_step),
      log_every_(log_every),
      bytes_per_token_(bytes_per_token) {
  for (const MetricsLog::Entry& entry : log_.entries()) {
    const auto restore = [&](const char* name, std::vector<PlotPoint>& curve) {
      if (entry.contains(name) && entry[name].is_number())
        curve.push_back({entry["step"].get<double>(), entry[name].get<double>()});
    };
    restore("loss", training_curve_);
    restore("held_out_loss", held_out_curve_);
  }
}

void TrainingReport::add(const TrainingMoment& moment, const TrainingStep& result) {
  smooth_loss_ = smooth_loss_ == 0 ? result.loss : 0.98 * smooth_loss_ + 0.02 * result.loss;
  loss_sum_ += result.loss;
  ++losses_;
  if (moment.step % log_every_ == 0) {
    speed_ = tokens_per_second();
    const double loss = loss_sum_ / static_cast<double>(losses_);
    log_.append({{"step", moment.step},
                 {"loss", loss},
                 {"rate", moment.rate},
                 {"gradient_norm", result.gradient_norm},
                 {"tokens", moment.step * tokens_per_step_},
                 {"tokens_per_second", std::round(speed_)},
                 {"seconds", moment.seconds}});
    training_curve_.push_back({static_cast<double>(moment.step), loss});
    loss_sum_ = 0;
    losses_ = 0;
    last_entry_ = Clock::now();
  }
  if (status_.is_due()) show(moment);
}

void TrainingReport::add(const TrainingMoment& moment, const TextLoss& held_out) {
  const bool has_bytes = bytes_per_token_ > 0;
  const double bits = bits_per_byte(held_out, has_bytes ? bytes_per_token_ : 1);
  if (!has_evaluation(moment.step, held_out.tokens)) {
    log_.append({{"step", moment.step},
                 {"held_out_loss", held_out.mean()},
                 {has_bytes ? "bits_per_byte" : "bits_per_token", bits},
                 {"held_out_tokens", held_out.tokens},
                 {"seconds", moment.seconds}});
    held_out_curve_.push_back({static_cast<double>(moment.step), held_out.mean()});
  }
  write_text_file(folder_ / "loss.svg",
                  LinePlot{.title = "loss in nats per token",
                           .x_label = "step",
                           .curves = {{"training", "#4878a8", training_curve_},
                                      {"held out", "#c0392b", held_out_curve_}}}
                      .svg());
  std::array<char, 160> line{};
  std::snprintf(line.data(), line.size(),
                "step %td  held-out loss %.4f, %.4f bits per %s (%td tokens)", moment.step,
                held_out.mean(), bits, has_bytes ? "byte" : "token", held_out.tokens);
  status_.say(line.data());
}

/// A run that was resumed at its end has its last evaluation already.
bool TrainingReport::has_evaluation(Index step, Index tokens) const {
  if (log_.entries().empty()) return false;
  const MetricsLog::Entry& last = log_.entries().back();
  return last["step"] == step && last.contains("held_out_tokens") &&
         last["held_out_tokens"] == tokens;
}

void TrainingReport::show(const TrainingMoment& moment) {
  if (speed_ == 0) speed_ = tokens_per_second();
  const double left =
      moment.total_steps == 0
          ? moment.seconds * (1 / std::max(moment.fraction, 1e-9) - 1)
          : static_cast<double>((moment.total_steps - moment.step) * tokens_per_step_) / speed_;
  status_.show(ProgressLine{.step = moment.step,
                            .total_steps = moment.total_steps,
                            .fraction = moment.fraction,
                            .loss = smooth_loss_,
                            .rate = moment.rate,
                            .tokens_per_second = speed_,
                            .seconds_left = left}
                   .text());
}

double TrainingReport::tokens_per_second() const {
  const double elapsed = std::chrono::duration<double>(Clock::now() - last_entry_).count();
  return static_cast<double>(losses_ * tokens_per_step_) / std::max(elapsed, 1e-9);
}

}  // namespace ssm::cli
