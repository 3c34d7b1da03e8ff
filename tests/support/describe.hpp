// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sstream>
#include <string>
#include <type_traits>

namespace ssm::test {

/// The sizes and switches that a case has, for messages; of enumerations their number.
template <class Case>
std::string describe(const Case& test) {
  std::ostringstream out;
  const auto add = [&](const char* name, auto value) {
    if constexpr (std::is_enum_v<decltype(value)>)
      out << name << ' ' << static_cast<int>(value) << ' ';
    else
      out << name << ' ' << value << ' ';
  };
#define SSM_DESCRIBE(field) \
  if constexpr (requires { test.field; }) add(#field, test.field)
  SSM_DESCRIBE(kind);
  SSM_DESCRIBE(discretization);
  SSM_DESCRIBE(activation);
  SSM_DESCRIBE(form);
  SSM_DESCRIBE(layout);
  SSM_DESCRIBE(batch);
  SSM_DESCRIBE(length);
  SSM_DESCRIBE(cached);
  SSM_DESCRIBE(channels);
  SSM_DESCRIBE(heads);
  SSM_DESCRIBE(rows);
  SSM_DESCRIBE(columns);
  SSM_DESCRIBE(depth);
  SSM_DESCRIBE(width);
  SSM_DESCRIBE(vocabulary);
  SSM_DESCRIBE(modes);
  SSM_DESCRIBE(parts);
  SSM_DESCRIBE(taps);
  SSM_DESCRIBE(terms);
  SSM_DESCRIBE(keys);
  SSM_DESCRIBE(values);
  SSM_DESCRIBE(chunk);
  SSM_DESCRIBE(spread);
  SSM_DESCRIBE(skip);
  SSM_DESCRIBE(bias);
  SSM_DESCRIBE(accumulate);
  SSM_DESCRIBE(gates);
  SSM_DESCRIBE(states);
  SSM_DESCRIBE(initial);
  SSM_DESCRIBE(dfinal);
#undef SSM_DESCRIBE
  return out.str();
}

}  // namespace ssm::test
