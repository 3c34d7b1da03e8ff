// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <type_traits>
#include <utility>

#include "ssm/core/tensor.hpp"
#include "ssm/core/view_of.hpp"

namespace ssm {

/// What a tensor is for: decides how it is initialized in a language model and how the optimizer
/// treats it.
enum class ParameterRole { weight, bias, norm, embedding, ssm };

/// The name of a tensor in checkpoints and how it is trained.
struct ParameterSpec {
  std::string name;
  ParameterRole role = ParameterRole::weight;
  bool weight_decay = true;  // false: SSM dynamics, never decayed, whatever the optimizer's setting
  bool own_learning_rate = false;     // true: the optimizer's rate for SSM dynamics applies
  bool gradient_by_products = false;  // true: nothing adds to its gradient but weight_gradient,
                                      // matmul and embedding_backward (core/unwritten.hpp)
  bool transposed_in_files = false;   // true: a matrix whose files hold it with its axes exchanged
};

/// A tensor of a parameter struct with the axes that its files have.
template <class AnyTensor>
auto as_in_files([[maybe_unused]] const ParameterSpec& spec, AnyTensor& tensor) {
  auto view = view_of(tensor);
  using V = decltype(view);
  View<typename V::Element, V::rank(), typename V::Space> stored = view;
  if constexpr (V::rank() == 2)
    if (spec.transposed_in_files) stored = stored.transpose(0, 1);
  return stored;
}

namespace detail {
/// `first`.`second`, or the one that is not empty.
inline std::string dotted(const std::string& first, const std::string& second) {
  return first.empty() ? second : second.empty() ? first : first + "." + second;
}

/// A visitor behind a prefix. Prefixes in prefixes are one visitor of the same type, so that the
/// compiler sees each layer's parameters once for a visitor, however deep in a model.
template <class Visit>
class ScopedVisit {
 public:
  ScopedVisit(std::string prefix, Visit& visit) : prefix_(std::move(prefix)), visit_(&visit) {}
  ScopedVisit(std::string prefix, const ScopedVisit& outer)
      : prefix_(dotted(outer.prefix_, prefix)), visit_(outer.visit_) {}

  /// A parameter.
  template <class... Tensors>
  void operator()(ParameterSpec spec, Tensors&... tensors) const {
    spec.name = dotted(prefix_, spec.name);
    (*visit_)(std::move(spec), tensors...);
  }
  /// A tensor of a state, which has a name alone.
  template <class... Tensors>
  void operator()(const std::string& name, Tensors&... tensors) const {
    (*visit_)(dotted(prefix_, name), tensors...);
  }

 private:
  std::string prefix_;
  Visit* visit_;
};
template <class Visit>
struct ScopedVisitOf {
  using type = ScopedVisit<Visit>;
};
template <class Visit>
struct ScopedVisitOf<ScopedVisit<Visit>> {
  using type = ScopedVisit<Visit>;
};
template <class Visit>
struct ScopedVisitOf<const ScopedVisit<Visit>> {
  using type = ScopedVisit<Visit>;
};
}  // namespace detail

/// Puts a prefix before every name an inner layer reports: scoped("mixer", visit) turns "D" into
/// "mixer.D"; the names of states too. An empty prefix adds nothing. `visit` is borrowed.
template <class Visit>
auto scoped(std::string prefix, Visit&& visit) {
  using Scoped = typename detail::ScopedVisitOf<std::remove_reference_t<Visit>>::type;
  return Scoped(std::move(prefix), visit);
}

/// What every parameter struct says of itself: whose it is, in which scalar, and where.
template <class L, class T, class S>
struct ParametersOf {
  using Layer = L;
  using Scalar = T;
  using Space = S;
};

/// Calls visit(spec, tensors...) for each tensor of one or several parameter structs of the same
/// layer, in lockstep.
template <class P, class Visit, class... More>
void for_each_parameter(Visit&& visit, P& first, More&... more) {
  std::remove_const_t<P>::Layer::for_each_parameter(visit, first, more...);
}

/// The number of scalars in a parameter struct, in whichever form its weights are kept.
template <class P>
Index parameter_count(const P& parameters) {
  Index count = 0;
  for_each_parameter(
      [&](const ParameterSpec&, const auto& tensor) {
        if constexpr (requires { tensor.weight_count(); })
          count += tensor.weight_count();
        else
          count += tensor.size();
      },
      parameters);
  return count;
}

/// Whether some tensors of a parameter struct learn at the rate of SSM dynamics.
template <class P>
bool has_own_rates(const P& parameters) {
  bool found = false;
  for_each_parameter(
      [&](const ParameterSpec& spec, const auto&) { found = found || spec.own_learning_rate; },
      parameters);
  return found;
}

}  // namespace ssm
