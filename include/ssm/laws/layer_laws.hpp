// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>
#include <set>
#include <string>
#include <vector>

#include "ssm/laws/allocation_count.hpp"
#include "ssm/laws/central_difference.hpp"
#include "ssm/laws/checkpoint_round_trip.hpp"
#include "ssm/laws/random_call.hpp"
#include "ssm/laws/report.hpp"
#include "ssm/laws/strides_law.hpp"
#include "ssm/laws/subject.hpp"

namespace ssm::laws {

inline void require_same_bits(Report& report, const Outcome& actual, const Outcome& expected,
                              const std::string& where) {
  report.require_same_bits(actual.y, expected.y, where);
  report.require_same_bits(actual.final_state, expected.final_state, where);
  report.require_same_bits(actual.dx, expected.dx, where);
  report.require_same_bits(actual.dinitial_state, expected.dinitial_state, where);
  report.require_same_bits(actual.gradients, expected.gradients, where);
}

inline void require_close(Report& report, const Outcome& actual, const Outcome& expected,
                          Tolerance tolerance, const std::string& where) {
  report.require_close(actual.y, expected.y, tolerance.value, where);
  report.require_close(actual.final_state, expected.final_state, tolerance.value, where);
  report.require_close(actual.dx, expected.dx, tolerance.gradient, where);
  report.require_close(actual.dinitial_state, expected.dinitial_state, tolerance.gradient, where);
  report.require_close(actual.gradients, expected.gradients, tolerance.gradient, where);
}

/// Law 1: the gradients of parameters, input and initial state equal central differences of outputs
/// and final state. Means something in double only.
inline Report gradients_equal_differences(Subject& subject) {
  Report report{.law = "gradients equal central differences"};
  const Size size{2, 6};
  Call call = random_call(subject, size);
  require_gradients(report, subject, call, size.text() + ", without states");
  for (const bool random : {false, true}) {
    Call with_states = call;
    keep_states(subject, with_states, random);
    require_gradients(report, subject, with_states, size.text() + state_text(random));
  }
  return report;
}

/// Law 2: stepping through a sequence equals `forward`.
inline Report stepping_equals_forward(Subject& subject) {
  Report report{.law = "stepping equals forward"};
  for (const Size size : default_sizes) {
    Call call = random_call(subject, size);
    report.require_close(subject.step(call).y, subject.forward(call).y, subject.tolerance().value,
                         size.text() + ", without states");
    for (const bool random : {false, true}) {
      if (random) call.initial_state = random_state(subject, call);
      call.keep_states = true;
      require_close(report, subject.step(call), subject.forward(call), subject.tolerance(),
                    size.text() + state_text(random));
    }
  }
  return report;
}

/// Law 3: prefill(a·b) equals prefill(a), then prefill(b), wherever the cut is.
inline Report prefill_splits_anywhere(Subject& subject) {
  Report report{.law = "prefill splits anywhere"};
  for (const Size size : default_sizes) {
    Call whole = random_call(subject, size);
    whole.initial_state = random_state(subject, whole);
    const Outcome expected = subject.prefill(whole);
    const std::set<Index> cuts{0, 1, size.length / 2, size.length - 1, size.length};
    for (const Index cut : cuts) {
      Call chunk = whole;
      chunk.x = slice(whole.x, 1, 0, cut);
      Outcome first = subject.prefill(chunk);
      chunk.x = slice(whole.x, 1, cut, size.length);
      chunk.initial_state = first.final_state;
      Outcome second = subject.prefill(chunk);
      second.y = join({first.y, second.y}, 1);
      require_close(report, second, expected, subject.tolerance(),
                    size.text() + ", cut at " + std::to_string(cut));
    }
  }
  return report;
}

/// Law 4: outputs before position t do not depend on inputs from t on.
inline Report outputs_ignore_the_future(Subject& subject) {
  Report report{.law = "causality"};
  for (const Size size : default_sizes) {
    const Call call = random_call(subject, size);
    const NamedTensor expected = subject.forward(call).y;
    const NamedTensor other = subject.input("another x", size.batch, size.length, Seed{12});
    const std::set<Index> positions{1, size.length / 2, size.length - 1};
    for (const Index t : positions) {
      if (t <= 0 || t >= size.length) continue;
      Call changed = call;
      changed.x = join({slice(call.x, 1, 0, t), slice(other, 1, t, size.length)}, 1);
      report.require_close(slice(subject.forward(changed).y, 1, 0, t), slice(expected, 1, 0, t),
                           subject.tolerance().value,
                           size.text() + ", changed from " + std::to_string(t));
    }
  }
  return report;
}

/// Law 5: every backend computes what `reference`, the same layer on Reference in double, computes.
inline Report backends_agree(Subject& subject, Subject& reference,
                             const std::vector<Size>& sizes = default_and_empty_sizes) {
  Report report{.law = "every backend equals Reference"};
  for (const Size size : sizes) {
    Call call = random_call(subject, size);
    require_close(report, subject.differentiate(call), reference.differentiate(call),
                  subject.tolerance(), size.text() + ", without states");
    for (const bool random : {false, true}) {
      keep_states(subject, call, random);
      require_close(report, subject.differentiate(call), reference.differentiate(call),
                    subject.tolerance(), size.text() + state_text(random));
    }
  }
  return report;
}

/// Law 6: what outputs, scratch memory and a used tape hold beforehand changes nothing.
inline Report old_contents_do_not_matter(Subject& subject) {
  Report report{.law = "old contents of outputs and workspace do not matter"};
  for (const Size size : {Size{1, 1}, Size{3, 7}, Size{1, 65}}) {
    Call call = random_call(subject, size);
    Call earlier = random_call(subject, {size.batch, size.length + 3}, Seed{13});
    keep_states(subject, earlier, true);
    for (const bool with_states : {false, true}) {
      if (with_states) keep_states(subject, call, true);
      const auto run = [&](auto&& verb, const std::string& name) {
        subject.restart();
        call.unwritten = 0;
        const Outcome expected = verb(call);
        subject.restart(true);
        subject.differentiate(earlier);
        call.unwritten = std::numeric_limits<double>::quiet_NaN();
        require_same_bits(report, verb(call), expected, name + ", " + size.text());
      };
      run([&](const Call& c) { return subject.forward(c); }, "forward");
      run([&](const Call& c) { return subject.differentiate(c); }, "backward");
      run([&](const Call& c) { return subject.prefill(c); }, "prefill");
      run([&](const Call& c) { return subject.step(c); }, "step");
    }
  }
  subject.restart();
  return report;
}

/// Law 7: parameter names are unique, and parameters read back from a checkpoint are the same
/// function, bit for bit.
inline Report checkpoints_keep_everything(Subject& subject) {
  Report report{.law = "names are unique and checkpoints round-trip"};
  std::set<std::string> names;
  for (const NamedTensor& parameter : subject.initial_parameters(Seed{14})) {
    report.require(!parameter.name.empty(), "a parameter has no name");
    report.require(names.insert(parameter.name).second,
                   "two parameters are named " + parameter.name);
  }
  if (!report.holds) return report;
  const Call call{
      .parameters = through_checkpoint(subject.initial_parameters(Seed{14}), subject.scalar()),
      .x = subject.input("x", 2, 5, Seed{15})};
  const NamedTensor expected = subject.forward_initialized(Seed{14}, call.x).y;
  report.require_same_bits(subject.forward(call).y, expected, "after reading the parameters back");
  return report;
}

/// Law 8: after the first call, `step` allocates nothing.
inline Report step_allocates_nothing(Subject& subject) {
  Report report{.law = "step allocates nothing after the first call"};
  report.require(allocations_are_counted(), "this program does not count allocations");
  for (const Size size : {Size{1, 20}, Size{3, 20}}) {
    subject.restart();
    const std::size_t count = subject.allocations_after_first_step(random_call(subject, size));
    report.require(count == 0, std::to_string(count) + " allocations in 19 steps, " + size.text());
  }
  return report;
}

/// States grow no further than their own sequence asks for: what the gradient of a longer one has
/// behind that goes.
inline void cut_to_fit(Bundle& gradient, const Bundle& state) {
  for (std::size_t i = 0; i < state.size(); ++i)
    for (std::size_t axis = 0; axis < state[i].extents.size(); ++axis)
      gradient[i] = slice(gradient[i], axis, 0, state[i].extents[axis]);
}

/// Law 9: packed segments equal separate sequences, forward and backward. A layer that reads the
/// future has no states.
inline Report segments_equal_sequences(Subject& subject, bool with_states = true) {
  Report report{.law = "packed segments equal separate sequences"};
  const std::vector<std::size_t> axes = sequence_axes(subject);
  for (const auto& segments : default_segments)
    for (const int states : {0, 1, 2}) {  // none, from zero, from a random state
      if (states > 0 && !with_states) break;
      Call packed = random_call(subject, {1, segments.back()});
      packed.segments = segments;
      if (states > 0) keep_states(subject, packed, states == 2);
      std::vector<NamedTensor> y;
      std::vector<NamedTensor> dx;
      std::vector<Bundle> final_states;
      std::vector<Bundle> dinitial_states;
      Outcome separate;
      for (Index i = 0; i < packed.sequences(); ++i) {
        const auto s = static_cast<std::size_t>(i);
        Call call = packed;
        call.segments.clear();
        call.x = slice(packed.x, 1, segments[s], segments[s + 1]);
        call.dy = slice(packed.dy, 1, segments[s], segments[s + 1]);
        if (packed.initial_state) call.initial_state = state_of(*packed.initial_state, i, axes);
        if (states > 0) {
          call.dfinal_state = state_of(packed.dfinal_state, i, axes);
          cut_to_fit(call.dfinal_state, subject.forward(call).final_state);
        }
        const Outcome one = subject.differentiate(call);
        y.push_back(one.y);
        dx.push_back(one.dx);
        final_states.push_back(one.final_state);
        dinitial_states.push_back(one.dinitial_state);
        if (i == 0)
          separate.gradients = one.gradients;
        else
          add(separate.gradients, one.gradients);
      }
      separate.y = join(y, 1);
      separate.dx = join(dx, 1);
      separate.final_state = join_states(final_states, axes);
      separate.dinitial_state = join_states(dinitial_states, axes);
      require_close(report, subject.differentiate(packed), separate, subject.tolerance(),
                    "segments " + shape_text(segments) +
                        (states == 0 ? ", without states" : state_text(states == 2)));
    }
  return report;
}

/// Law 10: the same seed and thread count give the same bits, in a fresh context and in a used one.
inline Report same_seed_gives_same_bits(Subject& subject) {
  Report report{.law = "same seed and thread count, same bits"};
  for (const Size size : {Size{3, 65}, Size{1, 1000}}) {
    std::vector<Outcome> runs;
    for (int run = 0; run < 3; ++run) {
      if (run != 1) subject.restart();
      Call call = random_call(subject, size);
      keep_states(subject, call, true);
      runs.push_back(subject.differentiate(call));
    }
    require_same_bits(report, runs[1], runs[0], "again, " + size.text());
    require_same_bits(report, runs[2], runs[0], "in a fresh context, " + size.text());
  }
  return report;
}

/// All eleven; the first only where `subject` computes in double.
inline std::vector<Report> every_law(Subject& subject, Subject& reference) {
  std::vector<Report> reports;
  if (subject.tolerance().value == tolerance<double>.value)
    reports.push_back(gradients_equal_differences(subject));
  reports.push_back(stepping_equals_forward(subject));
  reports.push_back(prefill_splits_anywhere(subject));
  reports.push_back(outputs_ignore_the_future(subject));
  reports.push_back(backends_agree(subject, reference));
  reports.push_back(old_contents_do_not_matter(subject));
  reports.push_back(checkpoints_keep_everything(subject));
  reports.push_back(step_allocates_nothing(subject));
  reports.push_back(segments_equal_sequences(subject));
  reports.push_back(same_seed_gives_same_bits(subject));
  reports.push_back(strides_do_not_matter(subject));
  return reports;
}

/// The laws that large operands could break: those about blocking, threads and memory. For layers
/// that are too large for the others to be checked in reasonable time.
inline std::vector<Report> laws_at_scale(Subject& subject, Subject& reference) {
  return {backends_agree(subject, reference, {{2, 65}}), step_allocates_nothing(subject),
          same_seed_gives_same_bits(subject)};
}

}  // namespace ssm::laws
