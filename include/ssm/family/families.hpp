// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "ssm/family/dense_mamba.hpp"
#include "ssm/family/dense_retnet.hpp"
#include "ssm/family/family.hpp"
#include "ssm/family/gpt2.hpp"
#include "ssm/family/h3.hpp"
#include "ssm/family/mamba.hpp"
#include "ssm/family/mamba2.hpp"
#include "ssm/family/retnet.hpp"

namespace ssm {

template <class... F>
struct TypeList {};

/// The one list of families. A family whose files others could be taken for stands before them.
using Families = TypeList<H3Family, MambaFamily, Mamba2Family, RetNetFamily, DenseRetNetFamily,
                          DenseMambaFamily, Gpt2Family>;

/// Calls visit.operator()<Family>() for every family of a list, in order.
template <class... F, class Visit>
void for_each_family(TypeList<F...>, Visit&& visit) {
  (visit.template operator()<F>(), ...);
}
template <class Visit>
void for_each_family(Visit&& visit) {
  for_each_family(Families(), visit);
}

/// "h3, mamba, retnet, …"
template <class List = Families>
std::string family_names() {
  std::string names;
  for_each_family(List(),
                  [&]<class F>() { names += (names.empty() ? "" : ", ") + std::string(F::name); });
  return names;
}

/// Calls visit.operator()<Family>() for the family that a config.json describes, and for no other.
/// Throws  CheckpointError  if it describes none of the list
template <class List = Families, class Visit>
void with_family(const JsonObject& json, Visit&& visit) {
  bool found = false;
  for_each_family(List(), [&]<class F>() {
    if (found || !F::describes(json)) return;
    found = true;
    visit.template operator()<F>();
  });
  if (found) return;
  const std::string type = json.text("model_type", "");
  throw CheckpointError(
      json.file(), "",
      (type.empty() ? std::string("describes a model of no known family")
                    : "describes a model of the type '" + detail::printable(type) + "'") +
          "; known families are " + family_names<List>());
}

/// The same for the family of a name.
/// Throws  ArgumentError  for a name that none has
template <class List = Families, class Visit>
void with_family(std::string_view name, Visit&& visit) {
  bool found = false;
  for_each_family(List(), [&]<class F>() {
    if (name != F::name) return;
    found = true;
    visit.template operator()<F>();
  });
  if (!found)
    throw ArgumentError("no family of models is named '" + std::string(name) +
                        "'; known families are " + family_names<List>());
}

}  // namespace ssm
