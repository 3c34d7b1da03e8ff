// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>

#include "ssm/io/json_file.hpp"

namespace ssm::api {

/// Calls visit(field, must_be_there) for each field of a list: those that must be there, then a
/// '|', then the others, separated by blanks.
template <class Visit>
void for_each_field(std::string_view list, Visit&& visit) {
  bool is_needed = true;
  for (std::string_view rest = list; !rest.empty();) {
    const std::size_t end = std::min(rest.find(' '), rest.size());
    const std::string_view word = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (word == "|")
      is_needed = false;
    else
      visit(word, is_needed);
  }
}

/// Throws  CheckpointError  for a field that is neither common nor in the list of `whose`
inline void refuse_other_fields(const JsonObject& config,
                                std::initializer_list<std::string_view> common,
                                std::string_view list, const std::string& whose) {
  for (const auto& item : config.json().items()) {
    const std::string_view field = item.key();
    bool is_known = std::find(common.begin(), common.end(), field) != common.end();
    for_each_field(list,
                   [&](std::string_view name, bool) { is_known = is_known || name == field; });
    if (!is_known) config.refuse(field, "is no field of " + whose);
  }
}

}  // namespace ssm::api
