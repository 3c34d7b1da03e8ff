// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "ssm/core/transfer.hpp"
#include "ssm/io/optimizer_checkpoint.hpp"
#include "ssm/io/state_checkpoint.hpp"
#include "ssm/train/language_model_trainer.hpp"

namespace ssm::detail {

/// visit("batch.0.", 0) for each batch of an update whose state is carried.
template <class P, class T, class Visit>
void for_each_carried_state(const LanguageModelTrainer<P, T>& trainer, Visit&& visit) {
  for (std::size_t microbatch = 0; microbatch < trainer.states().size(); ++microbatch)
    visit("batch." + std::to_string(microbatch) + ".", microbatch);
}

/// Writes what training needs beside the model: optimizer.safetensors and, where state is carried,
/// state.safetensors. Where several ranks train together all of them call it, the first writes, and
/// what it writes is the same for any number of ranks.
template <class P, class T>
void save_training(const std::filesystem::path& folder, const typename P::Layer& layer,
                   const LanguageModelTrainer<P, T>& trainer) {
  using L = typename P::Layer;
  constexpr bool on_host = P::Space::host_readable;
  using HostState = StateOf<typename L::template Parameters<T>>;
  std::vector<HostState> gathered;
  if (trainer.ranks().all() != nullptr)
    for (const auto& own : trainer.states()) {
      gathered.push_back(
          layer.template initial_state<T>(Context<HostMemory>(), trainer.config().batch));
      gather_state<L>(trainer.ranks(), trainer.config().batch, own, gathered.back());
    }
  if (trainer.ranks().is_first() || trainer.optimizer().shard())
    save_optimizer(folder / "optimizer.safetensors", layer, trainer.optimizer());
  if (!trainer.ranks().is_first()) return;
  if (trainer.states().empty()) return;
  SafetensorsWriter writer(folder / "state.safetensors");  // borrows tensors until it has finished
  std::vector<typename L::template State<T>> copies;
  copies.reserve(trainer.states().size());
  for_each_carried_state(trainer, [&](const std::string& prefix, std::size_t microbatch) {
    if (!gathered.empty()) {
      save_state<L>(writer, gathered[microbatch], prefix);
    } else if constexpr (on_host) {
      save_state<L>(writer, trainer.states()[microbatch], prefix);
    } else {
      copies.push_back(
          layer.template initial_state<T>(Context<HostMemory>(), trainer.config().batch));
      copy_state_between<L>(trainer.states()[microbatch], copies.back());
      save_state<L>(writer, copies.back(), prefix);
    }
  });
  writer.finish();
}

/// Reads what `save_training` wrote, into a trainer of the same settings.
/// Throws  CheckpointError  if a file is damaged or of another model
template <class P, class T>
void load_training(const std::filesystem::path& folder, const typename P::Layer& layer,
                   LanguageModelTrainer<P, T>& trainer) {
  using L = typename P::Layer;
  constexpr bool on_host = P::Space::host_readable;
  load_optimizer(folder / "optimizer.safetensors", layer, trainer.optimizer());
  if (trainer.states().empty()) return;
  const SafetensorsFile file(folder / "state.safetensors");
  for_each_carried_state(trainer, [&](const std::string& prefix, std::size_t microbatch) {
    if (trainer.ranks().all() != nullptr) {
      auto all = layer.template initial_state<T>(Context<HostMemory>(), trainer.config().batch);
      load_state<L>(file, all, prefix);
      take_rows<L>(trainer.ranks(), trainer.config().batch, all, trainer.states()[microbatch]);
    } else if constexpr (on_host) {
      load_state<L>(file, trainer.states()[microbatch], prefix);
    } else {
      auto copy = layer.template initial_state<T>(Context<HostMemory>(), trainer.config().batch);
      load_state<L>(file, copy, prefix);
      copy_state_between<L>(copy, trainer.states()[microbatch]);
    }
  });
}

}  // namespace ssm::detail
