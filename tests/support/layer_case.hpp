// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>

namespace ssm::laws {

/// One layer, or one way to configure it: what every list of layers (tests, tables, benchmarks) is
/// made of.
///   for_each_case(every_layer, [](const auto& layer_case) {
///     use(layer_case.title(), layer_case.make());
///   });
template <class Make>
struct LayerCase {
  using Layer = std::invoke_result_t<Make>;

  std::string_view name;  // of the class template
  std::string_view
      form;  // of code that is compiled or run otherwise; empty where there is one form only
  std::string_view sizes;   // what tells apart cases of one form
  std::string_view header;  // below include/
  std::string_view source;  // the paper or program it comes from
  Make make{};              // a small one

  /// "DiagonalSsm, convolution": a row of the support matrix
  std::string row() const {
    return std::string(name) + (form.empty() ? "" : ", ") + std::string(form);
  }
  /// "DiagonalSsm, convolution (real modes)": no two cases have the same
  std::string title() const {
    return row() + (sizes.empty() ? "" : " (" + std::string(sizes) + ")");
  }
};

/// What a case says of its layer beside the instance.
struct LayerFacts {
  std::string_view name;
  std::string_view form{};
  std::string_view sizes{};
  std::string_view header;
  std::string_view source;
};

template <class Make>
constexpr LayerCase<Make> layer_case(const LayerFacts& facts, Make make) {
  return {facts.name, facts.form, facts.sizes, facts.header, facts.source, make};
}

/// visit(case) for each of a tuple of cases, in order.
template <class Cases, class Visit>
constexpr void for_each_case(const Cases& cases, Visit&& visit) {
  std::apply([&](const auto&... each) { (visit(each), ...); }, cases);
}

}  // namespace ssm::laws
