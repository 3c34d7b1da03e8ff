// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "support/subject.hpp"

namespace ssm::laws {

/// How many sequences of what length a law is tried on.
struct Size {
  Index batch;
  Index length;
  std::string text() const {
    return "batch " + std::to_string(batch) + ", length " + std::to_string(length);
  }
};
inline const std::vector<Size> usual_sizes{{1, 1}, {3, 2}, {1, 63}, {3, 64}, {1, 65}, {1, 1000}};
inline const std::vector<Size> usual_and_empty_sizes{{1, 1},  {3, 2},    {1, 63}, {3, 64},
                                                     {1, 65}, {1, 1000}, {2, 0},  {0, 3}};

/// Packed rows, with empty segments at the start, in the middle and at the end.
inline const std::vector<std::vector<Index>> usual_segments{
    {0, 9}, {0, 0, 4, 4, 5, 9, 9}, {0, 63, 127, 128, 193}, {0, 0, 0}};

/// Random operands without states. Parameters are the initial ones, disturbed so that none is zero or one.
inline Call random_call(Subject& subject, Size size, Seed seed = Seed{7}) {
  Call call;
  call.parameters = subject.initial_parameters(seed);
  add(call.parameters, normal_like(call.parameters, seed.fork("disturbance")), 0.2);
  round_to_float(call.parameters);
  call.x = normal("x", {size.batch, size.length, subject.inputs()}, seed);
  call.dy = normal("dy", {size.batch, size.length, subject.outputs()}, seed);
  return call;
}

/// A state that positions before could have left, disturbed so that nothing in it is zero.
inline Bundle random_state(Subject& subject, const Call& call, Seed seed = Seed{8}) {
  constexpr Index earlier = 5;  // positions
  Call before = call;
  before.segments.clear();
  before.initial_state.reset();
  before.x = normal("earlier x", {call.sequences(), earlier, subject.inputs()}, seed);
  Bundle state = subject.prefill(before).final_state;
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
