// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/laws/subject.hpp"

namespace ssm::laws {

/// Every law for one layer, or model, on one backend in one scalar, and with `across_ranks` that of
/// ranks, as checks of doctest. Not inline: compiled once, and not beside every layer.
void check_subject(Subject& subject, Subject& reference, const AcrossRanks* across_ranks = nullptr);

/// The laws about blocking, threads and memory alone.
void check_subject_at_scale(Subject& subject, Subject& reference);

}  // namespace ssm::laws
