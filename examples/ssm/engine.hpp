// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/model/generate.hpp"
#include "ssm/train/language_model_trainer.hpp"
#include "ssm/train/text_loss.hpp"

namespace ssm::cli {

/// cuda_tf32: cuda with matrix products on tensor cores, their factors rounded to 10 bits.
enum class BackendKind { cpu, cuda, cuda_tf32, reference };

inline const std::vector<std::string> backend_names{"cpu", "cuda", "cuda-tf32", "reference"};

/// Throws  ArgumentError  for a name that no backend has
BackendKind backend_kind(std::string_view name);

/// Where a model runs.
struct Machine {
  BackendKind backend = BackendKind::cpu;
  int threads = 0;  // 0: all there are
};

/// A language model on some backend. The code of a model on a backend is compiled once, behind this.
class Engine {
 public:
  Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  virtual ~Engine() = default;

  virtual Index parameter_count() const = 0;
  virtual TextLoss loss(std::span<const Token> text, const TextLossOptions& options) = 0;
  /// [1, L, V] of one sequence from an empty state: at every position, what the model expects next.
  virtual DynamicTensor<float, 3> logits(std::span<const Token> tokens) = 0;
  /// Until the tokens end or `visit` says false.
  virtual void generate(std::span<const Token> prompt, const GenerateOptions& options,
                        const std::function<bool(Token)>& visit) = 0;

  /// Half the memory and half the traffic of a step; no training afterwards.
  virtual void keep_weights_in_bf16() = 0;

  virtual void start_training(const LanguageModelTrainerConfig& config) = 0;
  virtual TrainingStep update(const TextStreams& streams, double rate) = 0;
  virtual Index step() const = 0;
  /// config.json, model.safetensors, optimizer.safetensors and, where state is carried, state.safetensors.
  virtual void save(const std::filesystem::path& folder) const = 0;
  /// All of it but the model, which the engine was made with.
  virtual void load_training(const std::filesystem::path& folder) = 0;
};

/// How many threads a machine has when the user names none.
int thread_count(const Machine& machine);

}  // namespace ssm::cli
