// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>

#include "ssm/core/elementwise.hpp"
#include "ssm/layer/layer.hpp"

namespace ssm::laws {

/// What is wrong with a OnePole layer.
enum class Fault {
  none,
  wrong_parameter_gradient,  // of one element
  wrong_input_gradient,      // at one position
  forgotten_final_gradient,  // the final state's cotangent does not reach the input
  overwritten_gradient,      // parameter gradients are overwritten instead of added to
  forgetful_step,            // step starts from zero every time
  resetting_prefill,         // a chunk of several positions starts from zero
  peeking,                   // y_t contains a little of x_{t+1}
  backend_dependent,         // another gain on another backend
  reads_output,              // accumulates into y
  reads_workspace,           // uses scratch memory that it never wrote
  allocating_step,           // one heap allocation in every call
  ignores_segments,          // the state runs on across the boundaries of packed sequences
  counter_in_the_result,     // the last bits depend on how many calls there were before
  ignored_strides,           // reads x as if it were contiguous
  forgotten_strides,         // the same when it reads x again for the gradients
  writes_beside              // writes before the first element of a strided y
};

/// What is wrong with the names of its parameters.
enum class Naming {
  honest,
  duplicate,  // two parameters under one name
  incomplete  // one tensor is not visited
};

/// Two backends that differ in name only; OnePole needs no primitives.
struct Here {
  using Space = HostSpace;
  struct Resources {};
};
struct There : Here {};

/// One real pole per channel, in plain loops: the smallest layer with a state, honest unless told
/// otherwise.
///   s_t = pole·s_{t−1} + x_t      y_t = gain·s_t + skip·x_t
/// x, y    [B, L, channels]
/// state   [B, channels]
template <Naming Names = Naming::honest>
class OnePole : public LayerVerbs<OnePole<Names>> {
 public:
  static constexpr auto operand_layout = OperandLayout::any;

  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<OnePole, T, Space> {
    DynamicTensor<T, 1, Space> pole;
    DynamicTensor<T, 1, Space> gain;
    DynamicTensor<T, 1, Space> skip;
  };
  template <class T, class Space = HostSpace>
  struct State {
    DynamicTensor<T, 2, Space> s;
  };
  template <class T, class Space = HostSpace>
  struct Tape : SequenceTape<OnePole, State<T, Space>>, InputTape<T, Space> {
    View<const T, 3, Space> x;
    DynamicTensor<T, 3, Space> s;  // after each position
  };

  explicit OnePole(Index channels, Fault wrong = Fault::none)
      : channels_(channels), wrong_(wrong) {}
  Index channels() const { return channels_; }

  template <class B, class T>
  void evaluate(Context<B>& ctx, const Parameters<T>& p, Input<B, T, dyn, dyn, dyn> x,
                Output<B, T, dyn, dyn, dyn> y, NonDeduced<Tape<T>>* tape,
                const SequenceOptions<State<T>>& options = {}) const {
    if (wrong_ == Fault::ignored_strides) x = {x.data(), x.extents()};
    auto frame = ctx.workspace().frame();
    if (tape != nullptr) {
      tape->keep(ctx, options);
      tape->x = x;
      if (wrong_ == Fault::forgotten_strides) tape->x = {x.data(), x.extents()};
    }
    auto s = Buffers(frame, tape).at(&Tape<T>::s, x.extents());
    const T noise = disturbance<B, T>(frame);
    if (wrong_ == Fault::writes_beside && !y.is_contiguous()) y.data()[-1] = T{0};
    for_each_sequence(x.extent(0), x.extent(1), options.segments, [&](const Sequence& sequence) {
      for (Index d = 0; d < channels_; ++d) {
        T state = start(options.initial_state, sequence, s, d);
        for (Index t = sequence.begin; t < sequence.end; ++t) {
          state = p.pole(d) * state + x(sequence.batch, t, d);
          s(sequence.batch, t, d) = state;
          T value = (p.gain(d) + noise) * state + p.skip(d) * x(sequence.batch, t, d);
          if (wrong_ == Fault::peeking && t + 1 < sequence.end)
            value += mistake<T> * x(sequence.batch, t + 1, d);
          if (wrong_ == Fault::reads_output) value += y(sequence.batch, t, d);
          y(sequence.batch, t, d) = value;
        }
        if (options.final_state != nullptr) options.final_state->s(sequence.row, d) = state;
      }
    });
  }

  template <class B, class T>
  void differentiate(Context<B>& ctx, const Parameters<T>& p, const Tape<T>& tape,
                     Input<B, T, dyn, dyn, dyn> dy, Output<B, T, dyn, dyn, dyn> dx,
                     Parameters<T>& gradients, const SequenceGradients<State<T>>& ends = {}) const {
    auto frame = ctx.workspace().frame();
    const T noise = disturbance<B, T>(frame);
    if (wrong_ == Fault::overwritten_gradient) fill(gradients.skip, 0);
    const State<T>* initial = tape.has_initial_state ? &tape.initial_state : nullptr;
    for_each_sequence(dy.extent(0), dy.extent(1), tape.segments, [&](const Sequence& sequence) {
      const Index b = sequence.batch;
      for (Index d = 0; d < channels_; ++d) {
        T ds = ends.final_state != nullptr && wrong_ != Fault::forgotten_final_gradient
                   ? ends.final_state->s(sequence.row, d)
                   : T{0};
        for (Index t = sequence.end; t-- > sequence.begin;) {
          ds += (p.gain(d) + noise) * dy(b, t, d);
          const T before =
              t > sequence.begin ? tape.s(b, t - 1, d) : start(initial, sequence, tape.s.view(), d);
          gradients.pole(d) += ds * before;
          gradients.gain(d) += tape.s(b, t, d) * dy(b, t, d);
          gradients.skip(d) += tape.x(b, t, d) * dy(b, t, d);
          dx(b, t, d) = ds + p.skip(d) * dy(b, t, d);
          if (wrong_ == Fault::peeking && t > sequence.begin)
            dx(b, t, d) += mistake<T> * dy(b, t - 1, d);
          if (wrong_ == Fault::wrong_input_gradient && t == 1) dx(b, t, d) += mistake<T>;
          ds *= p.pole(d);
        }
        if (ends.initial_state != nullptr) ends.initial_state->s(sequence.row, d) = ds;
      }
    });
    if (wrong_ == Fault::wrong_parameter_gradient) gradients.gain(channels_ - 1) += mistake<T>;
  }

  template <class B, class P, class X, class Y>
  void prefill(Context<B>& ctx, const P& p, const X& x, Y&& y, StateOf<P>& state) const {
    if (wrong_ == Fault::resetting_prefill && view_of(x).extent(1) > 1) fill(state.s, 0);
    LayerVerbs<OnePole>::prefill(ctx, p, x, y, state);
  }
  template <class B, class P, class X, class Y>
  void step(Context<B>& ctx, const P& p, const X& x_t, Y&& y_t, StateOf<P>& state) const {
    if (wrong_ == Fault::forgetful_step) fill(state.s, 0);
    LayerVerbs<OnePole>::step(ctx, p, x_t, y_t, state);
  }

  template <class T = float, class B>
  State<T> initial_state(const Context<B>&, Index sequences) const {
    State<T> state;
    state.s.reset({sequences, channels_});
    return state;
  }
  template <class T = float, class B>
  Parameters<T> zero_parameters(const Context<B>&) const {
    Parameters<T> p;
    p.pole.reset({channels_});
    p.gain.reset({channels_});
    p.skip.reset({channels_});
    return p;
  }
  template <class T>
  void fill_parameters(Parameters<T>& p, Seed seed) const {
    const Random random(seed);
    for (Index d = 0; d < channels_; ++d) {
      p.pole(d) = static_cast<T>(random.uniform(static_cast<std::uint64_t>(d), 0.1, 0.5));
      p.gain(d) = T{2};
      p.skip(d) = T{1};
    }
  }

  static void for_each_parameter(auto&& visit, auto&... p) {
    visit(ParameterSpec{.name = "pole"}, p.pole...);
    visit(ParameterSpec{.name = Names == Naming::duplicate ? "pole" : "gain"}, p.gain...);
    if constexpr (Names != Naming::incomplete) visit(ParameterSpec{.name = "skip"}, p.skip...);
  }
  static void for_each_state(auto&& visit, auto&... state) { visit(std::string("s"), state.s...); }

 private:
  template <class T>
  static constexpr T mistake = T{1} / 64;

  /// The state before the first position of a sequence. `s` holds the states after each position of
  /// the whole row.
  template <class T, class States>
  T start(const State<T>* initial, const Sequence& sequence, const States& s, Index d) const {
    if (wrong_ == Fault::ignores_segments && sequence.begin > 0)
      return s(sequence.batch, sequence.begin - 1, d);
    return initial != nullptr ? initial->s(sequence.row, d) : T{0};
  }

  /// What a fault adds to the gain.
  template <class B, class T, class Frame>
  T disturbance(Frame& frame) const {
    if (wrong_ == Fault::backend_dependent && !std::is_same_v<B, Here>) return mistake<T>;
    if (wrong_ == Fault::reads_workspace) {
      const T found = frame.template tensor<T>(1)(0);
      return std::isnan(found) ? T{1} : T{0};
    }
    if (wrong_ == Fault::allocating_step) return DynamicTensor<T, 1>(1).size() == 1 ? T{0} : T{1};
    if (wrong_ == Fault::counter_in_the_result) {
      static std::uint64_t calls = 0;
      return std::numeric_limits<T>::epsilon() * static_cast<T>(calls++ % 7);
    }
    return T{0};
  }

  Index channels_;
  Fault wrong_;
};

}  // namespace ssm::laws
