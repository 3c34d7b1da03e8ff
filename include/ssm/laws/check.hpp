// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/backend/reference.hpp"
#include "ssm/laws/layer_laws.hpp"
#include "ssm/laws/layer_on.hpp"

namespace ssm::laws {

/// What checking one law on one backend in one scalar gave.
struct Finding {
  bool holds;
  std::string
      text;  // "causality on mine::Backend float: y[0, 3, 2], batch 1, length 64: error 0.01, allowed 0.0002"
};

/// The type's name, as the compiler spells it.
template <class B>
std::string backend_name() {
  const std::string_view text =
      __PRETTY_FUNCTION__;  // "… [with B = mine::Backend; …]", "… [B = mine::Backend]"
  const std::size_t begin = text.find("B = ") + 4;
  return std::string(text.substr(begin, text.find_first_of(";]", begin) - begin));
}

namespace detail {
/// Runs `laws(subject, reference)` for a layer on a backend in float and in double.
template <class Oracle, class B, class L, class Laws>
void find_on(const L& layer, const std::string& name, const Laws& laws,
             std::vector<Finding>& findings) {
  LayerOn<L, Oracle, double> reference(layer, "oracle");
  const auto in_scalar = [&](auto scalar) {
    LayerOn<L, B, decltype(scalar)> subject(layer, name);
    for (const Report& report :
         laws(static_cast<Subject&>(subject), static_cast<Subject&>(reference)))
      findings.push_back({report.holds, describe(report, subject.name())});
  };
  in_scalar(float{});
  in_scalar(double{});
}
}  // namespace detail

/// Every law for a layer, or a language model, on every one of these backends in float and in double; they are compared with
/// an oracle, which computes the same in double.
///   for (const auto& finding : ssm::laws::every_law_against<mine::Reference, mine::Reference, mine::Fast>(layer))
///     if (!finding.holds) std::cerr << finding.text << '\n';
/// Cost    seconds for a layer of a few channels; use small ones
template <class Oracle, class... Backends, class L>
std::vector<Finding> every_law_against(const L& layer) {
  std::vector<Finding> findings;
  const auto laws = [](Subject& subject, Subject& reference) {
    return every_law(subject, reference);
  };
  (detail::find_on<Oracle, Backends>(layer, backend_name<Backends>(), laws, findings), ...);
  return findings;
}

/// The same with Reference as the oracle: for a layer that needs no primitives but the library's.
template <class... Backends, class L>
std::vector<Finding> every_law_on(const L& layer) {
  return every_law_against<Reference, Backends...>(layer);
}

/// The laws that large operands could break: those about blocking, threads and memory. For layers that are too large for the
/// others to be checked in reasonable time.
template <class Oracle, class... Backends, class L>
std::vector<Finding> laws_at_scale_against(const L& layer) {
  std::vector<Finding> findings;
  const auto laws = [](Subject& subject, Subject& reference) {
    return std::vector<Report>{backends_agree(subject, reference, {{2, 65}}),
                               step_allocates_nothing(subject), same_seed_gives_same_bits(subject)};
  };
  (detail::find_on<Oracle, Backends>(layer, backend_name<Backends>(), laws, findings), ...);
  return findings;
}

}  // namespace ssm::laws
