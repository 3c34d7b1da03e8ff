// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <type_traits>
#include <utility>

#include "ssm/layer/initial_state.hpp"
#include "ssm/layer/layer.hpp"
#include "ssm/layer/widths.hpp"
#include "ssm/model/fixed_string.hpp"
#include "ssm/model/token_rows.hpp"
#include "ssm/op/embedding.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm {

/// A layer that reads tokens: it is given a row of a learned table for each.
///   y = inner(table[tokens])
/// x       tokens [B, L]
/// y       [B, L, outputs]
/// state   the inner layer's
/// The table is named `table_name`; the inner layer's tensors keep their names.
/// Throws  ShapeError; ArgumentError  for tokens outside the vocabulary, or a tape where the table
///                                    is kept in bf16, f16 or int8
template <class Inner, FixedString table_name = "encoder.weight">
class Embedded : public LayerVerbs<Embedded<Inner, table_name>> {
 public:
  static constexpr bool reads_tokens = true;

  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<Embedded, T, Space> {
    Weight<T, DynamicExtents<2>, Space> table;  // [vocabulary, channels]
    typename Inner::template Parameters<T, Space> inner;
  };
  template <class T, class Space = HostSpace>
  using State = typename Inner::template State<T, Space>;
  template <class T, class Space = HostSpace>
  struct Tape {
    DynamicTensor<Token, 2, Space> tokens;
    DynamicTensor<T, 3, Space> embedded;
    typename Inner::template Tape<T, Space> inner;
  };

  /// Throws  ArgumentError  for an empty vocabulary
  Embedded(Index vocabulary, Inner inner) : vocabulary_(vocabulary), inner_(std::move(inner)) {
    if (vocabulary_ < 1) throw ArgumentError(message({"Embedded: a vocabulary of ", vocabulary_}));
  }

  Index vocabulary() const { return vocabulary_; }
  Index channels() const { return input_channels(inner_); }
  Index outputs() const { return output_channels(inner_); }
  const Inner& inner() const { return inner_; }

  template <class B, class T>
  static constexpr bool runs_on = (HasEmbedding<B, T> && HasRearrange<B, T> && RunsOn<Inner, B, T>);

  template <class B, class T>
    requires RunsOn<Embedded, B, T>
  void evaluate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                std::type_identity_t<View<const Token, 2, typename B::Space>> tokens,
                Output<B, T, dyn, dyn, dyn> y, NonDeduced<Tape<T, typename B::Space>>* tape,
                const SequenceOptions<State<T, typename B::Space>>& options = {}) const {
    using Space = typename B::Space;
    using Kept = Tape<T, Space>;
    if (tape != nullptr && p.table.form() != WeightForm::full)
      detail::refuse_training_of_rounded_weights("Embedded");
    require_extents("embedded", "y", y, {tokens.extent(0), tokens.extent(1), outputs()});
    auto frame = ctx.workspace().frame();
    const Buffers buffers(frame, tape);
    auto embedded = buffers.at(&Kept::embedded, tokens.extent(0), tokens.extent(1), channels());
    if (tape != nullptr) {
      tape->tokens.resize(tokens.extents());
      detail::copy_tokens(ctx, tokens, tape->tokens.data());
    }
    detail::look_up<T>(ctx, p.table, tokens, embedded);
    inner_.evaluate(ctx, p.inner, embedded, y, buffers.part(&Kept::inner), options);
  }

  /// Tokens have no gradient.
  template <class B, class T>
    requires RunsOn<Embedded, B, T>
  void differentiate(Context<B>& ctx, const Parameters<T, typename B::Space>& p,
                     const Tape<T, typename B::Space>& tape, Input<B, T, dyn, dyn, dyn> dy,
                     Parameters<Wide<T>, typename B::Space>& gradients,
                     const SequenceGradients<State<T, typename B::Space>>& ends = {}) const {
    auto frame = ctx.workspace().frame();
    auto dembedded = frame.template tensor<T>(tape.embedded.extents());
    inner_.differentiate(ctx, p.inner, tape.inner, dy, dembedded, gradients.inner, ends);
    embedding_backward(
        ctx, EmbeddingBackward<T, typename B::Space>{.tokens = tape.tokens.view().flatten(),
                                                     .dy = as_rows(dembedded),
                                                     .dtable = gradients.table});
  }

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>& ctx, Index sequences,
                                            Index reserve = 0) const {
    return initial_state_of<T>(inner_, ctx, sequences, reserve);
  }
  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    p.table.reset({vocabulary_, channels()});
    p.inner = inner_.template zero_parameters<T>(ctx);
    return p;
  }
  /// Rows of the table are N(0, 1).
  template <class T>
  [[gnu::cold]] void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    seed.fork("table").fill_normal(p.table.data(), p.table.size(), 1.0);
    inner_.fill_parameters(p.inner, seed.fork("inner"));
  }

  static void for_each_parameter(auto&& visit, auto& p, auto&... more) {
    visit(ParameterSpec{.name = table_name.text(), .role = ParameterRole::embedding}, p.table,
          more.table...);
    Inner::for_each_parameter(visit, p.inner, more.inner...);
  }
  static void for_each_state(auto&& visit, auto&... state) {
    Inner::for_each_state(visit, state...);
  }

 private:
  Index vocabulary_;
  Inner inner_;
};

}  // namespace ssm
