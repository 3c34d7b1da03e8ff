// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "ssm/core/kept_states.hpp"
#include "ssm/core/sequence_cut.hpp"
#include "ssm/core/stretch.hpp"
#include "ssm/laws/random_call.hpp"
#include "ssm/laws/report.hpp"
#include "ssm/laws/subject.hpp"
#include "ssm/parallel/in_process.hpp"

namespace ssm::laws {

/// A call on sequences that lie across ranks, which are threads, put together again.
/// keeps   the backward pass has the states of the forward pass, else it makes them once more
inline Outcome outcome_across_ranks(const Subject& subject, const AcrossRanks& across_ranks,
                                    const Call& call, int ranks, bool keeps) {
  std::vector<Outcome> parts(static_cast<std::size_t>(ranks));
  InProcess::run(ranks, [&](Communicator& communicator) {
    const int rank = communicator.rank();
    const Stretch stretch = stretch_of(call.length(), rank, ranks);
    const PackedStretch packed = cut_segments(call.segments, stretch);
    KeptStates kept;
    SequenceCut cut{.ranks = &communicator,
                    .begin = stretch.begin,
                    .across_ranks = &across_ranks,
                    .kept = keeps ? &kept : nullptr};
    Call part = call;
    part.x = slice(call.x, 1, stretch.begin, stretch.end);
    part.dy = slice(call.dy, 1, stretch.begin, stretch.end);
    if (!call.segments.empty()) {
      part.segments = packed.segments;
      cut.parts = packed.parts;
    }
    const std::unique_ptr<Subject> own = subject.twin();
    own->cut_sequences(cut);
    parts[static_cast<std::size_t>(rank)] = own->differentiate(part);
  });
  std::vector<NamedTensor> y, dx;
  for (const Outcome& part : parts) {
    y.push_back(part.y);
    dx.push_back(part.dx);
  }
  Outcome result{.y = join(y, 1),
                 .final_state = parts.back().final_state,
                 .dx = join(dx, 1),
                 .dinitial_state = parts.front().dinitial_state,
                 .gradients = parts.front().gradients};
  for (std::size_t rank = 1; rank < parts.size(); ++rank)
    add(result.gradients, parts[rank].gradients);
  return result;
}

/// Whether a state holds the positions themselves, as a cache of attention does: then a stretch
/// cannot begin from it.
inline bool grows_with_positions(Subject& subject) {
  for (const NamedTensor& tensor : subject.zero_state(1))
    if (tensor.values.empty()) return true;
  return false;
}

/// Sequences that lie across ranks, each with a stretch, have the numbers of whole ones, forward
/// and backward; stretches may be empty, and packed sequences end anywhere. Not one of every_law:
/// it holds for layers whose positions meet in primitives alone, and not for loops of their own.
/// across_ranks   primitives_across_ranks<B, T>() of the subject's backend and scalar
inline Report sequences_lie_across_ranks(Subject& subject, const AcrossRanks& across_ranks) {
  Report report{.law = "sequences may lie across ranks"};
  Tolerance tolerance = subject.tolerance();
  if (tolerance.value == ssm::tolerance<double>.value)
    tolerance = {.value = 1e-12, .gradient = 1e-12};
  const auto check = [&](const Call& call, int ranks, const std::string& where, bool keeps) {
    const std::string text =
        where + ", " + std::to_string(ranks) + " ranks" + (keeps ? ", states kept" : "");
    const Outcome whole = subject.differentiate(call),
                  across = outcome_across_ranks(subject, across_ranks, call, ranks, keeps);
    report.require_close(across.y, whole.y, tolerance.value, text);
    report.require_close(across.final_state, whole.final_state, tolerance.value, text);
    report.require_close(across.dx, whole.dx, tolerance.gradient, text);
    report.require_close(across.dinitial_state, whole.dinitial_state, tolerance.gradient, text);
    report.require_close(across.gradients, whole.gradients, tolerance.gradient, text);
  };
  for (const int ranks : {2, 4}) check(random_call(subject, {2, 7}), ranks, "length 7", ranks == 4);
  check(random_call(subject, {1, 2}), 3, "length 2", true);
  Call call = random_call(subject, {1, 19});
  call.segments = {0, 0, 4, 12, 12, 13, 19, 19};
  for (const bool keeps : {false, true})
    check(call, 3, "segments " + shape_text(call.segments), keeps);
  if (!grows_with_positions(subject)) {
    call = random_call(subject, {2, 11});
    keep_states(subject, call, true);
    for (const bool keeps : {false, true}) check(call, 3, "with states", keeps);
  }
  subject.restart();
  return report;
}

}  // namespace ssm::laws
