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
        model_(load(ctx_, folder)) {}

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
    DynamicTensor<float, 3> on_host;
    copy_tensor(logits, on_host);
    return on_host;
  }

  void generate(std::span<const Token> prompt, const GenerateOptions& options,
                const std::function<bool(Token)>& visit) override {
    for (const Token token : ssm::generate(ctx_, model_.layer, model_.parameters, prompt, options))
      if (!visit(token)) return;
  }

  void keep_weights_in_bf16() override {
    if constexpr (Space::host_readable) {
      ssm::keep_weights_in_bf16(model_.parameters);
    } else {
      auto on_host = copy_to(host_, model_.layer, model_.parameters);
      ssm::keep_weights_in_bf16(on_host);
      copy_parameters(on_host, model_.parameters);
    }
  }

  void start_training(const LanguageModelTrainerConfig& config) override {
    trainer_.emplace(ctx_, model_.layer, model_.parameters, config);
  }
  TrainingStep update(const TextStreams& streams, double rate) override {
    return trainer_->update(ctx_, model_.layer, model_.parameters, streams, rate);
  }
  Index step() const override { return trainer_->step(); }

  void save(const std::filesystem::path& folder) const override {
    const auto& optimizer = trainer_->optimizer();
    const std::filesystem::path moments = folder / "optimizer.safetensors";
    if constexpr (Space::host_readable) {
      Family::save(folder, config_, model_.parameters);
      save_optimizer(moments, optimizer);
    } else {
      Family::save(folder, config_, copy_to(host_, model_.layer, model_.parameters));
      save_optimizer(moments, OptimizerOnHost(model_.layer, optimizer));
    }
    save_states(folder / "state.safetensors");
  }
  void load_training(const std::filesystem::path& folder) override {
    auto& optimizer = trainer_->optimizer();
    const std::filesystem::path moments = folder / "optimizer.safetensors";
    if constexpr (Space::host_readable) {
      load_optimizer(moments, optimizer);
    } else {
      OptimizerOnHost on_host(model_.layer, optimizer);
      load_optimizer(moments, on_host);
      copy_parameters(on_host.first_moment(), optimizer.first_moment());
      copy_parameters(on_host.second_moment(), optimizer.second_moment());
      optimizer.set_step(on_host.step());
    }
    load_states(folder / "state.safetensors");
  }

 private:
  using State = StateOf<P>;
  using HostState = typename LanguageModel::template State<float>;
  using HostParameters = typename LanguageModel::template Parameters<float>;

  /// What files are written from and read into, where the optimizer lives on a device.
  class OptimizerOnHost {
   public:
    OptimizerOnHost(const LanguageModel& layer, const AdamW<P>& optimizer)
        : first_(copy_to(Context<HostMemory>(), layer, optimizer.first_moment())),
          second_(copy_to(Context<HostMemory>(), layer, optimizer.second_moment())),
          step_(optimizer.step()) {}
    HostParameters& first_moment() { return first_; }
    HostParameters& second_moment() { return second_; }
    const HostParameters& first_moment() const { return first_; }
    const HostParameters& second_moment() const { return second_; }
    Index step() const { return step_; }
    void set_step(Index step) { step_ = step; }

   private:
    HostParameters first_, second_;
    Index step_;
  };

  void save_states(const std::filesystem::path& file) const {
    const std::vector<State>& states = trainer_->states();
    if (states.empty()) return;
    SafetensorsWriter writer(file);  // borrows tensors until it has finished
    std::vector<HostState> on_host(states.size());
    for_each_part([&](const std::string& prefix, std::size_t part) {
      if constexpr (Space::host_readable) {
        save_state<LanguageModel>(writer, states[part], prefix);
      } else {
        on_host[part] = host_state();
        copy_state_between<LanguageModel>(states[part], on_host[part]);
        save_state<LanguageModel>(writer, on_host[part], prefix);
      }
    });
    writer.finish();
  }
  void load_states(const std::filesystem::path& path) {
    std::vector<State>& states = trainer_->states();
    if (states.empty()) return;
    const SafetensorsFile file(path);
    for_each_part([&](const std::string& prefix, std::size_t part) {
      if constexpr (Space::host_readable) {
        load_state<LanguageModel>(file, states[part], prefix);
      } else {
        HostState on_host = host_state();
        load_state<LanguageModel>(file, on_host, prefix);
        copy_state_between<LanguageModel>(on_host, states[part]);
      }
    });
  }
  HostState host_state() const {
    return model_.layer.template initial_state<float>(host_, trainer_->config().batch);
  }

  /// visit("batch.0.", 0) for each batch of an update.
  template <class Visit>
  void for_each_part(Visit&& visit) const {
    for (std::size_t part = 0; part < trainer_->states().size(); ++part)
      visit("batch." + std::to_string(part) + ".", part);
  }
  static Model<P> load(Context<B>& ctx, const std::filesystem::path& folder) {
    if constexpr (Space::host_readable) {
      return Family::load(ctx, folder);
    } else {
      Context<HostMemory> host;
      auto on_host = Family::load(host, folder);
      P parameters = copy_to(ctx, on_host.layer, on_host.parameters);
      return {std::move(on_host.layer), std::move(parameters)};
    }
  }
  static Model<P> fresh(Context<B>& ctx, const Config& config, Seed seed) {
    LanguageModel layer = Family::make(config);
    P parameters = layer.initialize(ctx, seed);
    return {std::move(layer), std::move(parameters)};
  }

  Context<B> ctx_;
  Context<HostMemory> host_;
  Config config_;
  Model<P> model_;
  std::optional<LanguageModelTrainer<P>> trainer_;
};

}  // namespace ssm::cli
