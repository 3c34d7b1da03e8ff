// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "ssm/laws/subject.hpp"

namespace ssm::laws {

/// How many sequences of what length a law is tried on.
struct Size {
  Index batch;
  Index length;
  std::string text() const {
    return "batch " + std::to_string(batch) + ", length " + std::to_string(length);
  }
};
inline const std::vector<Size> default_sizes{{1, 1}, {3, 2}, {1, 63}, {3, 64}, {1, 65}, {1, 1000}};
inline const std::vector<Size> default_and_empty_sizes{{1, 1},  {3, 2},    {1, 63}, {3, 64},
                                                       {1, 65}, {1, 1000}, {2, 0},  {0, 3}};

/// Packed rows, with empty segments at the start, in the middle and at the end.
inline const std::vector<std::vector<Index>> default_segments{
    {0, 9}, {0, 0, 4, 4, 5, 9, 9}, {0, 63, 127, 128, 193}, {0, 0, 0}};

/// Random operands without states. Parameters are the initial ones, disturbed so that none is zero
/// or one.
inline Call random_call(Subject& subject, Size size, Seed seed = Seed{7}) {
  Call call;
  call.parameters = subject.initial_parameters(seed);
  add(call.parameters, normal_like(call.parameters, seed.fork("disturbance")), 0.2);
  round_to_float(call.parameters);
  call.parameters = subject.kept_parameters(call.parameters);
  call.x = subject.kept_sequence(subject.input("x", size.batch, size.length, seed));
  call.dy = subject.kept_sequence(normal("dy", {size.batch, size.length, subject.outputs()}, seed));
  return call;
}

/// Which axis of each tensor of a state counts the sequences: the one that more sequences lengthen.
inline std::vector<std::size_t> sequence_axes(Subject& subject) {
  const Bundle two = subject.zero_state(2);
  const Bundle three = subject.zero_state(3);
  std::vector<std::size_t> axes;
  for (std::size_t i = 0; i < two.size(); ++i) {
    std::size_t axis = 0;
    while (axis + 1 < two[i].extents.size() && two[i].extents[axis] == three[i].extents[axis])
      ++axis;
    axes.push_back(axis);
  }
  return axes;
}

/// A state that positions before could have left, another number of them for each sequence,
/// disturbed so that nothing in it is zero.
inline Bundle random_state(Subject& subject, const Call& call, Seed seed = Seed{8}) {
  if (call.sequences() == 0) return subject.zero_state(0);
  Call before = call;
  before.segments.clear();
  before.initial_state.reset();
  std::vector<Bundle> states;
  for (Index i = 0; i < call.sequences(); ++i) {
    const Index earlier = 5 + i % 3;  // positions
    before.x = subject.input("earlier x " + std::to_string(i), 1, earlier, seed);
    states.push_back(subject.prefill(before).final_state);
  }
  Bundle state = join_states(states, sequence_axes(subject));
  add(state, normal_like(state, seed), 0.5);
  round_to_float(state);
  return state;
}

/// Asks for states and their gradients too.
inline void keep_states(Subject& subject, Call& call, bool random_initial_state) {
  if (random_initial_state) call.initial_state = random_state(subject, call);
  call.keep_states = true;
  call.dfinal_state = normal_like(subject.forward(call).final_state, Seed{9});
}

inline const char* state_text(bool random) {
  return random ? ", from a random state" : ", from zero";
}

}  // namespace ssm::laws
