// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "engine.hpp"
#include "ssm/io/json_file.hpp"
#include "ssm/io/optimizer_checkpoint.hpp"
#include "ssm/io/state_checkpoint.hpp"
#include "ssm/model/model.hpp"

namespace ssm::cli {

/// A language model of a family in single precision on backend B.
template <class B, class Family>
class EngineOn final : public Engine {
  using LanguageModel = typename Family::LanguageModel;
  using Config = typename Family::Config;
  using Space = typename B::Space;
  using P = typename LanguageModel::template Parameters<float, Space>;

 public:
  EngineOn(typename B::Resources resources, const Config& config, Seed seed)
      : ctx_(std::move(resources)), config_(config), model_(fresh(ctx_, config, seed)) {}
  EngineOn(typename B::Resources resources, const std::filesystem::path& folder)
      : ctx_(std::move(resources)),
        config_(Family::read_config(read_json(folder / "config.json"))),
        model_(Family::load(ctx_, folder)) {}

  Index parameter_count() const override { return ssm::parameter_count(model_.parameters); }

  TextLoss loss(std::span<const Token> text, const TextLossOptions& options) override {
    return text_loss(ctx_, model_.layer, model_.parameters, text, options);
  }

  DynamicTensor<float, 3> logits(std::span<const Token> tokens) override {
    const auto length = static_cast<Index>(tokens.size());
    DynamicTensor<Token, 2, Space> ids({1, length});
    Space::copy(ids.data(), tokens.data(), tokens.size_bytes());
    DynamicTensor<float, 3, Space> logits({1, length, model_.layer.padded_vocabulary()});
    model_.layer.forward(ctx_, model_.parameters, ids, logits);
    if constexpr (std::is_same_v<Space, HostSpace>) {
      return logits;
    } else {
      DynamicTensor<float, 3> on_host(logits.extents());
      Space::copy(on_host.data(), logits.data(),
                  static_cast<std::size_t>(logits.size()) * sizeof(float));
      return on_host;
    }
  }

  void generate(std::span<const Token> prompt, const GenerateOptions& options,
                const std::function<bool(Token)>& visit) override {
    for (const Token token : ssm::generate(ctx_, model_.layer, model_.parameters, prompt, options))
      if (!visit(token)) return;
  }

  void keep_weights_in_bf16() override { ssm::keep_weights_in_bf16(model_.parameters); }

  void start_training(const LanguageModelTrainerConfig& config) override {
    trainer_.emplace(ctx_, model_.layer, model_.parameters, config);
  }
  TrainingStep update(const TextStreams& streams, double rate) override {
    return trainer_->update(ctx_, model_.layer, model_.parameters, streams, rate);
  }
  Index step() const override { return trainer_->step(); }

  void save(const std::filesystem::path& folder) const override {
    Family::save(folder, config_, model_.parameters);
    save_optimizer(folder / "optimizer.safetensors", trainer_->optimizer());
    if (trainer_->states().empty()) return;
    SafetensorsWriter writer(folder / "state.safetensors");
    for_each_part([&](const std::string& prefix, std::size_t part) {
      save_state<LanguageModel>(writer, trainer_->states()[part], prefix);
    });
    writer.finish();
  }
  void load_training(const std::filesystem::path& folder) override {
    load_optimizer(folder / "optimizer.safetensors", trainer_->optimizer());
    if (trainer_->states().empty()) return;
    const SafetensorsFile file(folder / "state.safetensors");
    for_each_part([&](const std::string& prefix, std::size_t part) {
      load_state<LanguageModel>(file, trainer_->states()[part], prefix);
    });
  }

 private:
  /// visit("batch.0.", 0) for each batch of an update.
  template <class Visit>
  void for_each_part(Visit&& visit) const {
    for (std::size_t part = 0; part < trainer_->states().size(); ++part)
      visit("batch." + std::to_string(part) + ".", part);
  }
  static Model<P> fresh(Context<B>& ctx, const Config& config, Seed seed) {
    LanguageModel layer = Family::make(config);
    P parameters = layer.initialize(ctx, seed);
    return {std::move(layer), std::move(parameters)};
  }

  Context<B> ctx_;
  Config config_;
  Model<P> model_;
  std::optional<LanguageModelTrainer<P>> trainer_;
};

}  // namespace ssm::cli
