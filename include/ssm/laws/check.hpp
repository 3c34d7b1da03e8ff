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
  /// "causality on mine::Backend float: y[0, 3, 2], batch 1, length 64: error 0.01, allowed 0.0002"
  std::string text;
};

/// The type's name, as the compiler spells it.
template <class B>
std::string backend_name() {
  const std::string_view text =
      __PRETTY_FUNCTION__;  // "… [with B = mine::Backend; …]", "… [B = mine::Backend]"
  const std::size_t begin = text.find("B = ") + 4;
  return std::string(text.substr(begin, text.find_first_of(";]", begin) - begin));
}

inline std::vector<Finding> found(const std::vector<Report>& reports, const Subject& subject) {
  std::vector<Finding> findings;
  for (const Report& report : reports)
    findings.push_back({report.holds, describe(report, subject.name())});
  return findings;
}
inline void append(std::vector<Finding>& findings, std::vector<Finding> more) {
  findings.insert(findings.end(), more.begin(), more.end());
}

/// Every law for a layer, or a language model, on one backend in one scalar. Results are compared
/// with an oracle, a backend that computes the same in double.
template <class Oracle, class B, class T, class L>
std::vector<Finding> every_law_in(const L& layer) {
  LayerOn<L, B, T> subject(layer, backend_name<B>());
  LayerOn<L, Oracle, double> reference(layer, "oracle");
  return found(every_law(subject, reference), subject);
}

/// The same on every one of these backends, in float and in double.
///   for (const auto& finding :
///        ssm::laws::every_law_against<mine::Reference, mine::Reference, mine::Fast>(layer))
///     if (!finding.holds) std::cerr << finding.text << '\n';
/// Cost    seconds for a layer of a few channels; use small ones
template <class Oracle, class... Backends, class L>
std::vector<Finding> every_law_against(const L& layer) {
  static_assert(sizeof...(Backends) > 0, "name the backends to check, behind the oracle");
  std::vector<Finding> findings;
  (append(findings, every_law_in<Oracle, Backends, float>(layer)), ...);
  (append(findings, every_law_in<Oracle, Backends, double>(layer)), ...);
  return findings;
}

/// The same with Reference as the oracle: for a layer that needs no primitives but the library's.
template <class... Backends, class L>
std::vector<Finding> every_law_on(const L& layer) {
  static_assert(sizeof...(Backends) > 0, "name the backends to check");
  return every_law_against<Reference, Backends...>(layer);
}

}  // namespace ssm::laws
