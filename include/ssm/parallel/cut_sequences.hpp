// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/core/sequence_cut.hpp"
#include "ssm/core/stretch.hpp"
#include "ssm/parallel/primitives_across_ranks.hpp"

namespace ssm {

/// While it is there, calls on a context are about sequences that lie across ranks. All ranks of
/// the cut make the same calls, and each gives its own stretch. The state that a call begins from
/// is the given one where a sequence begins on this rank, else that at the end of the rank
/// before. The final state is that behind the rank's stretch; where a sequence goes on, no
/// gradient of it is read. Gradients of parameters are of the rank's positions: their sum over
/// the ranks is the whole. One rank alone, or none, is no cut.
///   const ssm::Stretch here = ssm::stretch_of(length, ranks.rank(), ranks.size());
///   const ssm::CutSequences cut(ctx, {.ranks = &ranks, .begin = here.begin});
///   layer.forward(ctx, parameters, x, y, tape);   // x, y: positions here.begin … here.end − 1
/// Scalars   what calls compute in; left out: all that the backend has. Fewer compile faster
/// Throws    from then on every call: ArgumentError  for a primitive that does not run so;
///           CommunicationError  where another rank has ended
template <class B, class... Scalars>
class CutSequences {
 public:
  CutSequences(Context<B>& ctx, SequenceCut cut) : scope_(ctx, complete(cut)) {}

 private:
  static SequenceCut complete(SequenceCut cut) {
    if (cut.across_ranks == nullptr) cut.across_ranks = &primitives_across_ranks<B, Scalars...>();
    return cut;
  }

  SequenceCutScope<B> scope_;
};
template <class B>
CutSequences(Context<B>&, const SequenceCut&) -> CutSequences<B>;

}  // namespace ssm
