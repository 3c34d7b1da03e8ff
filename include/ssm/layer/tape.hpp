// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <string>
#include <type_traits>
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

/// A buffer for an intermediate result: in the tape where there is one, else in the workspace.
template <class T, class Space, class Frame, class... N>
View<T, int{sizeof...(N)}, Space> buffer(
    Frame& frame, std::type_identity_t<DynamicTensor<T, int{sizeof...(N)}, Space>>* kept,
    N... extents) {
  if (kept == nullptr) return frame.template tensor<T>(extents...);
  kept->resize(DynamicExtents<int{sizeof...(N)}>(extents...));
  return kept->view();
}

}  // namespace ssm
