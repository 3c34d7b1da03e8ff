// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <type_traits>
#include <utility>

#include "ssm/core/sequence_cut.hpp"
#include "ssm/core/workspace.hpp"

namespace ssm {

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

  /// Copies within the backend's memory, in order with its primitives; a backend that queues them
  /// queues this too.
  void copy(void* to, const void* from, std::size_t bytes) {
    if constexpr (!Space::host_readable && requires { resources_.copy(to, from, bytes); })
      resources_.copy(to, from, bytes);
    else
      Space::copy(to, from, bytes);
  }

  /// How sequences lie across ranks while a `CutSequences` is there; else null.
  const SequenceCut* sequence_cut() const { return cut_; }

 private:
  template <class>
  friend class CutSequences;
  Resources resources_{};
  Workspace<Space> workspace_;
  const SequenceCut* cut_ = nullptr;
};

/// While it is there, calls on a context are about sequences that lie across ranks. All ranks of
/// the cut make the same calls, and each gives its own stretch. The state that a call begins from
/// is the given one where a sequence begins on this rank, else that at the end of the rank
/// before. The final state is that behind the rank's stretch; where a sequence goes on, no
/// gradient of it is read. Gradients of parameters are of the rank's positions: their sum over
/// the ranks is the whole. One rank alone, or none, is no cut.
template <class B>
class CutSequences {
 public:
  CutSequences(Context<B>& ctx, const SequenceCut& cut) : ctx_(ctx), cut_(cut), before_(ctx.cut_) {
    ctx.cut_ = cut.ranks != nullptr && cut.ranks->size() > 1 ? &cut_ : nullptr;
  }
  CutSequences(const CutSequences&) = delete;
  CutSequences& operator=(const CutSequences&) = delete;
  ~CutSequences() { ctx_.cut_ = before_; }

 private:
  Context<B>& ctx_;
  SequenceCut cut_;
  const SequenceCut* before_;
};

/// An operand of a layer: read or written, extents given, space the backend's. Anything convertible
/// is accepted.
template <class B, class T, Index... E>
using Input = std::type_identity_t<TensorView<const T, Extents<E...>, typename B::Space>>;
template <class B, class T, Index... E>
using Output = std::type_identity_t<TensorView<T, Extents<E...>, typename B::Space>>;

}  // namespace ssm
