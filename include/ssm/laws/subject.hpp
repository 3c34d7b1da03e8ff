// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/core/scalar.hpp"  // Tolerance
#include "ssm/core/sequence_cut.hpp"
#include "ssm/laws/laid_out.hpp"
#include "ssm/laws/named_tensor.hpp"

namespace ssm::laws {

/// One call of a layer on whole sequences.
struct Call {
  Bundle parameters{};
  NamedTensor x{};  // [B, L, inputs], or tokens [B, L]
  std::vector<Index> segments{};
  std::optional<Bundle> initial_state{};
  bool keep_states = false;  // ask for the final state, and for the gradient of the initial one
  NamedTensor dy{};          // [B, L, outputs]
  Bundle dfinal_state{};
  Bundle gradients{};    // what the parameters' gradients hold beforehand; empty means zero
  double unwritten = 0;  // what every output holds beforehand
  Strides strides = Strides::none;  // of x, y, dy and dx

  Index batch() const { return x.extents[0]; }
  Index length() const { return x.extents[1]; }
  Index sequences() const {
    return segments.empty() ? batch() : static_cast<Index>(segments.size()) - 1;
  }
};

/// What a call leaves behind; what it was not asked for is empty.
struct Outcome {
  NamedTensor y{};
  Bundle final_state{};
  NamedTensor dx{};  // empty where the input is tokens
  Bundle dinitial_state{};
  Bundle gradients{};
};

/// A layer, or a model, on one backend in one scalar, with its types erased: the laws are ordinary
/// functions of it.
class Subject {
 public:
  virtual ~Subject() = default;

  virtual std::string name() const = 0;         // "cpu float"
  virtual std::string_view scalar() const = 0;  // of parameters that no half type holds: "float"
  virtual Tolerance tolerance() const = 0;
  virtual Index outputs() const = 0;

  /// The same layer in a context of its own, and what its sequences are on it from then on.
  virtual std::unique_ptr<Subject> twin() const = 0;
  virtual void cut_sequences(const SequenceCut& cut) = 0;
  /// A fresh context and tape; with `nan_workspace` the scratch memory starts as NaN.
  virtual void restart(bool nan_workspace = false) = 0;

  /// Normal numbers, or tokens of the vocabulary; the name goes into the seed.
  virtual NamedTensor input(std::string name, Index batch, Index length, Seed seed) const = 0;
  virtual Bundle initial_parameters(Seed seed) = 0;
  /// The same, rounded as the layer keeps them.
  virtual Bundle kept_parameters(const Bundle& parameters) = 0;
  virtual NamedTensor kept_sequence(const NamedTensor& sequence) const = 0;
  virtual Bundle zero_state(Index sequences) = 0;
  virtual Outcome forward(const Call& call) = 0;        // y, and the final state
  virtual Outcome differentiate(const Call& call) = 0;  // forward with a tape, then backward
  virtual Outcome prefill(const Call& call) = 0;  // y and the state, from zero if none is given
  virtual Outcome step(const Call& call) = 0;     // the same, one position at a time

  /// Forward with what `initialize` gives, whether it is visited as a parameter or not.
  virtual Outcome forward_initialized(Seed seed, const NamedTensor& x) = 0;
  /// Heap allocations during all steps of the call but the first.
  virtual std::size_t allocations_after_first_step(const Call& call) = 0;
};

}  // namespace ssm::laws
