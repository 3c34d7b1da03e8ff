// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>
#include <utility>

#include "ssm/core/context.hpp"
#include "ssm/core/initializer.hpp"
#include "ssm/core/parameter.hpp"
#include "ssm/core/random.hpp"  // Seed
#include "ssm/core/transfer.hpp"
#include "ssm/layer/operand_layout.hpp"
#include "ssm/layer/runs_on.hpp"
#include "ssm/layer/sequence_options.hpp"
#include "ssm/layer/tape.hpp"
#include "ssm/layer/verb_call.hpp"
#include "ssm/layer/write_mode.hpp"

namespace ssm {

/// The verbs of a layer, derived from the things that a layer L writes itself:
///   L::Parameters<T, Space>                         what it learns
///   L::State<T, Space>                              what it carries
///   L::Tape<T, Space>                               what it remembers
///   layer.evaluate(ctx, parameters, x, y, tape | nullptr, options)
///                                                   whole sequences, states in and out
///   layer.differentiate(ctx, parameters, tape, dy, dx, gradients, ends)
///                                                   vector–Jacobian product
///   layer.channels(), or layer.inputs() and layer.outputs()
///                                                   the widths of x and y
///   layer.initial_state<T>(ctx, sequences), layer.zero_parameters<T>(ctx)
///                                                   zeros of the right sizes
///   layer.fill_parameters(parameters, initializer)  the published initialization, on the host
///   L::for_each_parameter(visit, parameters...)     names and tensors, in lockstep
///   L::for_each_state(visit, states...)             likewise, visit(name, tensors...)
///   L::runs_on<B, T>                                whether backend B has the primitives it calls;
///                                                   left out, what `evaluate` requires
/// A layer is a small value and holds no tensors. Its laws are checked by
/// tests/support/layer_laws.hpp.
///
/// x, y, dy and dx of every verb are tensors, views, or what `view_of` takes (Eigen matrices), in
/// any layout, [B, L, D], or [L, D] for one sequence. What does not lie as the layer wants it
/// (OperandLayout) is copied on the way. y must not overlap x, nor dx dy.
/// Throws  ShapeError     by name of layer and operand; from backward also where batch or length is
///                        not that of forward
///         ArgumentError  where y and x, or dx and dy, begin at the same element
template <class L>
class LayerVerbs {
 public:
  template <class B, class T>
  static constexpr bool runs_on = detail::Evaluates<L, B, T>;

  /// Train: whole sequences in parallel, remembering what `backward` needs. x must outlive the
  /// tape's use, unless it is copied.
  template <class B, class P, class X, class Y, class Tape>
    requires(!std::is_same_v<std::remove_const_t<Tape>, SequenceOptions<StateOf<P>>>)
  void forward(Context<B>& ctx, const P& parameters, X&& x, Y&& y, Tape& tape,
               const SequenceOptions<StateOf<P>>& options = {}) const {
    using Call = detail::VerbCall<L, B, P>;
    if constexpr (Call::template has_tape<Tape>() &&
                  Call::template evaluates<detail::Positions::many, X, Y>())
      Call::run(ctx, self(), parameters, Call::template input<detail::Positions::many>(x),
                Call::sequences(y), &tape, options);
  }

  /// Whole sequences, remembering nothing.
  template <class B, class P, class X, class Y>
  void forward(Context<B>& ctx, const P& parameters, X&& x, Y&& y,
               const SequenceOptions<StateOf<P>>& options = {}) const {
    using Call = detail::VerbCall<L, B, P>;
    if constexpr (Call::template evaluates<detail::Positions::many, X, Y>())
      Call::run(ctx, self(), parameters, Call::template input<detail::Positions::many>(x),
                Call::sequences(y), nullptr, options);
  }

  /// The gradients of what `forward` with this tape computed: dx is overwritten, `gradients` are
  /// added to.
  template <class B, class P, class Tape, class DY,
            class DX = View<typename P::Scalar, 3, typename P::Space>, class G>
    requires(!ReadsTokens<typename P::Layer>)  // L itself is incomplete here
  void backward(Context<B>& ctx, const P& parameters, const Tape& tape, DY&& dy, DX&& dx,
                G& gradients, const SequenceGradients<StateOf<P>>& ends = {}) const {
    using Call = detail::VerbCall<L, B, P>;
    if constexpr (Call::template has_tape<Tape>() && Call::template has_gradients<G>() &&
                  Call::runs() &&
                  Call::template takes<detail::VerbOperand::dy, detail::Positions::many, DY>() &&
                  Call::template takes<detail::VerbOperand::dx, detail::Positions::many, DX>())
      Call::run_back(ctx, self(), parameters, tape, Call::sequences(dy), Call::sequences(dx),
                     gradients, ends);
  }
  /// Tokens have no gradient.
  template <class B, class P, class Tape, class DY, class G>
    requires ReadsTokens<typename P::Layer>
  void backward(Context<B>& ctx, const P& parameters, const Tape& tape, DY&& dy, G& gradients,
                const SequenceGradients<StateOf<P>>& ends = {}) const {
    using Call = detail::VerbCall<L, B, P>;
    if constexpr (Call::template has_tape<Tape>() && Call::template has_gradients<G>() &&
                  Call::runs() &&
                  Call::template takes<detail::VerbOperand::dy, detail::Positions::many, DY>())
      Call::run_back(ctx, self(), parameters, tape, Call::sequences(dy), {}, gradients, ends);
  }

  /// Infer: a chunk of any length; advances `state`. x and y may be slices of longer sequences.
  template <class B, class P, class X, class Y, class State>
  void prefill(Context<B>& ctx, const P& parameters, X&& x, Y&& y, State& state) const {
    using Call = detail::VerbCall<L, B, P>;
    if constexpr (Call::template has_state<State>() &&
                  Call::template evaluates<detail::Positions::many, X, Y>())
      Call::run(ctx, self(), parameters, Call::template input<detail::Positions::many>(x),
                Call::sequences(y), nullptr, {.initial_state = &state, .final_state = &state});
  }

  /// Infer: one position, x_t and y_t [B, D], or [D] for one sequence; advances `state`. Allocates
  /// nothing after the first call.
  template <class B, class P, class X, class Y, class State>
  void step(Context<B>& ctx, const P& parameters, X&& x_t, Y&& y_t, State& state) const {
    using Call = detail::VerbCall<L, B, P>;
    if constexpr (Call::template has_state<State>() &&
                  Call::template evaluates<detail::Positions::one, X, Y>())
      Call::run(ctx, self(), parameters, Call::template input<detail::Positions::one>(x_t),
                Call::template sequences<detail::Positions::one>(y_t), nullptr,
                {.initial_state = &state, .final_state = &state}, detail::Positions::one);
  }

  /// Parameters in the published initialization, the same numbers for every backend and any number
  /// of threads.
  template <class T = float, class B>
  auto initialize(const Context<B>& ctx, Seed seed) const {
    if constexpr (B::Space::host_readable) {
      auto result = self().template zero_parameters<T>(ctx);
      self().fill_parameters(result, initializer_on(ctx.resources(), seed));
      return result;
    } else {
      auto result = self().template zero_parameters<T>(Context<HostMemory>());
      self().fill_parameters(result, initializer_on(ctx.resources(), seed));
      return copy_to(ctx, self(), result);
    }
  }

  /// An empty tape: for these parameters, for float or another scalar on the host, or for any
  /// backend.
  template <class P>
  TapeOf<P> make_tape(const P&) const {
    return {};
  }
  template <class T = float>
  auto make_tape() const {
    return typename L::template Tape<T, HostSpace>{};
  }
  template <class T = float, class B>
  auto make_tape(const Context<B>&) const {
    return typename L::template Tape<T, typename B::Space>{};
  }

 private:
  const L& self() const { return static_cast<const L&>(*this); }

  /// Draws on the threads of resources that have some.
  template <class Resources>
  static Initializer initializer_on(const Resources& resources, Seed seed) {
    if constexpr (std::is_constructible_v<Initializer, Seed, const Resources&>)
      return {seed, resources};
    else
      return seed;
  }
};

}  // namespace ssm
