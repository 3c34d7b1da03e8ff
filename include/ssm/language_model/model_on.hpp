// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/family/family.hpp"
#include "ssm/language_model/interface.hpp"
#include "ssm/language_model/state_on.hpp"
#include "ssm/language_model/training_files.hpp"
#include "ssm/language_model/weights_fingerprint.hpp"
#include "ssm/model/recorded_steps.hpp"
#include "ssm/op/convert.hpp"

namespace ssm {
struct Reference;
}

namespace ssm::detail {

/// Resources of a backend by what was chosen at run time: its threads, if it has some.
template <class R>
struct ResourcesAtRunTime {
  static R make(const BackendOptions& options) {
    if constexpr (std::is_constructible_v<R, int>)
      return options.threads > 0 ? R(options.threads) : R();
    else
      return R();
  }
};

/// Whether language models train in mixed precision on a backend: everywhere but on the one that is
/// there to be read.
template <class B>
inline constexpr bool trains_in_half_types = !std::is_same_v<B, Reference>;

/// Whether language models can be opened with sequences and weights in bf16.
template <class B>
inline constexpr bool reads_in_half_types = !B::Space::host_readable;

/// A language model of family F on backend B with sequences in T: float, of which a trainer may
/// keep sequences and working weights in a half type, or a half type, which is not trained.
template <class B, LanguageModelFamily F, class T = float>
class LanguageModelOn final : public LanguageModelInterface {
  using L = typename F::LanguageModel;
  using Space = typename B::Space;
  using P = typename L::template Parameters<T, Space>;
  using State = StateOn<L, B, T>;
  static constexpr bool is_full = std::is_same_v<T, float>;

  /// What sessions share.
  struct Weights {
    std::vector<FileMapping> mappings;  // in which parameters may lie
    typename F::Config config;
    Model<P> model;
    std::vector<Token> end_tokens{};
    std::unique_ptr<WeightsFingerprint> fingerprint = std::make_unique<WeightsFingerprint>();
  };

 public:
  LanguageModelOn(const BackendOptions& options, const typename F::Config& config,
                  std::vector<Token> end_tokens, Seed seed)
      : LanguageModelOn(options) {
    L layer = F::make(config);
    P parameters = layer.initialize(*ctx_, seed);
    take({{}, config, {std::move(layer), std::move(parameters)}, std::move(end_tokens)});
  }
  LanguageModelOn(const BackendOptions& options, const JsonObject& json,
                  std::vector<Token> end_tokens, ModelTensors tensors)
      : LanguageModelOn(options) {
    require_readable(options.weights);
    auto files = check_files<F>(json, std::move(tensors));
    std::vector<FileMapping> mappings;
    auto fingerprint = std::make_unique<WeightsFingerprint>();
    auto model = read_weights<T>(
        *ctx_, files,
        {.form = is_full ? options.weights : WeightForm::full,
         .mappings = options.map_files ? &mappings : nullptr},
        [&](const ParameterSpec& spec, const auto& tensor) {
          fingerprint->remember(spec.name, tensor.size(), [&](float* to, Index begin, Index count) {
            std::transform(tensor.data() + begin, tensor.data() + begin + count, to,
                           [](const auto& value) { return scalar_cast<float>(value); });
          });
        });
    take({std::move(mappings), std::move(files.config), std::move(model), std::move(end_tokens),
          std::move(fingerprint)});
  }

  const LanguageModelFacts& facts() const override { return facts_; }
  std::string config_json() const override {
    return with_end_tokens(F::write(weights_->config), facts_.end_tokens).dump(2);
  }
  std::optional<std::string> changed_option(const ModelOptions& options) const override {
    return ssm::changed_option<F>(weights_->config, options);
  }

  std::unique_ptr<LanguageModelInterface> session(const BackendOptions& options) override {
    BackendOptions own = options;
    own.backend = facts_.backend;
    std::unique_ptr<LanguageModelOn> other(new LanguageModelOn(own));
    other->share(weights_);
    return other;
  }

  std::unique_ptr<StateInterface> initial_state(Index sequences) override {
    return std::make_unique<State>(ctx_, layer(), facts_, fingerprint(), sequences);
  }
  /// The same in whichever form the weights are kept; training changes it.
  std::string fingerprint() override {
    return weights_->fingerprint->of(F::write(weights_->config).dump(), [&](auto&& add) {
      for_each_parameter(
          [&](const ParameterSpec& spec, const auto& tensor) {
            constexpr bool is_matrix = requires { tensor.bf16; };
            if constexpr (is_matrix) {
              if (tensor.bf16)
                return add(spec.name, tensor.bf16.size(), true, read_of(tensor.bf16));
              if (tensor.f16) return add(spec.name, tensor.f16.size(), true, read_of(tensor.f16));
              if (tensor.int8)
                return add(spec.name, tensor.int8.size(), true, read_of(tensor.int8));
            }
            add(spec.name, tensor.size(), is_matrix, read_of(tensor));
          },
          parameters());
    });
  }

  void logits(const View<const Token, 2>& tokens, const View<float, 3>& logits) override {
    run_sequences(tokens, logits, [&](const auto& ids, auto& out) {
      layer().forward(*ctx_, parameters(), ids, out);
    });
  }
  void prefill(const View<const Token, 2>& tokens, const View<float, 3>& logits,
               StateInterface& state) override {
    auto& own = State::of(state, facts_, tokens.extent(0)).state();
    run_sequences(tokens, logits, [&](const auto& ids, auto& out) {
      layer().prefill(*ctx_, parameters(), ids, out, own);
    });
  }
  void step(const View<const Token, 1>& tokens, const View<float, 2>& logits,
            StateInterface& state) override {
    auto& own = State::of(state, facts_, tokens.extent(0)).state();
    if constexpr (Space::host_readable && is_full) {
      layer().step(*ctx_, parameters(), tokens, logits, own);
    } else {
      step_tokens_.resize({tokens.extent(0)});
      step_logits_.resize(logits.extents());
      copy_in(tokens.flatten(), step_tokens_.flatten());
      layer().step(*ctx_, parameters(), step_tokens_, step_logits_, own);
      copy_out<T, float>(step_logits_.flatten(), logits.flatten());
    }
  }
  void step_likeliest(const View<const Token, 1>& tokens, Index vocabulary,
                      const View<Token, 1>& next, StateInterface& state) override {
    const Index sequences = tokens.extent(0);
    auto& own = State::of(state, facts_, sequences).state();
    step_tokens_.resize({sequences});
    step_logits_.resize({sequences, facts_.padded_vocabulary});
    copy_in(tokens.flatten(), step_tokens_.flatten());
    const auto step = [&] {
      layer().step(*ctx_, parameters(), step_tokens_, step_logits_, own);
      auto frame = ctx_->workspace().frame();
      sample(*ctx_,
             Sample<float, Space>{.logits = converted_rows<float>(*ctx_, frame, step_logits_),
                                  .vocabulary = vocabulary,
                                  .sampling = {.temperature = 0},
                                  .tokens = step_tokens_});
    };
    if (facts_.positions > 0)
      step();  // reads positions of the host
    else
      steps_(
          *ctx_, &own, vocabulary, [&] { return size_of(own); }, step);
    copy_out<Token, Token>(step_tokens_.flatten(), next);
    if (std::any_of(next.data(), next.data() + sequences, [](Token token) { return token < 0; }))
      throw ArgumentError("language model: a logit is not finite");
  }

  void prefill_packed(std::span<const Token> tokens, Segments segments,
                      const View<float, 2>& logits, StateInterface& state) override {
    if (segments.size() < 2) throw ArgumentError("language model: no sequences to read");
    auto& own = State::of(state, facts_, static_cast<Index>(segments.size()) - 1).state();
    run_sequences(View<const Token, 2>(tokens.data(), {1, static_cast<Index>(tokens.size())}),
                  View<float, 3>(logits.data(), {1, logits.extent(0), logits.extent(1)}),
                  [&](const auto& ids, auto& out) {
                    layer().forward(
                        *ctx_, parameters(), ids, out,
                        {.segments = segments, .initial_state = &own, .final_state = &own});
                  });
  }
  Token draw(std::span<const float> logits, const Sampling& sampling, Seed seed,
             std::uint64_t counter) override {
    const DynamicExtents<2> extents(Index{1}, static_cast<Index>(logits.size()));
    Sample<float, Space> call{
        .vocabulary = layer().vocabulary(), .sampling = sampling, .seed = seed, .counter = counter};
    Token token = 0;
    if constexpr (Space::host_readable) {
      call.logits = View<const float, 2>(logits.data(), extents);
      call.tokens = View<Token, 1>(&token, {1});
      sample(*ctx_, call);
    } else {
      step_tokens_.resize({1});
      drawn_logits_.resize(extents);
      Space::copy(drawn_logits_.data(), logits.data(), logits.size_bytes());
      call.logits = drawn_logits_;
      call.tokens = step_tokens_;
      sample(*ctx_, call);
      Space::copy(&token, step_tokens_.data(), sizeof(token));
      if (token < 0) throw ArgumentError("language model: a logit is not finite");
    }
    return token;
  }

  std::unique_ptr<TokenStream> generate(std::span<const Token> prompt,
                                        const GenerateOptions& options,
                                        StateInterface* state) override {
    StateOf<P>* own = state == nullptr ? nullptr : &State::of(*state, facts_, 1).state();
    return std::make_unique<Stream>(*this, prompt, options, own);
  }

  TextLoss loss(TokenView text, const TextLossOptions& options) override {
    return text_loss(*ctx_, layer(), parameters(), text, options);
  }

  void keep_weights_in(WeightForm form) override {
    require_unshared("keeping weights in another form");
    require_readable(form);
    fingerprint();
    if constexpr (!is_full) {
      return;
    } else if constexpr (Space::host_readable) {
      ssm::keep_weights_in(weights_->model.parameters, form);
    } else {
      auto on_host = copy_to(Context<HostMemory>(), layer(), parameters());
      ssm::keep_weights_in(on_host, form);
      copy_parameters(on_host, weights_->model.parameters);
    }
    facts_.weight_bytes = parameter_bytes(parameters());
  }

  void start_training(const LanguageModelTrainerConfig& config,
                      const std::string& numbers) override {
    require_unshared("training");
    trainer_.reset();
    if constexpr (is_full)
      with_numbers(numbers, [&]<class Number>(std::type_identity<Number>) {
        trainer_ = std::make_unique<TrainerIn<Number>>(*ctx_, layer(), parameters(), config);
      });
    else
      refuse("trained");
  }
  bool is_training() const override { return trainer_ != nullptr; }
  TrainingStep update(const TextWindows& windows, double rate, std::span<double> beside) override {
    require_unshared("training");
    weights_->fingerprint->forget();
    return trainer().update(*ctx_, layer(), weights_->model.parameters, windows, rate, beside);
  }
  Index updates() const override { return trainer_ ? trainer_->step() : 0; }
  void save(const std::filesystem::path& folder) const override {
    if (trainer_ && !trainer_->is_first()) return trainer_->save(folder, layer());
    if constexpr (!is_full)
      refuse("saved");
    else if constexpr (Space::host_readable)
      save_language_model<F>(folder, weights_->config, parameters(), facts_.end_tokens);
    else
      save_language_model<F>(folder, weights_->config,
                             copy_to(Context<HostMemory>(), layer(), parameters()),
                             facts_.end_tokens);
    if (trainer_) trainer_->save(folder, layer());
  }
  void load_training(const std::filesystem::path& folder) override {
    trainer().load(folder, layer());
  }

 private:
  class Stream final : public TokenStream {
   public:
    Stream(LanguageModelOn& owner, std::span<const Token> prompt, const GenerateOptions& options,
           StateOf<P>* state)
        : range_(*owner.ctx_, owner.layer(), owner.parameters(), prompt, options, state),
          position_(range_.begin()) {}
    std::optional<Token> next() override {
      if (is_begun_) ++position_;
      is_begun_ = true;
      if (position_ == std::default_sentinel) return std::nullopt;
      return *position_;
    }

   private:
    Generation<B, P> range_;
    typename Generation<B, P>::Iterator position_;
    bool is_begun_ = false;
  };

  /// A trainer whatever its sequences are in.
  class TrainerInterface {
   public:
    TrainerInterface() = default;
    TrainerInterface(const TrainerInterface&) = delete;
    TrainerInterface& operator=(const TrainerInterface&) = delete;
    virtual ~TrainerInterface() = default;
    virtual TrainingStep update(Context<B>& ctx, const L& layer, P& parameters,
                                const TextWindows& windows, double rate,
                                std::span<double> beside) = 0;
    virtual Index step() const = 0;
    virtual bool is_first() const = 0;
    virtual void save(const std::filesystem::path& folder, const L& layer) const = 0;
    virtual void load(const std::filesystem::path& folder, const L& layer) = 0;
  };
  template <class Number>
  class TrainerIn final : public TrainerInterface {
   public:
    TrainerIn(Context<B>& ctx, const L& layer, const P& parameters,
              const LanguageModelTrainerConfig& config)
        : trainer_(ctx, layer, parameters, config) {}
    TrainingStep update(Context<B>& ctx, const L& layer, P& parameters, const TextWindows& windows,
                        double rate, std::span<double> beside) override {
      return trainer_.update(ctx, layer, parameters, windows, rate, beside);
    }
    Index step() const override { return trainer_.step(); }
    bool is_first() const override { return trainer_.ranks().is_first(); }
    void save(const std::filesystem::path& folder, const L& layer) const override {
      save_training(folder, layer, trainer_);
    }
    void load(const std::filesystem::path& folder, const L& layer) override {
      ssm::detail::load_training(folder, layer, trainer_);
    }

   private:
    LanguageModelTrainer<P, Number> trainer_;
  };

  /// Calls run(std::type_identity<Number>) for the scalar of that name.
  /// Throws  ArgumentError  where the backend does not train in it
  template <class Run>
  void with_numbers(const std::string& numbers, Run&& run) {
    if (numbers == "float") return run(std::type_identity<float>());
    if constexpr (trains_in_half_types<B>) {
      if (numbers == "bf16") return run(std::type_identity<BFloat16>());
      if (numbers == "f16") return run(std::type_identity<Float16>());
    }
    throw ArgumentError("language model: no training in numbers of type '" + numbers + "' on " +
                        facts_.backend + "; there is " +
                        (trains_in_half_types<B> ? "float, bf16, f16" : "float"));
  }

  explicit LanguageModelOn(const BackendOptions& options)
      : ctx_(std::make_shared<Context<B>>(
            ResourcesAtRunTime<typename B::Resources>::make(options))) {
    facts_.backend = options.backend;
    facts_.on_device = !Space::host_readable;
    if constexpr (!is_full && requires { ctx_->resources().biases_stay(); })
      ctx_->resources().biases_stay();  // such a model is read from alone
    if constexpr (requires { ctx_->resources().threads(); })
      facts_.threads = ctx_->resources().threads();
  }
  void take(Weights weights) { share(std::make_shared<Weights>(std::move(weights))); }
  void share(std::shared_ptr<Weights> weights) {
    weights_ = std::move(weights);
    facts_.family = F::name;
    facts_.numbers = is_full ? "float" : "bf16";
    facts_.vocabulary = layer().vocabulary();
    facts_.padded_vocabulary = layer().padded_vocabulary();
    facts_.positions = layer().positions();
    facts_.has_attention = has_attention<F>(weights_->config);
    facts_.parameters = parameter_count(parameters());
    facts_.weight_bytes = parameter_bytes(parameters());
    facts_.has_own_rates = has_own_rates(parameters());
    facts_.end_tokens = weights_->end_tokens;
  }

  /// Reads elements of a tensor, wherever they are, as float.
  template <class X>
  static auto read_of(const X& tensor) {
    return [&tensor](float* to, Index begin, Index count) {
      using Element = std::remove_cvref_t<decltype(*tensor.data())>;
      std::vector<Element> read(static_cast<std::size_t>(count));
      Space::copy(read.data(), tensor.data() + begin, read.size() * sizeof(Element));
      std::transform(read.begin(), read.end(), to,
                     [](const Element& value) { return scalar_cast<float>(value); });
    };
  }

  const L& layer() const { return weights_->model.layer; }
  const P& parameters() const { return weights_->model.parameters; }
  TrainerInterface& trainer() {
    if (!trainer_) throw ArgumentError("language model: start_training comes before updates");
    return *trainer_;
  }
  [[noreturn]] void refuse(const char* what) const {
    throw ArgumentError("language model: opened with numbers of type '" + facts_.numbers +
                        "', and such a model is not " + what + "; open it in float");
  }
  void require_readable(WeightForm form) const {
    if (!is_full && form != WeightForm::full && form != WeightForm::bf16)
      throw ArgumentError("language model: weights in " + std::string(weight_form_name(form)) +
                          " do not go with sequences in bf16, whose weights are bf16 too");
  }
  void require_unshared(const char* what) const {
    if (weights_.use_count() > 1)
      throw ArgumentError(std::string("language model: ") + what +
                          " changes the weights, which other sessions share");
  }

  static void copy_in(const View<const Token, 1>& from, const View<Token, 1, Space>& to) {
    Space::copy(to.data(), from.data(), static_cast<std::size_t>(from.size()) * sizeof(Token));
  }
  template <class From, class To>
  static void copy_out(const View<const From, 1, Space>& from, const View<To, 1>& to) {
    const auto size = static_cast<std::size_t>(from.size());
    if constexpr (std::is_same_v<From, To>) {
      Space::copy(to.data(), from.data(), size * sizeof(To));
    } else {
      std::vector<From> read(size);
      Space::copy(read.data(), from.data(), size * sizeof(From));
      std::transform(read.begin(), read.end(), to.data(),
                     [](const From& value) { return scalar_cast<To>(value); });
    }
  }
  template <class S>
  static Index size_of(const S& state) {
    Index size = 0;
    L::for_each_state([&](const auto&, const auto& tensor) { size += tensor.size(); }, state);
    return size;
  }
  template <class Run>
  void run_sequences(const View<const Token, 2>& tokens, const View<float, 3>& logits, Run&& run) {
    if constexpr (Space::host_readable && is_full) {
      run(tokens, logits);
    } else {
      DynamicTensor<Token, 2, Space> ids(tokens.extents());
      DynamicTensor<T, 3, Space> out(logits.extents());
      copy_in(tokens.flatten(), ids.flatten());
      run(ids, out);
      copy_out<T, float>(out.flatten(), logits.flatten());
    }
  }

  std::shared_ptr<Context<B>> ctx_;
  LanguageModelFacts facts_;
  std::shared_ptr<Weights> weights_;
  std::unique_ptr<TrainerInterface> trainer_;
  DynamicTensor<Token, 1, Space> step_tokens_;
  DynamicTensor<T, 2, Space> step_logits_;
  DynamicTensor<float, 2, Space> drawn_logits_;
  [[no_unique_address]] RecordedSteps<B> steps_;
};

}  // namespace ssm::detail
