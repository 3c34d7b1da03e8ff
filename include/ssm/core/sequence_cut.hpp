// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>

#include "ssm/core/communicator.hpp"
#include "ssm/core/kept_states.hpp"
#include "ssm/core/segments.hpp"

namespace ssm {

/// A type of call by an address of its own, which needs no RTTI: call_type<B, Call> of a call of
/// void(Context<B>&, const Call&).
using CallType = const void*;
template <class B, class Call>
struct CallTypeOf {
  static constexpr char place = 0;
};
template <class B, class Call>
inline constexpr CallType call_type = &CallTypeOf<B, Call>::place;

/// How calls of primitives run on sequences that lie across ranks: PrimitivesAcrossRanks
/// (parallel/primitives_across_ranks.hpp) is the one there is. Here without types, so that the
/// entry of a primitive asks for it and includes none of it.
class AcrossRanks {
 public:
  /// Runs a call, and exchanges with the other ranks what crosses the ends of this rank's stretch.
  /// Returns false where the backend is to run it as if nothing were cut.
  /// context, call   a Context<B>& and a const Call&, as `type` says
  /// name            of the primitive, for errors
  /// Throws          ArgumentError  for a type that it does not know; CommunicationError
  virtual bool run(CallType type, void* context, const void* call, const char* name) const = 0;

 protected:
  AcrossRanks() = default;
  AcrossRanks(const AcrossRanks&) = default;
  AcrossRanks& operator=(const AcrossRanks&) = default;
  ~AcrossRanks() = default;
};

/// One packed sequence's part on a rank.
struct SequencePart {
  Index before = 0;        // positions of the sequence that lie on earlier ranks
  bool continues = false;  // the state comes from the rank before
  bool goes_on = false;    // the state goes to the rank behind
};

/// How the sequences of a call lie across ranks: each rank has a stretch of every sequence, in the
/// order of ranks, and its tensors hold that stretch alone. A stretch may be empty.
///   ssm::CutSequences cut(ctx, {.ranks = &ranks, .begin = stretch.begin});
///   layer.forward(ctx, parameters, x, y, tape);   // x, y: this rank's positions
/// Without `parts` every sequence of the batch is cut at the same position. With packed segments
/// there is a part for each; the sequences that go on from a rank are, in their order, those that
/// continue on the next.
struct SequenceCut {
  Communicator* ranks = nullptr;
  Index begin = 0;  // positions of every sequence on earlier ranks; without parts
  std::span<const SequencePart> parts{};
  const AcrossRanks* across_ranks = nullptr;  // how primitives run; CutSequences knows
  /// Of one forward pass and the backward pass behind it; on all ranks or on none.
  KeptStates* kept = nullptr;

  Index before(Index row) const {
    return parts.empty() ? begin : parts[static_cast<std::size_t>(row)].before;
  }
  bool continues(Index row) const {
    return parts.empty() ? ranks->rank() > 0 : parts[static_cast<std::size_t>(row)].continues;
  }
  bool goes_on(Index row) const {
    return parts.empty() ? ranks->rank() + 1 < ranks->size()
                         : parts[static_cast<std::size_t>(row)].goes_on;
  }
};

}  // namespace ssm
