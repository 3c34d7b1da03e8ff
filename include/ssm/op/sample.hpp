// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ssm/core/context.hpp"
#include "ssm/core/operands.hpp"
#include "ssm/core/random.hpp"
#include "ssm/core/scalar.hpp"  // Token

namespace ssm {

/// How a token is drawn from logits. The stages apply in this order; each is off at its default,
/// and each looks at the probabilities of what the one before kept, renormalized to sum to one.
struct Sampling {
  double temperature = 1;  // ≤ 0: the largest logit, the lowest token among equals
  Index top_k = 0;         // keep the k likeliest tokens, of equals the lower ones; 0 keeps all
  double top_p = 1;        // then the fewest whose probabilities reach p
  double min_p = 0;        // then those at least min_p times as likely as the likeliest
};

/// Draws one token per row from softmax(logits / temperature), cut to what top-k, then top-p, then
/// min-p keep.
/// logits    [B, V]    the first `vocabulary` columns count; the rest is padding
/// tokens    [B]       overwritten
/// counter             position in the random stream; row b draws number counter·B + b of `seed`
/// Cost    O(B·V), and O(k log k) for the k tokens that top-k or top-p keep
/// Throws  ShapeError; ArgumentError  for options outside their range or logits that are not finite
/// Source  Fan et al. 2018 (top-k); Holtzman et al. 2020 (top-p); Nguyen et al. 2024 (min-p)
template <class T, class Space>
struct Sample {
  View<const T, 2, Space> logits{};
  Index vocabulary = dyn;  // dyn: all columns
  Sampling sampling{};
  Seed seed{};
  std::uint64_t counter = 0;
  View<Token, 1, Space> tokens{};

  static constexpr const char* name = "sample";
  static constexpr void for_each_operand(auto&& visit) {
    visit(input("logits", "MV"), &Sample::logits, nullptr);
    visit(output("tokens", "M"), &Sample::tokens, nullptr);
  }
  void require_rest(const ExtentsByLetter& n) const {
    if (vocabulary != dyn && (vocabulary < 1 || vocabulary > n['V']))
      throw ArgumentError(
          message({"sample: vocabulary of ", vocabulary, " with ", n['V'], " logits"}));
    if (!(sampling.top_p > 0 && sampling.top_p <= 1))
      throw ArgumentError("sample: top_p must be in (0, 1]");
    if (!(sampling.min_p >= 0 && sampling.min_p <= 1))
      throw ArgumentError("sample: min_p must be in [0, 1]");
    if (sampling.top_k < 0) throw ArgumentError("sample: top_k must not be negative");
  }
};

/// Backends that have the primitive Sample.
template <class B, class T = float>
concept HasSample = requires(Context<B>& ctx, const Sample<Wide<T>, typename B::Space>& a) {
  B::sample(ctx, a);
};

/// Computes Sample, whose docstring says the rest.
template <class B, Real T>
  requires HasSample<B, T>
void sample(Context<B>& ctx, const Sample<T, typename B::Space>& a) {
  require_operands(a);
  B::sample(ctx, a);
}

}  // namespace ssm
