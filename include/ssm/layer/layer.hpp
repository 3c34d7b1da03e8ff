// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/core/context.hpp"
#include "ssm/core/parameter.hpp"
#include "ssm/core/random.hpp"  // Seed
#include "ssm/core/segments.hpp"
#include "ssm/layer/copy_to.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm {

namespace detail {
/// The seed of a part of a layer, or of one of several layers, if there is one.
template <class Part>
std::optional<Seed> fork(const std::optional<Seed>& seed, const Part& part) {
  if (!seed) return std::nullopt;
  return seed->fork(part);
}
}  // namespace detail

/// What a sequence brings along and leaves behind. Left out: not packed, zero initial state, final state not wanted, nothing
/// dropped. `dropout` seeds the dropout of layers that have some, in calls with a tape.
/// `initial_state` and `final_state` may be the same object.
template <class State>
struct SequenceOptions {
  Segments segments = {};
  const State* initial_state = nullptr;
  State* final_state = nullptr;
  std::optional<Seed> dropout = {};

  /// The same for a part of the layer, whose state is of(state).
  template <class Of>
  auto part(Of of) const {
    using Part = std::remove_cvref_t<decltype(of(std::declval<State&>()))>;
    SequenceOptions<Part> result{.segments = segments, .dropout = dropout};
    if (initial_state != nullptr) result.initial_state = &of(*initial_state);
    if (final_state != nullptr) result.final_state = &of(*final_state);
    return result;
  }
  /// One of several parts, which `key` tells apart: each drops something else.
  template <class Of, class Key>
  auto part(Of of, const Key& key) const {
    auto result = part(of);
    result.dropout = detail::fork(dropout, key);
    return result;
  }
};

/// The gradients at both ends of a sequence: that of the final state comes in (zero if left out), that of the initial
/// state goes out (overwritten).
template <class State>
struct SequenceGradients {
  const State* final_state = nullptr;
  State* initial_state = nullptr;

  /// The same for a part of the layer, whose state is of(state).
  template <class Of>
  auto part(Of of) const {
    using Part = std::remove_cvref_t<decltype(of(std::declval<State&>()))>;
    SequenceGradients<Part> result;
    if (final_state != nullptr) result.final_state = &of(*final_state);
    if (initial_state != nullptr) result.initial_state = &of(*initial_state);
    return result;
  }
};

template <class P>
using StateOf = typename P::Layer::template State<typename P::Scalar, typename P::Space>;
template <class P>
using TapeOf = typename P::Layer::template Tape<typename P::Scalar, typename P::Space>;

/// The state of a layer without memory.
struct NoState {};

/// A tape or a state pointer that does not take part in template argument deduction, so that nullptr may be passed.
template <class X>
using Kept = std::type_identity_t<X*>;

/// Whether a layer's verbs, forward, backward, prefill and step, compile for a backend in scalar T: whether the backend has
/// the primitives that the layer calls.
///   static_assert(RunsOn<Mamba<MambaConfig{.channels = 256}>, Cpu>);
template <class L, class B, class T = float>
concept RunsOn = bool{L::template runs_on<B, T>};

/// Whether channels are contiguous and positions evenly spaced over the whole batch.
template <class T, class Space>
bool has_even_rows(const View<T, 3, Space>& x) {
  const bool even =
      x.extent(0) <= 1 || x.extent(1) <= 1 || x.stride(0) == x.extent(1) * x.stride(1);
  return even && (x.extent(2) <= 1 || x.stride(2) == 1);
}

/// The verbs of a layer, derived from the four things a layer L writes itself:
///   L::Parameters<T, Space>, L::State<T, Space>, L::Tape<T, Space>        what it learns, carries, and remembers
///   layer.evaluate(ctx, parameters, x, y, tape | nullptr, options)         whole sequences, states in and out
///   layer.backward(ctx, parameters, tape, dy, dx, gradients, ends)         vector–Jacobian product
///   layer.initial_state<T>(ctx, sequences), layer.zero_parameters<T>(ctx)  zeros of the right sizes
///   layer.fill_parameters(parameters, seed)                                the published initialisation, on the host
///   L::for_each_parameter(visit, parameters...)                            names and tensors, in lockstep
///   L::for_each_state(visit, states...)                                    likewise, visit(name, tensors...)
///   L::runs_on<B, T>                          whether backend B has the primitives it calls; left out, it calls none
/// A layer is a small value and holds no tensors. Its laws are checked by tests/support/layer_laws.hpp.
template <class L>
class LayerVerbs {
 public:
  template <class B, class T>
  static constexpr bool runs_on = true;

  /// Train: whole sequences in parallel, remembering what `backward` needs. x must outlive the tape's use.
  template <class B, class P, class X, class Y>
    requires RunsOn<L, B, typename P::Scalar>
  void forward(Context<B>& ctx, const P& parameters, const X& x, Y&& y, TapeOf<P>& tape,
               const SequenceOptions<StateOf<P>>& options = {}) const {
    self().evaluate(ctx, parameters, x, y, &tape, options);
  }

  /// Whole sequences, remembering nothing.
  template <class B, class P, class X, class Y>
    requires RunsOn<L, B, typename P::Scalar>
  void forward(Context<B>& ctx, const P& parameters, const X& x, Y&& y,
               const SequenceOptions<StateOf<P>>& options = {}) const {
    without_gaps(ctx, view_of(x), view_of(y), [&](const auto& input, const auto& output) {
      self().evaluate(ctx, parameters, input, output, nullptr, options);
    });
  }

  /// Infer: a chunk of any length; advances `state`. x and y may be slices of longer sequences.
  template <class B, class P, class X, class Y>
    requires RunsOn<L, B, typename P::Scalar>
  void prefill(Context<B>& ctx, const P& parameters, const X& x, Y&& y, StateOf<P>& state) const {
    forward(ctx, parameters, x, y,
            SequenceOptions<StateOf<P>>{.initial_state = &state, .final_state = &state});
  }

  /// Infer: one position, x_t and y_t [B, D]; advances `state`. Allocates nothing after the first call.
  template <class B, class P, class X, class Y>
    requires RunsOn<L, B, typename P::Scalar>
  void step(Context<B>& ctx, const P& parameters, const X& x_t, Y&& y_t, StateOf<P>& state) const {
    const auto x = view_of(x_t);
    const auto y = view_of(y_t);
    prefill(ctx, parameters, one_position(x), one_position(y), state);
  }

  /// Parameters in the published initialisation, the same numbers for every backend.
  template <class T = float, class B>
  auto initialize(const Context<B>& ctx, Seed seed) const {
    if constexpr (B::Space::host_readable) {
      auto result = self().template zero_parameters<T>(ctx);
      self().fill_parameters(result, seed);
      return result;
    } else {
      return copy_to(ctx, self(), initialize<T>(Context<HostMemory>(), seed));
    }
  }

  /// An empty tape for the host; `make_tape(ctx)` for any backend.
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

  /// Calls run(x, y) on operands without gaps, as matrix products and sums want them: slices of longer sequences pass
  /// through workspace.
  template <class B, class X, class Y, class Run>
  static void without_gaps(Context<B>& ctx, const X& x, const Y& y, Run&& run) {
    if constexpr (X::rank() != 3 || Y::rank() != 3 || !HasRearrange<B>) {
      run(x, y);
    } else {
      using T = typename Y::Value;
      using Space = typename B::Space;
      auto frame = ctx.workspace().frame();
      X input = x;
      Y output = y;
      if (!x.is_contiguous()) {
        const auto copy = frame.template tensor<T>(x.extents());
        rearrange(ctx, Rearrange<T, Space>{.x = x, .y = copy});
        input = X(copy.data(), x.extents());
      }
      if (!y.is_contiguous()) output = Y(frame.template tensor<T>(y.extents()).data(), y.extents());
      run(input, output);
      if (output.data() != y.data()) rearrange(ctx, Rearrange<T, Space>{.x = output, .y = y});
    }
  }

  /// [B, D] as [B, 1, D]; [B] as [B, 1].
  template <class T, class E, class S>
  static auto one_position(const TensorView<T, E, S>& x) {
    if constexpr (E::rank() == 1)
      return View<T, 2, S>(x.data(), {x.extent(0), 1}, {x.stride(0), 1});
    else
      return View<T, 3, S>(x.data(), {x.extent(0), 1, x.extent(1)},
                           {x.stride(0), x.extent(1), x.stride(1)});
  }
};

/// Copies every tensor of a state, in order with the context's primitives; the copy grows as needed.
template <class L, class B, class State>
void copy_state(Context<B>& ctx, const State& from, State& to) {
  L::for_each_state([&](const std::string&, const auto& source,
                        auto& target) { copy_tensor(ctx, source, target); },
                    from, to);
}

/// What every tape of a sequence layer remembers: the packing and the state it started from.
template <class L, class State>
struct SequenceTape {
  std::vector<Index> segments;
  bool has_initial_state = false;
  State initial_state;

  template <class B>
  void keep(Context<B>& ctx, const SequenceOptions<State>& options) {
    segments.assign(options.segments.begin(), options.segments.end());
    has_initial_state = options.initial_state != nullptr;
    if (has_initial_state) copy_state<L>(ctx, *options.initial_state, initial_state);
  }
};

/// Room for an intermediate result: in the tape where there is one, else in the workspace.
template <class T, class Space, class Frame, class... N>
View<T, int{sizeof...(N)}, Space> room(
    Frame& frame, std::type_identity_t<DynamicTensor<T, int{sizeof...(N)}, Space>>* kept,
    N... extents) {
  if (kept == nullptr) return frame.template tensor<T>(extents...);
  kept->resize(DynamicExtents<int{sizeof...(N)}>(extents...));
  return kept->view();
}

/// A [B, L, D] operand with contiguous rows as the matrix [B·L, D]; null stays null.
/// Throws  ShapeError  unless it has even rows
template <class T, class Space>
View<T, 2, Space> as_rows(const View<T, 3, Space>& x) {
  if (!x) return {};
  const Index rows = x.extent(0) * x.extent(1);
  if (!has_even_rows(View<const T, 3, Space>(x)))
    throw ShapeError("layer", "operand",
                     "must have its channels contiguous and positions evenly spaced");
  const Index stride = x.extent(1) == 1 ? x.stride(0) : x.stride(1);
  return {x.data(), {rows, x.extent(2)}, {stride, 1}};
}

}  // namespace ssm
