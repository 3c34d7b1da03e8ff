// SPDX-License-Identifier: Apache-2.0
#include "support/check_subject.hpp"

#include "ssm/laws/doctest.hpp"
#include "ssm/laws/ranks_law.hpp"

namespace ssm::laws {

void check_subject(Subject& subject, Subject& reference, const AcrossRanks* across_ranks) {
  check(found(every_law(subject, reference), subject));
  if (across_ranks != nullptr)
    check(found({sequences_lie_across_ranks(subject, *across_ranks)}, subject));
}
void check_subject_at_scale(Subject& subject, Subject& reference) {
  check(found(laws_at_scale(subject, reference), subject));
}

}  // namespace ssm::laws
