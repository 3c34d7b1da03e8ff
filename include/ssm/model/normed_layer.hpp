// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "ssm/layer/dropout.hpp"
#include "ssm/layer/initial_state.hpp"
#include "ssm/layer/layer.hpp"
#include "ssm/layer/widths.hpp"
#include "ssm/model/fixed_string.hpp"
#include "ssm/op/rearrange.hpp"

namespace ssm::detail {

/// What Residual and PostNorm share: a layer and a norm beside it, with one width.
template <class Derived, class NormLayer, class Inner, FixedString norm_name,
          FixedString inner_name>
class NormedLayer : public LayerVerbs<Derived> {
 public:
  template <class T, class Space = HostSpace>
  struct Parameters : ParametersOf<Derived, T, Space> {
    typename NormLayer::template Parameters<T, Space> norm;
    typename Inner::template Parameters<T, Space> inner;
  };
  template <class T, class Space = HostSpace>
  using State = typename Inner::template State<T, Space>;

  Index channels() const { return norm_.channels(); }
  const Inner& inner() const { return inner_; }

  template <class B, class T>
  static constexpr bool runs_on = (RunsOn<NormLayer, B, T> && RunsOn<Inner, B, T> &&
                                   HasRearrange<B, T>);

  template <class T = float, class B>
  State<T, typename B::Space> initial_state(const Context<B>& ctx, Index sequences,
                                            Index reserve = 0) const {
    return initial_state_of<T>(inner_, ctx, sequences, reserve);
  }
  template <class T = float, class B>
  [[gnu::cold]] Parameters<T, typename B::Space> zero_parameters(const Context<B>& ctx) const {
    Parameters<T, typename B::Space> p;
    p.norm = norm_.template zero_parameters<T>(ctx);
    p.inner = inner_.template zero_parameters<T>(ctx);
    return p;
  }
  template <class T>
  void fill_parameters(Parameters<T>& p, const Initializer& seed) const {
    norm_.fill_parameters(p.norm, seed.fork("norm"));
    inner_.fill_parameters(p.inner, seed.fork("inner"));
  }

  static void for_each_parameter(auto&& visit, auto&... p) {
    NormLayer::for_each_parameter(scoped(norm_name.text(), visit), p.norm...);
    Inner::for_each_parameter(scoped(inner_name.text(), visit), p.inner...);
  }
  static void for_each_state(auto&& visit, auto&... state) {
    Inner::for_each_state(visit, state...);
  }

 protected:
  /// who          in messages, with what the inner layer reads and what reads it
  NormedLayer(const char* who, const char* before, const char* behind, NormLayer norm, Inner inner,
              double dropout)
      : norm_(std::move(norm)), inner_(std::move(inner)), dropout_(who, dropout) {
    require_fitting(who, before, output_channels(norm_), "the inner layer", input_channels(inner_));
    require_fitting(who, "the inner layer", output_channels(inner_), behind, input_channels(norm_));
  }

  NormLayer norm_;
  Inner inner_;
  LayerDropout dropout_;
};

}  // namespace ssm::detail
