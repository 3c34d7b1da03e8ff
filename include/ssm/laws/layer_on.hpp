// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include "ssm/laws/allocation_count.hpp"
#include "ssm/laws/subject.hpp"
#include "ssm/layer/layer.hpp"
#include "ssm/layer/widths.hpp"

namespace ssm::laws {

/// A context for tests: two threads where the backend has threads.
template <class B>
typename B::Resources two_threads() {
  if constexpr (std::is_constructible_v<typename B::Resources, int>)
    return typename B::Resources(2);
  else
    return typename B::Resources();
}

/// A layer L, or a language model, on a backend in a scalar, as a subject of the laws. The
/// backend's memory is the host's.
template <class L, class B, class T>
class LayerOn : public Subject {
  using Space = typename B::Space;
  using Parameters = typename L::template Parameters<T, Space>;
  using State = typename L::template State<T, Space>;
  using Tape = typename L::template Tape<T, Space>;
  using Gradients = GradientsOf<Parameters>;
  using Sequence = LaidOut<T>;
  using Sequences =  // what the layer reads
      std::conditional_t<ReadsTokens<L>, DynamicTensor<Token, 2, Space>, Sequence>;
  static_assert(Space::host_readable, "the laws read and write the tensors of a layer themselves");

 public:
  LayerOn(const L& layer, const std::string& backend)
      : layer_(layer), backend_(backend), name_(backend + " " + std::string(scalar_name<T>())) {
    restart();
  }

  std::string name() const override { return name_; }
  std::string_view scalar() const override { return scalar_name<Wide<T>>(); }
  Tolerance tolerance() const override { return ssm::tolerance<T>; }
  Index outputs() const override { return output_channels(layer_); }

  std::unique_ptr<Subject> twin() const override {
    return std::make_unique<LayerOn>(layer_, backend_);
  }
  void cut_sequences(const SequenceCut& cut) override { cut_ = cut; }
  void restart(bool nan_workspace = false) override {
    context_.emplace(two_threads<B>());
    context_->workspace().fill_with_nan(nan_workspace);
    tape_.emplace();
  }

  NamedTensor input(std::string name, Index batch, Index length, Seed seed) const override {
    if constexpr (ReadsTokens<L>)
      return tokens(std::move(name), {batch, length}, layer_.vocabulary(), seed);
    else
      return normal(std::move(name), {batch, length, inputs()}, seed);
  }
  Bundle initial_parameters(Seed seed) override {
    return read_parameters(layer_.template initialize<T>(*context_, seed));
  }
  Bundle kept_parameters(const Bundle& parameters) override {
    return read_parameters(write_parameters(parameters));
  }
  NamedTensor kept_sequence(const NamedTensor& sequence) const override {
    if (sequence.extents.size() < 3) return sequence;  // tokens
    return Sequence(Strides::none, sequence).read(sequence.name);
  }
  Bundle zero_state(Index sequences) override {
    return read_state(layer_.template initial_state<T>(*context_, sequences));
  }

  Outcome forward(const Call& call) override {
    const SequenceCutScope<B> cut(*context_, cut_);
    const Sequences x = write_input(call.strides, call.x);
    return evaluate(call, write_parameters(call.parameters), x, nullptr);
  }

  Outcome differentiate(const Call& call) override {
    const SequenceCutScope<B> cut(*context_, cut_);
    const Parameters parameters = write_parameters(call.parameters);
    const Sequences x = write_input(call.strides, call.x);
    if (cut_.kept != nullptr) cut_.kept->begin();
    Outcome result = evaluate(call, parameters, x, &*tape_);
    if (cut_.kept != nullptr) cut_.kept->begin_backward();
    const Sequence dy(call.strides, call.dy);
    Gradients gradients = write_parameters<Wide<T>>(call.gradients);
    State dfinal;
    State dinitial;
    SequenceGradients<State> ends;
    if (call.keep_states) {
      dfinal = write_state(call.dfinal_state, call.sequences());
      dinitial = first_state(call);
      for_each(dinitial, [&](auto& tensor) { fill_unwritten(tensor, call); });
      ends = {.final_state = &dfinal, .initial_state = &dinitial};
    }
    if constexpr (ReadsTokens<L>) {
      layer_.backward(*context_, parameters, *tape_, dy.view(), gradients, ends);
    } else {
      Sequence dx = unwritten_sequence(call, inputs());
      layer_.backward(*context_, parameters, *tape_, dy.view(), dx.view(), gradients, ends);
      result.dx = dx.read("gradient of x");
    }
    if (cut_.kept != nullptr) cut_.kept->end();
    result.gradients = read_parameters(gradients, "gradient of ");
    if (call.keep_states) result.dinitial_state = read_state(dinitial, "gradient of initial ");
    return result;
  }

  Outcome prefill(const Call& call) override {
    const Parameters parameters = write_parameters(call.parameters);
    const Sequences x = write_input(call.strides, call.x);
    Sequence y = unwritten_sequence(call, outputs());
    State state = first_state(call);
    layer_.prefill(*context_, parameters, x.view(), y.view(), state);
    return {.y = y.read("y"), .final_state = read_state(state, "final ")};
  }

  Outcome step(const Call& call) override {
    const Parameters parameters = write_parameters(call.parameters);
    const Sequences x = write_input(call.strides, call.x);
    Sequence y = unwritten_sequence(call, outputs());
    State state = first_state(call);
    for (Index t = 0; t < call.length(); ++t)
      layer_.step(*context_, parameters, x.view().select(1, t), y.view().select(1, t), state);
    return {.y = y.read("y"), .final_state = read_state(state, "final ")};
  }

  Outcome forward_initialized(Seed seed, const NamedTensor& x) override {
    return evaluate(Call{.x = x}, layer_.template initialize<T>(*context_, seed),
                    write_input(Strides::none, x), nullptr);
  }

  std::size_t allocations_after_first_step(const Call& call) override {
    const Parameters parameters = write_parameters(call.parameters);
    const Sequences x = write_input(call.strides, call.x);
    Sequence y = unwritten_sequence(call, outputs());
    State state = first_state(call);
    std::size_t before = 0;
    for (Index t = 0; t < call.length(); ++t) {
      if (t == 1) before = allocation_count();
      layer_.step(*context_, parameters, x.view().select(1, t), y.view().select(1, t), state);
    }
    return allocation_count() - before;
  }

 private:
  Outcome evaluate(const Call& call, const Parameters& parameters, const Sequences& x, Tape* tape) {
    Sequence y = unwritten_sequence(call, outputs());
    State initial;
    State final;
    SequenceOptions<State> options{.segments = call.segments};
    if (call.initial_state) {
      initial = first_state(call);
      options.initial_state = &initial;
    }
    if (call.keep_states) {
      final = first_state(call);
      for_each(final, [&](auto& tensor) { fill_unwritten(tensor, call); });
      options.final_state = &final;
    }
    if (tape != nullptr)
      layer_.forward(*context_, parameters, x.view(), y.view(), *tape, options);
    else
      layer_.forward(*context_, parameters, x.view(), y.view(), options);
    Outcome result{.y = y.read("y")};
    if (call.keep_states) result.final_state = read_state(final, "final ");
    return result;
  }

  Index inputs() const {
    if constexpr (requires { layer_.inputs(); })
      return layer_.inputs();
    else
      return layer_.channels();
  }
  static Sequences write_input(Strides strides, const NamedTensor& from) {
    if constexpr (ReadsTokens<L>) {
      Sequences to({from.extents[0], from.extents[1]});
      write(from, to);
      return to;
    } else {
      return Sequence(strides, from);
    }
  }
  Sequence unwritten_sequence(const Call& call, Index width) {
    Sequence sequence(call.strides, call.batch(), call.length(), width);
    ssm::fill(sequence.view(), scalar_cast<T>(call.unwritten));
    return sequence;
  }
  template <class U, class E>
  static void fill_unwritten(Tensor<U, E, Space>& tensor, const Call& call) {
    const bool is_nan = call.unwritten != call.unwritten;
    const U element = std::is_integral_v<U> && is_nan ? U(-1) : scalar_cast<U>(call.unwritten);
    std::fill_n(tensor.data(), tensor.size(), element);
  }

  template <class U = T>
  auto write_parameters(const Bundle& from) {
    auto to = layer_.template zero_parameters<U>(*context_);
    std::size_t i = 0;
    if (!from.empty())
      L::for_each_parameter(
          [&](const ParameterSpec&, auto& tensor) { write(from.at(i++), tensor); }, to);
    return to;
  }
  template <class P>
  static Bundle read_parameters(const P& from, const std::string& prefix = "") {
    Bundle to;
    L::for_each_parameter(
        [&](const ParameterSpec& spec, const auto& tensor) {
          to.push_back(read(prefix + spec.name, tensor));
        },
        from);
    return to;
  }

  template <class AnyState, class Visit>
  static void for_each(AnyState& state, Visit&& visit) {
    L::for_each_state([&](const std::string&, auto& tensor) { visit(tensor); }, state);
  }
  /// The state that the call starts from, zero if it gives none.
  State first_state(const Call& call) {
    return write_state(call.initial_state.value_or(Bundle()), call.sequences());
  }
  State write_state(const Bundle& from, Index sequences) {
    State to = zero_state_with_room(sequences);
    std::size_t i = 0;
    if (!from.empty())
      for_each(to, [&](auto& tensor) {
        tensor.resize(extents_of(tensor, from.at(i).extents));
        write(from[i++], tensor);
      });
    return to;
  }
  /// Run-time extents as the extents type of a tensor.
  template <class U, class E>
  static E extents_of(const Tensor<U, E, Space>&, const std::vector<Index>& extents) {
    std::array<Index, static_cast<std::size_t>(E::rank())> axes{};
    std::copy_n(extents.begin(), axes.size(), axes.begin());
    return std::apply([](auto... n) { return E(n...); }, axes);
  }
  /// States that grow get the room that they may ask for.
  State zero_state_with_room(Index sequences) {
    constexpr Index positions = 2048;
    if constexpr (requires { layer_.template initial_state<T>(*context_, sequences, positions); })
      return layer_.template initial_state<T>(*context_, sequences, positions);
    else
      return layer_.template initial_state<T>(*context_, sequences);
  }
  static Bundle read_state(const State& from, const std::string& prefix = "") {
    Bundle to;
    L::for_each_state([&](const std::string& name,
                          const auto& tensor) { to.push_back(read(prefix + name, tensor)); },
                      from);
    return to;
  }

  L layer_;
  std::string backend_;
  std::string name_;
  SequenceCut cut_{};
  std::optional<Context<B>> context_;
  std::optional<Tape> tape_;
};

}  // namespace ssm::laws
