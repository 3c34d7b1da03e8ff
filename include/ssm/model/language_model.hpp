// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "ssm/core/recording.hpp"
#include "ssm/layer/dropout.hpp"
#include "ssm/layer/initial_state.hpp"
#include "ssm/layer/layer.hpp"
#include "ssm/layer/linear.hpp"  // linear_backward
#include "ssm/model/fixed_string.hpp"
#include "ssm/model/head_loss.hpp"
#include "ssm/model/initialization.hpp"
#include "ssm/model/token_rows.hpp"
#include "ssm/op/embedding.hpp"
#include "ssm/op/normalized_matmul.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm {

/// What checkpoints of a family call the tensors around the blocks, and how its weights begin.
struct H3Names {
  static constexpr FixedString embedding = "backbone.embeddings.word_embeddings.weight";
  static constexpr FixedString positions = "backbone.embeddings.position_embeddings.weight";
  static constexpr FixedString backbone = "backbone";
  static constexpr FixedString norm = "backbone.ln_f";
  static constexpr FixedString head = "lm_head.weight";
  using Initialization = Gpt2Initialization;
};

/// Rows of an embedding for so many tokens: the next multiple of a number.
constexpr Index padded_vocabulary(Index vocabulary, Index multiple) {
  return (vocabulary + multiple - 1) / multiple * multiple;
}

/// Sizes of a language model around its blocks.
struct LanguageModelConfig {
  Index vocabulary = dyn;        // tokens that may occur
  Index padded = dyn;            // rows of the embedding; dyn: as many as the vocabulary
  Index positions = 0;           // learned absolute positions; 0: none
  bool has_tied_head = true;     // the head is the embedding; else a weight of its own
  double embedding_scale = 1;    // of what is looked up, not of the head
  double embedding_dropout = 0;  // training only: of what is looked up
  /// Standard deviation of weights, 0.02 if left out; for initializations that read it.
  std::optional<double> initializer_range{};
};

/// Tokens in, logits over the next token out. Without a head of its own the embedding's weight is
/// the head.
///   h = scale · table[tokens] (+ positions[t])      logits = norm(backbone(h)) · headᵀ
/// x        tokens [B, L]
/// y        logits [B, L, padded], or [B, 1, padded] for the last position alone; with segments
///          [1, L, padded], or one position for each that is not empty: its last
/// state    the backbone's; position [B], on the host: how many positions each sequence has seen
/// Cost    the blocks' + 2·B·L·D·padded operations
/// Throws  ShapeError; ArgumentError  for tokens outside the vocabulary, more positions than were
///                                    learned, or a tape where the weights are kept in bf16, f16
///                                    or int8
/// Source  Fu et al. 2023 (H3) §4; the layout of HazyResearch/H3 checkpoints
template <class Backbone, class FinalNorm, class Names = H3Names>
class BasicLanguageModel : public LayerVerbs<BasicLanguageModel<Backbone, FinalNorm, Names>> {
 public:
  using TensorNames = Names;
  static constexpr bool reads_tokens = true;
  static constexpr bool has_head_loss = true;  // evaluate_hidden, differentiate_loss
  static constexpr auto operand_layout = OperandLayout::even_rows;

  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<BasicLanguageModel, T, Space> {
    Weight<T, DynamicExtents<2>, Space> embedding;  // [padded, D]
    DynamicTensor<Wide<T>, 2, Space> positions;     // [positions, D], empty without
    Weight<T, DynamicExtents<2>, Space> head;       // [padded, D], empty where it is the embedding
    typename Backbone::template Parameters<T, Space> backbone;
    typename FinalNorm::template Parameters<T, Space> norm;
  };
  template <class T, class Space = HostSpace>
  struct State {
    typename Backbone::template State<T, Space> backbone;
    DynamicTensor<std::int64_t, 1, HostSpace> position;
  };
  template <class T, class Space = HostSpace>
  struct Tape {
    LayerDropout::Tape dropout;  // of the embedding
    DynamicTensor<Token, 1, Space> tokens;
    Index batch = 0;
    DynamicTensor<std::int64_t, 1, HostSpace> first_positions;  // of each sequence
    std::vector<Index> segments;
    DynamicTensor<T, 3, Space> embedded;
    typename Backbone::template Tape<T, Space> backbone;
    DynamicTensor<T, 3, Space> hidden;
    typename FinalNorm::template Tape<T, Space> norm;
    DynamicTensor<T, 3, Space> normed;
  };

  /// A model whose sizes are all in its type needs no more than its vocabulary.
  explicit BasicLanguageModel(
      LanguageModelConfig config) requires std::is_default_constructible_v<Backbone>
      : BasicLanguageModel(config, Backbone(), FinalNorm()) {}
  /// Throws  ArgumentError  for an empty vocabulary or one larger than its padding, and for an
  ///                        initializer_range that the initialization does not read
  BasicLanguageModel(LanguageModelConfig config, Backbone backbone, FinalNorm norm)
      : config_(config),
        backbone_(std::move(backbone)),
        norm_(std::move(norm)),
        dropout_("language model", config.embedding_dropout) {
    if (config_.padded == dyn) config_.padded = config_.vocabulary;
    if (config_.vocabulary < 1 || config_.padded < config_.vocabulary)
      throw ArgumentError(message({"language model: a vocabulary of ", config_.vocabulary,
                                   " in an embedding of ", config_.padded, " rows"}));
    if constexpr (requires { requires !Names::Initialization::reads_deviation; })
      if (config_.initializer_range)
        throw ArgumentError(
            "language model: initializer_range is given, but its initialization does not read it");
  }

  Index vocabulary() const { return config_.vocabulary; }
  Index padded_vocabulary() const { return config_.padded; }
  /// How many positions were learned, beyond which there are none; 0: no limit.
  Index positions() const { return config_.positions; }
  /// Whether the head is the embedding.
  bool has_tied_head() const { return config_.has_tied_head; }
  Index channels() const { return backbone_.channels(); }
  Index outputs() const { return config_.padded; }
  const Backbone& backbone() const { return backbone_; }

  template <class B, class T>
  static constexpr bool runs_on = (HasEmbedding<B, T> && HasMatmul<B, T> && HasRearrange<B, T> &&
                                   RunsOn<Backbone, B, T> && RunsOn<FinalNorm, B, T>);

  template <class B, class T>
    requires RunsOn<BasicLanguageModel, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                std::type_identity_t<View<const Token, 2, typename B::Space>> tokens,
                Output<B, T, dyn, dyn, dyn> logits, NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    const Index batch = tokens.extent(0);
    const Index length = tokens.extent(1);
    const Index last = sequences_with_positions(length, options.segments);
    const bool last_only = tape == nullptr && logits.extent(1) == last && length != last;
    require_extents("language model", "logits", logits,
                    {batch, last_only ? last : length, config_.padded});
    using Kept = Tape<T, Space>;
    const Buffers buffers(frame, tape);
    auto embedded = buffers.at(&Kept::embedded, batch, length, channels());
    auto hidden = buffers.at(&Kept::hidden, batch, length, channels());
    evaluate_backbone<B, T>(ctx, p, tokens, embedded, hidden, tape, options);
    if (last_only)
      hidden = last_positions<T>(ctx, hidden, options.segments,
                                 frame.template tensor<T>(batch, last, channels()));
    auto normed = buffers.at(&Kept::normed, hidden.extents());
    const Matmul<T, Space> head =
        by_weight<T, Space>(head_of(p), {.a = as_rows(normed), .c = as_rows(logits)});
    if constexpr (HasNormalizedMatmul<B, T> &&
                  requires { norm_.template call<T, Space>(p.norm, hidden, normed); })
      if (tape == nullptr) {
        const auto norm = norm_.template call<T, Space>(p.norm, hidden, normed);
        return normalized_matmul<B, T>(ctx, &norm, std::span(&head, 1));
      }
    norm_.evaluate(ctx, p.norm, hidden, normed, buffers.part(&Kept::norm));
    matmul(ctx, head);
  }

  /// The forward pass up to what the head reads, for `differentiate_loss`.
  template <class B, class T>
    requires RunsOn<BasicLanguageModel, B, T>
  void evaluate_hidden(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                       std::type_identity_t<View<const Token, 2, typename B::Space>> tokens,
                       NonDeduced<Tape<T, typename B::Space>>& tape,
                       const SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    using Kept = Tape<T, typename B::Space>;
    auto frame = ctx.workspace().frame();
    const Buffers buffers(frame, &tape);
    auto embedded = buffers.at(&Kept::embedded, tokens.extent(0), tokens.extent(1), channels());
    auto hidden = buffers.at(&Kept::hidden, embedded.extents());
    evaluate_backbone<B, T>(ctx, p, tokens, embedded, hidden, &tape, options);
    norm_.evaluate(ctx, p.norm, hidden, buffers.at(&Kept::normed, hidden.extents()),
                   buffers.part(&Kept::norm));
  }

  /// Tokens have no gradient; dlogits [B, L, padded].
  template <class B, class T>
    requires RunsOn<BasicLanguageModel, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, dyn> dlogits,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    auto frame = ctx.workspace().frame();
    auto dnormed = frame.template tensor<T>(tape.hidden.extents());
    linear_backward(ctx, LinearBackward<T, typename B::Space>{.weight = head_of(p),
                                                              .x = as_rows(tape.normed),
                                                              .dy = as_rows(dlogits),
                                                              .dx = as_rows(dnormed),
                                                              .dweight = head_of(gradients)});
    differentiate_hidden<B, T>(ctx, p, tape, dnormed, gradients, ends);
  }

  /// Of `evaluate_hidden` and a loss of its logits, which are made a part of the rows at a time:
  /// `loss` is computed, and gradients are added to as by `differentiate`.
  template <class B, class T>
    requires RunsOn<BasicLanguageModel, B, T>
  void differentiate_loss(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                          const Tape<T, typename B::Space>& tape,
                          NonDeduced<HeadLoss<T, typename B::Space>> loss,
                          Parameters<Wide<T>, typename B::Space>& gradients,
                          const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    auto frame = ctx.workspace().frame();
    auto dnormed = frame.template tensor<T>(tape.hidden.extents());
    loss.x = as_rows(tape.normed);
    loss.weight = head_of(p);
    loss.dx = as_rows(dnormed);
    loss.dweight = head_of(gradients);
    head_loss(ctx, loss);
    differentiate_hidden<B, T>(ctx, p, tape, dnormed, gradients, ends);
  }

  /// `reserve` makes room in caches that grow, so that steps up to that position allocate nothing.
  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>& ctx, Index sequences,
                                            Index reserve = 0) const {
    State<T, typename B::Space> state;
    state.backbone = initial_state_of<T>(backbone_, ctx, sequences, reserve);
    state.position.reset({sequences});
    return state;
  }
  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    p.embedding.reset({config_.padded, channels()});
    if (config_.positions > 0) p.positions.reset({config_.positions, channels()});
    if (!config_.has_tied_head) p.head.reset({config_.padded, channels()});
    p.backbone = backbone_.template zero_parameters<T>(ctx);
    p.norm = norm_.template zero_parameters<T>(ctx);
    return p;
  }

  /// The layers' own initialization, then what the family makes of it.
  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    Initializer layers = seed.fork("backbone");
    if constexpr (requires { requires Names::Initialization::replaces_weights; })
      layers = layers.without_weights();
    backbone_.fill_parameters(p.backbone, layers);
    norm_.fill_parameters(p.norm, seed.fork("norm"));
    for_each_parameter(
        [&](const ParameterSpec& spec, auto& tensor) {
          Names::Initialization::fill(spec, tensor.flatten(), seed.fork(spec.name),
                                      {.channels = channels(),
                                       .blocks = block_count(),
                                       .deviation = config_.initializer_range.value_or(0.02)});
        },
        p);
  }

  static void for_each_parameter(auto&& visit, auto& p, auto&... more) {
    const auto spec = [](const auto& name, bool by_products = true) {
      return ParameterSpec{.name = name.text(),
                           .role = ParameterRole::embedding,
                           .gradient_by_products = by_products};
    };
    visit(spec(Names::embedding), p.embedding, more.embedding...);
    if (p.positions) visit(spec(Names::positions, false), p.positions, more.positions...);
    Backbone::for_each_parameter(scoped(Names::backbone.text(), visit), p.backbone,
                                 more.backbone...);
    FinalNorm::for_each_parameter(scoped(Names::norm.text(), visit), p.norm, more.norm...);
    if (p.head) visit(spec(Names::head), p.head, more.head...);
  }
  static void for_each_state(auto&& visit, auto& state, auto&... more) {
    visit(std::string("position"), state.position, more.position...);
    Backbone::for_each_state(visit, state.backbone, more.backbone...);
  }

 private:
  static const auto& head_of(const auto& p) { return p.head ? p.head : p.embedding; }
  static auto& head_of(auto& p) { return p.head ? p.head : p.embedding; }

  /// From tokens to `hidden`, whatever comes before the last norm.
  template <class B, class T>
  void evaluate_backbone(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                         const View<const Token, 2, typename B::Space>& tokens,
                         const View<T, 3, typename B::Space>& embedded,
                         const View<T, 3, typename B::Space>& hidden,
                         Tape<T, typename B::Space>* tape,
                         const SequenceOptions<State<T, typename B::Space>>& options) const {
    using Kept = Tape<T, typename B::Space>;
    if (tape != nullptr && p.embedding.form() != WeightForm::full)
      detail::refuse_training_of_rounded_weights("language model");
    auto frame = ctx.workspace().frame();
    const Buffers buffers(frame, tape);
    const Index batch = tokens.extent(0);
    const Positions first = options.initial_state
                                ? first_positions(*options.initial_state, batch, options.segments)
                                : Positions();
    embed<T>(ctx, p, tokens, embedded, first, options.segments);
    if (tape != nullptr) keep(ctx, *tape, tokens, first, options.segments);
    dropout_.evaluate(ctx, embedded, buffers.part(&Kept::dropout), options.dropout);
    backbone_.evaluate(ctx, p.backbone, embedded, hidden, buffers.part(&Kept::backbone),
                       options.part(backbone_of, std::string_view("blocks")));
    if (options.final_state == nullptr) return;
    options.final_state->position.resize({sequence_count(batch, options.segments)});
    const std::vector<Index> own(options.segments.begin(), options.segments.end());
    run_on_host(ctx, [&ctx, batch, length = tokens.extent(1), segments = own,
                      from = options.initial_state, to = options.final_state] {
      const Positions past = from ? first_positions(*from, batch, segments) : Positions();
      for_each_sequence(batch, length, segments, [&](const Sequence& s) {
        to->position(s.row) = at(past, s.row) + before(ctx, s.row) + s.end - s.begin;
      });
    });
  }

  /// From the gradient of what the head reads to that of the embedding; overwrites dnormed.
  template <class B, class T>
  void differentiate_hidden(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                            const Tape<T, typename B::Space>& tape,
                            const View<T, 3, typename B::Space>& dnormed,
                            Parameters<Wide<T>, typename B::Space>& gradients,
                            const SequenceGradients<State<T, typename B::Space>>& ends) const {
    using Space = typename B::Space;
    auto frame = ctx.workspace().frame();
    const auto shape = tape.hidden.extents();
    auto dhidden = frame.template tensor<T>(shape);
    norm_.differentiate(ctx, p.norm, tape.norm, dnormed, dhidden, gradients.norm);
    backbone_.differentiate(ctx, p.backbone, tape.backbone, dhidden, dnormed, gradients.backbone,
                            ends.part(backbone_of));
    dropout_.differentiate(ctx, tape.dropout, dnormed);
    if (ends.initial_state != nullptr)
      ends.initial_state->position.reset({sequence_count(tape.batch, tape.segments)});
    if (config_.positions > 0)
      for_each_sequence(tape.batch, shape[1], tape.segments, [&](const Sequence& s) {
        const Index first = before(ctx, s.row) +
                            (tape.first_positions.size() > 0 ? at(tape.first_positions, s.row) : 0);
        const Index count = s.end - s.begin;
        auto target = gradients.positions.slice(0, first, first + count).flatten();
        auto part = ctx.workspace().frame();
        const View<T, 1, Space> rows =
            dnormed.select(0, s.batch).slice(0, s.begin, s.end).flatten();
        add(ctx, Add<Wide<T>, Space>{
                     .a = converted<Wide<T>>(ctx, part, rows), .b = target, .y = target});
      });
    scale_embedding<T>(ctx, dnormed.flatten());
    embedding_backward(
        ctx, EmbeddingBackward<T, Space>{
                 .tokens = tape.tokens, .dy = as_rows(dnormed), .dtable = gradients.embedding});
  }

  Index block_count() const {
    if constexpr (requires { backbone_.block_count(); })
      return backbone_.block_count();
    else
      return 1;
  }

  template <class T, class B>
  void scale_embedding(Context<B>& ctx, View<T, 1, typename B::Space> x) const {
    if (config_.embedding_scale == 1) return;
    add(ctx, Add<T, typename B::Space>{.a = x, .a_scale = config_.embedding_scale, .y = x});
  }

  /// Of the first token of each sequence; null means zero.
  using Positions = View<const std::int64_t, 1, HostSpace>;
  static Index at(const Positions& positions, Index row) {
    return positions ? static_cast<Index>(positions(row)) : 0;
  }
  /// Positions of a sequence that lie on other ranks, before this one's.
  template <class B>
  static Index before(const Context<B>& ctx, Index row) {
    return ctx.sequence_cut() == nullptr ? 0 : ctx.sequence_cut()->before(row);
  }
  template <class State>
  static Positions first_positions(const State& initial, Index batch, Segments segments) {
    require_extents("language model", "state position", initial.position.view(),
                    {sequence_count(batch, segments)});
    return initial.position;
  }

  static constexpr auto backbone_of = [](auto& state) -> auto& { return state.backbone; };

  /// Of a row of the batch: one where nothing is packed, else the segments that are not empty.
  static Index sequences_with_positions(Index length, Segments segments) {
    Index count = segments.empty() && length > 0 ? 1 : 0;
    for (std::size_t i = 1; i < segments.size(); ++i)
      if (segments[i] > segments[i - 1]) ++count;
    return count;
  }
  /// The last position of every sequence, copied to `rows` where they are packed.
  template <class T, class B>
  static View<T, 3, typename B::Space> last_positions(Context<B>& ctx,
                                                      const View<T, 3, typename B::Space>& hidden,
                                                      Segments segments,
                                                      const View<T, 3, typename B::Space>& rows) {
    const Index length = hidden.extent(1);
    if (segments.empty()) return hidden.slice(1, length - 1, length);
    Index row = 0;
    for_each_sequence(1, length, segments, [&](const Sequence& s) {
      if (s.begin == s.end) return;
      rearrange(ctx, Rearrange<T, typename B::Space>{.x = hidden.slice(1, s.end - 1, s.end),
                                                     .y = rows.slice(1, row, row + 1)});
      ++row;
    });
    return rows;
  }

  template <class T, class B>
  void embed(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
             View<const Token, 2, typename B::Space> tokens, View<T, 3, typename B::Space> y,
             Positions first, Segments segments) const {
    using Space = typename B::Space;
    const Index length = tokens.extent(1);
    detail::look_up<T>(ctx, p.embedding, tokens, y);
    scale_embedding<T>(ctx, y.flatten());
    if (config_.positions == 0) return;
    for_each_sequence(tokens.extent(0), length, segments, [&](const Sequence& s) {
      const Index start = at(first, s.row) + before(ctx, s.row);
      const Index count = s.end - s.begin;
      if (start + count > config_.positions)
        throw ArgumentError(message({"language model: position ", start + count - 1,
                                     " is beyond the ", config_.positions, " learned positions"}));
      auto target = y.select(0, s.batch).slice(0, s.begin, s.end).flatten();
      auto part = ctx.workspace().frame();
      const View<const Wide<T>, 1, Space> rows =
          p.positions.slice(0, start, start + count).flatten();
      add(ctx, Add<T, Space>{.a = target, .b = converted<T>(ctx, part, rows), .y = target});
    });
  }

  template <class B, class T>
  void keep(Context<B>& ctx, Tape<T, typename B::Space>& tape,
            View<const Token, 2, typename B::Space> tokens, Positions first,
            Segments segments) const {
    tape.batch = tokens.extent(0);
    tape.first_positions.resize({first ? first.extent(0) : 0});
    for (Index row = 0; row < tape.first_positions.extent(0); ++row)
      tape.first_positions(row) = first(row);
    tape.segments.assign(segments.begin(), segments.end());
    tape.tokens.resize({tokens.size()});
    detail::copy_tokens(ctx, tokens, tape.tokens.data());
  }

  LanguageModelConfig config_;
  Backbone backbone_;
  FinalNorm norm_;
  LayerDropout dropout_;
};

}  // namespace ssm
