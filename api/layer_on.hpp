// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "layer.hpp"
#include "ssm/core/context.hpp"
#include "ssm/layer/layer.hpp"
#include "tensor.hpp"
#include "thread_context.hpp"
#include "wide_copy.hpp"

namespace ssm::api {

/// The name of a role in facts.
const char* role_name(ParameterRole role);
/// Throws  ArgumentError  unless there are as many tensors as the layer has parameters
void require_count(std::size_t given, std::size_t expected, const char* what);
/// Checks a tensor whose extents are known and that must have no gaps.
/// Throws  TensorError, ShapeError, ArgumentError
void require_as(const ssm_tensor* tensor, const std::string& name, std::span<const Index> extents,
                ssm_scalar scalar, bool must_be_on_host);
[[noreturn]] void refuse_object(const char* what);
template <class B>
int current_device() {
  if constexpr (B::Space::host_readable) return 0;
  return current_cuda_device();
}

namespace detail {
/// The tensor borrows memory that was checked, and takes its extents.
template <class Tensor>
void borrow_tensor(Tensor& tensor, const ssm_tensor& memory) {
  const auto shape = [&]<std::size_t... axis>(std::index_sequence<axis...>) {
    return typename Tensor::Shape(static_cast<Index>(memory.shape[axis])...);
  }
  (std::make_index_sequence<static_cast<std::size_t>(Tensor::rank())>());
  tensor = Tensor::borrow(elements_of<typename Tensor::Value>(memory), shape);
}
}  // namespace detail

/// Layer L on backend B in scalar T: its verbs on tensors of the caller's.
template <class L, class B, class T>
class LayerOn final : public ssm_layer {
  using Space = typename B::Space;
  static constexpr bool is_host = Space::host_readable;
  using Parameters = typename L::template Parameters<T, Space>;
  using State = typename L::template State<T, Space>;

  struct TapeOn final : ssm_tape {
    const LayerOn* owner = nullptr;
    bool is_recorded = false;
    WideCopy x;  // which the tape reads, where x is of a half type
    typename L::template Tape<T, Space> tape;
  };
  struct StateOn final : ssm_layer_state {
    const LayerOn* owner = nullptr;
    int device = 0;
    mutable void* stream = nullptr;  // that the state was last used on
    State state;
    std::vector<std::string> names;
    std::vector<std::vector<std::int64_t>> shapes;

    std::unique_ptr<ssm_layer_state> copy() const override {
      auto other = std::make_unique<StateOn>();
      other->owner = owner;
      other->device = device;
      use_on_stream();
      other->stream = stream;
      owner->context_.run(device, [&](auto& ctx) {
        other->state = owner->layer_.template initial_state<T>(ctx, 0);
        copy_state<L>(ctx, state, other->state);
      });
      return other;
    }
    int count() const override {
      int result = 0;
      L::for_each_state([&](const std::string&, const auto&) { ++result; }, state);
      return result;
    }
    void tensor(int index, const char** name, ssm_tensor& tensor) override {
      const auto all = static_cast<std::size_t>(count());
      names.resize(all);
      shapes.resize(all);
      at(index, [&](const std::string& own_name, auto& own) {
        const auto i = static_cast<std::size_t>(index);
        names[i] = own_name;
        const auto extents = own.extents().to_array();
        shapes[i].assign(extents.begin(), extents.end());
        if (name != nullptr) *name = names[i].c_str();
        tensor = {.data = own.data(),
                  .device = {is_host_tensor<decltype(own)> ? 1 : 2, device},
                  .ndim = own.rank(),
                  .type = scalar_of<typename std::remove_reference_t<decltype(own)>::Value>(),
                  .shape = shapes[i].data(),
                  .strides = nullptr,
                  .byte_offset = 0};
      });
    }
    void borrow(int index, const ssm_tensor& memory) override {
      at(index, [&](const std::string& name, auto& own) {
        using Own = std::remove_reference_t<decltype(own)>;
        auto extents = own.extents().to_array();
        if (memory.ndim == own.rank() && memory.shape != nullptr)
          for (std::size_t axis = 0; axis < extents.size(); ++axis)  // a cache, or no sequences
            if (extents[axis] == 0) extents[axis] = static_cast<Index>(memory.shape[axis]);
        require_as(&memory, "state " + name, extents, scalar_of<typename Own::Value>(),
                   is_host_tensor<Own>);
        owner->context_.run(device, [&](auto&) { detail::borrow_tensor(own, memory); });
      });
    }

    /// Before it is used on the layer's stream; work on another one is waited for.
    void use_on_stream() const {
      if constexpr (!is_host) {
        const CallPlace now = owner->context_.place(device);
        if (stream == now.stream) return;
        const typename B::Resources::Scope scope({device}, stream);
        B::Resources::borrow(stream).synchronize();
        stream = now.stream;
      }
    }

   private:
    template <class Tensor>
    static constexpr bool is_host_tensor =
        std::remove_reference_t<Tensor>::Space::host_readable;  // positions are on the host
    template <class Visit>
    void at(int index, Visit&& visit) {
      int i = 0;
      L::for_each_state(
          [&](const std::string& name, auto& own) {
            if (i++ == index) visit(name, own);
          },
          state);
      if (index < 0 || index >= i)
        throw ArgumentError(message({"the state has no tensor ", index, ", it has ", i}));
    }
  };

 public:
  LayerOn(L layer, int threads) : layer_(std::move(layer)), context_(threads) {
    context_.run(current_device<B>(), [&](auto& ctx) { describe(ctx); });
  }

  Index channels() const override { return layer_.channels(); }
  const std::vector<TensorFacts>& parameters() const override { return parameters_; }
  const std::vector<TensorFacts>& state() const override { return state_; }
  bool is_on_host() const override { return is_host; }
  void set_threads(int threads) override { context_.set_threads(threads); }
  void set_stream(void* stream) override { context_.set_stream(stream); }

  void copy_bytes(int device, void* to, const void* from, std::size_t bytes, bool waits) override {
    context_.run(device, [&](auto& ctx) {
      if constexpr (!is_host)
        if (!waits) return ctx.resources().copy(to, from, bytes);
      Space::copy(to, from, bytes);
    });
  }
  void zero_bytes(int device, void* memory, std::size_t bytes) override {
    context_.run(device, [&](auto&) {
      if constexpr (is_host)
        std::fill_n(static_cast<std::byte*>(memory), bytes, std::byte{});
      else
        Space::fill_zero(memory, bytes);
    });
  }

  void initialize(Seed seed, std::span<const ssm_tensor* const> parameters) override {
    context_.run(device_of("initialize", parameters), [&](auto& ctx) {
      borrow("parameter ", parameters, places_);
      Parameters made = layer_.template initialize<T>(ctx, seed);
      for_each_parameter(
          [](const ParameterSpec&, const auto& from, auto& to) {
            using Value = typename std::remove_reference_t<decltype(to)>::Value;
            Space::copy(to.data(), from.data(),
                        static_cast<std::size_t>(from.size()) * sizeof(Value));
          },
          made, own_);
    });
  }

  void forward(const ForwardCall& call) override {
    borrow("parameter ", call.parameters, places_);
    auto* const tape = dynamic_cast<TapeOn*>(call.tape);
    if (call.tape != nullptr && (tape == nullptr || tape->owner != this)) refuse_object("tape");
    if (tape != nullptr) tape->is_recorded = false;
    const int device = device_of_call(call.parameters, call.x, call.y);
    context_.run(device, [&](auto& ctx) {
      WideCopy in = widened(call.x, "x", device),
               out = widened(call.y, "y", device, WideCopy::Use::written);
      require_same_half(call.y, "y", call.x, "x");
      const auto x = sequence_of_tensor<const T, Space>(in.tensor(), "x");
      const auto y = sequence_of_tensor<T, Space>(out.tensor(), "y");
      const SequenceOptions<State> options{.segments = segments_of(call.segments),
                                           .initial_state = state_of(call.initial_state),
                                           .final_state = state_of(call.final_state)};
      if (tape == nullptr) {
        layer_.forward(ctx, own_, x, y, options);
      } else {
        layer_.forward(ctx, own_, x, y, tape->tape, options);
        tape->x = std::move(in);
        tape->is_recorded = true;
      }
      out.finish();
    });
  }

  void backward(const BackwardCall& call) override {
    const auto* const tape = dynamic_cast<const TapeOn*>(call.tape);
    if (tape == nullptr || tape->owner != this) refuse_object("tape");
    if (!tape->is_recorded) throw ArgumentError("tape is of no call: ssm_layer_forward fills it");
    borrow("parameter ", call.parameters, places_);
    borrow("gradient of ", call.gradients, gradient_places_);
    const int device = device_of_call(call.parameters, call.dy, call.dx);
    context_.run(device, [&](auto& ctx) {
      const WideCopy in = widened(call.dy, "dy", device),
                     out = widened(call.dx, "dx", device, WideCopy::Use::written);
      require_same_half(call.dx, "dx", call.dy, "dy");
      layer_.backward(ctx, own_, tape->tape, sequence_of_tensor<const T, Space>(in.tensor(), "dy"),
                      sequence_of_tensor<T, Space>(out.tensor(), "dx"), gradients_,
                      SequenceGradients<State>{.final_state = state_of(call.dfinal_state),
                                               .initial_state = state_of(call.dinitial_state)});
      out.finish();
    });
  }

  void prefill(const ForwardCall& call) override {
    advance(call, [&](auto& ctx, const ssm_tensor* x, const ssm_tensor* y, State& state) {
      layer_.prefill(ctx, own_, sequence_of_tensor<const T, Space>(x, "x"),
                     sequence_of_tensor<T, Space>(y, "y"), state);
    });
  }
  void step(const ForwardCall& call) override {
    advance(call, [&](auto& ctx, const ssm_tensor* x, const ssm_tensor* y, State& state) {
      layer_.step(ctx, own_, position_of_tensor<const T, Space>(x, "x"),
                  position_of_tensor<T, Space>(y, "y"), state);
    });
  }

  std::unique_ptr<ssm_tape> make_tape() const override {
    auto tape = std::make_unique<TapeOn>();
    tape->owner = this;
    return tape;
  }
  std::unique_ptr<ssm_layer_state> make_state(Index sequences) const override {
    auto state = std::make_unique<StateOn>();
    state->owner = this;
    state->device = current_device<B>();
    state->stream = context_.place(state->device).stream;
    context_.run(state->device, [&](auto& ctx) {
      state->state = layer_.template initial_state<T>(ctx, sequences);
    });
    return state;
  }

 private:
  /// The facts, and where the caller's tensors are put.
  void describe(const Context<B>& ctx) {
    own_ = layer_.template zero_parameters<T>(ctx);
    gradients_ = layer_.template zero_parameters<T>(ctx);
    for_each_parameter(
        [&](const ParameterSpec& spec, auto& tensor, auto& gradient) {
          parameters_.push_back(facts_of(spec.name, tensor));
          parameters_.back().role = role_name(spec.role);
          parameters_.back().weight_decay = spec.weight_decay;
          places_.emplace_back(tensor, "parameter " + spec.name);
          gradient_places_.emplace_back(gradient, "gradient of " + spec.name);
        },
        own_, gradients_);
    const State one = layer_.template initial_state<T>(ctx, 1);
    L::for_each_state([&](const std::string& name,
                          const auto& tensor) { state_.push_back(facts_of(name, tensor)); },
                      one);
  }

  /// Where a tensor of the caller's is put. Kept from the start, as walking over the parameters
  /// makes their names anew.
  class Place {
   public:
    template <class Tensor>
    Place(Tensor& tensor, std::string name)
        : name_(std::move(name)), tensor_(&tensor), borrow_([](void* to, const ssm_tensor& memory) {
            detail::borrow_tensor(*static_cast<Tensor*>(to), memory);
          }) {}
    void borrow(const ssm_tensor* memory, const TensorFacts& facts) const {
      require_as(memory, name_, facts.shape, facts.scalar, is_host);
      borrow_(tensor_, *memory);
    }

   private:
    std::string name_;  // in errors
    void* tensor_;
    void (*borrow_)(void* to, const ssm_tensor& memory);
  };

  template <class Tensor>
  static TensorFacts facts_of(const std::string& name, const Tensor& tensor) {
    const auto extents = tensor.extents().to_array();
    return {.name = name,
            .shape = {extents.begin(), extents.end()},
            .scalar = scalar_of<typename Tensor::Value>()};
  }

  /// The tensors are the caller's memory until the next call.
  void borrow(const char* what, std::span<const ssm_tensor* const> given,
              const std::vector<Place>& to) const {
    require_count(given.size(), to.size(), what);
    for (std::size_t i = 0; i < to.size(); ++i) to[i].borrow(given[i], parameters_[i]);
  }

  /// The device of a call; the host has one.
  static int device_of_call(std::span<const ssm_tensor* const> parameters, const ssm_tensor* in,
                            const ssm_tensor* out) {
    if constexpr (is_host) return 0;
    const std::array ends{in, out, parameters.empty() ? nullptr : parameters.front()};
    device_of("layer", parameters);
    return device_of("layer", ends);
  }

  /// A sequence of a half type in float, where that is what the layer computes in.
  WideCopy widened(const ssm_tensor* tensor, const char* name, int device,
                   WideCopy::Use use = WideCopy::Use::read) const {
    if constexpr (!std::is_same_v<T, float>)
      if (tensor != nullptr && is_half(tensor->type))
        throw TensorError(message({name, " is of ", scalar_name(tensor->type), ", and this layer ",
                                   "computes in float64: half types go with float32"}));
    return {tensor, name, use, context_.place(device), is_host};
  }

  template <class Advance>
  void advance(const ForwardCall& call, Advance&& verb) {
    State* const state = state_of(call.final_state);
    if (state == nullptr) throw ArgumentError("state is missing");
    borrow("parameter ", call.parameters, places_);
    const int device = device_of_call(call.parameters, call.x, call.y);
    context_.run(device, [&](auto& ctx) {
      const WideCopy in = widened(call.x, "x", device),
                     out = widened(call.y, "y", device, WideCopy::Use::written);
      require_same_half(call.y, "y", call.x, "x");
      verb(ctx, in.tensor(), out.tensor(), *state);
      out.finish();
    });
  }

  template <class Given>
  auto state_of(Given* given) const {
    using Own = std::conditional_t<std::is_const_v<Given>, const StateOn, StateOn>;
    using Inside = std::conditional_t<std::is_const_v<Given>, const State, State>;
    if (given == nullptr) return static_cast<Inside*>(nullptr);
    auto* const own = dynamic_cast<Own*>(given);
    if (own == nullptr || own->owner != this) refuse_object("state");
    own->use_on_stream();
    return static_cast<Inside*>(&own->state);
  }

  L layer_;
  OwnContext<B> context_;
  Parameters own_, gradients_;
  std::vector<Place> places_, gradient_places_;  // of own_ and gradients_
  std::vector<TensorFacts> parameters_, state_;
};

}  // namespace ssm::api
