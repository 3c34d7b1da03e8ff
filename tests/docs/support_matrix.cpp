// SPDX-License-Identifier: Apache-2.0
// Prints docs/support_matrix.md: the lists of primitives, layers and models that the tests have,
// against the concepts.
#include <cstdio>
#include <set>
#include <ssm/backend/cpu.hpp>
#include <ssm/backend/cuda.hpp>
#include <ssm/backend/reference.hpp>
#include <string>
#include <tuple>
#include <type_traits>

#include "support/every_layer.hpp"
#include "support/every_model.hpp"
#include "support/every_primitive.hpp"
#include "support/every_whole_sequence_layer.hpp"

namespace {

template <class B>
struct Column {
  using Backend = B;
  const char* name;
};
constexpr std::tuple columns(Column<ssm::Reference>{"Reference"}, Column<ssm::Cpu>{"Cpu"},
                             Column<ssm::Cuda>{"Cuda"});

void print_heading(const char* what) {
  std::printf("\n| %s |", what);
  std::apply([](const auto&... column) { (std::printf(" %s |", column.name), ...); }, columns);
  std::printf(" bf16, f16 |\n| --- |");
  for (std::size_t i = 0; i < std::tuple_size_v<decltype(columns)> + 1; ++i) std::printf(" --- |");
  std::printf("\n");
}

/// `has` says of a backend and a scalar whether there is what the row is about.
template <class Has>
void print_row(const std::string& name, Has has) {
  const auto word = [&]<class B>(const Column<B>&) {
    return has.template operator()<B, float>() && has.template operator()<B, double>() ? "yes"
                                                                                       : "no";
  };
  std::printf("| %s |", name.c_str());
  std::apply([&](const auto&... column) { (std::printf(" %s |", word(column)), ...); }, columns);
  // Sequences in half types: in the names of the backends that have them.
  std::string half;
  const auto add = [&]<class B>(const Column<B>& column) {
    const bool converts = ssm::HasConvert<B, ssm::BFloat16> && ssm::HasConvert<B, ssm::Float16>;
    if (!converts || !has.template operator()<B, ssm::BFloat16>() ||
        !has.template operator()<B, ssm::Float16>())
      return;
    half += (half.empty() ? "" : ", ") + std::string(column.name);
  };
  std::apply([&](const auto&... column) { (add(column), ...); }, columns);
  std::printf(" %s |\n", half.empty() ? "no" : half.c_str());
}

/// A row for each form of each layer; sizes make no other row.
template <class Cases>
void print_layers(const char* heading, const Cases& cases) {
  print_heading(heading);
  std::set<std::string> printed;
  ssm::laws::for_each_case(cases, [&](const auto& layer_case) {
    using Layer = typename std::remove_cvref_t<decltype(layer_case)>::Layer;
    const std::string row = layer_case.row();
    if (!printed.insert(row).second) return;
    print_row(row, []<class B, class T> { return ssm::RunsOn<Layer, B, T>; });
  });
}

}  // namespace

int main() {
  std::printf(
      "# Support matrix\n\n"
      "Written by `support_matrix` from the concepts of the code; a test compares. Every row holds "
      "in float and double,\n"
      "forward and backward; layers also in prefill and step, with states in and out, and on "
      "packed sequences. The last column\n"
      "names the backends that also take sequences in bf16 and f16, with parameters and states in "
      "float.\n");
  print_heading("primitive");
  ssm::laws::for_each_case(ssm::laws::every_primitive, [](const auto& primitive) {
    print_row(std::string(primitive.name), primitive.has);
  });
  print_layers("layer", ssm::laws::every_layer);
  print_layers("combinator", ssm::laws::every_combinator);
  print_layers("layer of whole sequences", ssm::laws::every_whole_sequence_layer);
  print_layers("language model", ssm::laws::every_language_model);
  print_layers("other model of tokens", ssm::laws::every_token_model);
}
