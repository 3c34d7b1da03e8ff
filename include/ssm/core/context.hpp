// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <type_traits>
#include <utility>

#include "ssm/core/sequence_cut.hpp"
#include "ssm/core/workspace.hpp"

namespace ssm {

class GradientListener;
class UnwrittenTensors;

/// A policy type: where its tensors live, what it needs at run time, and one static function per
/// primitive it has.
template <class B>
concept Backend = MemorySpace<typename B::Space> && std::movable<typename B::Resources>;

/// Everything mutable at run time: the backend's resources (threads, FFT plans, streams) and
/// scratch memory. First argument of every call; one per host thread.
template <class B>
class Context {
 public:
  using BackendType = B;
  using Space = typename B::Space;
  using Resources = typename B::Resources;

  Context() = default;
  explicit Context(Resources resources) : resources_(std::move(resources)) {}
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  /// Scratch memory; `workspace().borrow(memory)` takes it from the caller.
  Workspace<Space>& workspace() { return workspace_; }
  Resources& resources() { return resources_; }
  const Resources& resources() const { return resources_; }

  /// Copies within the backend's memory, or from the host's, which has been read when this returns;
  /// in order with the backend's primitives. A backend that queues them queues this too.
  void copy(void* to, const void* from, std::size_t bytes) {
    if constexpr (!Space::host_readable && requires { resources_.copy(to, from, bytes); })
      resources_.copy(to, from, bytes);
    else
      Space::copy(to, from, bytes);
  }

  /// How sequences lie across ranks while a `CutSequences` is there; else null.
  const SequenceCut* sequence_cut() const { return cut_; }

  /// Who hears of gradients that are done (core/gradient_listener.hpp); null is nobody.
  GradientListener* gradient_listener() const { return listener_; }
  void set_gradient_listener(GradientListener* listener) { listener_ = listener; }

  /// Gradients that a pass need not add to (core/unwritten.hpp); null is none.
  UnwrittenTensors* unwritten() const { return unwritten_; }
  void set_unwritten(UnwrittenTensors* tensors) { unwritten_ = tensors; }

 private:
  template <class>
  friend class SequenceCutScope;
  Resources resources_{};
  Workspace<Space> workspace_;
  const SequenceCut* cut_ = nullptr;
  GradientListener* listener_ = nullptr;
  UnwrittenTensors* unwritten_ = nullptr;
};

/// Whether a backend queues its calls on a stream of a device.
template <class B>
inline constexpr bool queues = !B::Space::host_readable && requires(Context<B> & ctx) {
  ctx.resources().stream();
};

/// Cuts the sequences of a context's calls while it is there; CutSequences (parallel/) says what
/// that means, and brings what the cut must have: how primitives run across ranks. One rank alone,
/// or none, is no cut.
/// Throws  ArgumentError  for a cut without that
template <class B>
class SequenceCutScope {
 public:
  SequenceCutScope(Context<B>& ctx, const SequenceCut& cut)
      : ctx_(ctx), cut_(cut), before_(ctx.cut_) {
    const bool is_cut = cut.ranks != nullptr && cut.ranks->size() > 1;
    if (is_cut && cut.across_ranks == nullptr)
      throw ArgumentError(
          "sequences that lie across ranks need a SequenceCut with across_ranks: "
          "CutSequences has it, and primitives_across_ranks<B>() is it");
    ctx.cut_ = is_cut ? &cut_ : nullptr;
  }
  SequenceCutScope(const SequenceCutScope&) = delete;
  SequenceCutScope& operator=(const SequenceCutScope&) = delete;
  ~SequenceCutScope() { ctx_.cut_ = before_; }

 private:
  Context<B>& ctx_;
  SequenceCut cut_;
  const SequenceCut* before_;
};

namespace detail {
/// What the entry of a primitive that mixes positions asks first: whether sequences lie across
/// ranks, and the call has run there. A call without a cut pays one comparison.
template <class B, class Call>
bool runs_across_ranks(Context<B>& ctx, const Call& a, const char* name) {
  const SequenceCut* const cut = ctx.sequence_cut();
  return cut != nullptr && cut->across_ranks->run(call_type<B, Call>, &ctx, &a, name);
}
}  // namespace detail

/// An operand of a layer: read or written, extents given, space the backend's. Anything convertible
/// is accepted.
template <class B, class T, Index... E>
using Input = std::type_identity_t<TensorView<const T, Extents<E...>, typename B::Space>>;
template <class B, class T, Index... E>
using Output = std::type_identity_t<TensorView<T, Extents<E...>, typename B::Space>>;

}  // namespace ssm
