// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "ssm/train/schedule.hpp"
#include "ssm/train/synthetic_tasks.hpp"

namespace synthetics {

using ssm::Index;

/// How models are trained on a task; the defaults are the published ones for associative recall.
struct Settings {
  std::string task;  // "recall", "induction" or "mqar"
  Index vocabulary = 10;
  Index length = 20;
  Index pairs = 8;  // of mqar
  Index width = 32;
  Index training = 5000;  // sequences
  Index test = 500;
  std::uint64_t data_seed = 0;  // run s of a model has the sequences of seed data_seed + s
  Index batch = 32;
  Index epochs = 200;
  double rate = 5e-4;
  double weight_decay = 0.1;
  double dropout = 0.1;         // of the embedding
  double until = 2;             // a run ends when its test accuracy is this high
  std::string backend = "cpu";  // or "cuda"

  Index steps_per_epoch() const { return (training + batch - 1) / batch; }
  Index total_steps() const { return steps_per_epoch() * epochs; }
  /// A warm-up over a tenth of the epochs; then linearly to nothing (recall), or a cosine to a
  /// tenth (induction) or to nothing (mqar).
  ssm::Schedule schedule() const;
};

/// The data of a task, the least loss that a model can honestly have on it, and the accuracy of
/// guessing.
struct Data {
  ssm::TaskSplits splits;
  double loss_floor = 0;  // nats per token
  double chance = 0;
};
/// The sequences of the runs from one seed: every model sees the same ones.
/// Throws  ssm::ArgumentError  for sizes that make no task
Data make_data(const Settings& settings, std::uint64_t seed);

/// The mean training loss of an epoch in nats per token, and the share of test queries answered
/// right after it.
struct Epoch {
  double loss = 0;
  double accuracy = 0;
};

/// One model trained from one seed.
struct Run {
  std::string model;
  std::uint64_t seed = 0;
  Index width = 32;
  double seconds = 0;
  std::vector<Epoch> epochs{};

  /// Whether all epochs are made, or the accuracy that ends a run is reached.
  bool is_finished(const Settings& settings) const;
  /// The epoch with the highest accuracy, the first of equals; as the paper does, it is picked by
  /// the test sequences.
  std::size_t best_epoch() const;
};

/// How a training is followed, and what it goes on from.
struct Course {
  std::filesystem::path state;           // file of weights and moments
  Index epochs = 0;                      // that are behind that state; 0: it begins
  std::function<void(Epoch)> report;     // is told every epoch
  std::function<void()> before_keeping;  // is told that the state is to be written
  std::function<bool()> is_stop_wanted;  // is asked after every epoch
};
/// Metadata of the file of a state: the epochs that are behind it.
inline constexpr const char* epochs_of_state = "epochs";

/// Trains one model from one seed on one thread to the last epoch, or until a stop is wanted.
/// Throws  ssm::Error  if the loss stops being a number
using Train = void (*)(const Settings&, const Data&, std::uint64_t seed, const Course&);
void train_h3(const Settings&, const Data&, std::uint64_t, const Course&);
void train_hybrid(const Settings&, const Data&, std::uint64_t, const Course&);
void train_s4d(const Settings&, const Data&, std::uint64_t, const Course&);
void train_attention(const Settings&, const Data&, std::uint64_t, const Course&);
void train_gss(const Settings&, const Data&, std::uint64_t, const Course&);
void train_mamba(const Settings&, const Data&, std::uint64_t, const Course&);
void train_dense_mamba(const Settings&, const Data&, std::uint64_t, const Course&);
void train_retnet(const Settings&, const Data&, std::uint64_t, const Course&);

struct Model {
  std::string name;
  Train train;
  std::optional<double> published_recall;  // accuracy at the published sizes
  std::optional<double> published_induction;
  bool has_any_width = true;  // else 32
};
const std::vector<Model>& all_models();
/// Throws  ssm::ArgumentError  for an unknown name
const Model& model_named(const std::string& name);

/// Which runs there are to be, and where.
struct Plan {
  std::vector<std::string> models;
  std::vector<Index> widths{32};
  Index seeds = 3;
  Index jobs = 1;                // runs at a time; 0: none are made
  std::filesystem::path folder;  // of what runs have done, a folder each
};

/// Runs every model at every width from every seed, showing progress on standard error. Calls
/// `finished` after each run with all runs so far. Runs that are finished in the plan's folder are
/// not repeated, and those that were stopped go on. A signal stops all; then the runs that are
/// finished are returned.
/// Throws  ssm::Error  where the folder has runs with other settings
std::vector<Run> run_all(const Settings& settings, const Plan& plan,
                         const std::function<void(const std::vector<Run>&)>& finished);

}  // namespace synthetics
