// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/core/context.hpp"
#include "ssm/core/scalar.hpp"    // Wide
#include "ssm/core/transfer.hpp"  // copy_tensor
#include "ssm/layer/sequence_options.hpp"

namespace ssm {

/// The state, the tape and the gradients that belong to parameters, gradients or moments.
template <class P>
using StateOf = typename P::Layer::template State<typename P::Scalar, typename P::Space>;
template <class P>
using TapeOf = typename P::Layer::template Tape<typename P::Scalar, typename P::Space>;
/// Gradients of parameters are wide, whatever the parameters are kept in.
template <class P>
using GradientsOf =
    typename P::Layer::template Parameters<Wide<typename P::Scalar>, typename P::Space>;

/// Copies every tensor of a state, in order with the context's primitives; the copy grows as
/// needed.
template <class L, class B, class State>
void copy_state(Context<B>& ctx, const State& from, State& to) {
  L::for_each_state([&](const std::string&, const auto& source,
                        auto& target) { copy_tensor(ctx, source, target); },
                    from, to);
}

/// A type that does not take part in template argument deduction: of a pointer to it, nullptr may
/// be passed.
template <class X>
using NonDeduced = std::type_identity_t<X>;

/// A base of every layer's tape: what the verbs themselves remember of a call. With it x may have
/// any strides; without it `forward` with a tape refuses an x that the layer cannot read as it
/// lies.
template <class T, class Space>
struct InputTape {
  DynamicTensor<T, 3, Space> copied_x;       // where x does not lie as the layer wants it
  std::array<Index, 2> sequences{dyn, dyn};  // batch and length
};

/// A base of the tape of every layer with a state: the packing and the state it started from.
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
  /// The packing and the initial state of the call that the tape is of.
  SequenceOptions<State> options() const {
    return {.segments = segments, .initial_state = has_initial_state ? &initial_state : nullptr};
  }
};

namespace detail {
/// A part of a tape, by a pointer to the member or by a function.
template <class Tape, class Of>
auto& part_of(Tape& tape, const Of& of) {
  if constexpr (std::is_member_object_pointer_v<Of>)
    return tape.*of;
  else
    return of(tape);
}
}  // namespace detail

/// The tape of a call that may have none. `of` is a pointer to a member of the tape, or a function
/// of(tape) that returns a reference.
template <class Tape>
class OptionalTape {
 public:
  explicit OptionalTape(Tape* tape) : tape_(tape) {}

  /// A tensor of the tape with these extents, for what only `differentiate` reads; a null view in a
  /// call without a tape.
  template <class Of, class... N>
  [[gnu::noinline]] auto kept(const Of& of, const N&... extents) const {
    ViewOf<Of> view;
    if (tape_ != nullptr) {
      auto& tensor = detail::part_of(*tape_, of);
      tensor.resize(ShapeOf<Of>(extents...));
      view = tensor.view();
    }
    return view;
  }
  /// The tape of a part of the layer; null in a call without a tape.
  template <class Of>
  auto part(const Of& of) const {
    return tape_ == nullptr ? nullptr : &detail::part_of(*tape_, of);
  }

 protected:
  template <class Of>
  using Part = std::remove_reference_t<decltype(detail::part_of(std::declval<Tape&>(),
                                                                std::declval<const Of&>()))>;
  template <class Of>
  using ShapeOf = typename Part<Of>::Shape;
  template <class Of>
  using ViewOf = View<typename Part<Of>::Value, ShapeOf<Of>::rank(), typename Part<Of>::Space>;

  Tape* tape_;
};

/// Where the intermediate results of a call go: to its tape, or to the frame in a call without one.
///   const Buffers buffers(frame, tape);
///   auto q = buffers.at(&Tape<T, Space>::q, batch, length, channels);
template <class Frame, class Tape>
class Buffers : public OptionalTape<Tape> {
  using Base = OptionalTape<Tape>;

 public:
  Buffers(Frame& frame, Tape* tape) : Base(tape), frame_(&frame) {}

  /// Memory with these extents: the tensor of the tape, or part of the frame.
  template <class Of, class... N>
  [[gnu::noinline]] auto at(const Of& of, const N&... extents) const {
    typename Base::template ViewOf<Of> view = this->kept(of, extents...);
    if (this->tape_ == nullptr)
      view = frame_->template tensor<typename Base::template Part<Of>::Value>(
          typename Base::template ShapeOf<Of>(extents...));
    return view;
  }

 private:
  Frame* frame_;
};

}  // namespace ssm
