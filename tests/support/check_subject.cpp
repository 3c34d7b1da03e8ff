// SPDX-License-Identifier: Apache-2.0
#include "support/check_subject.hpp"

#include "ssm/laws/doctest.hpp"
#include "ssm/laws/ranks_law.hpp"

namespace ssm::laws {

void check_subject(Subject& subject, Subject& reference) {
  check(found(every_law(subject, reference), subject));
  // In float what crosses is the same as in double.
  if (subject.tolerance().value != tolerance<float>.value)
    check(found({sequences_lie_across_ranks(subject)}, subject));
}
void check_subject_at_scale(Subject& subject, Subject& reference) {
  check(found(laws_at_scale(subject, reference), subject));
}

}  // namespace ssm::laws
