// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "ssm/laws/random_call.hpp"
#include "ssm/laws/report.hpp"
#include "ssm/laws/subject.hpp"

namespace ssm::laws {

/// Law 11: strided operands give the numbers of contiguous ones, in every verb, and nothing is
/// written beside them.
inline Report strides_do_not_matter(Subject& subject) {
  Report report{.law = "strided operands give the numbers of contiguous ones"};
  for (const Size size : {Size{1, 1}, Size{3, 2}, Size{1, 7}, Size{2, 65}}) {
    Call call = random_call(subject, size);
    keep_states(subject, call, true);
    const auto run = [&](auto&& verb, const std::string& name) {
      call.strides = Strides::none;
      const Outcome expected = verb(call);
      for (const Strides strides : {Strides::longer_sequence, Strides::more_channels,
                                    Strides::column_major, Strides::reversed_time}) {
        call.strides = strides;
        const Outcome actual = verb(call);
        const std::string where = name + ", " + size.text() + ", " + text(strides);
        const Tolerance tolerance = subject.tolerance();
        report.require_close(actual.y, expected.y, tolerance.value, where);
        report.require_close(actual.final_state, expected.final_state, tolerance.value, where);
        report.require_close(actual.dx, expected.dx, tolerance.gradient, where);
        report.require_close(actual.dinitial_state, expected.dinitial_state, tolerance.gradient,
                             where);
        report.require_close(actual.gradients, expected.gradients, tolerance.gradient, where);
      }
    };
    run([&](const Call& c) { return subject.forward(c); }, "forward");
    run([&](const Call& c) { return subject.differentiate(c); }, "backward");
    run([&](const Call& c) { return subject.prefill(c); }, "prefill");
    run([&](const Call& c) { return subject.step(c); }, "step");
  }
  return report;
}

}  // namespace ssm::laws
