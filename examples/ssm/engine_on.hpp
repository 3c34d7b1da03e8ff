// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "engine.hpp"
#include "ssm/io/h3_checkpoint.hpp"
#include "ssm/io/optimizer_checkpoint.hpp"
#include "ssm/io/state_checkpoint.hpp"

namespace ssm::cli {

/// An H3 language model in single precision on backend B.
template <class B>
class EngineOn final : public Engine {
  using P = H3LanguageModel::Parameters<float, typename B::Space>;

 public:
  EngineOn(typename B::Resources resources, const H3LanguageModelConfig& config, Seed seed)
      : ctx_(std::move(resources)), config_(config), model_(fresh(ctx_, config, seed)) {}
  EngineOn(typename B::Resources resources, const std::filesystem::path& folder)
      : ctx_(std::move(resources)),
        config_(read_h3_config(folder / "config.json")),
        model_(load_h3(ctx_, folder)) {}

  Index parameter_count() const override { return ssm::parameter_count(model_.parameters); }

  TextLoss loss(std::span<const Token> text, const TextLossOptions& options) override {
    return text_loss(ctx_, model_.layer, model_.parameters, text, options);
  }

  void generate(std::span<const Token> prompt, const GenerateOptions& options,
                const std::function<bool(Token)>& visit) override {
    for (const Token token : ssm::generate(ctx_, model_.layer, model_.parameters, prompt, options))
      if (!visit(token)) return;
  }

  void start_training(const LanguageModelTrainerConfig& config) override {
    trainer_.emplace(ctx_, model_.layer, model_.parameters, config);
  }
  TrainingStep update(const TextStreams& streams, double rate) override {
    return trainer_->update(ctx_, model_.layer, model_.parameters, streams, rate);
  }
  Index step() const override { return trainer_->step(); }

  void save(const std::filesystem::path& folder) const override {
    save_h3(folder, config_, model_.parameters);
    save_optimizer(folder / "optimizer.safetensors", trainer_->optimizer());
    if (trainer_->states().empty()) return;
    SafetensorsWriter writer(folder / "state.safetensors");
    for_each_part([&](const std::string& prefix, std::size_t part) {
      save_state<H3LanguageModel>(writer, trainer_->states()[part], prefix);
    });
    writer.finish();
  }
  void load_training(const std::filesystem::path& folder) override {
    load_optimizer(folder / "optimizer.safetensors", trainer_->optimizer());
    if (trainer_->states().empty()) return;
    const SafetensorsFile file(folder / "state.safetensors");
    for_each_part([&](const std::string& prefix, std::size_t part) {
      load_state<H3LanguageModel>(file, trainer_->states()[part], prefix);
    });
  }

 private:
  /// visit("batch.0.", 0) for each batch of an update.
  template <class Visit>
  void for_each_part(Visit&& visit) const {
    for (std::size_t part = 0; part < trainer_->states().size(); ++part)
      visit("batch." + std::to_string(part) + ".", part);
  }
  static Model<P> fresh(Context<B>& ctx, const H3LanguageModelConfig& config, Seed seed) {
    H3LanguageModel layer = make_language_model(config);
    P parameters = layer.initialize(ctx, seed);
    return {std::move(layer), std::move(parameters)};
  }

  Context<B> ctx_;
  H3LanguageModelConfig config_;
  Model<P> model_;
  std::optional<LanguageModelTrainer<P>> trainer_;
};

}  // namespace ssm::cli
