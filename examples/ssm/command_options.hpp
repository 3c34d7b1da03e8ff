// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <type_traits>
#include <vector>

#include "engine.hpp"

namespace ssm::cli {

inline constexpr Index most = Index{1} << 40;

/// Adds an option for a number or a word whose default is shown. Given twice, the last one counts.
template <class Value>
CLI::Option* add_option(CLI::App& command, const char* flags, Value& value,
                        const std::string& help) {
  CLI::Option* option = command.add_option(flags, value, help);
  if constexpr (std::is_floating_point_v<Value>)
    option->type_name("NUMBER");
  else if constexpr (std::is_integral_v<Value> || std::is_same_v<Value, std::vector<Index>>)
    option->type_name("N");
  else
    option->type_name("TEXT");
  if constexpr (!std::is_same_v<Value, std::vector<Index>>) option->take_last();
  return option;
}

/// Values outside are wrong usage. The range is not repeated in the help.
template <class Number>
CLI::Validator between(Number low, Number high) {
  return CLI::Range(low, high).description("");
}
inline CLI::Validator one_of(std::vector<std::string> names) {
  return CLI::IsMember(std::move(names)).description("");
}

/// --backend and --threads.
inline void add_machine_options(CLI::App& command, Machine& machine) {
  command
      .add_option_function<std::string>(
          "--backend",
          [&machine](const std::string& name) { machine.backend = backend_kind(name); },
          "cpu, cuda, cuda-tf32: faster, coarser matrix products; or reference: plain loops, slow")
      ->check(one_of(backend_names))
      ->type_name("NAME");
  add_option(command, "--threads", machine.threads, "of the cpu backend (all cores)")
      ->check(between(1, 1024));
}

}  // namespace ssm::cli
